//! The CustomResourceDefinitions of SMI's kinds. They are as strict as those that come with SMI's SDK, so that what was written
//! for those is taken; every version is served, and the operator converts them.
//!
//! What is stored is the version that API servers prefer. Whoever names none (`kubectl get`, the controller that empties a
//! namespace) is served what is stored as it is, and needs no operator for it.

use serde_json::{Value, json};

use super::{ACCESS, SPECS, SPLIT};
use crate::Kind;

/// A version and the fields it has beside `metadata`, by what they are and which of them there must be.
struct Version {
    name: &'static str,
    fields: Value,
    required: Vec<&'static str>,
}

/// The definition of every kind, without what a chart says of the webhook that converts them.
pub(crate) fn definitions() -> Vec<(Kind, Value)> {
    vec![
        (
            Kind::TrafficTarget,
            definition(ACCESS, "TrafficTarget", "traffictargets", "tt", "v1alpha4", targets()),
        ),
        (
            Kind::IdentityBinding,
            definition(
                ACCESS,
                "IdentityBinding",
                "identitybindings",
                "ib",
                "v1alpha4",
                bindings(),
            ),
        ),
        (
            Kind::HttpRouteGroup,
            definition(SPECS, "HTTPRouteGroup", "httproutegroups", "htr", "v1alpha4", groups()),
        ),
        (
            Kind::SmiTcpRoute,
            definition(SPECS, "TCPRoute", "tcproutes", "tr", "v1alpha4", tcp_routes()),
        ),
        (
            Kind::SmiUdpRoute,
            definition(
                SPECS,
                "UDPRoute",
                "udproutes",
                "ur",
                "v1alpha4",
                vec![version("v1alpha4", ports())],
            ),
        ),
        (
            Kind::TrafficSplit,
            definition(SPLIT, "TrafficSplit", "trafficsplits", "ts", "v1alpha4", splits()),
        ),
    ]
}

fn definition(group: &str, kind: &str, plural: &str, short: &str, stored: &str, versions: Vec<Version>) -> Value {
    let versions: Vec<Value> = versions
        .into_iter()
        .map(|version| {
            let mut properties = json!({
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
            });
            for (name, field) in version.fields.as_object().into_iter().flatten() {
                properties[name] = field.clone();
            }
            let mut schema = json!({"type": "object", "properties": properties});
            if !version.required.is_empty() {
                schema["required"] = json!(version.required);
            }
            let mut made = json!({
                "name": version.name,
                "served": true,
                "storage": version.name == stored,
                "schema": {"openAPIV3Schema": schema},
            });
            if kind == "TrafficSplit" {
                made["additionalPrinterColumns"] =
                    json!([{"name": "Service", "type": "string", "jsonPath": ".spec.service"}]);
            }
            made
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "names": {
                "kind": kind,
                "listKind": format!("{kind}List"),
                "plural": plural,
                "singular": kind.to_lowercase(),
                "shortNames": [short],
                "categories": ["smi"],
            },
            "scope": "Namespaced",
            "versions": versions,
        },
    })
}

/// A version whose only field is its spec.
fn version(name: &'static str, spec: Value) -> Version {
    Version {
        name,
        fields: json!({"spec": spec}),
        required: vec!["spec"],
    }
}

fn text(most: u32) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": most})
}

fn list(most: u32, items: &Value) -> Value {
    json!({"type": "array", "maxItems": most, "items": items})
}

fn object(properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn port() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": 65535})
}

fn targets() -> Vec<Version> {
    let subject = |ported: bool| {
        let mut properties =
            json!({"kind": text(63), "group": {"type": "string"}, "name": text(253), "namespace": text(63)});
        if ported {
            properties["port"] = port();
        }
        object(properties, &["kind", "name"])
    };
    let rules = |kinds: &[&str]| {
        let rule = json!({
            "kind": {"type": "string", "enum": kinds},
            "name": text(253),
            "matches": list(64, &text(253)),
        });
        list(64, &object(rule, &["kind", "name"]))
    };
    let (before, now) = (
        ["HTTPRouteGroup", "TCPRoute"],
        ["HTTPRouteGroup", "TCPRoute", "UDPRoute"],
    );
    let sources = list(256, &subject(false));
    let current = object(
        json!({"destination": subject(false), "sources": sources, "rules": rules(&now)}),
        &["destination", "sources", "rules"],
    );
    let second = json!({"destination": subject(true), "sources": sources, "rules": rules(&before)});
    vec![
        version("v1alpha4", current.clone()),
        version("v1alpha3", current),
        version("v1alpha2", object(second, &["destination"])),
        Version {
            name: "v1alpha1",
            fields: json!({"destination": subject(true), "sources": sources, "specs": rules(&before)}),
            required: vec!["destination"],
        },
    ]
}

fn bindings() -> Vec<Version> {
    let labels = json!({"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 64});
    // The draft has labels alone; but what is not in here the API server drops, and the selector would take more.
    let expression = object(
        json!({"key": text(317), "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
            "values": list(64, &json!({"type": "string", "maxLength": 63}))}),
        &["key", "operator"],
    );
    let mut selector = object(
        json!({"matchLabels": labels, "matchExpressions": list(64, &expression)}),
        &[],
    );
    selector["minProperties"] = 1.into();
    let mut schemes = object(
        json!({
            "podLabelSelector": selector,
            "spiffeIdentities": list(256, &text(2048)),
            "serviceAccount": text(253),
        }),
        &[],
    );
    schemes["x-kubernetes-validations"] = json!([{
        "rule": "!(has(self.podLabelSelector) && has(self.serviceAccount))",
        "message": "podLabelSelector and serviceAccount exclude each other",
    }]);
    vec![version("v1alpha4", object(json!({"schemes": schemes}), &["schemes"]))]
}

fn groups() -> Vec<Version> {
    let methods = [
        "*", "GET", "HEAD", "PUT", "POST", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    let one = json!({
        "name": text(253),
        "pathRegex": {"type": "string", "maxLength": 1024},
        "methods": list(16, &json!({"type": "string", "enum": methods})),
        // A map in the specification, a list of maps in the SDK's definition.
        "headers": {"x-kubernetes-preserve-unknown-fields": true},
    });
    let matches = list(128, &object(one, &["name"]));
    let nested = object(json!({"matches": matches}), &["matches"]);
    let flat = |name| Version {
        name,
        fields: json!({"matches": matches}),
        required: vec!["matches"],
    };
    vec![
        version("v1alpha4", nested.clone()),
        version("v1alpha3", nested),
        flat("v1alpha2"),
        flat("v1alpha1"),
    ]
}

fn ports() -> Value {
    let matches = object(
        json!({"name": {"type": "string"}, "ports": list(128, &port())}),
        &["ports"],
    );
    object(json!({"matches": matches}), &["matches"])
}

fn tcp_routes() -> Vec<Version> {
    let bare = |name| Version {
        name,
        fields: json!({}),
        required: Vec::new(),
    };
    vec![
        version("v1alpha4", ports()),
        Version {
            name: "v1alpha3",
            fields: json!({"spec": {"type": "object"}}),
            required: Vec::new(),
        },
        bare("v1alpha2"),
        bare("v1alpha1"),
    ]
}

fn splits() -> Vec<Version> {
    let backends = |weight: Value| {
        let backend = object(json!({"service": text(512), "weight": weight}), &["service", "weight"]);
        list(64, &backend)
    };
    let whole = backends(json!({"type": "integer", "minimum": 0, "maximum": 1_000_000_000}));
    let matched = json!({
        "apiGroup": {"type": "string"},
        "kind": {"type": "string", "enum": ["HTTPRouteGroup"]},
        "name": text(253),
    });
    let matches = list(16, &object(matched, &["kind", "name"]));
    let current = object(
        json!({"service": text(512), "matches": matches, "backends": whole}),
        &["service", "backends"],
    );
    let quantity = json!({"x-kubernetes-int-or-string": true, "pattern": r"^[0-9.]+(n|u|m|k|M|G|[eE]-?[0-9])?$"});
    let second = object(
        json!({"service": text(512), "backends": whole}),
        &["service", "backends"],
    );
    let first = object(
        json!({"service": text(512), "backends": backends(quantity)}),
        &["service", "backends"],
    );
    vec![
        version("v1alpha4", current.clone()),
        version("v1alpha3", current),
        version("v1alpha2", second),
        version("v1alpha1", first),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_is_read_has_one_with_the_versions_that_are_read() {
        let definitions = definitions();
        let smi = |kind: &&Kind| kind.group().ends_with("smi-spec.io");
        let kinds: Vec<Kind> = Kind::ALL.iter().filter(smi).copied().collect();
        assert_eq!(definitions.len(), kinds.len());
        for kind in kinds {
            let (_, made) = definitions
                .iter()
                .find(|(known, _)| *known == kind)
                .expect("it has one");
            assert_eq!(
                (&made["spec"]["group"], &made["spec"]["names"]["kind"]),
                (&json!(kind.group()), &json!(kind.name()))
            );
            let versions = made["spec"]["versions"].as_array().expect("versions");
            let names: Vec<&str> = versions.iter().filter_map(|version| version["name"].as_str()).collect();
            let mut served = kind.served().to_vec();
            served.sort_unstable_by(|a, b| b.cmp(a));
            assert_eq!(names, served, "{kind}");
            assert_eq!(
                versions.iter().filter(|version| version["storage"] == true).count(),
                1,
                "{kind}"
            );
        }
    }
}
