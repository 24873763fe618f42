//! The labels and annotations of what is made for a Gateway, and what its pods are selected by.

use std::collections::BTreeMap;

use weft_translate::MANAGED_BY;

use super::{input::Input, names};

pub(super) type Texts = BTreeMap<String, String>;

/// The labels of everything, which also select the pods.
pub(super) fn own_labels(input: &Input<'_>) -> Texts {
    [
        ("app.kubernetes.io/name", "weft-gateway".to_owned()),
        (MANAGED_BY.0, MANAGED_BY.1.to_owned()),
        (
            "gateway.networking.k8s.io/gateway-name",
            names::label(&input.gateway.metadata.name),
        ),
        (
            "gateway.networking.k8s.io/gateway-class-name",
            names::label(&input.gateway.spec.gateway_class_name),
        ),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// What pods are selected by, which can never be changed.
pub(super) fn selector(input: &Input<'_>) -> Texts {
    let mut labels = own_labels(input);
    labels.retain(|key, _| key == "app.kubernetes.io/name" || key == "gateway.networking.k8s.io/gateway-name");
    labels
}

/// Maps laid over each other, the later ones on top.
pub(super) fn layered(layers: impl IntoIterator<Item = Texts>) -> Texts {
    layers.into_iter().flatten().collect()
}

/// What the Gateway's `infrastructure` puts on everything that is made of it.
pub(super) fn infrastructure(input: &Input<'_>) -> (Texts, Texts) {
    let infrastructure = input.gateway.spec.infrastructure.clone().unwrap_or_default();
    (infrastructure.labels, infrastructure.annotations)
}
