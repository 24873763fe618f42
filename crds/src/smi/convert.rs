//! From one version of a kind to another, by way of the one that is stored. Nothing is lost: what a version has no field for
//! stands in an annotation meanwhile. Objects stay as they are written, with fields that no type of ours knows.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{ACCESS, KEPT, SPECS, SPLIT, Weight};

/// The port of a TrafficTarget's destination, which v1alpha3 and later have no field for.
pub(super) const PORT: &str = "smi.weft.dev/destination-port";
/// What a TCPRoute or a TrafficSplit matches, as JSON, which the versions before v1alpha4 and v1alpha3 have no field for.
pub(super) const MATCHES: &str = "smi.weft.dev/matches";
/// That the weights of a TrafficSplit are thousandths (`milli`), which only v1alpha1 can say.
const WEIGHTS: &str = "smi.weft.dev/weights";

/// Why an object cannot be converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertError(String);

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConvertError {}

fn failed<T>(why: impl Into<String>) -> Result<T, ConvertError> {
    Err(ConvertError(why.into()))
}

/// Reads what an annotation has kept.
pub(super) fn kept<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(text)
}

type Fields = Map<String, Value>;

/// An object of SMI in another version of its kind. Of its metadata only annotations are changed.
///
/// # Errors
/// It is of no such kind or version, or not of the form that its version has.
pub fn convert(object: Value, desired: &str) -> Result<Value, ConvertError> {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let (current, kind) = (text("apiVersion"), text("kind"));
    let (Some((group, from)), Some((wanted, to))) = (current.split_once('/'), desired.split_once('/')) else {
        return failed(format!(
            "from {current:?} to {desired:?}: both must be of the form GROUP/VERSION"
        ));
    };
    let versions: &[&str] = match (group, kind.as_str()) {
        (ACCESS, "TrafficTarget") => &["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"],
        (ACCESS, "IdentityBinding") | (SPECS, "UDPRoute") => &["v1alpha4"],
        (SPECS, "HTTPRouteGroup" | "TCPRoute") | (SPLIT, "TrafficSplit") => {
            &["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"]
        }
        _ => return failed(format!("{kind:?} of {group} is not a kind that is converted")),
    };
    for version in [from, to] {
        if !versions.contains(&version) {
            return failed(format!("there is no {kind} of {group}/{version}"));
        }
    }
    if group != wanted {
        return failed(format!("a {kind} of {group} cannot become one of {wanted}"));
    }
    let Value::Object(mut fields) = object else {
        return failed("it is no object");
    };
    if from != to {
        match kind.as_str() {
            "TrafficTarget" => {
                target_to_hub(&mut fields, from)?;
                target_from_hub(&mut fields, to)?;
            }
            "HTTPRouteGroup" => {
                group_to_hub(&mut fields, from);
                group_from_hub(&mut fields, to);
            }
            "TCPRoute" => {
                tcp_to_hub(&mut fields, from)?;
                tcp_from_hub(&mut fields, to)?;
            }
            "TrafficSplit" => {
                split_to_hub(&mut fields, from)?;
                split_from_hub(&mut fields, to)?;
            }
            _ => {}
        }
        fields.insert("apiVersion".to_owned(), desired.into());
    }
    Ok(Value::Object(fields))
}

/// The draft of v1alpha4 is stored, and v1alpha3 is of the same form.
fn target_to_hub(fields: &mut Fields, from: &str) -> Result<(), ConvertError> {
    if from == "v1alpha1" {
        let mut spec = Fields::new();
        for (name, was) in [
            ("destination", "destination"),
            ("sources", "sources"),
            ("rules", "specs"),
        ] {
            if let Some(value) = fields.remove(was) {
                spec.insert(name.to_owned(), value);
            }
        }
        fields.insert("spec".to_owned(), Value::Object(spec));
    }
    if matches!(from, "v1alpha1" | "v1alpha2")
        && let Some(port) = destination(fields)?.and_then(|destination| destination.remove("port"))
    {
        annotate(fields, PORT, port.to_string())?;
    }
    Ok(())
}

fn target_from_hub(fields: &mut Fields, to: &str) -> Result<(), ConvertError> {
    if matches!(to, "v1alpha1" | "v1alpha2")
        && let Some(port) = annotation(fields, PORT).and_then(|text| kept::<u16>(text).ok())
        && let Some(destination) = destination(fields)?
    {
        destination.insert("port".to_owned(), port.into());
        forget(fields, PORT);
    }
    if to == "v1alpha1" {
        let mut spec = take(fields, "spec")?;
        for (name, was) in [
            ("destination", "destination"),
            ("sources", "sources"),
            ("specs", "rules"),
        ] {
            if let Some(value) = spec.remove(was) {
                fields.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn destination(fields: &mut Fields) -> Result<Option<&mut Fields>, ConvertError> {
    match fields.get_mut("spec").and_then(|spec| spec.get_mut("destination")) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(destination)) => Ok(Some(destination)),
        Some(_) => failed("the destination is no object"),
    }
}

/// v1alpha4 is stored, and v1alpha3 is of the same form.
fn group_to_hub(fields: &mut Fields, from: &str) {
    if matches!(from, "v1alpha1" | "v1alpha2") {
        let matches = fields.remove("matches").unwrap_or_else(|| json!([]));
        fields.insert("spec".to_owned(), json!({"matches": matches}));
    }
}

fn group_from_hub(fields: &mut Fields, to: &str) {
    if matches!(to, "v1alpha1" | "v1alpha2") {
        let spec = fields.remove("spec");
        let matches = spec.and_then(|mut spec| spec.get_mut("matches").map(Value::take));
        fields.insert("matches".to_owned(), matches.unwrap_or_else(|| json!([])));
    }
}

/// v1alpha4 is stored. v1alpha3 has an empty spec, and those before have none.
fn tcp_to_hub(fields: &mut Fields, from: &str) -> Result<(), ConvertError> {
    if from == "v1alpha4" {
        return Ok(());
    }
    let matches = annotation(fields, MATCHES).and_then(|text| kept::<Fields>(text).ok());
    if matches.is_some() {
        forget(fields, MATCHES);
    }
    let mut spec = take(fields, "spec")?;
    let matches = matches.map_or_else(|| json!({"ports": []}), Value::Object);
    spec.insert("matches".to_owned(), matches);
    fields.insert("spec".to_owned(), Value::Object(spec));
    Ok(())
}

fn tcp_from_hub(fields: &mut Fields, to: &str) -> Result<(), ConvertError> {
    if to == "v1alpha4" {
        return Ok(());
    }
    let mut spec = take(fields, "spec")?;
    if let Some(matches) = spec.remove("matches")
        && matches != json!({"ports": []})
    {
        annotate(fields, MATCHES, matches.to_string())?;
    }
    if to == "v1alpha3" {
        fields.insert("spec".to_owned(), Value::Object(spec));
    }
    Ok(())
}

/// v1alpha4 is stored, and v1alpha3 is of the same form. v1alpha2 has no matches, and v1alpha1 has quantities besides.
fn split_to_hub(fields: &mut Fields, from: &str) -> Result<(), ConvertError> {
    if matches!(from, "v1alpha1" | "v1alpha2")
        && let Some(matches) = annotation(fields, MATCHES).and_then(|text| kept::<Vec<Value>>(text).ok())
    {
        forget(fields, MATCHES);
        if let Some(Value::Object(spec)) = fields.get_mut("spec") {
            spec.insert("matches".to_owned(), matches.into());
        }
    }
    if from != "v1alpha1" {
        return Ok(());
    }
    let mut weights = Vec::new();
    for weight in weights_of(fields) {
        let text = match &*weight {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match text.parse::<Weight>() {
            Ok(weight) => weights.push(weight.milli()),
            Err(error) => return failed(error.to_string()),
        }
    }
    let whole = weights.iter().all(|milli| milli.is_multiple_of(1000));
    for (weight, milli) in weights_of(fields).zip(&weights) {
        *weight = (if whole { milli / 1000 } else { *milli }).into();
    }
    if !whole {
        annotate(fields, WEIGHTS, "milli".to_owned())?;
    }
    Ok(())
}

fn split_from_hub(fields: &mut Fields, to: &str) -> Result<(), ConvertError> {
    if matches!(to, "v1alpha1" | "v1alpha2")
        && let Some(Value::Object(spec)) = fields.get_mut("spec")
        && let Some(matches) = spec.remove("matches")
    {
        annotate(fields, MATCHES, matches.to_string())?;
    }
    if to != "v1alpha1" {
        return Ok(());
    }
    let milli = annotation(fields, WEIGHTS) == Some("milli");
    for weight in weights_of(fields) {
        let text = if milli {
            format!("{weight}m")
        } else {
            weight.to_string()
        };
        match text.parse::<Weight>() {
            Ok(found) => *weight = found.to_string().into(),
            Err(error) => return failed(error.to_string()),
        }
    }
    if milli {
        forget(fields, WEIGHTS);
    }
    Ok(())
}

/// The weights of a split's backends, those that there are.
fn weights_of(fields: &mut Fields) -> impl Iterator<Item = &mut Value> {
    let backends = fields.get_mut("spec").and_then(|spec| spec.get_mut("backends"));
    let backends = backends.and_then(Value::as_array_mut).into_iter().flatten();
    backends.filter_map(|backend| backend.get_mut("weight"))
}

/// Takes a field that is an object; an empty one if it is not there.
fn take(fields: &mut Fields, name: &str) -> Result<Fields, ConvertError> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(Fields::new()),
        Some(Value::Object(found)) => Ok(found),
        Some(_) => failed(format!("{name} is no object")),
    }
}

fn annotation<'f>(fields: &'f Fields, name: &str) -> Option<&'f str> {
    debug_assert!(name.starts_with(KEPT));
    fields.get("metadata")?.get("annotations")?.get(name)?.as_str()
}

fn annotate(fields: &mut Fields, name: &str, value: String) -> Result<(), ConvertError> {
    let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
    let Some(metadata) = metadata.as_object_mut() else {
        return failed("metadata is no object");
    };
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    let Some(annotations) = annotations.as_object_mut() else {
        return failed("metadata.annotations is no object");
    };
    annotations.insert(name.to_owned(), value.into());
    Ok(())
}

fn forget(fields: &mut Fields, name: &str) {
    let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else {
        return;
    };
    annotations.remove(name);
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

#[cfg(test)]
mod tests;
