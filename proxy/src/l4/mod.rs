//! Connections and flows of datagrams that are passed on without a look at what they carry: TLSRoute, TCPRoute, UDPRoute.

pub(crate) mod backend;
pub(crate) mod hello;
pub(crate) mod relay;
mod standing;
pub(crate) mod tcp;
pub(crate) mod tls;
pub(crate) mod udp;

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use weft_model::ServiceKey;

pub(crate) use self::standing::{Admitted, Standing};
use crate::{
    balance::Weighted,
    config::L4Rule,
    flag::Flag,
    log::{Record, now_ms},
    worker::Worker,
};

/// What a worker knows of a rule beside its configuration.
pub(crate) struct L4State {
    rule: Arc<L4Rule>,
    shares: Weighted,
}

impl L4State {
    pub(crate) fn new(rule: &Arc<L4Rule>) -> Self {
        Self {
            rule: rule.clone(),
            shares: Weighted::new(rule.backends.iter().map(|(weight, _)| *weight)),
        }
    }

    pub(crate) fn is_of(&self, rule: &Arc<L4Rule>) -> bool {
        Arc::ptr_eq(&self.rule, rule)
    }
}

/// Why a connection or flow is not passed on, or not any more.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) flag: Flag,
    pub(crate) reason: String,
}

impl Ended {
    pub(crate) fn new(flag: Flag, reason: impl Into<String>) -> Self {
        Self {
            flag,
            reason: reason.into(),
        }
    }

    /// By both sides, as they wanted.
    pub(crate) fn well() -> Self {
        Self::new(Flag::None, "")
    }
}

/// What is written down of a connection or a flow when it has ended.
pub(crate) struct Story {
    client: SocketAddr,
    port: u16,
    pub(crate) protocol: Cell<&'static str>,
    started: Instant,
    pub(crate) sni: RefCell<String>,
    /// Who the client has proven to be.
    pub(crate) peer: RefCell<String>,
    rule: RefCell<Option<Arc<L4Rule>>>,
    service: RefCell<Option<ServiceKey>>,
    pub(crate) endpoint: Cell<Option<SocketAddr>>,
    tries: Cell<u32>,
    /// Bytes from the client.
    pub(crate) received: Cell<u64>,
    /// Bytes to the client.
    pub(crate) sent: Cell<u64>,
}

impl Story {
    pub(crate) fn new(client: SocketAddr, port: u16, protocol: &'static str) -> Rc<Self> {
        Rc::new(Self {
            client,
            port,
            protocol: Cell::new(protocol),
            started: Instant::now(),
            sni: RefCell::default(),
            peer: RefCell::default(),
            rule: RefCell::default(),
            service: RefCell::default(),
            endpoint: Cell::new(None),
            tries: Cell::new(0),
            received: Cell::new(0),
            sent: Cell::new(0),
        })
    }

    /// Whose connection it is.
    pub(crate) fn client(&self) -> SocketAddr {
        self.client
    }

    /// What is spoken on connections whose requests have lines of their own.
    pub(crate) const HTTP1: &'static str = "HTTP/1.1";
    pub(crate) const HTTP2: &'static str = "HTTP/2";

    /// Writes a request that was seen on the connection to the log.
    #[expect(clippy::too_many_arguments, reason = "the fields of one line")]
    pub(crate) fn request(
        &self,
        worker: &Worker,
        method: &str,
        host: &str,
        path: &str,
        status: u16,
        flag: Flag,
        elapsed: Duration,
    ) {
        let Some(mut log) = worker.log() else { return };
        if !log.wants(worker.random() as u32, status >= 500 || flag != Flag::None) {
            return;
        }
        let endpoint = self.endpoint.get().map(|address| address.to_string());
        log.write(&Record {
            time_ms: now_ms(),
            client: &self.client.to_string(),
            peer: &self.peer.borrow(),
            protocol: self.protocol.get(),
            method,
            host,
            path,
            status,
            duration_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            listener_port: self.port,
            endpoint: endpoint.as_deref().unwrap_or_default(),
            tries: 1,
            flag: flag.as_str(),
            ..Record::default()
        });
    }

    /// Counts it and writes it to the log.
    pub(crate) fn close(&self, worker: &Worker, ended: &Ended) {
        worker.count_connections(|stats| {
            stats.l4_received += self.received.get();
            stats.l4_sent += self.sent.get();
        });
        if ended.flag != Flag::None {
            worker.count_flag(ended.flag);
        }
        let Some(mut log) = worker.log() else { return };
        if [Self::HTTP1, Self::HTTP2].contains(&self.protocol.get()) && ended.flag == Flag::None {
            return;
        }
        if !log.wants(worker.random() as u32, ended.flag != Flag::None) {
            return;
        }
        let (rule, service) = (self.rule.borrow(), self.service.borrow());
        let endpoint = self.endpoint.get().map(|address| address.to_string());
        log.write(&Record {
            time_ms: now_ms(),
            client: &self.client.to_string(),
            peer: &self.peer.borrow(),
            protocol: self.protocol.get(),
            host: &self.sni.borrow(),
            duration_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            listener_port: self.port,
            route: rule.as_ref().map_or("", |rule| rule.route.key.as_str()),
            service: service.as_ref().map_or("", ServiceKey::as_str),
            endpoint: endpoint.as_deref().unwrap_or_default(),
            tries: self.tries.get(),
            flag: ended.flag.as_str(),
            reason: &ended.reason,
            received: Some(self.received.get()),
            sent: Some(self.sent.get()),
            ..Record::default()
        });
    }
}
