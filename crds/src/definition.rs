//! The CustomResourceDefinitions of what Weft owns, made from the types.

use schemars::{
    JsonSchema, Schema,
    generate::SchemaSettings,
    transform::{Transform, transform_subschemas},
};
use serde_json::{Value, json};

use crate::{AcmeIssuerSpec, AuthorizationPolicySpec, GatewayParametersSpec, Kind, smi};

/// The CustomResourceDefinition of every kind that Weft owns.
pub fn definitions() -> Vec<(Kind, Value)> {
    let issuer = definition::<AcmeIssuerSpec>(Kind::AcmeIssuer, "acmeissuers", "AcmeIssuerList");
    let kind = Kind::AuthorizationPolicy;
    let policy = definition::<AuthorizationPolicySpec>(kind, "authorizationpolicies", "AuthorizationPolicyList");
    vec![
        (
            Kind::GatewayParameters,
            definition::<GatewayParametersSpec>(Kind::GatewayParameters, "gatewayparameters", "GatewayParametersList"),
        ),
        (Kind::AcmeIssuer, with_conditions(issuer, "Ready")),
        (Kind::AuthorizationPolicy, with_ancestors(policy)),
    ]
}

/// The CustomResourceDefinition of every kind of SMI, for clusters where nobody else has brought them.
pub fn smi_definitions() -> Vec<(Kind, Value)> {
    smi::definitions()
}

fn text(length: u32) -> Value {
    json!({"type": "string", "maxLength": length})
}

/// A list of conditions.
fn conditions() -> Value {
    let condition = json!({
        "type": "object",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": text(316),
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": text(1024),
            "message": text(32768),
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
        },
    });
    json!({
        "type": "array",
        "maxItems": 8,
        "items": condition,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

/// Makes a definition that of a policy (GEP-713), whose status says how it stands with each of its ancestors.
fn with_ancestors(mut definition: Value) -> Value {
    definition["metadata"]["labels"] = json!({"gateway.networking.k8s.io/policy": "Inherited"});
    let reference = json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "group": text(253), "kind": text(63), "namespace": text(63), "name": text(253), "sectionName": text(253),
            "port": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535},
        },
    });
    let version = &mut definition["spec"]["versions"][0];
    version["subresources"] = json!({"status": {}});
    let of_first = |condition: &str| format!(".status.ancestors[0].conditions[?(@.type==\"{condition}\")].status");
    version["additionalPrinterColumns"] = json!([
        {"name": "Action", "type": "string", "jsonPath": ".spec.action"},
        {"name": "Accepted", "type": "string", "jsonPath": of_first("Accepted")},
        {"name": "Enforced", "type": "string", "jsonPath": of_first("Enforced")},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]);
    version["schema"]["openAPIV3Schema"]["properties"]["status"] = json!({
        "type": "object",
        "properties": {"ancestors": {
            "type": "array",
            "maxItems": 16,
            "items": {
                "type": "object",
                "required": ["ancestorRef", "controllerName", "conditions"],
                "properties": {"ancestorRef": reference, "controllerName": text(253), "conditions": conditions()},
            },
        }},
    });
    definition
}

/// Gives a definition a status that is conditions, one of which is shown in lists.
fn with_conditions(mut definition: Value, shown: &str) -> Value {
    let version = &mut definition["spec"]["versions"][0];
    version["subresources"] = json!({"status": {}});
    version["additionalPrinterColumns"] = json!([
        {"name": shown, "type": "string", "jsonPath": format!(".status.conditions[?(@.type==\"{shown}\")].status")},
        {"name": "Reason", "type": "string", "jsonPath": format!(".status.conditions[?(@.type==\"{shown}\")].reason")},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]);
    version["schema"]["openAPIV3Schema"]["properties"]["status"] = json!({
        "type": "object",
        "properties": {"conditions": conditions()},
    });
    definition
}

fn definition<Spec: JsonSchema>(kind: Kind, plural: &str, list: &str) -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut spec = settings
        .with_transform(Structural)
        .into_generator()
        .into_root_schema_for::<Spec>();
    spec.remove("title");
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{}", kind.group())},
        "spec": {
            "group": kind.group(),
            "names": {
                "kind": kind.name(),
                "listKind": list,
                "plural": plural,
                "singular": kind.name().to_lowercase(),
                "categories": ["weft"],
            },
            "scope": if kind.is_cluster_scoped() { "Cluster" } else { "Namespaced" },
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec,
                    },
                }},
            }],
        },
    })
}

/// Makes a schema one that the API server takes ("structural"): an enum with a text for each value is a plain enum,
/// absent is not null, and formats and defaults of Rust's own are left out.
#[derive(Clone, Debug)]
struct Structural;

impl Transform for Structural {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        for needless in ["nullable", "default"] {
            schema.remove(needless);
        }
        if schema
            .get("format")
            .is_some_and(|format| format != "int32" && format != "int64")
        {
            schema.remove("format");
        }
        let kept = schema.get("description").cloned();
        // `Option` of a type with a description of its own, which may be null, as absent is not.
        for list in ["allOf", "anyOf"] {
            let Some(Value::Array(mut all)) = schema.get(list).cloned() else {
                continue;
            };
            all.retain(|each| each.get("enum") != Some(&json!([null])));
            if let [Value::Object(only)] = all.as_slice() {
                schema.remove(list);
                for (key, value) in only {
                    schema.insert(key.clone(), value.clone());
                }
            }
        }
        if let Some(Value::Array(choices)) = schema.get("oneOf").cloned() {
            let values: Vec<Value> = choices
                .iter()
                .filter_map(|choice| {
                    choice
                        .get("const")
                        .cloned()
                        .or_else(|| choice.get("enum")?.get(0).cloned())
                })
                .collect();
            if values.len() == choices.len() {
                schema.remove("oneOf");
                schema.insert("type".to_owned(), "string".into());
                schema.insert("enum".to_owned(), Value::Array(values));
            }
        }
        if let Some(description) = kept {
            schema.insert("description".to_owned(), description);
        }
    }
}
