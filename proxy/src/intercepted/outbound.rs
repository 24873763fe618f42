//! Connections from the pod to a Service port that has routes.

use std::{cell::OnceCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::net::TcpStream;
use weft_model::{BackendProtocol, ListenerProtocol};

use super::{
    Direction, Protocol, Way,
    book::{Destination, Open},
    carry::Carried,
    first::{First, hear, is_http, is_tls},
    onward, reached,
};
use crate::{
    authorization::Guard,
    config::{FrontendEntry, Rule, ServiceEntry, Snapshot},
    downstream::{Client, h1, h2},
    edges::EdgeCells,
    flag::Flag,
    io::{Prefixed, Stream},
    l4::{
        Ended, Story,
        backend::{self, Security},
    },
    mesh::Reached,
    upstream::Upstream,
    worker::Worker,
};

/// What came of a connection to a Service port that has routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Its requests go by HTTPRoutes and GRPCRoutes.
    Http,
    /// It goes by a TLSRoute.
    Tls,
    /// It goes by a TCPRoute.
    Tcp,
    /// It speaks something else than the routes are for: carried as it is.
    Mismatch,
    /// The client waited for the server to speak first: carried as it is.
    ServerFirst,
    /// The client began something and did not go on, so that it could not be told: carried as it is.
    Undecided,
    /// The client ended before it had said anything that could be told: carried as it is.
    Ended,
}

impl Outcome {
    /// How many there are.
    pub(crate) const COUNT: usize = 7;

    /// All of them, in order of their number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Http,
        Self::Tls,
        Self::Tcp,
        Self::Mismatch,
        Self::ServerFirst,
        Self::Undecided,
        Self::Ended,
    ];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::Mismatch => "mismatch",
            Self::ServerFirst => "server_first",
            Self::Undecided => "undecided",
            Self::Ended => "ended",
        }
    }
}

/// Where a client that sends requests was going.
pub(crate) struct Outbound {
    /// An address of a Service that had routes for requests when the client connected.
    pub(crate) address: SocketAddr,
    destination: Open,
    /// Present where it was going to the application here: policies decide on each request, and no routes are for it.
    pub(crate) guard: Option<Rc<Guard>>,
    /// Where it is counted as between workloads, in that case.
    pub(crate) edge: Option<Rc<EdgeCells>>,
    /// Where requests go once there are no routes any more.
    direct: OnceCell<Option<Box<Direct>>>,
}

/// Where a client was going, as something to which requests can be sent.
struct Direct {
    rule: Arc<Rule>,
    upstream: Rc<Upstream>,
}

impl Outbound {
    pub(super) fn new(address: SocketAddr, destination: Open) -> Self {
        Self {
            address,
            destination,
            guard: None,
            edge: None,
            direct: OnceCell::new(),
        }
    }

    /// One that was going to the application here.
    pub(super) fn guarded(address: SocketAddr, destination: Open, guard: Rc<Guard>, edge: Rc<EdgeCells>) -> Self {
        Self {
            guard: Some(guard),
            edge: Some(edge),
            ..Self::new(address, destination)
        }
    }

    /// The routes for its requests.
    pub(crate) fn frontend<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Arc<FrontendEntry>> {
        if self.guard.is_some() {
            return None;
        }
        let frontend = snapshot.frontend(self.address);
        frontend.filter(|frontend| frontend.protocol() == ListenerProtocol::Http)
    }

    /// Whether there are still routes for its requests, or they need none.
    pub(crate) fn is_routed(&self, snapshot: &Snapshot) -> bool {
        self.guard.is_some() || self.frontend(snapshot).is_some()
    }

    /// Counts a request.
    pub(crate) fn count(&self, status: u16, failed: bool, elapsed: Duration) {
        self.destination.requests.count(status, failed, elapsed);
    }

    /// The way to where it was going, for requests that come by the protocol by which its first came.
    pub(crate) fn direct(&self, worker: &Worker, http2: bool) -> Option<(&Arc<Rule>, &Rc<Upstream>)> {
        let direct = self.direct.get_or_init(|| {
            let protocol = if http2 {
                BackendProtocol::H2c
            } else {
                BackendProtocol::Http1
            };
            let entry = Arc::new(ServiceEntry::of_address(self.address, protocol));
            Some(Box::new(Direct {
                rule: Arc::new(Rule::passing().ok()?),
                upstream: Rc::new(Upstream::new(&entry, worker.random())),
            }))
        });
        let direct = direct.as_ref()?;
        Some((&direct.rule, &direct.upstream))
    }
}

/// Finds the way of a connection that goes to a Service port with routes.
pub(super) async fn routed(
    worker: &Worker,
    client: &TcpStream,
    address: SocketAddr,
    protocol: ListenerProtocol,
    destination: Rc<Destination>,
    story: &Story,
) -> Result<Way, Ended> {
    let connect = || reached(worker, address);
    let (outcome, first, server) = match protocol {
        ListenerProtocol::Http => match hear(client, connect, is_http).await? {
            First::Known(true, first) => {
                worker.book.routed(Outcome::Http);
                let spoken = if h1::is_preface(&first) {
                    Protocol::Http2
                } else {
                    Protocol::Http1
                };
                worker.book.decided(Direction::Outbound, spoken);
                let outbound = Outbound::new(address, Destination::open(destination));
                return Ok(Way::Requests(outbound, first));
            }
            First::Known(false, first) => (Outcome::Mismatch, first, None),
            other => as_it_is(other),
        },
        ListenerProtocol::Tls => match hear(client, connect, is_tls()).await? {
            First::Known(Some(sni), first) => {
                let snapshot = worker.snapshot();
                let frontend = snapshot.frontend(address);
                // There may be others by now.
                if let Some(frontend) = frontend.filter(|frontend| frontend.protocol() == protocol) {
                    worker.book.routed(Outcome::Tls);
                    story.sni.replace(sni.clone());
                    let name = Some(sni.as_str()).filter(|sni| !sni.is_empty());
                    return by_rule(worker, &snapshot, frontend, name, first, destination, story).await;
                }
                (Outcome::Mismatch, first, None)
            }
            First::Known(None, first) => (Outcome::Mismatch, first, None),
            other => as_it_is(other),
        },
        _ => {
            let snapshot = worker.snapshot();
            let Some(frontend) = snapshot.frontend(address) else {
                return onward(worker, address, destination, Vec::new(), None).await;
            };
            worker.book.routed(Outcome::Tcp);
            return by_rule(worker, &snapshot, frontend, None, Vec::new(), destination, story).await;
        }
    };
    worker.book.routed(outcome);
    onward(worker, address, destination, first, server).await
}

/// What is not told apart goes where it was going.
fn as_it_is<T>(first: First<T>) -> (Outcome, Vec<u8>, Option<Reached>) {
    match first {
        First::Known(_, first) => (Outcome::Mismatch, first, None),
        First::Undecided(first) => (Outcome::Undecided, first, None),
        First::Ended(first) => (Outcome::Ended, first, None),
        First::Server(server) => (Outcome::ServerFirst, Vec::new(), Some(server)),
    }
}

/// Connects to a backend of the rule that takes a connection.
async fn by_rule(
    worker: &Worker,
    snapshot: &Snapshot,
    frontend: &FrontendEntry,
    sni: Option<&str>,
    first: Vec<u8>,
    destination: Rc<Destination>,
    story: &Story,
) -> Result<Way, Ended> {
    let Some(rule) = frontend.flow(sni) else {
        let key = &frontend.frontend.key;
        return Err(Ended::new(
            Flag::NoRoute,
            format!("no TLSRoute of {key} is for this SNI"),
        ));
    };
    let entry = backend::choose(worker, snapshot, rule, story)?;
    let security = match frontend.protocol() {
        ListenerProtocol::Tls => Security::Clients,
        _ => Security::Service(None),
    };
    let connected = backend::connect(worker, &entry, security, story).await;
    let (server, load) = connected.inspect_err(|_| destination.failed())?;
    let now = worker.coarse_now();
    let edge = match story.endpoint.get() {
        Some(endpoint) => worker.edges.chosen(&worker.mesh, &entry.service.key, endpoint, now),
        None => worker.edges.unchosen(&entry.service.key, now),
    };
    Ok(Way::On(Carried {
        server,
        first,
        destination: Destination::open(destination),
        edge,
        load: Some(load),
        clear: None,
        guard: None,
    }))
}

/// Serves requests, of which some bytes have been read, as their Service's routes say.
pub(super) async fn requests<S: Stream>(worker: &Rc<Worker>, client: Client, stream: S, first: Vec<u8>) {
    let mut message = worker.messages.take();
    let mut rest = &first[..];
    while !rest.is_empty() {
        let space = message.space();
        let length = space.len().min(rest.len());
        space[..length].copy_from_slice(&rest[..length]);
        message.filled(length);
        rest = &rest[length..];
        if length == 0 {
            // So much is not read ahead: see `first`.
            return;
        }
    }
    drop(first);
    match h1::serve(worker, &client, stream, Some(message)).await {
        h1::Served::Closed => {}
        h1::Served::Http2(stream, read) => {
            Box::pin(h2::serve(worker, Rc::new(client), Prefixed::new(read, stream))).await;
        }
    }
}
