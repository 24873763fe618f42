//! Connections that were on their way elsewhere and that the network rules of a pod have turned to this process: carried on
//! to where they were going, as they are, and observed. Not a byte is changed, held back or added, whatever they speak, but for
//! one frame that tells a client to begin anew ([`parting`]); what is seen of it is counted. What goes to a Service that has
//! routes goes by these ([`outbound`]).
//!
//! The original destination decides where a connection goes, never what it says of itself.

mod alarm;
mod book;
mod clear;
pub(crate) mod first;
mod guarded;
pub(crate) mod http1;
pub(crate) mod http2;
mod inbound;
mod observer;
mod original;
mod outbound;
mod parting;

use std::{
    future::{Future as _, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

pub use self::outbound::Outcome;
pub(crate) use self::{
    alarm::{Alarm, Alarms},
    book::{Book, Seen},
    clear::Clears,
    outbound::Outbound,
};
use self::{
    book::{Destination, Open},
    clear::Clear,
    observer::{Observer, Side, Unseen},
    parting::{Parted, dismiss},
};
use crate::{
    authorization::Guard,
    balance::InFlight,
    body::{BodyError, Broken},
    copy::{Watched, copy, watch},
    downstream::Client,
    edges::EdgeCells,
    flag::Flag,
    io::{Shared, Stream},
    l4::{
        Ended, Story,
        relay::{abort, both},
    },
    mesh::{self, Carries, DECIDES, NAMES, Reached, Talking, Workloads},
    splice,
    traffic::Cells,
    upstream::BackendStream,
    watchdog::Watchdog,
    worker::Worker,
};

/// The ports that network rules turn connections to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intercept {
    /// Of connections that leave the pod.
    pub outbound: u16,
    /// Of connections that come to it.
    pub inbound: u16,
}

/// Which way a connection was going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From elsewhere to the pod.
    Inbound,
    /// From the pod to elsewhere, or to itself by way of a Service.
    Outbound,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Inbound, Self::Outbound];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What a connection turned out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1: its requests are counted.
    Http1,
    /// HTTP/2 by prior knowledge: its requests are counted.
    Http2,
    /// TLS, the application's own.
    Tls,
    /// Something else, and the client spoke first.
    Opaque,
    /// Something else, and the server spoke first.
    ServerFirst,
    /// Nothing, on either side.
    Silent,
}

impl Protocol {
    /// How many there are.
    pub(crate) const COUNT: usize = 6;

    /// All of them, in order of their number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Http1,
        Self::Http2,
        Self::Tls,
        Self::Opaque,
        Self::ServerFirst,
        Self::Silent,
    ];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Opaque => "opaque",
            Self::ServerFirst => "server_first",
            Self::Silent => "silent",
        }
    }

    /// The name in the log.
    fn logged(self) -> &'static str {
        match self {
            Self::Http1 => Story::HTTP1,
            Self::Http2 => Story::HTTP2,
            Self::Tls => "TLS",
            Self::Opaque | Self::ServerFirst | Self::Silent => "TCP",
        }
    }
}

/// When a silent peer is asked whether it is still there, and how often. The application cannot ask for itself: what it
/// asks is answered on this side.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(5);

/// Where a connection goes.
enum Way {
    /// On, as it is.
    On(Carried),
    /// Each of its requests by the routes of the Service to which it was made; this is what has been read of them.
    Requests(Outbound, Vec<u8>),
}

/// A connection that is carried on.
struct Carried {
    server: BackendStream,
    /// What has been read from the client.
    first: Vec<u8>,
    destination: Open,
    /// Where it is counted as between workloads.
    edge: Rc<EdgeCells>,
    /// Counts it as load of its endpoint, if it has been chosen by load.
    load: Option<InFlight>,
    /// That it came in clear, if it came.
    clear: Option<Rc<Clear>>,
    /// Who it is, where it goes to the application here.
    guard: Option<Rc<Guard>>,
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    client: TcpStream,
    peer: SocketAddr,
    port: u16,
    direction: Direction,
    cells: Rc<Cells>,
) {
    let story = Story::new(peer, port, "TCP");
    if direction == Direction::Inbound {
        return Box::pin(inbound::serve(&worker, client, peer, port, cells, story)).await;
    }
    // Boxed, here and below, so that a connection does not hold the space for what it is not, or not any more.
    let mut talking = Talking::default();
    let found = Box::pin(way(&worker, &client, port, &story, &mut talking)).await;
    let (client, outbound, first) = match found {
        Ok(Way::Requests(outbound, first)) => (client, outbound, first),
        Ok(Way::On(carried)) => {
            match Box::pin(carry(&worker, client, carried, Direction::Outbound, &cells, &story)).await {
                Left::Ended(ended) => return story.close(&worker, &ended),
                Left::Requests(client, outbound, first) => {
                    story.close(&worker, &Ended::well());
                    (client, outbound, first)
                }
            }
        }
        Err(ended) => {
            abort(&client);
            return story.close(&worker, &ended);
        }
    };
    drop(story);
    let requests = Client::turned(peer, port, outbound, cells);
    Box::pin(outbound::requests(&worker, requests, client, first)).await;
}

/// Finds the way of a connection that leaves the pod, and connects to where it goes. The namespace it goes to is told of for as long as it lasts.
async fn way(
    worker: &Worker,
    client: &TcpStream,
    port: u16,
    story: &Story,
    talking: &mut Talking,
) -> Result<Way, Ended> {
    let address = original::destination(client, port, Direction::Outbound);
    let address = address.map_err(|error| Ended::new(Flag::Refused, error.to_string()))?;
    story.endpoint.set(Some(address));
    tune(client).map_err(|error| Ended::new(Flag::ClientGone, error.to_string()))?;
    // Whether there are routes, and who has to prove what, is known only then; where there are, they decide.
    let is_routed = worker.snapshot().frontend(address).is_some();
    let (met, known) = worker.mesh.met(address, if is_routed { NAMES } else { DECIDES }).await;
    *talking = met;
    let destination = worker
        .book
        .destination(Direction::Outbound, address, worker.coarse_now());
    let protocol = worker.snapshot().frontend(address).map(|frontend| frontend.protocol());
    match protocol {
        None if !is_routed => {
            let server = reached_by(worker, address, known).await;
            onward_by(worker, destination, Vec::new(), server).await
        }
        None => onward(worker, address, destination, Vec::new(), None).await,
        Some(protocol) => outbound::routed(worker, client, address, protocol, destination, story).await,
    }
}

/// Where a connection was going, connected to unless that was done already.
async fn onward(
    worker: &Worker,
    address: SocketAddr,
    destination: Rc<Destination>,
    first: Vec<u8>,
    server: Option<Reached>,
) -> Result<Way, Ended> {
    let server = match server {
        Some(server) => Ok(server),
        None => reached(worker, address).await,
    };
    onward_by(worker, destination, first, server).await
}

/// The same, once that has been tried.
async fn onward_by(
    worker: &Worker,
    destination: Rc<Destination>,
    first: Vec<u8>,
    server: io::Result<Reached>,
) -> Result<Way, Ended> {
    match server {
        Ok(mut reached) => {
            let (at, service) = (reached.address, reached.service.take());
            let proven = proven(worker, reached).await;
            let server = proven.inspect_err(|_| destination.failed())?;
            let secured = matches!(server, BackendStream::Mutual(_));
            let now = worker.coarse_now();
            let edge = match service {
                Some(service) => worker.edges.chosen(&worker.mesh, &service, at, now),
                None => worker.edges.outbound(&worker.mesh, at, secured, now),
            };
            Ok(Way::On(Carried {
                server,
                first,
                destination: Destination::open(destination),
                edge,
                load: None,
                clear: None,
                guard: None,
            }))
        }
        Err(error) => {
            destination.failed();
            Err(Ended::new(Flag::ConnectFailed, error.to_string()))
        }
    }
}

/// Has who is at an address prove that it is there, if that is a workload of the mesh that has to.
async fn proven(worker: &Worker, reached: Reached) -> Result<BackendStream, Ended> {
    let Some(peer) = &reached.expected else {
        return Ok(BackendStream::Plain(reached.stream));
    };
    let shaken = mesh::shake(worker, reached.stream, reached.address, peer, Carries::Anything);
    let proven = Box::pin(shaken).await;
    proven
        .map(BackendStream::Mutual)
        .map_err(|error| Ended::new(Flag::TlsFailed, error.to_string()))
}

/// Connects to where a connection from the pod was going.
async fn reached(worker: &Worker, address: SocketAddr) -> io::Result<Reached> {
    let limit = worker.options.limits.carried_connect_timeout;
    let reached = mesh::reach(worker, address, limit).await?;
    tune(&reached.stream)?;
    Ok(reached)
}

/// The same, of where it is known who is there.
async fn reached_by(worker: &Worker, address: SocketAddr, known: Arc<Workloads>) -> io::Result<Reached> {
    let limit = worker.options.limits.carried_connect_timeout;
    let reached = mesh::reach_by(worker, address, limit, known).await?;
    tune(&reached.stream)?;
    Ok(reached)
}

/// Connects to the application here.
async fn open(worker: &Worker, address: SocketAddr) -> io::Result<TcpStream> {
    let limit = worker.options.limits.carried_connect_timeout;
    let server = tokio::time::timeout(limit, TcpStream::connect(address)).await??;
    tune(&server)?;
    worker.count_connections(|stats| stats.upstream_opened += 1);
    Ok(server)
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE)
}

/// What is left of a connection that was carried.
enum Left<C> {
    /// Nothing.
    Ended(Ended),
    /// The client's part: its Service has got routes, or the application here policies. From here on its requests go by these,
    /// this one first.
    Requests(C, Outbound, Vec<u8>),
}

/// Carries a connection to its end: copies both ways. There is no limit to how long nothing moves while both sides may speak:
/// that is for them to decide.
async fn carry<C: Stream>(
    worker: &Worker,
    client: C,
    carried: Carried,
    direction: Direction,
    port: &Cells,
    story: &Story,
) -> Left<C> {
    let Carried {
        server,
        first,
        destination,
        edge,
        load,
        clear,
        guard,
    } = carried;
    edge.connected();
    let observer = Observer::new(worker, direction, port, &destination, &edge, story, guard.as_deref());
    let client = Shared::new(client);
    let ended = copy_both(worker, &client, first, server, &observer, clear.as_deref(), story).await;
    drop(load);
    let (ended, taken) = match ended {
        Ok(held) => (Ended::well(), Some(held)),
        Err(ended) => (ended, None),
    };
    observer.finish(&ended);
    destination.moved(story);
    edge.moved(story, worker.coarse_now());
    match (taken, story.endpoint.get()) {
        (Some(first), Some(address)) => {
            let requests = match guard {
                Some(guard) => Outbound::guarded(address, destination, guard, edge),
                None => {
                    worker.book.routed(Outcome::Http);
                    Outbound::new(address, destination)
                }
            };
            Left::Requests(client.into_inner(), requests, first)
        }
        _ => Left::Ended(ended),
    }
}

/// How copying ends.
enum Copied {
    Ended(Ended),
    /// The client has begun a request that is for routes or policies: this is what it has said.
    Taken(Vec<u8>),
    /// The client was told to go.
    Parted(Parted),
}

/// Copies both ways until that has ended, or until the client begins a request that is for routes.
async fn copy_both<C: Stream>(
    worker: &Worker,
    client: &Shared<C>,
    first: Vec<u8>,
    server: BackendStream,
    observer: &Observer<'_>,
    clear: Option<&Clear>,
    story: &Story,
) -> Result<Vec<u8>, Ended> {
    let server = Shared::new(server);
    let watchdog = worker.watchdogs.watch();
    let up = pin!(async {
        if !first.is_empty() {
            observer.see(Side::Client, &first);
            if observer.is_denied() {
                return std::future::pending().await;
            }
            server.write_all(&first).await.map_err(Broken::client)?;
            story.received.set(first.len() as u64);
        }
        drop(first);
        one_way(worker, client, &server, observer, Side::Client, story, &watchdog).await
    });
    let down = pin!(one_way(
        worker,
        &server,
        client,
        observer,
        Side::Server,
        story,
        &watchdog
    ));
    let mut both = pin!(both(client, &server, up, down));
    let copied = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = both.as_mut().poll(cx) {
                return Poll::Ready(Copied::Ended(ended));
            }
            if let Some(reason) = observer.denied(cx) {
                client.tcp(abort);
                server.tcp(abort);
                return Poll::Ready(Copied::Ended(Ended::new(Flag::PolicyDenied, reason)));
            }
            // Who is to go is told so now, if the server pauses.
            if !observer.is_to_go(cx, clear.is_some_and(Clear::is_unwanted)) {
                break;
            }
        }
        if let Some(request) = observer.taken() {
            return Poll::Ready(Copied::Taken(request));
        }
        if let Some(parted) = observer.parted(cx) {
            return Poll::Ready(Copied::Parted(parted));
        }
        match clear {
            Some(clear) => clear.poll_over(cx, || observer.rests()).map(|()| {
                let rests = observer.rests();
                Copied::Ended(unwanted(worker, client, &server, rests))
            }),
            None => Poll::Pending,
        }
    });
    match copied.await {
        Copied::Ended(ended) => Err(ended),
        Copied::Taken(request) => Ok(request),
        // Boxed, since few end like this.
        Copied::Parted(parted) => Err(Box::pin(dismiss(worker, client, &server, parted)).await),
    }
}

/// Ends what came in clear to where nobody comes so any more. What rests ends as if its time were over.
fn unwanted<C: Stream>(worker: &Worker, client: &Shared<C>, server: &Shared<BackendStream>, rests: bool) -> Ended {
    if !rests {
        client.tcp(abort);
        server.tcp(abort);
    }
    worker.count_connections(|stats| stats.clear_refused += 1);
    let reason =
        "it came in clear, and the namespace has become strict: only workloads with a sidecar and Gateways may come";
    Ended::new(Flag::Refused, reason)
}

/// Copies what one side sends, and lets the observer see as much of it as tells something. It does not end once the observer has
/// taken over what the client has begun.
async fn one_way<A: Stream, B: Stream>(
    worker: &Worker,
    from: &Shared<A>,
    to: &Shared<B>,
    observer: &Observer<'_>,
    side: Side,
    story: &Story,
    watchdog: &Watchdog,
) -> Result<(), Broken> {
    let moved = match side {
        Side::Client => &story.received,
        Side::Server => &story.sent,
    };
    loop {
        match observer.unseen(side) {
            Unseen::All => {
                copy(worker, from, to, None, moved, watchdog).await?;
                break;
            }
            Unseen::Next(length) if splice::possible(from, to) => {
                match splice::relay(worker, from, to, Some(length), moved, watchdog).await {
                    Ok(()) => observer.passed_over(side),
                    // What was announced is not all there: the other side gets to see just that.
                    Err(Broken::Backend(BodyError::Truncated)) => break,
                    Err(broken) => return Err(broken),
                }
            }
            // What TLS has sealed goes by way of a buffer, and may as well be seen.
            Unseen::Next(_) | Unseen::Nothing => {
                let next = |bytes: &[u8]| observer.next(side, bytes);
                match watch(worker, from, to, moved, watchdog, next).await? {
                    Watched::Ended => break,
                    Watched::Seen => {}
                    Watched::Held => return std::future::pending().await,
                }
                if side == Side::Server
                    && let Some(speech) = observer.speech()
                {
                    to.write_all(&speech).await.map_err(Broken::client)?;
                    moved.set(moved.get() + speech.len() as u64);
                    observer.told();
                }
            }
        }
    }
    observer.ended(side);
    // One that is gone already has read what it wanted.
    let _ = to.shutdown().await;
    // The side that has ended may be gone altogether, and then nothing would tell: from here on, silence is.
    watchdog.arm(worker.coarse_now(), worker.options.limits.tcp_idle_timeout);
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(flavor = "local")]
    async fn connections_hold_the_space_for_what_they_are() {
        let worker = Worker::of_nothing();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let connect = || async { TcpStream::connect(address).await.expect("it listens") };
        let cells = worker.listener(15001);
        let destination = || {
            let known = worker
                .book
                .destination(Direction::Outbound, address, worker.coarse_now());
            Destination::open(known)
        };
        let carried = Carried {
            server: BackendStream::Plain(connect().await),
            first: Vec::new(),
            destination: destination(),
            edge: Rc::default(),
            load: None,
            clear: None,
            guard: None,
        };
        let story = Story::new(address, 15001, "TCP");
        let carrying = carry(&worker, connect().await, carried, Direction::Outbound, &cells, &story);
        let client = Client::turned(address, 15001, Outbound::new(address, destination()), cells.clone());
        let requests = outbound::requests(&worker, client, connect().await, Vec::new());
        let (carrying, requests) = (size_of_val(&carrying), size_of_val(&requests));
        // Two directions that are copied or spliced.
        assert!(carrying <= 2000, "{carrying} bytes carried");
        // As a connection of a listener.
        assert!(requests <= 900, "{requests} bytes of requests");
    }
}
