//! One worker: a thread with its own sockets, connections, pools and counters. Nothing here is shared with another.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use weft_model::{BackendTarget, RouteKey, RouteKind, ServiceKey};

use crate::{
    balance::Weighted,
    config::{L4Rule, Rule, ServiceEntry, Snapshot},
    downstream::{Client, Unserved},
    edges::Edges,
    flag::Flag,
    h1::MessagePool,
    intercepted::{Alarms, Book, Clears},
    l4::{L4State, Standing},
    log::{AccessLogger, Log, Record, now_ms},
    mesh::{Mesh, Peers},
    options::Options,
    spans::Recorder,
    splice::Pipes,
    traffic::{Cells, ConnectionStats, RouteStats, Tally},
    upstream::Upstream,
    watchdog::Watchdogs,
};

/// Bytes read at once of a body that is passed on as it is.
const SCRATCH: usize = 64 * 1024;

/// What every connection of a worker uses.
pub(crate) struct Worker {
    pub(crate) options: Arc<Options>,
    pub(crate) messages: MessagePool,
    pub(crate) outgoing: OutgoingPool,
    /// Where bytes stand on their way from one socket to another.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    pub(crate) pipes: Pipes,
    pub(crate) watchdogs: Watchdogs,
    /// For the timeouts of rules.
    pub(crate) deadlines: Watchdogs,
    pub(crate) log: Option<AccessLogger>,
    /// Where spans go, if there are any.
    pub(crate) spans: Option<Recorder>,
    pub(crate) connections: Cell<ConnectionStats>,
    /// What is counted of connections that network rules turn here.
    pub(crate) book: Book,
    /// Connections that have come in clear.
    pub(crate) clears: Clears,
    /// Who has spoken to whom.
    pub(crate) edges: Edges,
    /// Who this workload is in the mesh, and whom it believes.
    pub(crate) mesh: Arc<Mesh>,
    /// Connections that stand by who their peers are.
    pub(crate) peers: Peers,
    /// Connections that are carried and that other policies or routes may end.
    pub(crate) alarms: Alarms,
    /// Connections and flows that are passed on as they are and that other policies may end.
    pub(crate) standing: Standing,
    /// Requests in flight.
    pub(crate) pending: Cell<usize>,
    /// Set when the process is to stop.
    pub(crate) draining: Cell<bool>,
    /// The time at the last tick: exact enough for idle timeouts, and free.
    coarse: Cell<Instant>,
    random: Cell<u64>,
    flags: [Cell<u64>; Flag::COUNT],
    snapshot: RefCell<Rc<InUse>>,
    upstreams: RefCell<ById<Rc<Upstream>>>,
    rules: RefCell<ById<Rc<RuleState>>>,
    l4_rules: RefCell<ById<Rc<L4State>>>,
    listeners: RefCell<ById<Rc<Cells>>>,
}

/// The snapshot in use. Requests count their share of it on this worker alone: counted on the [`Arc`] itself, every
/// request of every worker would write to one place in memory.
pub(crate) struct InUse(Arc<Snapshot>);

impl std::ops::Deref for InUse {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

/// What a worker knows of a rule beside its configuration.
pub(crate) struct RuleState {
    rule: Arc<Rule>,
    pub(crate) cells: Rc<Cells>,
    pub(crate) shares: Weighted,
    /// By backend, if it is of a TrafficSplit.
    backends: Vec<(ServiceKey, Rc<Cells>)>,
}

impl RuleState {
    /// Where it is counted what goes to a Service by it, if that is counted.
    pub(crate) fn backend(&self, service: &ServiceKey) -> Option<&Cells> {
        let mut backends = self.backends.iter();
        backends.find(|(key, _)| key == service).map(|(_, cells)| &**cells)
    }

    /// Where a rule's requests are counted by backend, which goes on where `before` has.
    fn backends(rule: &Rule, before: Option<&Self>) -> Vec<(ServiceKey, Rc<Cells>)> {
        if rule.route.owner.kind != RouteKind::Split {
            return Vec::new();
        }
        let services = rule.route.backends.iter().filter_map(|backend| match &backend.target {
            BackendTarget::Service(service) => Some(service),
            BackendTarget::Invalid(_) => None,
        });
        let cells = services.map(|service| {
            let before = before.and_then(|before| before.backends.iter().find(|(key, _)| key == service));
            before.map_or_else(|| (service.clone(), Rc::default()), Clone::clone)
        });
        cells.collect()
    }

    fn read(&self) -> RouteStats {
        RouteStats {
            key: self.rule.route.key.clone(),
            traffic: self.cells.read(),
            backends: self
                .backends
                .iter()
                .map(|(service, cells)| (service.clone(), cells.read()))
                .collect(),
        }
    }
}

pub(crate) type ById<T> = HashMap<u64, T, BuildHasherDefault<IdHasher>>;

/// Ids are small and dense: spreading them by one multiplication is enough.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
impl Worker {
    /// One on loopback that was told nothing.
    pub(crate) fn of_nothing() -> Rc<Self> {
        let options = Options {
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            port_offset: 0,
            workers: std::num::NonZeroUsize::MIN,
            drain: std::time::Duration::ZERO,
            limits: crate::options::Limits::default(),
            access_log: crate::options::AccessLog::default(),
            spans: None,
            priority: None,
        };
        let options = Arc::new(options);
        Rc::new(Self::new(options, Arc::default(), Arc::default(), None, None, 1))
    }
}

impl Worker {
    pub(crate) fn new(
        options: Arc<Options>,
        snapshot: Arc<Snapshot>,
        mesh: Arc<Mesh>,
        log: Option<AccessLogger>,
        spans: Option<Recorder>,
        seed: u64,
    ) -> Self {
        Self {
            options,
            messages: MessagePool::default(),
            outgoing: OutgoingPool::default(),
            pipes: Pipes::default(),
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            watchdogs: Watchdogs::default(),
            deadlines: Watchdogs::default(),
            log,
            spans,
            connections: Cell::default(),
            book: Book::default(),
            clears: Clears::default(),
            edges: Edges::default(),
            mesh,
            peers: Peers::default(),
            alarms: Alarms::default(),
            standing: Standing::default(),
            pending: Cell::new(0),
            draining: Cell::new(false),
            coarse: Cell::new(Instant::now()),
            random: Cell::new(seed | 1),
            flags: [const { Cell::new(0) }; Flag::COUNT],
            snapshot: RefCell::new(Rc::new(InUse(snapshot))),
            upstreams: RefCell::default(),
            rules: RefCell::default(),
            l4_rules: RefCell::default(),
            listeners: RefCell::default(),
        }
    }

    /// The configuration in use. A request keeps what it began with.
    pub(crate) fn snapshot(&self) -> Rc<InUse> {
        self.snapshot.borrow().clone()
    }

    /// Whether a port is still listened on.
    pub(crate) fn serves(&self, port: u16) -> bool {
        self.snapshot.borrow().port(port).is_some()
    }

    /// Puts a new configuration in use: endpoints first, so that no request finds a rule without them.
    pub(crate) fn replace(&self, snapshot: Arc<Snapshot>) {
        self.upstreams
            .borrow_mut()
            .retain(|_, upstream| match snapshot.service(&upstream.key) {
                Some(entry) => {
                    upstream.update(entry);
                    true
                }
                None => false,
            });
        let mut rules = self.l4_rules.borrow_mut();
        if !rules.is_empty() {
            let live: HashSet<u64> = snapshot.l4_rules().map(|rule| rule.id).collect();
            rules.retain(|id, _| live.contains(id));
        }
        *self.snapshot.borrow_mut() = Rc::new(InUse(snapshot));
    }

    /// The state of a service, made with its first request.
    pub(crate) fn upstream(&self, entry: &Arc<ServiceEntry>) -> Rc<Upstream> {
        if let Some(upstream) = self.upstreams.borrow().get(&entry.id.0) {
            return upstream.clone();
        }
        let upstream = Rc::new(Upstream::new(entry, self.random()));
        self.upstreams.borrow_mut().insert(entry.id.0, upstream.clone());
        upstream
    }

    /// The state of a rule; its counters outlive changes to it.
    pub(crate) fn rule(&self, rule: &Arc<Rule>) -> Rc<RuleState> {
        let mut rules = self.rules.borrow_mut();
        let before = match rules.get(&rule.id) {
            Some(state) if Arc::ptr_eq(&state.rule, rule) => return state.clone(),
            before => before,
        };
        let cells = before.map_or_else(Rc::default, |before| before.cells.clone());
        let backends = RuleState::backends(rule, before.map(|before| &**before));
        let shares = Weighted::new(rule.backends.iter().map(|backend| backend.weight));
        let state = Rc::new(RuleState {
            rule: rule.clone(),
            cells,
            shares,
            backends,
        });
        rules.insert(rule.id, state.clone());
        state
    }

    /// The shares of a rule that does not look into what it carries.
    pub(crate) fn l4_rule(&self, rule: &Arc<L4Rule>) -> Rc<L4State> {
        let mut rules = self.l4_rules.borrow_mut();
        if let Some(state) = rules.get(&rule.id).filter(|state| state.is_of(rule)) {
            return state.clone();
        }
        let state = Rc::new(L4State::new(rule));
        rules.insert(rule.id, state.clone());
        state
    }

    /// The counters of a port.
    pub(crate) fn listener(&self, port: u16) -> Rc<Cells> {
        self.listeners.borrow_mut().entry(u64::from(port)).or_default().clone()
    }

    /// Where what is known of requests goes; none if nobody wants it.
    pub(crate) fn log(&self) -> Option<Log<'_>> {
        Log::of(self.log.as_ref(), self.mesh.tap())
    }

    /// Counts and writes down what was not even a request.
    pub(crate) fn unserved(&self, client: &Client, why: &Unserved<'_>) {
        self.count_flag(why.flag);
        let Some(log) = self.log() else { return };
        log.write(&Record {
            time_ms: now_ms(),
            client: &client.peer.to_string(),
            status: why.status,
            listener_port: client.port,
            flag: why.flag.as_str(),
            reason: why.reason,
            ..Record::default()
        });
    }

    pub(crate) fn count_flag(&self, flag: Flag) {
        let cell = &self.flags[flag as usize];
        cell.set(cell.get() + 1);
    }

    pub(crate) fn count_connections(&self, change: impl FnOnce(&mut ConnectionStats)) {
        let mut stats = self.connections.get();
        change(&mut stats);
        self.connections.set(stats);
    }

    /// A number from a generator that is fast and good enough to spread load (xorshift64*).
    pub(crate) fn random(&self) -> u64 {
        let mut state = self.random.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random.set(state);
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// The time at the last tick.
    pub(crate) fn coarse_now(&self) -> Instant {
        self.coarse.get()
    }

    /// What is done twice a second.
    pub(crate) fn tick(&self, now: Instant) {
        self.coarse.set(now);
        self.watchdogs.tick(now);
        self.deadlines.approach(now);
        self.mesh.settle(now);
        self.peers.check(&self.mesh);
        self.clears.check(&self.mesh, now);
        self.alarms.check(self);
        self.standing.check(self, now);
        if let Some(spans) = &self.spans {
            spans.hand_over();
        }
        for upstream in self.upstreams.borrow().values() {
            upstream.expire_idle(now, self.options.limits.idle_timeout);
        }
    }

    /// Stops taking requests on connections that are idle, and says so on those that are not.
    pub(crate) fn start_drain(&self) {
        self.draining.set(true);
        self.watchdogs.expire_idle();
    }

    /// What was counted so far. Rules that are not among `routes` are gone, and forgotten.
    pub(crate) fn tally(&self, routes: &HashSet<RouteKey>) -> Tally {
        self.rules
            .borrow_mut()
            .retain(|_, state| routes.contains(&state.rule.route.key));
        Tally {
            routes: self.rules.borrow().values().map(|state| state.read()).collect(),
            services: self
                .upstreams
                .borrow()
                .values()
                .map(|u| (u.key.clone(), u.cells.read()))
                .collect(),
            listeners: self
                .listeners
                .borrow()
                .iter()
                .map(|(port, cells)| (*port as u16, cells.read()))
                .collect(),
            flags: std::array::from_fn(|at| self.flags[at].get()),
            connections: self.connections.get(),
            seen: self.book.read(),
            edges: self.edges.read(self.mesh.protection().rulings),
        }
    }
}

/// Buffers for heads on their way out, used again and again.
#[derive(Default)]
pub(crate) struct OutgoingPool(RefCell<Vec<Vec<u8>>>);

impl OutgoingPool {
    const KEPT: usize = 256;
    const LARGEST: usize = 128 * 1024;

    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < Self::KEPT && buffer.capacity() <= Self::LARGEST {
            buffer.clear();
            kept.push(buffer);
        }
    }
}
