//! The listeners that a route attaches to.

use std::sync::Arc;

use weft_crds::{Kind, ObjectRef, ParentReference};
use weft_model::{Frontend, HostPattern};

use crate::{
    diagnostic::{Code, Diagnostic},
    listener::ListenerState,
    owner::Listeners,
    world::Reader,
};

/// What a parent has come to for a route.
pub(crate) enum Found<'g> {
    /// The listeners that take it.
    Listeners {
        /// The Gateway that has them.
        gateway: &'g ObjectRef,
        listeners: Vec<&'g ListenerState>,
    },
    /// The ports of a Service in the mesh.
    Frontends(Vec<Arc<Frontend>>),
}

/// Why a parent does not take a route.
pub(crate) struct Refused {
    pub(crate) code: Code,
    /// That of the condition.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) remedy: &'static str,
}

/// Finds what a Gateway or a ListenerSet comes to for a route; none if it is not ours.
pub(super) fn to_listeners<'w>(
    reader: &Reader<'w>,
    reference: &ObjectRef,
    parent: &ParentReference,
    path: &str,
    hostnames: &[HostPattern],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Result<Found<'w>, Refused>> {
    let (owner, namespace) = (parent.listener_owner()?, reference.namespace.as_str());
    let Some(owning) = reader.listeners(parent, namespace) else {
        let whose = parent.namespace.as_deref().unwrap_or(namespace);
        // One that is there is another controller's.
        if reader.object(ObjectRef::new(owner, whose, &parent.name)).is_none() {
            let message = format!("there is no {owner} {whose}/{}", parent.name);
            let remedy = "create it, or correct the name";
            diagnostics.push(Code::ParentNotFound.at(format!("{path}.name"), message, remedy));
        }
        return None;
    };
    let found = attach(reader, reference.kind, namespace, parent, owning, hostnames);
    let gateway = &owning.gateway;
    Some(match found {
        Ok(listeners) => Ok(Found::Listeners { gateway, listeners }),
        Err((code, reason, message)) => Err(Refused {
            code,
            reason,
            message,
            remedy: "see the listeners there: their names, ports, hostnames and allowedRoutes",
        }),
    })
}

/// Finds the listeners of a Gateway or a ListenerSet that take a route.
fn attach<'g>(
    reader: &Reader<'_>,
    kind: Kind,
    namespace: &str,
    parent: &ParentReference,
    owning: &'g Listeners,
    hostnames: &[HostPattern],
) -> Result<Vec<&'g ListenerState>, (Code, &'static str, String)> {
    let named: Vec<_> = owning
        .listeners
        .iter()
        .filter(|listener| parent.section_name.as_ref().is_none_or(|name| *name == listener.name))
        .filter(|listener| parent.port.is_none_or(|port| port == listener.port))
        .collect();
    if named.is_empty() {
        let owner = &parent.kind;
        let message = match (&parent.section_name, parent.port) {
            (Some(name), Some(port)) => format!("the {owner} has no listener {name:?} on port {port}"),
            (Some(name), None) => format!("the {owner} has no listener {name:?}"),
            (None, Some(port)) => format!("the {owner} has no listener on port {port}"),
            (None, None) => format!("the {owner} has no listener"),
        };
        return Err((Code::NoParent, "NoMatchingParent", message));
    }
    let allowed: Vec<_> = named
        .into_iter()
        .filter(|listener| listener.kinds.iter().any(|allowed| allowed.kind == kind.name()))
        .filter(|listener| listener.namespaces.allow(reader, namespace))
        .collect();
    if allowed.is_empty() {
        let message = format!("no listener there allows routes of kind {kind} from the namespace {namespace}");
        return Err((Code::NotAllowed, "NotAllowedByListeners", message));
    }
    let meets = |listener: &&ListenerState| {
        let Some(own) = &listener.hostname else { return true };
        hostnames.is_empty() || hostnames.iter().any(|hostname| hostname.intersect(own).is_some())
    };
    let found: Vec<_> = allowed.into_iter().filter(meets).collect();
    if found.is_empty() {
        let message = "none of the route's hostnames is one that a listener answers for".to_owned();
        return Err((Code::HostnameMismatch, "NoMatchingListenerHostname", message));
    }
    Ok(found)
}
