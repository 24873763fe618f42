//! TrafficTarget and IdentityBinding: who may send what to whom.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::convert::PORT;
use crate::{Metadata, SelectorRequirement};

/// `access.smi-spec.io TrafficTarget`: those it names as sources may send to its destination what its rules take, and what
/// no target lets in is denied. Any version from v1alpha1 to the draft of v1alpha4.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(from = "Written")]
pub struct TrafficTarget {
    /// Its metadata.
    pub metadata: Metadata,
    /// Who may.
    pub spec: TrafficTargetSpec,
    /// Whether its fields stand at the top and not in `spec`, as in v1alpha1, and rules are `specs`.
    pub flat: bool,
}

/// Who may send what to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficTargetSpec {
    /// Whom.
    pub destination: TrafficSubject,
    /// Who.
    pub sources: Vec<TrafficSubject>,
    /// What.
    pub rules: Vec<TrafficTargetRule>,
}

/// Somebody who sends or is sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficSubject {
    /// `ServiceAccount`, or `IdentityBinding` (v1alpha4).
    pub kind: String,
    /// Its API group (v1alpha4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its name.
    pub name: String,
    /// Its namespace; the target's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Of a destination, the only port (v1alpha1 and v1alpha2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What may be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficTargetRule {
    /// `HTTPRouteGroup`, `TCPRoute` or `UDPRoute`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Of an HTTPRouteGroup, only these of its matches; all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<String>,
}

/// As it may be written.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    /// Its metadata.
    metadata: Metadata,
    /// From v1alpha2 on.
    spec: Option<TrafficTargetSpec>,
    /// v1alpha1.
    destination: Option<TrafficSubject>,
    /// v1alpha1.
    sources: Vec<TrafficSubject>,
    /// v1alpha1.
    specs: Vec<TrafficTargetRule>,
}

impl From<Written> for TrafficTarget {
    fn from(written: Written) -> Self {
        let Written {
            metadata,
            spec,
            destination,
            sources,
            specs,
        } = written;
        let flat = spec.is_none() && destination.is_some();
        let mut spec = spec.unwrap_or_else(|| TrafficTargetSpec {
            destination: destination.unwrap_or_default(),
            sources,
            rules: specs,
        });
        // What a conversion has kept there for a version that has no field for it.
        let kept = metadata.annotations.get(PORT).and_then(|port| port.parse().ok());
        spec.destination.port = spec.destination.port.or(kept);
        Self { metadata, spec, flat }
    }
}

impl TrafficTarget {
    /// Where a field of the spec stands in the version that it is written in.
    pub fn path(&self, field: &str) -> String {
        match (self.flat, field.strip_prefix("rules")) {
            (true, Some(rest)) => format!("specs{rest}"),
            (true, None) => field.to_owned(),
            (false, _) => format!("spec.{field}"),
        }
    }
}

/// `access.smi-spec.io/v1alpha4 IdentityBinding`, a draft: who a workload of its namespace is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IdentityBinding {
    /// Its metadata.
    pub metadata: Metadata,
    /// Who it is.
    pub spec: IdentityBindingSpec,
}

/// Who a workload is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IdentityBindingSpec {
    /// By which schemes.
    pub schemes: IdentitySchemes,
}

/// Ways to say who a workload is; it is whoever one of them says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IdentitySchemes {
    /// By the labels of its pods; excludes `serviceAccount`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_label_selector: Option<PodLabelSelector>,
    /// By SPIFFE IDs, with or without `spiffe://`.
    pub spiffe_identities: Vec<String>,
    /// By a service account of the same namespace; excludes `podLabelSelector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
}

/// Pods by their labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodLabelSelector {
    /// All of these.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// And each of these holds; the draft has labels alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<SelectorRequirement>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_version_is_read_into_one_form() {
        let account = |name: &str| json!({"kind": "ServiceAccount", "name": name});
        let rule = json!([{"kind": "HTTPRouteGroup", "name": "r", "matches": ["m"]}]);
        let mut ported = account("b");
        ported["port"] = 8080.into();
        let first = json!({"metadata": {"name": "t"}, "destination": ported, "specs": rule, "sources": [account("a")]});
        let second = json!({"metadata": {"name": "t"}, "spec": {"destination": ported, "rules": rule, "sources": [account("a")]}});
        let mut third = second.clone();
        third["spec"]["destination"] = account("b");
        third["metadata"]["annotations"] = json!({PORT: "8080"});
        let read = |value| serde_json::from_value::<TrafficTarget>(value).expect("it is one");
        let [first, second, third] = [first, second, third].map(read);
        assert_eq!(first.spec, second.spec);
        assert_eq!(second.spec, third.spec);
        assert_eq!(third.spec.destination.port, Some(8080));
        assert_eq!(
            (first.path("rules[0].name"), second.path("rules[0].name")),
            ("specs[0].name".to_owned(), "spec.rules[0].name".to_owned())
        );
        assert_eq!(first.path("destination"), "destination");
    }
}
