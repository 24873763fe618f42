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
mod tests {
    use super::*;

    const ALL: [&str; 4] = ["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"];

    fn to(object: &Value, version: &str) -> Value {
        let (group, _) = object["apiVersion"]
            .as_str()
            .and_then(|text| text.split_once('/'))
            .expect("it has one");
        convert(object.clone(), &format!("{group}/{version}")).expect("it is converted")
    }

    /// Through every other version and back, and through all of them in a row, nothing is lost.
    fn survives(object: &Value) {
        let (_, own) = object["apiVersion"]
            .as_str()
            .and_then(|text| text.split_once('/'))
            .expect("it has one");
        for version in ALL {
            assert_eq!(to(&to(object, version), own), *object, "by way of {version}");
        }
        for order in [ALL, {
            let mut reverse = ALL;
            reverse.reverse();
            reverse
        }] {
            let around = order
                .iter()
                .fold(object.clone(), |object, version| to(&object, version));
            assert_eq!(to(&around, own), *object, "by way of {order:?}");
        }
    }

    fn target(version: &str) -> Value {
        let (account, rules) = (
            json!({"kind": "ServiceAccount", "name": "b", "namespace": "shop"}),
            json!([{"kind": "HTTPRouteGroup", "name": "r", "matches": ["m"]}, {"kind": "TCPRoute", "name": "t"}]),
        );
        let sources = json!([{"kind": "ServiceAccount", "name": "a", "namespace": "shop"}]);
        let mut object = json!({
            "apiVersion": format!("access.smi-spec.io/{version}"), "kind": "TrafficTarget",
            "metadata": {"name": "t", "namespace": "shop", "annotations": {"team": "cart"}},
        });
        if version == "v1alpha1" {
            object["destination"] = account;
            object["sources"] = sources;
            object["specs"] = rules;
        } else {
            object["spec"] = json!({"destination": account, "sources": sources, "rules": rules});
        }
        object
    }

    #[test]
    fn a_traffic_target_is_the_same_in_every_version() {
        for from in ALL {
            for version in ALL {
                assert_eq!(to(&target(from), version), target(version), "{from} to {version}");
            }
            survives(&target(from));
        }
    }

    #[test]
    fn the_port_of_a_destination_is_kept_where_there_is_no_field_for_it() {
        let mut first = target("v1alpha1");
        first["destination"]["port"] = 8080.into();
        survives(&first);
        let stored = to(&first, "v1alpha3");
        assert_eq!(stored["metadata"]["annotations"], json!({"team": "cart", PORT: "8080"}));
        assert!(stored["spec"]["destination"]["port"].is_null());
        survives(&stored);
        let mut second = target("v1alpha2");
        second["spec"]["destination"]["port"] = 8080.into();
        assert_eq!(to(&first, "v1alpha2"), second);
        survives(&second);
    }

    #[test]
    fn a_group_of_an_identity_binding_is_kept() {
        let mut draft = target("v1alpha4");
        draft["spec"]["destination"] = json!({"kind": "IdentityBinding", "group": ACCESS, "name": "b"});
        survives(&draft);
    }

    fn routes(version: &str) -> Value {
        let matches = json!([
            {"name": "a", "pathRegex": "/a", "methods": ["GET", "HEAD"]},
            {"name": "b", "headers": [{"user-agent": ".*Firefox.*"}]},
        ]);
        let mut object = json!({
            "apiVersion": format!("specs.smi-spec.io/{version}"), "kind": "HTTPRouteGroup", "metadata": {"name": "r"},
        });
        if matches!(version, "v1alpha1" | "v1alpha2") {
            object["matches"] = matches;
        } else {
            object["spec"] = json!({"matches": matches});
        }
        object
    }

    #[test]
    fn an_http_route_group_is_the_same_in_every_version() {
        for from in ALL {
            for version in ALL {
                assert_eq!(to(&routes(from), version), routes(version), "{from} to {version}");
            }
            survives(&routes(from));
        }
    }

    fn tcp(version: &str, more: Value) -> Value {
        let mut object = json!({
            "apiVersion": format!("specs.smi-spec.io/{version}"), "kind": "TCPRoute", "metadata": {"name": "t"},
        });
        for (name, value) in more.as_object().expect("fields") {
            object[name] = value.clone();
        }
        object
    }

    #[test]
    fn the_ports_of_a_tcp_route_are_kept_where_there_is_no_field_for_them() {
        let all = tcp("v1alpha4", json!({"spec": {"matches": {"ports": []}}}));
        assert_eq!(to(&all, "v1alpha3"), tcp("v1alpha3", json!({"spec": {}})));
        assert_eq!(to(&all, "v1alpha1"), tcp("v1alpha1", json!({})));
        let some = tcp("v1alpha4", json!({"spec": {"matches": {"ports": [3306, 6446]}}}));
        let kept = r#"{"ports":[3306,6446]}"#;
        assert_eq!(to(&some, "v1alpha2")["metadata"]["annotations"], json!({MATCHES: kept}));
        for object in [
            all,
            some,
            tcp("v1alpha3", json!({"spec": {}})),
            tcp("v1alpha2", json!({})),
            tcp("v1alpha1", json!({})),
        ] {
            survives(&object);
        }
    }

    fn split(version: &str, weights: [Value; 2]) -> Value {
        let [a, b] = weights;
        json!({
            "apiVersion": format!("split.smi-spec.io/{version}"), "kind": "TrafficSplit", "metadata": {"name": "s"},
            "spec": {"service": "web", "backends": [{"service": "v1", "weight": a}, {"service": "v2", "weight": b}]},
        })
    }

    #[test]
    fn the_weights_of_a_split_keep_their_ratio() {
        let whole = split("v1alpha4", [json!(90), json!(10)]);
        assert_eq!(to(&whole, "v1alpha1"), split("v1alpha1", [json!("90"), json!("10")]));
        assert_eq!(
            to(&split("v1alpha1", [json!("1"), json!(3)]), "v1alpha4"),
            split("v1alpha4", [json!(1), json!(3)])
        );
        let mut parts = split("v1alpha4", [json!(1000), json!(1500)]);
        parts["metadata"]["annotations"] = json!({WEIGHTS: "milli"});
        assert_eq!(to(&split("v1alpha1", [json!("1"), json!("1.5")]), "v1alpha4"), parts);
        for object in [
            whole,
            parts,
            split("v1alpha1", [json!("1"), json!("1500m")]),
            split("v1alpha2", [json!(0), json!(1)]),
        ] {
            survives(&object);
        }
    }

    #[test]
    fn the_matches_of_a_split_are_kept_where_there_is_no_field_for_them() {
        let mut object = split("v1alpha3", [json!(0), json!(100)]);
        object["spec"]["matches"] = json!([{"kind": "HTTPRouteGroup", "name": "ab"}]);
        survives(&object);
        let second = to(&object, "v1alpha2");
        assert!(second["spec"]["matches"].is_null());
        assert!(second["metadata"]["annotations"][MATCHES].is_string());
        survives(&second);
    }

    #[test]
    fn what_cannot_be_converted_is_said() {
        let object = target("v1alpha3");
        for (object, desired) in [
            (object.clone(), "access.smi-spec.io/v1"),
            (object.clone(), "split.smi-spec.io/v1alpha4"),
            (object.clone(), "v1alpha2"),
            (json!({"apiVersion": "apps/v1", "kind": "Deployment"}), "apps/v1beta1"),
            (
                split("v1alpha1", [json!("some"), json!("1")]),
                "split.smi-spec.io/v1alpha4",
            ),
            (json!("text"), "split.smi-spec.io/v1alpha4"),
        ] {
            assert!(convert(object.clone(), desired).is_err(), "{object} to {desired}");
        }
    }
}
