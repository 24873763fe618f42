//! Objects as they come from the API server: what is translated, and what only the operator needs, apart.

use kube::{api::DynamicObject, core::ObjectMeta};
use serde_json::{Map, Value, json};
use weft_crds::{Kind, Object, ObjectRef, ParseError};

/// What the operator needs of an object that has a status. It is kept apart from the object, so that a status that is
/// written makes nothing be translated again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) reference: ObjectRef,
    pub(crate) uid: String,
    pub(crate) generation: i64,
    pub(crate) resource_version: String,
    /// As JSON text, which is smaller than a tree.
    pub(crate) status: Box<str>,
}

impl Seen {
    /// The status; null when there is none.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.status).unwrap_or(Value::Null)
    }

    /// Whether it is known to be of a later version than another. Versions are numbers that grow.
    pub(crate) fn is_newer_than(&self, other: &Self) -> bool {
        match (
            self.resource_version.parse::<u64>(),
            other.resource_version.parse::<u64>(),
        ) {
            (Ok(own), Ok(other)) => own > other,
            _ => false,
        }
    }
}

/// Whether objects of a kind can have a status of ours.
pub(crate) fn has_status(kind: Kind) -> bool {
    !matches!(kind.group(), "" | "discovery.k8s.io")
}

/// The name of an object.
pub(crate) fn reference(kind: Kind, metadata: &ObjectMeta) -> ObjectRef {
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    ObjectRef::new(kind, namespace.unwrap_or_default(), name.unwrap_or_default())
}

/// Reads an object, without what nobody reads.
pub(crate) fn read(kind: Kind, object: DynamicObject) -> Result<(Seen, Object), ParseError> {
    let DynamicObject { metadata, data, .. } = object;
    let Value::Object(mut data) = data else {
        return Object::from_value(kind, data).map(|object| (seen(kind, &metadata, Value::Null), object));
    };
    let status = data.remove("status").unwrap_or(Value::Null);
    if kind == Kind::Node {
        return node(&metadata, &status).map(|node| (seen(kind, &metadata, Value::Null), node));
    }
    let seen = seen(kind, &metadata, status);
    trim(kind, &mut data);
    data.values_mut().for_each(without_nulls);
    data.retain(|_, value| !value.is_null());
    data.insert("metadata".to_owned(), slim(metadata));
    Object::from_value(kind, Value::Object(data)).map(|object| (seen, object))
}

/// What is known of an object with that metadata and status.
pub(crate) fn seen(kind: Kind, metadata: &ObjectMeta, status: Value) -> Seen {
    let kept = has_status(kind) && !status.is_null();
    Seen {
        reference: reference(kind, metadata),
        uid: metadata.uid.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        status: if kept {
            status.to_string().into()
        } else {
            Box::default()
        },
    }
}

/// Takes nulls away: an empty list is null where the API's Go types do not say otherwise.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Of a node, whether it is ready: everything else of it is large, and much of it changes all the time.
fn node(metadata: &ObjectMeta, status: &Value) -> Result<Object, ParseError> {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let ready = conditions.filter(|condition| condition["type"] == "Ready");
    let ready: Vec<Value> = ready
        .map(|condition| json!({"type": "Ready", "status": condition["status"]}))
        .collect();
    let name = metadata.name.as_deref().unwrap_or_default();
    Object::from_value(
        Kind::Node,
        json!({"metadata": {"name": name}, "status": {"conditions": ready}}),
    )
}

/// Takes away what is large and not read.
fn trim(kind: Kind, data: &mut Map<String, Value>) {
    match kind {
        Kind::Namespace => {
            data.remove("spec");
        }
        Kind::Service => {
            if let Some(Value::Object(spec)) = data.get_mut("spec") {
                for needless in [
                    "allocateLoadBalancerNodePorts",
                    "externalTrafficPolicy",
                    "healthCheckNodePort",
                    "internalTrafficPolicy",
                    "ipFamilies",
                    "ipFamilyPolicy",
                    "sessionAffinity",
                    "sessionAffinityConfig",
                ] {
                    spec.remove(needless);
                }
            }
        }
        // Gateway API refers to ConfigMaps for certificates of CAs alone.
        Kind::ConfigMap => {
            data.remove("binaryData");
            if let Some(Value::Object(entries)) = data.get_mut("data") {
                entries.retain(|key, _| key == "ca.crt");
            }
        }
        _ => {}
    }
}

/// The metadata that is read. The version is left out, for it changes with every status that is written.
fn slim(metadata: ObjectMeta) -> Value {
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    let mut slim = json!({
        "name": metadata.name.unwrap_or_default(),
        "labels": metadata.labels.unwrap_or_default(),
        "annotations": annotations,
    });
    let further = [
        ("namespace", metadata.namespace.map(Value::from)),
        ("uid", metadata.uid.map(Value::from)),
        ("generation", metadata.generation.map(Value::from)),
        (
            "creationTimestamp",
            metadata.creation_timestamp.map(|time| time.0.to_string().into()),
        ),
        (
            "deletionTimestamp",
            metadata.deletion_timestamp.map(|time| time.0.to_string().into()),
        ),
    ];
    for (key, value) in further {
        if let Some(value) = value {
            slim[key] = value;
        }
    }
    slim
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn a_status_makes_no_other_object() {
        let mut value = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "a", "namespace": "n", "generation": 3, "resourceVersion": "7", "managedFields": [{}]},
            "spec": {"rules": []},
        });
        let (seen, first) = read(Kind::HttpRoute, object(value.clone())).expect("readable");
        assert_eq!((seen.generation, seen.status()), (3, Value::Null));
        value["metadata"]["resourceVersion"] = "8".into();
        value["status"] = json!({"parents": []});
        let (later, second) = read(Kind::HttpRoute, object(value)).expect("readable");
        assert_eq!(first, second);
        assert_eq!(later.status(), json!({"parents": []}));
        assert!(later.is_newer_than(&seen) && !seen.is_newer_than(&later));
    }

    #[test]
    fn of_config_maps_only_certificates_are_kept() {
        let value = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n"},
            "data": {"ca.crt": "x", "dashboard.json": "large"}, "binaryData": {"b": "AAAA"},
        });
        let (_, read) = read(Kind::ConfigMap, object(value)).expect("readable");
        let Object::ConfigMap(map) = read else {
            panic!("a ConfigMap")
        };
        assert_eq!(map.data.keys().collect::<Vec<_>>(), ["ca.crt"]);
        assert!(map.binary_data.is_empty());
    }

    #[test]
    fn of_a_node_it_is_kept_whether_it_is_ready() {
        let value = |heard: &str, ready: &str| {
            let time = json!(heard);
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "annotations": {"heard": heard}},
                "spec": {"podCIDR": "10.0.0.0/24"},
                "status": {"images": [{}], "conditions": [
                    {"type": "MemoryPressure", "status": "False", "lastHeartbeatTime": time},
                    {"type": "Ready", "status": ready, "lastHeartbeatTime": time}]},
            })
        };
        let node = |heard, ready| read(Kind::Node, object(value(heard, ready))).expect("readable").1;
        assert_eq!(node("12:00", "True"), node("12:05", "True"));
        let is_unready = |object| {
            let Object::Node(node) = object else { panic!("a Node") };
            node.is_unready()
        };
        assert!(is_unready(node("12:00", "Unknown")) && is_unready(node("12:00", "False")));
        assert!(!is_unready(node("12:00", "True")));
    }

    #[test]
    fn a_null_list_is_an_empty_one() {
        let value = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "a", "namespace": "n"},
            "addressType": "IPv4", "endpoints": null, "ports": [{"name": null, "port": 80}],
        });
        let (_, read) = read(Kind::EndpointSlice, object(value)).expect("readable");
        let Object::EndpointSlice(slice) = read else {
            panic!("an EndpointSlice")
        };
        assert_eq!((slice.endpoints.len(), slice.ports[0].port), (0, Some(80)));
    }

    #[test]
    fn what_cannot_be_read_says_where() {
        let value = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a"},
            "spec": {"rules": [{"matches": 3}]},
        });
        let error = read(Kind::HttpRoute, object(value)).expect_err("not readable");
        assert_eq!(error.path().to_string(), "spec.rules[0].matches");
    }
}
