//! Which backend takes a connection or a flow, and the connection to it.

use std::{rc::Rc, sync::Arc, time::Instant};

use rustls::sign::CertifiedKey;

use super::{Ended, Story};
use crate::{
    balance::{EndpointState, InFlight, Outcome},
    config::{L4Rule, ServiceEntry, Snapshot, Target},
    flag::Flag,
    upstream::{Alpn, BackendStream, ConnectError, Upstream},
    worker::Worker,
};

/// Endpoints of one Service that are tried for a connection before it is given up.
const TRIES: u32 = 3;

/// Chooses among the backends of a rule by their weights, once for each connection or flow.
pub(crate) fn choose(
    worker: &Worker,
    snapshot: &Snapshot,
    rule: &Arc<L4Rule>,
    story: &Story,
) -> Result<Arc<ServiceEntry>, Ended> {
    *story.rule.borrow_mut() = Some(rule.clone());
    let Some(chosen) = worker.l4_rule(rule).shares.pick() else {
        return Err(Ended::new(Flag::NoBackend, "the route has no backend with a weight"));
    };
    match &rule.backends[chosen].1 {
        Target::Invalid(reason) => Err(Ended::new(Flag::NoBackend, &**reason)),
        Target::Service(id) => {
            let Some(entry) = snapshot.resolve(*id) else {
                return Err(Ended::new(Flag::NoBackend, "the backend's Service is not there"));
            };
            *story.service.borrow_mut() = Some(entry.service.key.clone());
            Ok(entry.clone())
        }
    }
}

/// Chooses an endpoint, but not the one that has just failed if there is another.
pub(crate) fn endpoint(
    upstream: &Upstream,
    failed: Option<&Rc<EndpointState>>,
    story: &Story,
) -> Result<Rc<EndpointState>, Ended> {
    let Some(endpoint) = upstream.pick(Instant::now(), failed) else {
        let (flag, mut reason) = upstream.nowhere();
        if reason.is_empty() {
            reason = format!("the Service {} has no endpoints", upstream.key);
        }
        return Err(Ended::new(flag, reason));
    };
    story.endpoint.set(Some(endpoint.address));
    story.tries.set(story.tries.get() + 1);
    Ok(endpoint)
}

/// How TLS is spoken to the backend.
#[derive(Clone, Copy)]
pub(crate) enum Security<'a> {
    /// The client speaks it with the backend itself.
    Clients,
    /// As is said of the Service, if anything is; the certificate is the Gateway's.
    Service(Option<&'a Arc<CertifiedKey>>),
}

/// Connects to a backend of the rule. An endpoint that does not answer is passed over for another. What is returned beside
/// the connection counts it as load of its endpoint for as long as it is kept.
pub(crate) async fn connect(
    worker: &Worker,
    entry: &Arc<ServiceEntry>,
    security: Security<'_>,
    story: &Story,
) -> Result<(BackendStream, InFlight), Ended> {
    let upstream = worker.upstream(entry);
    let secure = match security {
        Security::Clients => None,
        Security::Service(_) if entry.service.broken.is_some() => {
            let reason = entry.service.broken.as_deref().unwrap_or_default();
            return Err(Ended::new(Flag::NoBackend, reason));
        }
        Security::Service(identity) => upstream.secure(identity),
    };
    let mut failed = None;
    loop {
        let endpoint = endpoint(&upstream, failed.as_ref(), story)?;
        let started = Instant::now();
        let trial = EndpointState::start(&endpoint, started);
        let connected = endpoint
            .connections
            .connect(worker, secure.as_deref(), Alpn::None)
            .await;
        let now = Instant::now();
        match connected {
            Ok(stream) => {
                trial.finish(now, Outcome::Success);
                upstream.cells.count(200, false, now - started);
                return Ok((stream, EndpointState::start(&endpoint, now)));
            }
            Err(error) => {
                trial.finish(now, Outcome::ConnectFailed);
                let flag = match error {
                    ConnectError::Tcp(_) => Flag::ConnectFailed,
                    ConnectError::Tls(_) => Flag::TlsFailed,
                };
                upstream.cells.count(flag.status(), true, now - started);
                if story.tries.get() == TRIES {
                    return Err(Ended::new(flag, error.to_string()));
                }
                failed = Some(endpoint);
            }
        }
    }
}
