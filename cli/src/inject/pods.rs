//! The pods of manifests, and what is changed of each.

use anyhow::{Context as _, anyhow, ensure};
use serde_json::{Value, json};
use weft_gateway::files::values;
use weft_injection::{Blank, Blanks, INJECTED, LISTS, Namespace, Outcome, Parts, Settings, is_injected};

use super::{
    edit::{self, Edit},
    places::{self, Place, PlaceKind},
};

/// A pod, or the template of pods, in a text.
struct Pod<'a> {
    /// `Kind namespace/name` of the object that it is of.
    object: String,
    /// Where the pod is in its document.
    path: String,
    value: &'a Value,
    place: &'a Place,
}

/// Puts the sidecar into the pods of a text, in place of one that is there. Says what became of each.
pub(super) fn inject(
    text: &str,
    namespace: &Namespace,
    settings: &Settings,
    said: &mut Vec<String>,
) -> anyhow::Result<String> {
    let bare = uninject(text, &mut Vec::new())?;
    let read = Documents::read(&bare)?;
    let mut expected = read.values.clone();
    let mut edits = Vec::new();
    for (at, pod) in read.pods() {
        let outcome = weft_injection::inject(pod.value, namespace, settings);
        match outcome.map_err(|refusal| anyhow!("{}: {refusal}", pod.object))? {
            Outcome::Left(left) => said.push(format!("{}: left as it is: {left}", pod.object)),
            Outcome::Injected(mut injected) => {
                let blanks = blanks(&bare, &pod).with_context(|| pod.object.clone())?;
                let label = json!(blanks.label(&injected.parts.digest));
                edits.extend(additions(&bare, &pod, &injected.parts, &label).with_context(|| pod.object.clone())?);
                injected.pod["metadata"]["labels"][INJECTED] = label;
                said.push(format!("{}: injected", pod.object));
                said.extend(
                    injected
                        .warnings
                        .iter()
                        .map(|warning| format!("{}: {warning}", pod.object)),
                );
                *expected[at].pointer_mut(&pod.path).context("a pod is lost")? = injected.pod;
            }
        }
    }
    let injected = edit::apply(&bare, edits);
    hold(&injected, &expected)?;
    Ok(injected)
}

/// Takes the sidecar out of the pods of a text.
pub(super) fn uninject(text: &str, said: &mut Vec<String>) -> anyhow::Result<String> {
    let read = Documents::read(text)?;
    let mut expected = read.values.clone();
    let mut edits = Vec::new();
    for (at, pod) in read.pods() {
        if is_injected(pod.value) {
            edits.extend(removals(text, &pod).with_context(|| pod.object.clone())?);
            said.push(format!("{}: the sidecar is taken out", pod.object));
            let bare = what_is_set(weft_injection::uninject(pod.value));
            *expected[at].pointer_mut(&pod.path).context("a pod is lost")? = bare;
        }
    }
    let bare = edit::apply(text, edits);
    hold(&bare, &expected)?;
    Ok(bare)
}

/// Without fields that have no value, as documents are read.
fn what_is_set(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let set = fields.into_iter().filter(|(_, value)| !value.is_null());
            set.map(|(key, value)| (key, what_is_set(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(what_is_set).collect(),
        other => other,
    }
}

/// Sees to it that a text says what it is to say now.
fn hold(text: &str, expected: &[Value]) -> anyhow::Result<()> {
    ensure!(
        values(text).is_ok_and(|now| now == expected),
        "this YAML is too intricate to be changed in its place (anchors, tags, merged keys?): write the pods out plainly"
    );
    Ok(())
}

struct Documents {
    values: Vec<Value>,
    places: Vec<Place>,
}

impl Documents {
    fn read(text: &str) -> anyhow::Result<Self> {
        let values = values(text).map_err(|error| anyhow!("this is not YAML: {error}"))?;
        let places = places::documents(text)?;
        ensure!(values.len() == places.len(), "the documents cannot be told apart");
        Ok(Self { values, places })
    }

    /// Every pod, with the number of its document.
    fn pods(&self) -> Vec<(usize, Pod<'_>)> {
        let mut found = Vec::new();
        for (at, (value, place)) in self.values.iter().zip(&self.places).enumerate() {
            let mut pods = Vec::new();
            find(value, place, "", &mut pods);
            found.extend(pods.into_iter().map(|pod| (at, pod)));
        }
        found
    }
}

fn find<'a>(object: &'a Value, place: &'a Place, path: &str, found: &mut Vec<Pod<'a>>) {
    let kind = object["kind"].as_str().unwrap_or_default();
    let below: &[&str] = match kind {
        "Pod" => &[],
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
            &["spec", "template"]
        }
        "CronJob" => &["spec", "jobTemplate", "spec", "template"],
        list if list.ends_with("List") => {
            let values = object["items"].as_array().into_iter().flatten();
            let places = place.at(&["items"]).map(Place::items).unwrap_or_default();
            for (number, (value, item)) in values.zip(places).enumerate() {
                find(value, &item.value, &format!("{path}/items/{number}"), found);
            }
            return;
        }
        _ => return,
    };
    let path = below.iter().fold(path.to_owned(), |path, key| format!("{path}/{key}"));
    let value = below.iter().fold(object, |value, key| &value[*key]);
    let Some(place) = place.at(below).filter(|_| value.is_object()) else {
        return;
    };
    let text = |field: &str| object["metadata"][field].as_str();
    let name = text("name")
        .or_else(|| text("generateName"))
        .unwrap_or("without a name");
    let object = match text("namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    };
    found.push(Pod {
        object,
        path,
        value,
        place,
    });
}

/// Which of the fields that something is put into are there and say nothing, and how.
fn blanks(text: &str, pod: &Pod<'_>) -> anyhow::Result<Blanks> {
    let mut blanks = Blanks::default();
    let fields: [&[&str]; 4] = [
        &["metadata"],
        &["metadata", "labels"],
        &["spec", "initContainers"],
        &["spec", "volumes"],
    ];
    for path in fields {
        let (Some(field), Some(place)) = (path.last(), pod.place.at(path)) else {
            continue;
        };
        let value = path.iter().fold(pod.value, |value, key| &value[*key]);
        let blank = match Blank::of(value) {
            None => continue,
            Some(Blank::Empty) => Blank::Empty,
            Some(_) => {
                let word = text.get(place.start..place.end).unwrap_or_default();
                Blank::of_word(word).with_context(|| format!("its {field} is nothing, in too intricate a way"))?
            }
        };
        blanks.set(field, blank);
    }
    Ok(blanks)
}

/// What is added to the text for a pod.
fn additions(text: &str, pod: &Pod<'_>, parts: &Parts, label: &Value) -> anyhow::Result<Vec<Edit>> {
    let labels = json!({INJECTED: label});
    let edit = match pod.place.entry("metadata") {
        None => edit::add_entry(text, pod.place, "metadata", &json!({"labels": labels})),
        Some(metadata) if pod.value["metadata"].is_null() => edit::fill(metadata, &json!({"labels": labels})),
        Some(metadata) => match metadata.value.entry("labels") {
            None => edit::add_entry(text, &metadata.value, "labels", &labels),
            Some(entry) if pod.value["metadata"]["labels"].is_null() => edit::fill(entry, &labels),
            Some(entry) => edit::add_entry(text, &entry.value, INJECTED, label),
        },
    };
    let mut edits = vec![edit?];
    let spec = pod.place.at(&["spec"]).context("the pod has no spec")?;
    for (field, new) in [("initContainers", &parts.init_containers), ("volumes", &parts.volumes)] {
        edits.push(match spec.entry(field) {
            None => edit::add_entry(text, spec, field, &json!(new)),
            Some(entry) if pod.value["spec"][field].is_null() => edit::fill(entry, &json!(new)),
            Some(entry) => edit::add_items(text, &entry.value, new),
        }?);
    }
    Ok(edits)
}

/// What is taken out of the text for a pod.
fn removals(text: &str, pod: &Pod<'_>) -> anyhow::Result<Vec<Edit>> {
    let mut edits = Vec::new();
    let label = pod.value["metadata"]["labels"][INJECTED].as_str();
    let blanks = label.map(Blanks::read).unwrap_or_default();
    if let Some(metadata) = pod.place.at(&["metadata"])
        && let Some(labels) = metadata.at(&["labels"])
        && labels.entry(INJECTED).is_some()
    {
        let chain = [(pod.place, "metadata"), (metadata, "labels"), (labels, INJECTED)];
        edits.push(take(text, &chain, &blanks).context("its label cannot be taken away")?);
    }
    let spec = pod.place.at(&["spec"]).context("the pod has no spec")?;
    for (field, names) in &LISTS {
        let Some(entry) = spec.entry(field) else { continue };
        let list = &entry.value;
        let members = pod.value["spec"][field]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let ours = |at: usize| {
            let name = members.get(at).and_then(|member| member["name"].as_str());
            name.is_some_and(|name| names.contains(&name))
        };
        let count = list.items().len();
        if count > 0 && (0..count).all(ours) {
            let edit = match blanks.get(field) {
                Some(blank) => edit::clear(text, entry, blank),
                None => take(text, &[(spec, field)], &blanks),
            };
            edits.push(edit.with_context(|| format!("its {field} cannot be taken away"))?);
            continue;
        }
        // Neighbours go together.
        let mut at = 0;
        while at < count {
            let end = (at..count).find(|at| !ours(*at)).unwrap_or(count);
            if at < end {
                let edit = edit::remove_items(text, list, at..end);
                edits.push(edit.with_context(|| format!("its {field} cannot be taken away"))?);
            }
            at = end + 1;
        }
    }
    Ok(edits)
}

/// Takes away the last of a chain of entries, and those before it that have nothing else and were not there before.
fn take(text: &str, chain: &[(&Place, &str)], blanks: &Blanks) -> Option<Edit> {
    let ((map, key), before) = chain.split_last()?;
    let alone = matches!(&map.kind, PlaceKind::Map { entries, .. } if entries.len() == 1);
    match before.last() {
        Some((parent, field)) if alone => match blanks.get(field) {
            Some(blank) => edit::clear(text, parent.entry(field)?, blank),
            None => take(text, before, blanks),
        },
        _ => edit::remove_entry(text, map, position(map, |entry| entry == *key)?),
    }
}

fn position(map: &Place, is: impl Fn(&str) -> bool) -> Option<usize> {
    match &map.kind {
        PlaceKind::Map { entries, .. } => entries.iter().position(|entry| entry.key.as_deref().is_some_and(&is)),
        _ => None,
    }
}
