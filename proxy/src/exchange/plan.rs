//! What is to become of a request once its rule and its backend are known.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue};
use rustls::sign::CertifiedKey;

use crate::{
    config::{BackendEntry, Match, Rule},
    downstream::{Client, Downstream},
    fields::Fields,
    session::Persistence,
};

/// What a client claims of itself here is not to be believed at the edge.
const CLAIMS: [&str; 4] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"];

/// What a rule asks for, and where its requests may go.
pub(crate) struct Plan<'a> {
    pub(super) rule: &'a Arc<Rule>,
    pub(super) backend: &'a BackendEntry,
    pub(crate) target: Option<String>,
    /// The host the backend sees, if it is another than the client's.
    pub(crate) host: Option<&'a str>,
    pub(super) origin: Option<HeaderValue>,
    pub(super) deadline: Option<Instant>,
    pub(super) session: Option<Persistence<'a>>,
    /// What is shown to a backend that asks for a certificate.
    pub(crate) identity: Option<&'a Arc<CertifiedKey>>,
    /// Fields that are ours to add to the response.
    pub(super) add: Vec<(HeaderName, HeaderValue)>,
}

impl<'a> Plan<'a> {
    /// Sends a request on as it is.
    pub(super) fn passing(rule: &'a Arc<Rule>, backend: &'a BackendEntry) -> Self {
        Self {
            rule,
            backend,
            target: None,
            host: None,
            origin: None,
            deadline: None,
            session: None,
            identity: None,
            add: Vec::new(),
        }
    }

    /// Applies the request filters, and keeps what the tries need.
    pub(super) fn new<D: Downstream>(
        client: &Client,
        request: &mut D,
        matched: &Match<'a>,
        backend: &'a BackendEntry,
        started: Instant,
        session: Option<Persistence<'a>>,
        add: Vec<(HeaderName, HeaderValue)>,
    ) -> Self {
        let (rule, prefix) = (matched.rule, matched.prefix);
        let (mut target, mut host, mut origin, mut original_host) = (None, None, None, None);
        if !rule.filters.is_empty() || !backend.filters.is_empty() {
            let view = request.view();
            target = backend
                .filters
                .target(view.path, view.query, prefix)
                .or_else(|| rule.filters.target(view.path, view.query, prefix));
            host = backend.filters.host().or_else(|| rule.filters.host());
            origin = view
                .fields
                .get("origin")
                .and_then(|origin| HeaderValue::from_bytes(origin).ok());
            original_host = host
                .filter(|_| client.is_told())
                .and_then(|_| HeaderValue::from_str(view.host).ok());
        }
        let head = request.head_mut();
        remove_claims(client, head);
        if let Some(original) = original_host {
            head.set(&HeaderName::from_static("x-forwarded-host"), &original);
        }
        rule.filters.edit_request(head);
        backend.filters.edit_request(head);
        Self {
            rule,
            backend,
            target,
            host,
            origin,
            deadline: deadline(rule, started),
            session,
            identity: matched.identity,
            add,
        }
    }
}

/// Takes away what a client claims of itself, where its backends are told who it is.
pub(super) fn remove_claims<F: Fields>(client: &Client, head: &mut F) {
    if client.is_told() {
        head.remove(&CLAIMS);
    }
}

/// When a request must have ended.
pub(super) fn deadline(rule: &Rule, started: Instant) -> Option<Instant> {
    let limit = rule.route.timeouts.request.filter(|limit| !limit.is_zero());
    limit.map(|limit| started + limit)
}

/// How long one try may take.
pub(super) fn try_limit(rule: &Rule) -> Option<Duration> {
    rule.route.timeouts.backend_request.filter(|limit| !limit.is_zero())
}
