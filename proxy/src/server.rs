//! The data plane as its owner sees it: start it, tell it what has changed, ask it what it counted, stop it.

mod life;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError, mpsc::RecvTimeoutError},
    thread,
};

use arc_swap::ArcSwap;
use tokio::{
    runtime::LocalOptions,
    sync::{Notify, mpsc, oneshot, watch},
};
use weft_model::{Change, Key, ListenerKey, ListenerProtocol, Rejected, Resource, Transport};

use self::life::{Command, Opened, run};
use crate::{
    config::{Configuration, Place, Resolution, Snapshot},
    edges,
    intercepted::{Direction, Intercept, Seen},
    listen::{self, Speaks},
    log::{self, AccessLogger},
    mesh::Mesh,
    metrics,
    options::Options,
    spans::Exporter,
    tls::{self, PortTls},
    traffic::{ListenerStats, RouteStats, ServiceStats, Stats, Traffic},
    watchdog::TICK,
    worker::Worker,
};

/// Commands that wait for a worker. They are few: a worker that is that far behind is dead.
const COMMANDS: usize = 64;

/// A running data plane.
pub struct Proxy {
    options: Arc<Options>,
    configuration: tokio::sync::Mutex<Control>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    workers: Vec<mpsc::Sender<Command>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    log: Option<AccessLogger>,
    spans: Option<Exporter>,
    mesh: Arc<Mesh>,
    /// The names that stand for endpoints.
    names: watch::Sender<BTreeSet<String>>,
    /// Ends the thread of the ticks when dropped.
    _running: std::sync::mpsc::Sender<()>,
}

/// What only one change at a time may touch.
struct Control {
    configuration: Configuration,
    /// The sockets that are bound, each with what it speaks.
    ports: BTreeMap<Place, ListenerProtocol>,
}

impl Proxy {
    /// Starts the workers. They listen nowhere until a listener is applied.
    ///
    /// # Errors
    /// A thread or a runtime could not be made, or there are to be spans and this is called outside of a runtime.
    pub fn start(options: Options) -> io::Result<Self> {
        let options = Arc::new(options);
        let log = log::start(&options.access_log)?;
        let configuration = Configuration::new();
        let empty = Arc::new(Snapshot::default());
        let mesh = Arc::new(Mesh::default());
        let spans = options.spans.as_ref().map(|spans| Exporter::start(spans, &mesh));
        let (spans, recorders) = spans.transpose()?.unzip();
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        let mut ticking = Vec::new();
        for number in 0..options.workers.get() {
            let (commands, queue) = mpsc::channel(COMMANDS);
            let (options, snapshot, log) = (options.clone(), empty.clone(), log.clone());
            let (mesh, recorders) = (mesh.clone(), recorders.clone());
            let ticks = Arc::new(Notify::new());
            ticking.push(ticks.clone());
            let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), number);
            let (started, starting) = std::sync::mpsc::channel();
            let work = move || {
                // Its tasks never leave the thread, so it is made there.
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default());
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(started.send(Err(error))),
                };
                let _ = started.send(Ok(()));
                runtime.block_on(async move {
                    let spans = recorders.map(|recorders| recorders.one());
                    let worker = Rc::new(Worker::new(options, snapshot, mesh, log, spans, seed));
                    run(worker, queue, ticks).await;
                });
            };
            threads.push(thread::Builder::new().name(format!("worker-{number}")).spawn(work)?);
            starting.recv().map_err(io::Error::other)??;
            workers.push(commands);
        }
        let (running, ended) = std::sync::mpsc::channel();
        thread::Builder::new()
            .name("ticks".into())
            .spawn(move || tick(&ticking, &ended))?;
        Ok(Self {
            options,
            configuration: tokio::sync::Mutex::new(Control {
                configuration,
                ports: BTreeMap::new(),
            }),
            snapshot: Arc::new(ArcSwap::new(empty)),
            workers,
            threads: Mutex::new(threads),
            log,
            spans,
            mesh,
            names: watch::Sender::default(),
            _running: running,
        })
    }

    /// Puts changes in use, and returns when every worker serves by them. What could not be used is refused with the
    /// reason, and never keeps anything else from being served.
    pub async fn apply(&self, changes: Vec<Change>) -> Vec<Rejected> {
        let mut control = self.configuration.lock().await;
        let (changes, mut rejected) = self.mesh.apply(changes);
        let applied = control.configuration.apply(changes);
        rejected.extend(applied.rejected);
        let snapshot = applied.snapshot;
        self.snapshot.store(snapshot.clone());

        let ports = snapshot
            .ports()
            .map(|port| ((port.number, port.protocol.transport()), port.protocol));
        let wanted: BTreeMap<Place, ListenerProtocol> = ports.collect();
        let close: Vec<Place> = control
            .ports
            .iter()
            .filter(|(place, protocol)| wanted.get(place) != Some(protocol))
            .map(|(place, _)| *place)
            .collect();
        control.ports.retain(|place, _| !close.contains(place));
        if !close.is_empty() {
            // A port that changes its protocol is closed before it is bound anew.
            self.replace(&snapshot, &mut HashMap::new(), &close).await;
        }
        let mut opened: HashMap<usize, Vec<Opened>> = HashMap::new();
        for (place, protocol) in wanted {
            if control.ports.contains_key(&place) {
                continue;
            }
            match self.open(place, protocol) {
                Ok(sockets) => {
                    control.ports.insert(place, protocol);
                    for (worker, socket) in sockets.into_iter().enumerate() {
                        opened.entry(worker).or_default().push(socket);
                    }
                }
                Err(error) => {
                    let reason = self.unbound(place.0, &error);
                    let keys = listeners_of(&snapshot, place);
                    rejected.extend(keys.into_iter().map(|key| Rejected {
                        key: Key::Listener(key),
                        reason: reason.clone(),
                    }));
                }
            }
        }
        self.replace(&snapshot, &mut opened, &[]).await;
        let names: BTreeSet<String> = snapshot.names().map(|(hostname, _)| hostname.to_owned()).collect();
        self.names.send_if_modified(|known| {
            let changed = *known != names;
            *known = names;
            changed
        });
        rejected
    }

    /// The names that stand for endpoints in use, whose addresses somebody must find: see [`Proxy::resolve`].
    pub fn names(&self) -> watch::Receiver<BTreeSet<String>> {
        self.names.subscribe()
    }

    /// Puts in use what names have come to, and returns when every worker serves by it. What is said of names that stand
    /// for nothing (any more) is passed over.
    pub async fn resolve(&self, resolutions: Vec<(String, Resolution)>) {
        let mut control = self.configuration.lock().await;
        let snapshot = control.configuration.resolve(resolutions);
        if snapshot.generation != self.snapshot.load().generation {
            self.snapshot.store(snapshot.clone());
            self.replace(&snapshot, &mut HashMap::new(), &[]).await;
        }
    }

    /// Binds a port once for each worker.
    fn open(&self, place: Place, protocol: ListenerProtocol) -> io::Result<Vec<Opened>> {
        let port = place.0;
        let bound = port
            .checked_add(self.options.port_offset)
            .ok_or_else(|| io::Error::other("the port and the offset together are over 65535"))?;
        let tls = |alpn| PortTls::new(port, alpn, self.snapshot.clone()).map_err(io::Error::other);
        let speaks = match protocol {
            ListenerProtocol::Http => Speaks::Http,
            ListenerProtocol::Https => Speaks::Https(tls(tls::HTTP)?),
            ListenerProtocol::Tls => Speaks::Tls(tls(&[])?),
            ListenerProtocol::Tcp => Speaks::Tcp,
            ListenerProtocol::Udp => Speaks::Udp,
        };
        self.bind(self.options.address, bound, place, &speaks)
    }

    /// Binds an address once for each worker.
    fn bind(&self, address: IpAddr, bound: u16, place: Place, speaks: &Speaks) -> io::Result<Vec<Opened>> {
        listen::is_free(address, bound, place.1)?;
        let opened = self.workers.iter().map(|_| {
            Ok(Opened {
                place,
                socket: listen::bind(address, bound, place.1, true)?,
                speaks: speaks.clone(),
            })
        });
        opened.collect()
    }

    /// Takes connections that network rules turn to the ports, and carries them to where they were going. Returns when every
    /// worker does.
    ///
    /// # Errors
    /// A port cannot be bound.
    pub async fn intercept(&self, ports: Intercept) -> io::Result<()> {
        // What leaves is turned to loopback, so that nobody else can even try; what comes, to the address it came to.
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let any = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        // No change may come in between.
        let _control = self.configuration.lock().await;
        let mut opened: HashMap<usize, Vec<Opened>> = HashMap::new();
        for (direction, port, addresses) in [
            (Direction::Outbound, ports.outbound, loopback),
            (Direction::Inbound, ports.inbound, any),
        ] {
            let mut bound = false;
            for address in addresses {
                // The socket for all addresses takes both families where there are both.
                if bound && address.is_unspecified() {
                    break;
                }
                let sockets = match self.bind(address, port, (port, Transport::Tcp), &Speaks::Elsewhere(direction)) {
                    Err(error) if address.is_ipv6() && listen::is_without(&error) => continue,
                    sockets => sockets.map_err(|error| {
                        io::Error::new(
                            error.kind(),
                            format!("port {port} on {address} cannot be bound: {error}"),
                        )
                    })?,
                };
                bound = true;
                for (worker, socket) in sockets.into_iter().enumerate() {
                    opened.entry(worker).or_default().push(socket);
                }
            }
        }
        self.replace(&self.snapshot(), &mut opened, &[]).await;
        Ok(())
    }

    fn unbound(&self, port: u16, error: &io::Error) -> String {
        let bound = u32::from(port) + u32::from(self.options.port_offset);
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 need a privilege: add to all of them with --port-offset 8000"
            }
            io::ErrorKind::AddrInUse => {
                "; another process has it: stop that one, or add to all ports with --port-offset 8000"
            }
            _ => "",
        };
        format!(
            "port {bound} on {} cannot be bound: {error}{remedy}",
            self.options.address
        )
    }

    async fn replace(&self, snapshot: &Arc<Snapshot>, opened: &mut HashMap<usize, Vec<Opened>>, close: &[Place]) {
        let mut waiting = Vec::new();
        for (number, worker) in self.workers.iter().enumerate() {
            let (done, replaced) = oneshot::channel();
            let open = opened.remove(&number).unwrap_or_default();
            let command = Command::Replace {
                snapshot: snapshot.clone(),
                open,
                close: close.to_vec(),
                done,
            };
            if worker.send(command).await.is_ok() {
                waiting.push(replaced);
            }
        }
        for replaced in waiting {
            // A worker that is gone serves nothing, so there is nothing to wait for.
            let _ = replaced.await;
        }
    }

    /// Who this data plane is in the mesh, and whom it believes: to be set, and shown.
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    /// The configuration in use.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// All that is in use, with its secrets: what a data plane would have to be told to do the same.
    pub fn resources(&self) -> Vec<Resource> {
        let mut resources = self.snapshot().resources();
        resources.extend(self.mesh.resources());
        resources
    }

    /// The ports of the manifests that are bound.
    pub async fn bound(&self) -> BTreeSet<Place> {
        self.configuration.lock().await.ports.keys().copied().collect()
    }

    /// The listeners that are served: their ports are bound, and speak what they speak.
    pub async fn listening(&self) -> BTreeSet<ListenerKey> {
        let bound = self.bound().await;
        let snapshot = self.snapshot();
        let ports = snapshot.ports();
        let served = ports.filter(|port| bound.contains(&(port.number, port.protocol.transport())));
        let keys = served.flat_map(|port| port.listeners().map(|listener| listener.key.clone()));
        keys.collect()
    }

    /// What was counted, summed over the workers.
    pub async fn stats(&self) -> Stats {
        let snapshot = self.snapshot();
        let mut routes: BTreeMap<_, RouteStats> = BTreeMap::new();
        let mut services: BTreeMap<_, (Traffic, usize)> = BTreeMap::new();
        let mut listeners: BTreeMap<u16, Traffic> = BTreeMap::new();
        for rule in snapshot.rules() {
            let key = &rule.route.key;
            routes.insert(key.clone(), RouteStats::none(key.clone()));
        }
        for entry in snapshot.services() {
            services.insert(entry.service.key.clone(), (Traffic::default(), entry.endpoints.len()));
        }
        let mut stats = Stats::default();
        let mut seen = Seen::default();
        let mut edges = edges::Seen::default();
        let mut flags = [0; crate::flag::Flag::COUNT];
        let live = Arc::new(routes.keys().cloned().collect::<HashSet<_>>());
        for worker in &self.workers {
            let (done, tally) = oneshot::channel();
            if worker
                .send(Command::Tally {
                    routes: live.clone(),
                    done,
                })
                .await
                .is_err()
            {
                continue;
            }
            let Ok(tally) = tally.await else { continue };
            for route in tally.routes {
                let sum = routes.entry(route.key.clone());
                sum.or_insert_with(|| RouteStats::none(route.key.clone())).add(&route);
            }
            for (key, traffic) in tally.services {
                services.entry(key).or_default().0.add(&traffic);
            }
            for (port, traffic) in tally.listeners {
                listeners.entry(port).or_default().add(&traffic);
            }
            for (sum, more) in flags.iter_mut().zip(tally.flags) {
                *sum += more;
            }
            stats.connections.add(&tally.connections);
            seen.add(tally.seen);
            edges.add(tally.edges);
        }
        stats.routes = routes.into_values().collect();
        stats.services = services
            .into_iter()
            .map(|(key, (traffic, endpoints))| ServiceStats {
                key,
                traffic,
                endpoints,
            })
            .collect();
        stats.listeners = listeners
            .into_iter()
            .map(|(port, traffic)| ListenerStats { port, traffic })
            .collect();
        stats.flags = crate::flag::Flag::ALL
            .into_iter()
            .zip(flags)
            .filter(|(_, count)| *count > 0)
            .collect();
        stats.intercepted = seen.total();
        stats.edges = edges.total();
        stats.spans = self.spans.as_ref().map(Exporter::stats);
        stats.log_lines_dropped = self.log.as_ref().map_or(0, AccessLogger::dropped);
        stats
    }

    /// What was counted, as OpenMetrics text.
    pub async fn metrics(&self) -> String {
        metrics::render(&self.stats().await, &self.snapshot(), &self.mesh)
    }

    /// Takes no more connections, lets what is in flight end, for at most [`Options::drain`], and stops.
    pub async fn shutdown(&self) {
        let mut draining = Vec::new();
        for worker in &self.workers {
            let (done, drained) = oneshot::channel();
            if worker.send(Command::Drain(done)).await.is_ok() {
                draining.push(drained);
            }
        }
        for drained in draining {
            let _ = drained.await;
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a worker had panicked");
                }
            }
        });
        let _ = joined.await;
        if let Some(spans) = &self.spans {
            spans.end().await;
        }
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

fn listeners_of(snapshot: &Snapshot, place: Place) -> Vec<ListenerKey> {
    let resources = snapshot.resources().into_iter();
    resources
        .filter_map(|resource| match resource {
            Resource::Listener(listener) if (listener.port, listener.protocol.transport()) == place => {
                Some(listener.key.clone())
            }
            _ => None,
        })
        .collect()
}

/// Gives all workers their ticks, until nobody is `running` any more. A timer of their own would cost them more: while a
/// runtime has one, it reckons before and after each wait for sockets how long is left, and the kernel sets up a timer for
/// each.
fn tick(workers: &[Arc<Notify>], running: &std::sync::mpsc::Receiver<()>) {
    while running.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        workers.iter().for_each(|worker| worker.notify_one());
    }
}
