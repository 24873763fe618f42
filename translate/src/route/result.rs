//! What became of a route, for whatever follows from it.

use std::{collections::BTreeSet, sync::Arc};

use weft_crds::ObjectRef;
use weft_model::{BackendTarget, Frontend, HostPattern, ListenerKey, Resource, RouteKind, ServiceKey};

use crate::{
    claim::{self, Claim, Ground},
    diagnostic::Diagnostic,
    listener::ListenerState,
};

/// What became of a route. One is kept of each, so what follows from the rest is not in it.
#[derive(Debug, Default)]
pub(crate) struct RouteResult {
    /// Its rules.
    pub(crate) rules: Box<[Resource]>,
    /// The listeners and Service ports it counts for, by key.
    pub(crate) attached: Box<[Attachment]>,
    /// The Service ports in the mesh that it counts for.
    pub(crate) frontends: Box<[Arc<Frontend>]>,
    /// The Gateways through which requests come to it.
    pub(crate) gateways: Box<[ObjectRef]>,
    /// The objects it names as backends that cannot be served.
    pub(crate) unserved: Box<[ObjectRef]>,
    pub(crate) diagnostics: Box<[Diagnostic]>,
}

/// A listener, or a Service port in the mesh, that a route counts for.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) listener: ListenerKey,
    /// The listener's.
    hostname: Option<HostPattern>,
    /// Whether it is served.
    pub(super) served: bool,
}

impl RouteResult {
    /// The services it uses, for copies too.
    pub(crate) fn services(&self) -> BTreeSet<&ServiceKey> {
        let mut services = BTreeSet::new();
        for rule in &self.rules {
            match rule {
                Resource::Route(route) => services.extend(route.services()),
                Resource::L4Route(route) => services.extend(route.services()),
                _ => {}
            }
        }
        services
    }

    /// The services its backends are, each with the path of the reference.
    pub(crate) fn backends(&self) -> impl Iterator<Item = (String, &ServiceKey)> {
        let rules = self.rules.iter().enumerate();
        rules.flat_map(|(at, rule)| backends(rule, at))
    }

    /// What its matches claim of the listeners' requests. A split has its frontends to itself, and claims nothing.
    pub(crate) fn claims(&self) -> Vec<(Ground, Claim)> {
        if self.rules.iter().any(is_split) {
            return Vec::new();
        }
        let served: Vec<_> = self
            .attached
            .iter()
            .filter(|attached| attached.served)
            .map(|attached| (&attached.listener, attached.hostname.as_ref()))
            .collect();
        self.rules
            .iter()
            .flat_map(|rule| claim::claims(rule, &served))
            .collect()
    }

    /// Whether what comes to it comes by the same listeners as to another.
    pub(crate) fn comes_as(&self, other: &Self) -> bool {
        let listeners = self.attached.iter().map(|attached| &attached.listener);
        let others = other.attached.iter().map(|attached| &attached.listener);
        self.gateways == other.gateways && listeners.eq(others)
    }

    /// Whether it counts for a listener.
    pub(crate) fn is_attached(&self, listener: &ListenerKey) -> bool {
        let found = self
            .attached
            .binary_search_by(|attached| attached.listener.cmp(listener));
        found.is_ok()
    }
}

impl Attachment {
    pub(super) fn to_listener(listener: &ListenerState) -> Self {
        Self {
            listener: listener.key.clone(),
            hostname: listener.hostname.clone(),
            served: listener.model.is_some(),
        }
    }

    pub(crate) fn to_frontend(frontend: &Frontend) -> Self {
        Self {
            listener: frontend.key.clone(),
            hostname: None,
            served: true,
        }
    }
}

fn is_split(rule: &Resource) -> bool {
    let owner = match rule {
        Resource::Route(route) => &route.owner,
        Resource::L4Route(route) => &route.owner,
        _ => return false,
    };
    owner.kind == RouteKind::Split
}

/// The services that the backends of a rule are, and where it names them.
fn backends(rule: &Resource, at: usize) -> Vec<(String, &ServiceKey)> {
    let targets: Vec<&BackendTarget> = match rule {
        Resource::Route(route) => route.backends.iter().map(|backend| &backend.target).collect(),
        Resource::L4Route(route) => route.backends.iter().map(|backend| &backend.target).collect(),
        _ => Vec::new(),
    };
    let named = targets.into_iter().enumerate();
    named
        .filter_map(|(backend, target)| match target {
            // Of a split's backends some may be left out.
            BackendTarget::Service(key) if is_split(rule) => Some(("spec.backends".to_owned(), key)),
            BackendTarget::Service(key) => Some((format!("spec.rules[{at}].backendRefs[{backend}]"), key)),
            BackendTarget::Invalid(_) => None,
        })
        .collect()
}
