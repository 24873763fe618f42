//! The pods of manifests, and what is changed of each.

use anyhow::{Context as _, anyhow, ensure};
use serde_json::{Value, json};
use weft_gateway::files::values;
use weft_injection::{INJECTED, Injected, LISTS, Namespace, Outcome, Settings, is_injected};

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
    let bare = without_nothing(&bare, namespace, settings)?;
    let read = Documents::read(&bare)?;
    let mut expected = read.values.clone();
    let mut edits = Vec::new();
    for (at, pod) in read.pods() {
        let outcome = weft_injection::inject(pod.value, namespace, settings);
        match outcome.map_err(|refusal| anyhow!("{}: {refusal}", pod.object))? {
            Outcome::Left(left) => said.push(format!("{}: left as it is: {left}", pod.object)),
            Outcome::Injected(injected) => {
                edits.extend(additions(&bare, &pod, &injected).with_context(|| pod.object.clone())?);
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

/// Takes out of the pods that are to be injected what is there and has no value (`volumes:`): nothing can be added to it.
fn without_nothing(text: &str, namespace: &Namespace, settings: &Settings) -> anyhow::Result<String> {
    let read = Documents::read(text)?;
    let mut edits = Vec::new();
    for (_, pod) in read.pods() {
        let injected = weft_injection::inject(pod.value, namespace, settings);
        if !matches!(injected, Ok(Outcome::Injected(_))) {
            continue;
        }
        for (parent, field) in [("metadata", "labels"), ("spec", "initContainers"), ("spec", "volumes")] {
            let Some(map) = pod.place.at(&[parent]) else { continue };
            let Some(at) = position(map, |entry| entry == field) else {
                continue;
            };
            if pod.value[parent][field].is_null() {
                edits.extend(edit::remove_entry(text, map, at));
            }
        }
    }
    Ok(edit::apply(text, edits))
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
            *expected[at].pointer_mut(&pod.path).context("a pod is lost")? = weft_injection::uninject(pod.value);
        }
    }
    let bare = edit::apply(text, edits);
    hold(&bare, &expected)?;
    Ok(bare)
}

/// Sees to it that a text says what it is to say now.
fn hold(text: &str, expected: &[Value]) -> anyhow::Result<()> {
    let now = values(text).ok();
    let slim = |values: &[Value]| values.iter().map(without_empty).collect::<Vec<_>>();
    let well = now.is_some_and(|now| slim(&now) == slim(expected));
    ensure!(
        well,
        "this YAML is too intricate to be changed in its place (anchors, tags, merged keys?): write the pods out plainly"
    );
    Ok(())
}

/// Without empty lists and maps, which say the same as none.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.clone(), without_empty(value)));
            let full = fields.filter(|(_, value)| *value != json!({}) && *value != json!([]) && !value.is_null());
            Value::Object(full.collect())
        }
        Value::Array(items) => items.iter().map(without_empty).collect(),
        other => other.clone(),
    }
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

/// What is added to the text for a pod.
fn additions(text: &str, pod: &Pod<'_>, injected: &Injected) -> anyhow::Result<Vec<Edit>> {
    let mut edits = Vec::new();
    let label = json!(injected.parts.digest);
    let labels = json!({INJECTED: label});
    edits.push(
        match (pod.place.at(&["metadata"]), pod.place.at(&["metadata", "labels"])) {
            (_, Some(labels)) => edit::add_entry(text, labels, INJECTED, &label),
            (Some(metadata), None) => edit::add_entry(text, metadata, "labels", &labels),
            (None, None) => edit::add_entry(text, pod.place, "metadata", &json!({"labels": labels})),
        }?,
    );
    let spec = pod.place.at(&["spec"]).context("the pod has no spec")?;
    for (field, new) in [
        ("initContainers", &injected.parts.init_containers),
        ("volumes", &injected.parts.volumes),
    ] {
        edits.push(match spec.at(&[field]) {
            Some(list) => edit::add_items(text, list, new),
            None => edit::add_entry(text, spec, field, &json!(new)),
        }?);
    }
    Ok(edits)
}

/// What is taken out of the text for a pod.
fn removals(text: &str, pod: &Pod<'_>) -> anyhow::Result<Vec<Edit>> {
    let mut edits = Vec::new();
    if let Some(metadata) = pod.place.at(&["metadata"])
        && let Some(labels) = metadata.at(&["labels"])
        && labels.entry(INJECTED).is_some()
    {
        let chain = [(pod.place, "metadata"), (metadata, "labels"), (labels, INJECTED)];
        edits.push(take(text, &chain).context("its label cannot be taken away")?);
    }
    let spec = pod.place.at(&["spec"]).context("the pod has no spec")?;
    for (field, names) in &LISTS {
        let Some(list) = spec.at(&[field]) else { continue };
        let members = pod.value["spec"][field]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let ours = |at: usize| {
            let name = members.get(at).and_then(|member| member["name"].as_str());
            name.is_some_and(|name| names.contains(&name))
        };
        let count = list.items().len();
        if count > 0 && (0..count).all(ours) && !stays_empty(list, spec) {
            let edit = take(text, &[(spec, field)]);
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

/// Takes away the last of a chain of entries, and those before it that have nothing else.
fn take(text: &str, chain: &[(&Place, &str)]) -> Option<Edit> {
    let ((map, key), before) = chain.split_last()?;
    let at = position(map, |entry| entry == *key)?;
    let alone = matches!(&map.kind, PlaceKind::Map { entries, .. } if entries.len() == 1);
    match before.last() {
        Some((parent, _)) if alone && !stays_empty(map, parent) => take(text, before),
        _ => edit::remove_entry(text, map, at),
    }
}

/// Whether something that has nothing but ours was there before: it would have been made in the style of its parent.
fn stays_empty(place: &Place, parent: &Place) -> bool {
    is_flow(place) && !is_flow(parent)
}

fn position(map: &Place, is: impl Fn(&str) -> bool) -> Option<usize> {
    match &map.kind {
        PlaceKind::Map { entries, .. } => entries.iter().position(|entry| entry.key.as_deref().is_some_and(&is)),
        _ => None,
    }
}

fn is_flow(place: &Place) -> bool {
    matches!(
        &place.kind,
        PlaceKind::List { flow: true, .. } | PlaceKind::Map { flow: true, .. }
    )
}
