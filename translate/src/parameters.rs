//! References to parameters of Gateways and classes.

use weft_crds::{Kind, ParametersReference};

use crate::world::Reader;

/// Why the parameters that a Gateway (of this namespace) or a class (of none) refers to cannot be used.
pub(crate) fn problem(reader: &Reader<'_>, reference: &ParametersReference, namespace: Option<&str>) -> Option<String> {
    let kind = Kind::GatewayParameters;
    if (reference.group.as_str(), reference.kind.as_str()) != (kind.group(), kind.name()) {
        return Some(format!(
            "parameters of kind {:?} of group {:?} are not known: use {kind} of {}",
            reference.kind,
            reference.group,
            kind.group()
        ));
    }
    let Some(namespace) = namespace.or(reference.namespace.as_deref()) else {
        return Some(format!(
            "the reference to the {kind} {} names no namespace",
            reference.name
        ));
    };
    let found = reader.gateway_parameters(namespace, &reference.name).is_some();
    (!found).then(|| format!("there is no {kind} {namespace}/{}", reference.name))
}
