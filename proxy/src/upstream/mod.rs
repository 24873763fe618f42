//! Towards the backends: one [`Upstream`] per Service and worker holds its balance, its connections and its counters.

mod h1;
mod h2;

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;
use weft_model::{BackendProtocol, ServiceKey};

pub(crate) use self::{
    h1::{H1Connection, H1Response, ResponseError},
    h2::{H2Connections, H2Response, next_piece, send_piece},
};
use crate::{
    balance::{Balancer, EndpointState, RetryBudget},
    config::ServiceEntry,
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
}

/// The connections to one endpoint.
pub(crate) struct Connections {
    pub(crate) address: SocketAddr,
    idle: RefCell<Vec<Idle>>,
    pub(crate) h2: H2Connections,
}

struct Idle {
    stream: TcpStream,
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
        *self.entry.borrow_mut() = entry.clone();
    }

    /// Chooses an endpoint, but not the one that has just failed if there is another.
    pub(crate) fn pick(&self, now: Instant, exclude: Option<&Rc<EndpointState>>) -> Option<Rc<EndpointState>> {
        self.balancer.pick(now, exclude)
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

    /// The connection used last, if it is still open as far as the kernel has said.
    fn take_idle(&self) -> Option<TcpStream> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { stream, .. }) = idle.pop() {
            // Most are known to be open without a system call. Those that the runtime takes for readable were closed by
            // the backend, or it speaks out of turn, or the last read happened to fill its buffer.
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            let open = stream.poll_read_ready(&mut cx).is_pending()
                || matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            if open {
                return Some(stream);
            }
        }
        None
    }

    fn give_idle(&self, worker: &Worker, stream: TcpStream) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < worker.options.limits.idle_per_endpoint && !worker.draining.get() {
            idle.push(Idle {
                stream,
                since: worker.coarse_now(),
            });
        }
    }

    async fn connect(&self, worker: &Worker) -> io::Result<TcpStream> {
        let connecting = TcpStream::connect(self.address);
        let stream = tokio::time::timeout(worker.options.limits.connect_timeout, connecting).await??;
        stream.set_nodelay(true)?;
        worker.count_connections(|stats| stats.upstream_opened += 1);
        Ok(stream)
    }
}
