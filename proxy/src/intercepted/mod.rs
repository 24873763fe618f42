//! Connections that were on their way elsewhere and that the network rules of a pod have turned to this process: carried on
//! to where they were going, as they are, and observed. Not a byte is changed, held back or added, whatever they speak; what
//! is seen of it is counted.
//!
//! The original destination decides where a connection goes, never what it says of itself.

mod book;
pub(crate) mod http1;
mod observer;
mod original;

use std::{io, net::SocketAddr, pin::pin, rc::Rc, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

pub(crate) use self::book::{Book, Seen};
use self::{
    book::{Destination, Open},
    observer::{Observer, Side, Unseen},
};
use crate::{
    body::{BodyError, Broken},
    copy::{copy, watch},
    flag::Flag,
    io::{Shared, Stream},
    l4::{
        Ended, Story,
        relay::{abort, both},
    },
    splice,
    traffic::Cells,
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
    /// HTTP/2 by prior knowledge.
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
            Self::Http2 => "HTTP/2",
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

/// Carries a connection to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    client: TcpStream,
    peer: SocketAddr,
    port: u16,
    direction: Direction,
    cells: Rc<Cells>,
) {
    let story = Story::new(peer, port, "TCP");
    // Boxed, so that a connection does not hold the space for what comes before it for its whole life.
    let ended = match Box::pin(connect(&worker, &client, port, direction, &story)).await {
        Ok((server, destination)) => {
            let observer = Observer::new(&worker, direction, &cells, &destination, &story);
            let ended = carry(&worker, client, server, &observer, &story).await;
            observer.finish(&ended);
            destination.moved(&story);
            ended
        }
        Err(ended) => {
            abort(&client);
            ended
        }
    };
    story.close(&worker, &ended);
}

/// Connects to where a connection was going.
async fn connect(
    worker: &Worker,
    client: &TcpStream,
    port: u16,
    direction: Direction,
    story: &Story,
) -> Result<(TcpStream, Open), Ended> {
    let address =
        original::destination(client, port, direction).map_err(|error| Ended::new(Flag::Refused, error.to_string()))?;
    story.endpoint.set(Some(address));
    tune(client).map_err(|error| Ended::new(Flag::ClientGone, error.to_string()))?;
    let destination = worker.book.destination(direction, address, worker.coarse_now());
    let limit = worker.options.limits.connect_timeout;
    let connected = tokio::time::timeout(limit, TcpStream::connect(address)).await;
    let connected = connected.map_err(io::Error::from).and_then(|connected| connected);
    match connected.and_then(|server| tune(&server).map(|()| server)) {
        Ok(server) => {
            worker.count_connections(|stats| stats.upstream_opened += 1);
            Ok((server, Destination::open(destination)))
        }
        Err(error) => {
            destination.failed();
            Err(Ended::new(Flag::ConnectFailed, error.to_string()))
        }
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE)
}

/// Copies both ways. There is no limit to how long nothing moves while both sides may speak: that is for them to decide.
async fn carry(worker: &Worker, client: TcpStream, server: TcpStream, observer: &Observer<'_>, story: &Story) -> Ended {
    let (client, server) = (Shared::new(client), Shared::new(server));
    let watchdog = worker.watchdogs.watch();
    let up = pin!(one_way(
        worker,
        &client,
        &server,
        observer,
        Side::Client,
        story,
        &watchdog
    ));
    let down = pin!(one_way(
        worker,
        &server,
        &client,
        observer,
        Side::Server,
        story,
        &watchdog
    ));
    both(&client, &server, up, down).await
}

/// Copies what one side sends, and lets the observer see as much of it as tells something.
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
            Unseen::Next(length) => match splice::relay(worker, from, to, Some(length), moved, watchdog).await {
                Ok(()) => observer.passed_over(side),
                // What was announced is not all there: the other side gets to see just that.
                Err(Broken::Backend(BodyError::Truncated)) => break,
                Err(broken) => return Err(broken),
            },
            Unseen::Nothing => {
                if watch(worker, from, to, moved, watchdog, |bytes| observer.see(side, bytes)).await? {
                    break;
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
