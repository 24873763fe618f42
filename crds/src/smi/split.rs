//! TrafficSplit: to which Services goes what is sent to one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Weight,
    convert::{self, MATCHES},
};
use crate::Metadata;

/// `split.smi-spec.io TrafficSplit`, from v1alpha1 to v1alpha4.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(from = "Written")]
pub struct TrafficSplit {
    /// Its metadata.
    pub metadata: Metadata,
    /// How it is split.
    pub spec: TrafficSplitSpec,
}

/// How traffic is split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficSplitSpec {
    /// The root Service, by its name or in full, to which clients send.
    pub service: String,
    /// Only requests like these are split; all when empty (v1alpha3 on).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<SplitMatch>,
    /// Where they go.
    pub backends: Vec<TrafficSplitBackend>,
}

/// Requests that are split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SplitMatch {
    /// `HTTPRouteGroup`.
    pub kind: String,
    /// Its API group, which says nothing new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
    /// Its name.
    pub name: String,
}

/// A backend and its share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficSplitBackend {
    /// A Service of the same namespace, by its name or in full.
    pub service: String,
    /// Its share is this over the sum of all: a number, or in v1alpha1 a quantity like `500m`.
    pub weight: Weight,
}

/// As it may be written.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    /// Its metadata.
    metadata: Metadata,
    /// How it is split.
    spec: TrafficSplitSpec,
}

impl From<Written> for TrafficSplit {
    fn from(Written { metadata, mut spec }: Written) -> Self {
        // What a conversion has kept there for a version that has no field for it.
        let kept = metadata.annotations.get(MATCHES);
        let kept = kept.and_then(|matches| convert::kept(matches).ok());
        if let (true, Some(matches)) = (spec.matches.is_empty(), kept) {
            spec.matches = matches;
        }
        Self { metadata, spec }
    }
}

impl TrafficSplit {
    /// The name of a Service of the split's namespace that is named by its name or in full.
    ///
    /// # Errors
    /// It is one of another namespace, or no name; and why.
    pub fn local<'n>(&self, name: &'n str) -> Result<&'n str, String> {
        let own = self.metadata.namespace();
        let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
        let service = labels.next().unwrap_or_default();
        if service.is_empty() {
            return Err("the Service has no name".to_owned());
        }
        match (labels.next(), labels.next()) {
            (None, _) => Ok(service),
            (Some(namespace), None | Some("svc")) if namespace == own => Ok(service),
            (Some(namespace), None | Some("svc")) => Err(format!(
                "{name:?} is a Service of the namespace {namespace}, and a split is for those of its own"
            )),
            _ => Err(format!("{name:?} is not the name of a Service in the cluster")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_are_named_by_their_name_or_in_full() {
        let split: TrafficSplit =
            serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "shop"}})).expect("it is one");
        for name in [
            "web",
            "web.shop",
            "web.shop.svc",
            "web.shop.svc.cluster.local",
            "web.shop.svc.cluster.local.",
        ] {
            assert_eq!(split.local(name), Ok("web"), "{name}");
        }
        for wrong in ["", "web.other", "web.other.svc.cluster.local", "www.example.com"] {
            assert!(split.local(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn weights_are_numbers_or_quantities() {
        let weights = |list| -> Vec<u64> {
            let split = json!({"metadata": {"name": "s"}, "spec": {"service": "web", "backends": list}});
            let split: TrafficSplit = serde_json::from_value(split).expect("it is one");
            split
                .spec
                .backends
                .iter()
                .map(|backend| backend.weight.milli())
                .collect()
        };
        let of = |weights: &[serde_json::Value]| {
            let list: Vec<_> = weights
                .iter()
                .map(|weight| json!({"service": "a", "weight": weight}))
                .collect();
            json!(list)
        };
        assert_eq!(
            weights(of(&[json!(90), json!("1500m"), json!("1"), json!(10.0)])),
            [90_000, 1500, 1000, 10_000]
        );
    }
}
