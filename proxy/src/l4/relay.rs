//! Both directions of a connection.

use std::{
    cell::Cell,
    net::Shutdown,
    pin::{Pin, pin},
    time::Duration,
};

use futures::future::{self, Either};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{Ended, Story, standing::Admitted};
use crate::{
    body::{BodyError, Broken},
    copy::copy,
    flag::Flag,
    io::{Shared, Stream},
    watchdog::Watchdog,
    worker::Worker,
};

/// Copies both ways until both sides have ended, one of them fails, nothing moves for too long, or it would not be let in any
/// more and has had its time. A side that has ended may still be sent to (half-close). `first` was read from the client already.
pub(super) async fn relay<A: Stream, B: Stream>(
    worker: &Worker,
    client: &Shared<A>,
    first: Vec<u8>,
    backend: &Shared<B>,
    admitted: &Admitted,
    story: &Story,
) -> Ended {
    let watchdog = worker.watchdogs.watch();
    watchdog.arm(worker.coarse_now(), worker.options.limits.tcp_idle_timeout);
    let up = pin!(async {
        if !first.is_empty() {
            story.received.set(first.len() as u64);
            backend.write_all(&first).await.map_err(Broken::client)?;
        }
        drop(first);
        one_way(worker, client, backend, &story.received, &watchdog).await
    });
    let down = pin!(one_way(worker, backend, client, &story.sent, &watchdog));
    match admitted.during(pin!(both(client, backend, up, down))).await {
        Ok(ended) if ended.flag == Flag::Idle => {
            let idle = worker.options.limits.tcp_idle_timeout;
            Ended::new(Flag::Idle, format!("nothing moved for {} s", idle.as_secs()))
        }
        Ok(ended) => ended,
        Err(denied) => {
            client.tcp(abort);
            backend.tcp(abort);
            denied
        }
    }
}

/// Drives both directions until both have ended well or one has failed. After a failure both sides are reset: whoever is
/// still there must not take it for the end of what was to come.
pub(crate) async fn both<A: Stream, B: Stream>(
    client: &Shared<A>,
    backend: &Shared<B>,
    up: Pin<&mut impl Future<Output = Result<(), Broken>>>,
    down: Pin<&mut impl Future<Output = Result<(), Broken>>>,
) -> Ended {
    let (broken, upwards) = match future::select(up, down).await {
        Either::Left((Ok(()), down)) => (down.await, false),
        Either::Right((Ok(()), up)) => (up.await, true),
        Either::Left((broken, _)) => (broken, true),
        Either::Right((broken, _)) => (broken, false),
    };
    let Err(broken) = broken else { return Ended::well() };
    client.tcp(abort);
    backend.tcp(abort);
    // Of a copy, the side that is read from is called the backend.
    let (clients, error) = match broken {
        Broken::Backend(error) => (upwards, error),
        Broken::Client(error) => (!upwards, error),
    };
    match error {
        BodyError::Stalled => Ended::new(Flag::Idle, "nothing moved for too long"),
        error if clients => Ended::new(Flag::ClientGone, error.to_string()),
        error => Ended::new(Flag::UpstreamReset, error.to_string()),
    }
}

async fn one_way<A: Stream, B: Stream>(
    worker: &Worker,
    from: &Shared<A>,
    to: &Shared<B>,
    moved: &Cell<u64>,
    watchdog: &Watchdog,
) -> Result<(), Broken> {
    copy(worker, from, to, None, moved, watchdog).await?;
    // One that is gone already has read what it wanted.
    let _ = to.shutdown().await;
    Ok(())
}

/// Lets a socket end with a reset when it is closed.
pub(crate) fn abort(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    if socket.set_linger(Some(Duration::ZERO)).is_err() {
        let _ = socket.shutdown(Shutdown::Both);
    }
}
