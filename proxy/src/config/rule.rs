//! A rule of a route, compiled.

use std::sync::Arc;

use weft_model::Route;

use super::{Filters, ServiceId};

/// A rule of a route.
#[derive(Debug)]
pub struct Rule {
    /// Stays the same as long as there is a route with this key.
    pub id: u64,
    /// What it was compiled from.
    pub route: Arc<Route>,
    /// Done to every request it takes.
    pub filters: Filters,
    /// Where requests go, in the manifest's order.
    pub backends: Vec<BackendEntry>,
    /// The sum of the backends' weights.
    pub total_weight: u64,
}

/// A backend of a rule.
#[derive(Debug)]
pub struct BackendEntry {
    /// Its share is this over [`Rule::total_weight`].
    pub weight: u32,
    /// Where its requests go.
    pub target: Target,
    /// Done to its requests, after the rule's own.
    pub filters: Filters,
}

/// Where a backend's requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the service that [`super::Snapshot::resolve`] finds by this.
    Service(ServiceId),
    /// Nowhere, for this reason: 500.
    Invalid(Arc<str>),
}
