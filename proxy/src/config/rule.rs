//! A rule of a route, compiled.

use std::sync::Arc;

use weft_model::{Backend, BackendTarget, Route, RouteKind, RouteOwner, ServiceKey, Timeouts};

use super::{Filters, ServiceId, matcher::Matcher};
use crate::session::Session;

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
    /// How the requests of one client stay together.
    pub(crate) session: Option<Box<Session>>,
    /// The sum of the backends' weights.
    pub total_weight: u64,
    /// One for each match of the route.
    pub(super) matchers: Box<[Matcher]>,
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

impl Rule {
    /// One that does nothing to a request, for where there is none in the configuration.
    pub(crate) fn passing() -> Result<Self, String> {
        let owner = RouteOwner {
            kind: RouteKind::Http,
            namespace: String::new(),
            name: String::new(),
            rule: 0,
            rule_name: None,
            created: 0,
        };
        let backend = Backend {
            weight: 1,
            target: BackendTarget::Invalid(String::new()),
            filters: Vec::new(),
        };
        let route = Route {
            key: "".into(),
            owner,
            listeners: Vec::new(),
            hostnames: Vec::new(),
            matches: Vec::new(),
            filters: Vec::new(),
            backends: vec![backend],
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            broken: None,
        };
        Self::new(0, Arc::new(route), &|_| ServiceId(0))
    }

    /// Compiles a route. `id_of` knows every service that [`Route::services`] names.
    pub(super) fn new(id: u64, route: Arc<Route>, id_of: &dyn Fn(&ServiceKey) -> ServiceId) -> Result<Self, String> {
        let mut matchers = Vec::with_capacity(route.matches.len());
        for (index, source) in route.matches.iter().enumerate() {
            matchers.push(Matcher::new(source).map_err(|reason| format!("match {index}: {reason}"))?);
        }
        let mut backends = Vec::with_capacity(route.backends.len());
        for (index, backend) in route.backends.iter().enumerate() {
            backends.push(BackendEntry {
                weight: backend.weight,
                target: match &backend.target {
                    BackendTarget::Service(key) => Target::Service(id_of(key)),
                    BackendTarget::Invalid(reason) => Target::Invalid(reason.as_str().into()),
                },
                filters: Filters::new(&backend.filters, id_of)
                    .map_err(|reason| format!("backend {index}: {reason}"))?,
            });
        }
        Ok(Self {
            id,
            filters: Filters::new(&route.filters, id_of)?,
            total_weight: backends.iter().map(|backend| u64::from(backend.weight)).sum(),
            backends,
            session: route.session.as_deref().map(Session::new).transpose()?.map(Box::new),
            matchers: matchers.into(),
            route,
        })
    }
}
