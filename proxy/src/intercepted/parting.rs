//! Connections of HTTP/2 that are carried, and whose requests would go by routes, or be judged by policies, if they began now. What
//! their fields refer to cannot be handed to who would go on with them, so that they are told to go, in HTTP/2's own way (RFC 9113,
//! 6.8): a GOAWAY between two frames of the server says that a client is to begin no more requests here. What is under way
//! goes on to its end, and the client begins anew elsewhere. Only once it is silent, the connection is ended, and what the client
//! may have begun meanwhile is said not to have been looked at.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::http2::{MOST, go_away};
use crate::{
    io::{Shared, Stream},
    l4::{Ended, relay::abort},
    watchdog::Watchdog,
    worker::Worker,
};

/// By then a client has heard that it is to go.
const HEARD: Duration = Duration::from_secs(2);
/// How long a client that has been told may begin requests all the same, where nothing is at stake but that they pass by routes, or
/// by a preview of policies.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client has to take what it is told last.
const LEAVING: Duration = Duration::from_secs(2);

/// How far a connection is on its way out.
pub(super) struct Parting {
    /// From when on no request may begin any more.
    until: Cell<Option<Instant>>,
    /// Whether it was just found that it is to go.
    is_new: Cell<bool>,
    /// What is to go to the client next, before what the server says from here on.
    speech: Cell<Option<Vec<u8>>>,
    told: Cell<bool>,
    /// Whether the client has begun a request all the same.
    is_over: Cell<bool>,
    /// Until the client has heard.
    watchdog: Watchdog,
}

impl Parting {
    pub(super) fn new(worker: &Worker) -> Self {
        Self {
            until: Cell::default(),
            is_new: Cell::new(true),
            speech: Cell::default(),
            told: Cell::new(false),
            is_over: Cell::new(false),
            watchdog: worker.watchdogs.watch(),
        }
    }

    /// No request may begin longer than a client takes to hear: policies are for them, and they are not judged.
    pub(super) fn hasten(&self, worker: &Worker) {
        let soon = worker.coarse_now() + HEARD;
        let until = self.until.get().map_or(soon, |until| until.min(soon));
        self.until.set(Some(until));
    }

    /// Whether this is asked for the first time.
    pub(super) fn begins(&self) -> bool {
        self.is_new.take()
    }

    /// Whether the client has still to be told.
    pub(super) fn is_untold(&self) -> bool {
        !self.told.get()
    }

    /// Has the client told that it is to go, and then what the server has said after that.
    pub(super) fn tell(&self, rest: &[u8]) -> usize {
        let frame = go_away(MOST);
        self.speech.set(Some([&frame[..], rest].concat()));
        frame.len()
    }

    /// What is to be said for the server.
    pub(super) fn speech(&self) -> Option<Vec<u8>> {
        self.speech.take()
    }

    /// The client has been told, by whomever.
    pub(super) fn told(&self, worker: &Worker) {
        let now = worker.coarse_now();
        self.told.set(true);
        self.until.set(self.until.get().or(Some(now + PATIENCE)));
        self.watchdog.arm(now, HEARD);
    }

    /// Ready once the client has heard.
    pub(super) fn poll_heard(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_untold() {
            return Poll::Pending;
        }
        self.watchdog.poll_expired(cx).map(|_| ())
    }

    /// Whether a request may not begin any more.
    pub(super) fn is_closed(&self, worker: &Worker) -> bool {
        self.until.get().is_some_and(|until| worker.coarse_now() >= until)
    }

    /// The client has begun one all the same.
    pub(super) fn cut(&self) {
        self.is_over.set(true);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }
}

/// How a connection ends whose client was told to go.
pub(super) struct Parted {
    /// The last stream that has gone over, unless this cannot be said any more: the server is in the middle of a frame.
    pub(super) last: Option<u32>,
    pub(super) ended: Ended,
}

/// Ends a connection: says what of it has gone over, and waits a little until the client has taken that and ends too.
pub(super) async fn dismiss<A: Stream, B: Stream>(
    worker: &Worker,
    client: &Shared<A>,
    server: &Shared<B>,
    parted: Parted,
) -> Ended {
    match parted.last {
        Some(last) => {
            // Who does not take it in time is gone, or does not want to know.
            let _ = timeout(LEAVING, farewell(worker, client, server, last)).await;
        }
        None => {
            client.tcp(abort);
            server.tcp(abort);
        }
    }
    parted.ended
}

async fn farewell<A: Stream, B: Stream>(
    worker: &Worker,
    client: &Shared<A>,
    server: &Shared<B>,
    last: u32,
) -> io::Result<()> {
    client.write_all(&go_away(last)).await?;
    client.shutdown().await?;
    let _ = server.shutdown().await;
    // A socket that is closed while bytes still come is reset, and a reset may overtake what was sent last.
    poll_fn(|cx| {
        loop {
            let mut scratch = worker.scratch.borrow_mut();
            if ready!(client.poll_read(cx, &mut scratch))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    })
    .await
}
