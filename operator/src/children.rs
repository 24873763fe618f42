//! What was made for Gateways: which kinds there are, and what is known of each object.

use std::collections::BTreeMap;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::Value;

/// Says what an object was made from.
pub(crate) const RENDERED: &str = "weft.dev/rendered";
/// Says, in full, for which Gateway an object was made.
pub(crate) const GATEWAY: &str = "weft.dev/gateway";

/// The kinds of what is made for Gateways, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ChildKind {
    ServiceAccount,
    ConfigMap,
    Service,
    Deployment,
    PodDisruptionBudget,
    HorizontalPodAutoscaler,
}

impl ChildKind {
    pub(crate) const ALL: &[Self] = &[
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::Service,
        Self::Deployment,
        Self::PodDisruptionBudget,
        Self::HorizontalPodAutoscaler,
    ];

    pub(crate) fn gvk(self) -> GroupVersionKind {
        let (group, version, kind) = match self {
            Self::ServiceAccount => ("", "v1", "ServiceAccount"),
            Self::ConfigMap => ("", "v1", "ConfigMap"),
            Self::Service => ("", "v1", "Service"),
            Self::Deployment => ("apps", "v1", "Deployment"),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget"),
            Self::HorizontalPodAutoscaler => ("autoscaling", "v2", "HorizontalPodAutoscaler"),
        };
        GroupVersionKind::gvk(group, version, kind)
    }

    pub(crate) fn resource(self) -> ApiResource {
        ApiResource::from_gvk(&self.gvk())
    }

    /// What its watch is called: some of these kinds are watched for translation as well.
    pub(crate) fn watch_name(self) -> &'static str {
        match self {
            Self::ServiceAccount => "gateways/ServiceAccount",
            Self::ConfigMap => "gateways/ConfigMap",
            Self::Service => "gateways/Service",
            Self::Deployment => "gateways/Deployment",
            Self::PodDisruptionBudget => "gateways/PodDisruptionBudget",
            Self::HorizontalPodAutoscaler => "gateways/HorizontalPodAutoscaler",
        }
    }
}

/// The name of something made for a Gateway: kind, namespace, name.
pub(crate) type ChildKey = (ChildKind, String, String);

/// Something made for a Gateway, as it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Child {
    pub(crate) kind: ChildKind,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The Gateway (its name in full) it says to be made for.
    pub(crate) gateway: Option<String>,
    /// All of it but for who wrote what.
    pub(crate) object: Value,
}

impl Child {
    pub(crate) fn new(kind: ChildKind, mut object: DynamicObject) -> Self {
        object.metadata.managed_fields = None;
        let annotations = object.metadata.annotations.as_ref();
        let gateway = annotations.and_then(|annotations| annotations.get(GATEWAY)).cloned();
        Self {
            kind,
            namespace: object.metadata.namespace.clone().unwrap_or_default(),
            name: object.metadata.name.clone().unwrap_or_default(),
            gateway,
            object: serde_json::to_value(object).unwrap_or_default(),
        }
    }

    pub(crate) fn key(&self) -> ChildKey {
        (self.kind, self.namespace.clone(), self.name.clone())
    }
}

/// Everything made for Gateways.
pub(crate) type Children = BTreeMap<ChildKey, Child>;
