//! Puts the parts in their places, and takes them away.

use serde_json::{Map, Value};

use crate::{
    blanks::{self, Blanks, LABELS, METADATA},
    list,
    names::{INITS, INJECTED, LISTS, VOLUMES},
    render::Parts,
    text,
};

/// Whether a pod has a sidecar, or something of one.
pub fn is_injected(pod: &Value) -> bool {
    let has = |(field, names): &(&str, &[&str])| list(&pod["spec"], field).iter().any(|part| is_among(part, names));
    text(&pod[METADATA], LABELS, INJECTED).is_some() || LISTS.iter().any(has)
}

fn is_among(part: &Value, names: &[&str]) -> bool {
    part["name"].as_str().is_some_and(|name| names.contains(&name))
}

/// The pod without its sidecar, as it was before. A list or map that is empty then is taken away with it, unless it was there
/// before.
pub fn uninject(before: &Value) -> Value {
    let mut pod = before.clone();
    let label = text(&before[METADATA], LABELS, INJECTED);
    let blanks = label.map(Blanks::read).unwrap_or_default();
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        for (field, names) in &LISTS {
            without(spec, field, &blanks, |value| match value {
                Value::Array(members) => {
                    let before = members.len();
                    members.retain(|member| !is_among(member, names));
                    members.is_empty() && before > 0
                }
                _ => false,
            });
        }
    }
    if label.is_some()
        && let Some(pod) = pod.as_object_mut()
    {
        without(pod, METADATA, &blanks, |metadata| match metadata {
            Value::Object(metadata) => {
                without(metadata, LABELS, &blanks, |labels| match labels {
                    Value::Object(labels) => labels.remove(INJECTED).is_some() && labels.is_empty(),
                    _ => false,
                });
                metadata.is_empty()
            }
            _ => false,
        });
    }
    pod
}

/// Changes a field, and takes it away if that says so; if it said nothing before, it does again.
fn without(object: &mut Map<String, Value>, field: &str, blanks: &Blanks, change: impl FnOnce(&mut Value) -> bool) {
    if !object.get_mut(field).is_some_and(change) {
        return;
    }
    match blanks.get(field) {
        Some(blank) => object.insert(field.to_owned(), blank.value(blanks::empty(field))),
        None => object.remove(field),
    };
}

/// Puts the parts in front of the others of their kind, unless they are there already.
pub(crate) fn place(pod: &Value, parts: &Parts) -> Value {
    if is_placed(pod, parts) {
        return pod.clone();
    }
    let mut pod = uninject(pod);
    let label = Blanks::of(&pod).label(&parts.digest);
    for (field, new) in [(INITS, &parts.init_containers), (VOLUMES, &parts.volumes)] {
        let members = new.iter().chain(list(&pod["spec"], field));
        pod["spec"][field] = members.cloned().collect();
    }
    if pod[METADATA].is_null() {
        pod[METADATA] = Value::Object(Map::new());
    }
    pod[METADATA][LABELS][INJECTED] = label.into();
    pod
}

/// Whether all is as it would be made now. The API server and others may have added to it meanwhile: defaults, limits.
fn is_placed(pod: &Value, parts: &Parts) -> bool {
    let (spec, metadata) = (&pod["spec"], &pod[METADATA]);
    let first = list(spec, INITS).get(..parts.init_containers.len());
    let containers = first.is_some_and(|first| covers_each(first, &parts.init_containers));
    let volumes = parts.volumes.iter().all(|wanted| {
        let mut there = list(spec, VOLUMES).iter();
        there.any(|volume| covers(volume, wanted))
    });
    containers && volumes && text(metadata, LABELS, INJECTED).is_some_and(|label| blanks::digest(label) == parts.digest)
}

fn covers_each(actual: &[Value], wanted: &[Value]) -> bool {
    actual.len() == wanted.len() && actual.iter().zip(wanted).all(|(actual, wanted)| covers(actual, wanted))
}

/// Whether everything that is wanted of a value is so. It may have more.
fn covers(actual: &Value, wanted: &Value) -> bool {
    match (actual, wanted) {
        (Value::Object(actual), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| actual.get(key).is_some_and(|actual| covers(actual, wanted))),
        (Value::Array(actual), Value::Array(wanted)) => covers_each(actual, wanted),
        (actual, wanted) => actual == wanted,
    }
}
