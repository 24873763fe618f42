//! What is counted of requests: cells of one worker, and their sums over all workers.

use std::{
    cell::{Cell, OnceCell},
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use weft_model::{Edge, RouteKey, ServiceKey};

use crate::{
    edges,
    flag::Flag,
    intercepted::{Direction, Outcome, Protocol, Seen},
    latency::{Histogram, Latency},
    spans::SpanStats,
};

/// Where one worker counts the requests of a route, a service or a listener.
#[derive(Default)]
pub(crate) struct Cells {
    /// By class of status: 1xx to 5xx.
    classes: [Cell<u64>; 5],
    failures: Cell<u64>,
    /// Made with the first request: most of 5,000 routes are quiet.
    latency: OnceCell<Histogram>,
}

impl Cells {
    pub(crate) fn count(&self, status: u16, failed: bool, elapsed: Duration) {
        let class = &self.classes[usize::from((status / 100).clamp(1, 5)) - 1];
        class.set(class.get() + 1);
        self.failures.set(self.failures.get() + u64::from(failed));
        self.latency.get_or_init(Histogram::new).record(elapsed);
    }

    pub(crate) fn read(&self) -> Traffic {
        Traffic {
            classes: std::array::from_fn(|at| self.classes[at].get()),
            failures: self.failures.get(),
            latency: self.latency.get().map(Histogram::read).unwrap_or_default(),
        }
    }
}

/// How many codes gRPC has.
pub const GRPC_CODES: usize = 17;

/// Requests counted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// By class of status: 1xx, 2xx, 3xx, 4xx, 5xx.
    pub classes: [u64; 5],
    /// Those that ended with a 5xx status or broke off, or, as far as they were carried as they are, with a code of gRPC that is the
    /// server's fault.
    pub failures: u64,
    /// From a request's head to its response's end.
    pub latency: Latency,
}

impl Traffic {
    /// How many requests there were.
    pub fn requests(&self) -> u64 {
        self.classes.iter().sum()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (class, more) in self.classes.iter_mut().zip(other.classes) {
            *class += more;
        }
        self.failures += other.failures;
        self.latency.add(&other.latency);
    }
}

/// What one worker counted.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) routes: Vec<RouteStats>,
    pub(crate) services: Vec<(ServiceKey, Traffic)>,
    pub(crate) listeners: Vec<(u16, Traffic)>,
    pub(crate) flags: [u64; Flag::COUNT],
    pub(crate) connections: ConnectionStats,
    pub(crate) seen: Seen,
    pub(crate) edges: edges::Seen,
}

/// Everything counted since the start, summed over the workers.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Each route that is served, in the order of its name.
    pub routes: Vec<RouteStats>,
    /// Each service that is served, in the order of its name.
    pub services: Vec<ServiceStats>,
    /// Each port on which something came in.
    pub listeners: Vec<ListenerStats>,
    /// Requests by how they ended, but for those that ended well.
    pub flags: Vec<(Flag, u64)>,
    /// Connections.
    pub connections: ConnectionStats,
    /// Connections that network rules have turned here.
    pub intercepted: Intercepted,
    /// Who has spoken to whom.
    pub edges: Vec<EdgeStats>,
    /// Lines of the access log dropped since its reader was slow.
    pub log_lines_dropped: u64,
    /// What became of spans, if any are made.
    pub spans: Option<SpanStats>,
}

/// The requests of one route.
#[derive(Clone, Debug)]
pub struct RouteStats {
    /// Its name.
    pub key: RouteKey,
    /// What was counted.
    pub traffic: Traffic,
    /// What of that went to which Service; of TrafficSplits alone.
    pub backends: BTreeMap<ServiceKey, Traffic>,
}

impl RouteStats {
    /// One by which nothing has gone yet.
    pub(crate) fn none(key: RouteKey) -> Self {
        Self {
            key,
            traffic: Traffic::default(),
            backends: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.traffic.add(&other.traffic);
        for (service, traffic) in &other.backends {
            self.backends.entry(service.clone()).or_default().add(traffic);
        }
    }
}

/// The requests of one service, each try counted.
#[derive(Clone, Debug)]
pub struct ServiceStats {
    /// Its name.
    pub key: ServiceKey,
    /// What was counted.
    pub traffic: Traffic,
    /// How many endpoints it has.
    pub endpoints: usize,
}

/// The requests that came in by one port.
#[derive(Clone, Debug)]
pub struct ListenerStats {
    /// The port of the manifest.
    pub port: u16,
    /// What was counted.
    pub traffic: Traffic,
}

/// What was seen of connections that network rules have turned here.
#[derive(Clone, Debug, Default)]
pub struct Intercepted {
    /// By what they turned out to speak.
    pub protocols: Vec<(Direction, Protocol, u64)>,
    /// Those of HTTP whose requests could no longer be told apart.
    pub lost: Vec<(Direction, u64)>,
    /// Connections of HTTP/2 whose clients were told to go, since their requests are for routes or policies by now.
    pub dismissed: Vec<(Direction, u64)>,
    /// Those to Service ports that have routes, by what came of them.
    pub routed: Vec<(Outcome, u64)>,
    /// Where they went.
    pub destinations: Vec<DestinationStats>,
}

/// The connections to one destination.
#[derive(Clone, Debug)]
pub struct DestinationStats {
    /// Which way they went.
    pub direction: Direction,
    /// Where they went; none for all destinations that are not counted apart.
    pub address: Option<SocketAddr>,
    /// Their requests.
    pub traffic: Traffic,
    /// Those of gRPC that were carried as they are, by their codes.
    pub grpc: [u64; GRPC_CODES],
    /// Those made, since the start.
    pub connections: u64,
    /// Those open now.
    pub open: u64,
    /// Those that could not be made.
    pub failed: u64,
    /// Bytes from clients, of those that have ended.
    pub received: u64,
    /// Bytes to clients, of those that have ended.
    pub sent: u64,
}

/// What went between this data plane and somebody.
#[derive(Clone, Debug)]
pub struct EdgeStats {
    /// Who, and by what way.
    pub edge: Edge,
    /// Requests, as far as they could be told apart.
    pub traffic: Traffic,
    /// Connections that were made, but for those whose requests go by routes.
    pub connections: u64,
    /// Connections that were refused since nobody had proven anything.
    pub refused: u64,
    /// What is no probe, where in `strict` nobody else may come without proof.
    pub unproven: u64,
    /// Of the connections, those in clear that ended without a word of the client.
    pub silent: u64,
    /// Bytes from clients, of connections that have ended.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// When anything last went there.
    pub used: Option<Instant>,
    /// What policies would deny of it if the namespace were further than `observe`, by policy; since they decide as they do.
    pub would_deny: BTreeMap<String, u64>,
}

impl DestinationStats {
    pub(crate) fn add(&mut self, other: &Self) {
        self.traffic.add(&other.traffic);
        for (sum, more) in self.grpc.iter_mut().zip(other.grpc) {
            *sum += more;
        }
        self.connections += other.connections;
        self.open += other.open;
        self.failed += other.failed;
        self.received += other.received;
        self.sent += other.sent;
    }
}

/// Connections opened so far, and those open now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionStats {
    /// From clients, since the start.
    pub accepted: u64,
    /// From clients, now.
    pub open: u64,
    /// Closed at once since there were too many.
    pub refused: u64,
    /// TLS handshakes that failed.
    pub handshakes_failed: u64,
    /// From workloads of the mesh that have proven who they are.
    pub mutual_inbound: u64,
    /// To workloads of the mesh that have proven who they are.
    pub mutual_outbound: u64,
    /// That came in clear where nobody may.
    pub clear_refused: u64,
    /// That came in clear where nobody may any more, soon enough to be let in.
    pub clear_late: u64,
    /// To backends, since the start.
    pub upstream_opened: u64,
    /// Requests to backends that went by a connection already open.
    pub upstream_reused: u64,
    /// Bytes from clients of connections and flows whose content nobody looks at, once they have ended.
    pub l4_received: u64,
    /// Bytes to them.
    pub l4_sent: u64,
    /// Flows of datagrams, since the start.
    pub flows: u64,
    /// Flows of datagrams, now.
    pub flows_open: u64,
    /// Datagrams that went nowhere.
    pub datagrams_lost: u64,
}

impl ConnectionStats {
    pub(crate) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.open += other.open;
        self.refused += other.refused;
        self.handshakes_failed += other.handshakes_failed;
        self.mutual_inbound += other.mutual_inbound;
        self.mutual_outbound += other.mutual_outbound;
        self.clear_refused += other.clear_refused;
        self.clear_late += other.clear_late;
        self.upstream_opened += other.upstream_opened;
        self.upstream_reused += other.upstream_reused;
        self.l4_received += other.l4_received;
        self.l4_sent += other.l4_sent;
        self.flows += other.flows;
        self.flows_open += other.flows_open;
        self.datagrams_lost += other.datagrams_lost;
    }
}
