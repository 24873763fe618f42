//! Towards the backends: one [`Upstream`] per Service and worker holds its balance, its connections and its counters.

mod h1;
mod h2;
mod secure;

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::sign::CertifiedKey;
use weft_model::{BackendProtocol, ServiceKey};

pub(crate) use self::{
    h1::{H1Connection, H1Response, ResponseError},
    h2::{H2Connections, H2Response, next_piece, send_piece},
    secure::{Alpn, BackendStream, ConnectError, Secure, is_of_tls},
};
use crate::{
    balance::{Balancer, EndpointState, RetryBudget},
    config::ServiceEntry,
    flag::Flag,
    mesh::{self, Carries, Reached},
    traffic::Cells,
    worker::Worker,
};

/// A Service as one worker sees it.
pub(crate) struct Upstream {
    pub(crate) key: ServiceKey,
    pub(crate) cells: Cells,
    pub(crate) budget: RetryBudget,
    pub(crate) protocol: std::cell::Cell<BackendProtocol>,
    entry: RefCell<Arc<ServiceEntry>>,
    balancer: Balancer,
    /// By what connections to it are secured; several where several Gateways show different certificates.
    secured: RefCell<Vec<Rc<Secure>>>,
    last_secure: Cell<u64>,
}

/// In what tells connections apart, that they are between workloads of the mesh.
const MUTUAL: u64 = 1 << 63;

/// More than these Gateways, with certificates of their own, do not share one process.
const SECURED: usize = 64;

/// The connections to one endpoint.
pub(crate) struct Connections {
    pub(crate) address: SocketAddr,
    idle: RefCell<Vec<Idle>>,
    pub(crate) h2: H2Connections,
}

struct Idle {
    stream: BackendStream,
    /// By what it is secured; 0 is nothing.
    by: u64,
    since: Instant,
}

impl Upstream {
    pub(crate) fn new(entry: &Arc<ServiceEntry>, seed: u64) -> Self {
        let balancer = Balancer::new(seed);
        balancer.update(&entry.endpoints);
        let budget = RetryBudget::default();
        budget.limit(entry.service.retry_budget.unwrap_or_default());
        Self {
            key: entry.service.key.clone(),
            cells: Cells::default(),
            budget,
            protocol: entry.service.protocol.into(),
            entry: RefCell::new(entry.clone()),
            balancer,
            secured: RefCell::default(),
            last_secure: Cell::new(0),
        }
    }

    /// Takes over what has changed. Connections to endpoints that are gone end with the requests they carry.
    pub(crate) fn update(&self, entry: &Arc<ServiceEntry>) {
        if Arc::ptr_eq(&self.entry.borrow(), entry) {
            return;
        }
        self.protocol.set(entry.service.protocol);
        self.budget.limit(entry.service.retry_budget.unwrap_or_default());
        self.balancer.update(&entry.endpoints);
        let same = match (&self.entry.borrow().tls, &entry.tls) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        if !same {
            // What was trusted before is trusted no longer: connections that carry no request are not used again.
            self.secured.borrow_mut().clear();
            self.balancer.each(|endpoint| endpoint.connections.forget_all());
        }
        *self.entry.borrow_mut() = entry.clone();
    }

    /// By what connections to it are secured, for requests of a Gateway with this certificate. None where TLS is not
    /// spoken.
    pub(crate) fn secure(&self, gateway: Option<&Arc<CertifiedKey>>) -> Option<Rc<Secure>> {
        let entry = self.entry.borrow();
        let tls = entry.tls.as_ref()?;
        let identity = tls.identity(gateway);
        let mut secured = self.secured.borrow_mut();
        if let Some(known) = secured.iter().find(|secure| secure.is_of(tls, identity)) {
            return Some(known.clone());
        }
        if secured.len() == SECURED {
            secured.remove(0);
        }
        self.last_secure.set(self.last_secure.get() + 1);
        let secure = Secure::new(self.last_secure.get(), tls, identity);
        secured.push(secure.clone());
        Some(secure)
    }

    /// Chooses an endpoint, but not the one that has just failed if there is another.
    pub(crate) fn pick(&self, now: Instant, exclude: Option<&Rc<EndpointState>>) -> Option<Rc<EndpointState>> {
        self.balancer.pick(now, exclude)
    }

    /// Why there is no endpoint: how that is flagged, and in words if there is more to say.
    pub(crate) fn nowhere(&self) -> (Flag, String) {
        self.entry.borrow().nowhere()
    }

    /// The endpoint that a session is with.
    pub(crate) fn by_identity(&self, identity: u64) -> Option<Rc<EndpointState>> {
        self.balancer.by_identity(identity)
    }

    /// Closes connections that have lain idle for too long.
    pub(crate) fn expire_idle(&self, now: Instant, after: Duration) {
        self.balancer.each(|endpoint| {
            let mut idle = endpoint.connections.idle.borrow_mut();
            idle.retain(|idle| now.saturating_duration_since(idle.since) < after);
            endpoint.connections.h2.expire_idle(now, after);
        });
    }
}

impl Connections {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            idle: RefCell::default(),
            h2: H2Connections::default(),
        }
    }

    /// The connection used last, if it is still open as far as is known.
    fn take_idle(&self, by: u64) -> Option<BackendStream> {
        let mut idle = self.idle.borrow_mut();
        while let Some(at) = idle.iter().rposition(|idle| idle.by == by) {
            let Idle { mut stream, .. } = idle.remove(at);
            if stream.is_open() {
                return Some(stream);
            }
        }
        None
    }

    fn give_idle(&self, worker: &Worker, stream: BackendStream, by: u64) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < worker.options.limits.idle_per_endpoint && !worker.draining.get() {
            idle.push(Idle {
                stream,
                by,
                since: worker.coarse_now(),
            });
        }
    }

    /// Uses none of the connections again. Requests that are under way end on theirs.
    fn forget_all(&self) {
        self.idle.borrow_mut().clear();
        self.h2.forget_all();
    }

    pub(crate) async fn connect(
        &self,
        worker: &Worker,
        secure: Option<&Secure>,
        alpn: Alpn,
    ) -> Result<BackendStream, ConnectError> {
        let limit = worker.options.limits.connect_timeout;
        let Reached {
            stream,
            address,
            expected,
            ..
        } = mesh::reach(worker, self.address, limit).await?;
        // Boxed, so that a connection in clear does not hold the space for a handshake.
        let shaken = match (expected, secure) {
            (None, None) => return Ok(BackendStream::Plain(stream)),
            (None, Some(secure)) => {
                let shaken = Box::pin(tokio::time::timeout(limit, secure.connect(stream, alpn))).await;
                let shaken = shaken.map_err(io::Error::from).and_then(|shaken| shaken);
                shaken.map(BackendStream::Secure)
            }
            (Some(peer), secure) => {
                let carries = match (secure, alpn) {
                    (None, Alpn::Http1 | Alpn::Http2) => Carries::Http,
                    _ => Carries::Anything,
                };
                let proven = Box::pin(mesh::shake(worker, stream, address, &peer, carries)).await;
                let stream = proven.map_err(|error| ConnectError::Tls(io::Error::other(error)))?;
                match secure {
                    None => Ok(BackendStream::Mutual(stream)),
                    Some(secure) => {
                        let shaken = Box::pin(tokio::time::timeout(limit, secure.connect(stream, alpn))).await;
                        let shaken = shaken.map_err(io::Error::from).and_then(|shaken| shaken);
                        shaken.map(BackendStream::Nested)
                    }
                }
            }
        };
        shaken.map_err(ConnectError::Tls)
    }

    /// What tells connections apart that must not be taken for each other: by what they are to be secured now. What was made
    /// in clear is not used once who is there has to prove it.
    fn by(&self, worker: &Worker, secure: Option<&Secure>) -> u64 {
        by(secure, worker.mesh.is_expected(self.address))
    }
}

/// The same of a connection that is there: what is wanted may have changed while it was made.
fn by(secure: Option<&Secure>, mutual: bool) -> u64 {
    secure.map_or(0, |secure| secure.id) | if mutual { MUTUAL } else { 0 }
}
