//! Connections and flows of datagrams that are passed on without a look at what they carry: TLSRoute, TCPRoute, UDPRoute.

mod backend;
pub(crate) mod hello;
mod relay;
pub(crate) mod tcp;
pub(crate) mod tls;
pub(crate) mod udp;

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use weft_model::ServiceKey;

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
struct Ended {
    flag: Flag,
    reason: String,
}

impl Ended {
    fn new(flag: Flag, reason: impl Into<String>) -> Self {
        Self {
            flag,
            reason: reason.into(),
        }
    }

    /// By both sides, as they wanted.
    fn well() -> Self {
        Self::new(Flag::None, "")
    }
}

/// What is written down of a connection or a flow when it has ended.
struct Story {
    client: SocketAddr,
    port: u16,
    protocol: &'static str,
    started: Instant,
    sni: RefCell<String>,
    rule: RefCell<Option<Arc<L4Rule>>>,
    service: RefCell<Option<ServiceKey>>,
    endpoint: Cell<Option<SocketAddr>>,
    tries: Cell<u32>,
    /// Bytes from the client.
    received: Cell<u64>,
    /// Bytes to the client.
    sent: Cell<u64>,
}

impl Story {
    fn new(client: SocketAddr, port: u16, protocol: &'static str) -> Rc<Self> {
        Rc::new(Self {
            client,
            port,
            protocol,
            started: Instant::now(),
            sni: RefCell::default(),
            rule: RefCell::default(),
            service: RefCell::default(),
            endpoint: Cell::new(None),
            tries: Cell::new(0),
            received: Cell::new(0),
            sent: Cell::new(0),
        })
    }

    /// Counts it and writes it to the log.
    fn close(&self, worker: &Worker, ended: &Ended) {
        worker.count_connections(|stats| {
            stats.l4_received += self.received.get();
            stats.l4_sent += self.sent.get();
        });
        if ended.flag != Flag::None {
            worker.count_flag(ended.flag);
        }
        let Some(log) = &worker.log else { return };
        if !log.wants(worker.random() as u32, ended.flag != Flag::None) {
            return;
        }
        let (rule, service) = (self.rule.borrow(), self.service.borrow());
        let endpoint = self.endpoint.get().map(|address| address.to_string());
        log.write(&Record {
            time_ms: now_ms(),
            client: &self.client.to_string(),
            protocol: self.protocol,
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
