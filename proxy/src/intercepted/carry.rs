//! Carries a connection on to where it was going: copies both ways, observed, to its end or until what its client begins is for
//! routes or policies.

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use tokio::time::timeout;

use super::{
    Direction, Outbound, Outcome,
    book::Open,
    clear::Clear,
    observer::{Observer, Side, Unseen},
    parting::{Parted, dismiss},
};
use crate::{
    authorization::Guard,
    balance::InFlight,
    body::{BodyError, Broken},
    copy::{Watched, copy, watch},
    edges::EdgeCells,
    flag::Flag,
    io::{Shared, Stream},
    l4::{
        Ended, Story,
        relay::{abort, both},
    },
    splice,
    traffic::Cells,
    upstream::BackendStream,
    watchdog::Watchdog,
    worker::Worker,
};

/// How long a server that has said by TLS that it ends has to do so. What the kernel answers once a socket is closed is not known
/// by network rules for a sidecar's, and may be led to an application that has got the same port: the server would wait for it,
/// and be there for nobody who comes from that port.
const GOING: Duration = Duration::from_secs(1);

/// A connection that is carried on.
pub(super) struct Carried {
    pub(super) server: BackendStream,
    /// What has been read from the client.
    pub(super) first: Vec<u8>,
    pub(super) destination: Open,
    /// Where it is counted as between workloads.
    pub(super) edge: Rc<EdgeCells>,
    /// Counts it as load of its endpoint, if it has been chosen by load.
    pub(super) load: Option<InFlight>,
    /// That it came in clear, if it came.
    pub(super) clear: Option<Rc<Clear>>,
    /// Who it is, where it goes to the application here.
    pub(super) guard: Option<Rc<Guard>>,
}

/// What is left of a connection that was carried.
pub(super) enum Left<C> {
    /// Nothing.
    Ended(Ended),
    /// The client's part: its Service has got routes, or the application here policies. From here on its requests go by these,
    /// this one first.
    Requests(C, Outbound, Vec<u8>),
}

/// Carries a connection to its end: copies both ways. There is no limit to how long nothing moves while both sides may speak:
/// that is for them to decide.
pub(super) async fn carry<C: Stream>(
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
        Copied::Ended(ended) => {
            if ended.flag == Flag::None && server.with(|server| server.beneath().is_some()) {
                Box::pin(gone(&server)).await;
            }
            Err(ended)
        }
        Copied::Taken(request) => Ok(request),
        // Boxed, since few end like this.
        Copied::Parted(parted) => Err(Box::pin(dismiss(worker, client, &server, parted)).await),
    }
}

/// Waits until a server has gone.
async fn gone(server: &Shared<BackendStream>) {
    let gone = poll_fn(|cx| server.with(|server| server.poll_gone(cx)));
    let _ = timeout(GOING, gone).await;
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
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{
        downstream::Client,
        intercepted::{book::Destination, outbound},
    };

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
