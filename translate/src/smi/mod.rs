//! SMI: who may send what to whom (TrafficTarget) is a policy of the model, and how what is sent to a Service is split
//! (TrafficSplit) comes to rules of a frontend, as routes of Services do. Its kinds have no status, so that what is wrong with
//! an object is said by its diagnostics, and by Events in a cluster.

mod access;
mod nested;
mod requests;
pub(crate) mod split;

use weft_crds::{Kind, ObjectRef};
use weft_model::AuthorizationPolicy;

use crate::{diagnostic::Diagnostic, world::Reader};

/// What an object of SMI comes to, but for TrafficSplits; also what a namespace says of SMI.
#[derive(Default)]
pub(crate) struct Derived {
    pub(crate) policy: Option<AuthorizationPolicy>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// Derives it; nothing if it is not there.
pub(crate) fn derive(reader: &Reader<'_>, reference: &ObjectRef) -> Derived {
    let (namespace, name) = (reference.namespace.as_str(), reference.name.as_str());
    let derived = match reference.kind {
        Kind::TrafficTarget => access::target(reader, namespace, name),
        Kind::Namespace => access::namespace(reader, name),
        Kind::IdentityBinding => access::binding(reader, namespace, name),
        Kind::HttpRouteGroup => reader.http_route_group(namespace, name).map(|group| Derived {
            policy: None,
            diagnostics: requests::check(group),
        }),
        _ => None,
    };
    derived.unwrap_or_default()
}
