//! Two connections joined, as after an upgrade: what comes from one goes to the other.

use std::{future::poll_fn, io, pin::pin};

use futures::future::{self, Either};

use crate::{
    io::{Shared, Stream},
    l4::{Admitted, Ended, relay::abort},
};

/// Bytes on their way in each direction.
const BUFFER: usize = 16 * 1024;

/// Copies both ways until both sides have ended, one fails, or policies would not let it in any more; then both are reset, and it
/// is returned why. What has been read ahead of either goes first.
pub(crate) async fn join<A: Stream, B: Stream>(
    client: &Shared<A>,
    sent: &[u8],
    backend: &Shared<B>,
    early: &[u8],
    admitted: Option<&Admitted>,
) -> Option<Ended> {
    let both = pin!(both(client, sent, backend, early));
    let Some(admitted) = admitted else {
        both.await;
        return None;
    };
    let denied = admitted.during(both).await.err()?;
    client.tcp(abort);
    backend.tcp(abort);
    Some(denied)
}

async fn both<A: Stream, B: Stream>(client: &Shared<A>, sent: &[u8], backend: &Shared<B>, early: &[u8]) {
    let up = pin!(copy(client, backend, sent));
    let down = pin!(copy(backend, client, early));
    // A side that has ended may still be sent to, but one that has failed takes the other with it.
    match future::select(up, down).await {
        Either::Left((Ok(()), down)) => {
            let _ = down.await;
        }
        Either::Right((Ok(()), up)) => {
            let _ = up.await;
        }
        Either::Left((Err(error), _)) | Either::Right((Err(error), _)) => {
            tracing::debug!(%error, "an upgraded connection broke off");
        }
    }
}

async fn copy<A: Stream, B: Stream>(from: &Shared<A>, to: &Shared<B>, first: &[u8]) -> io::Result<()> {
    to.write_all(first).await?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = poll_fn(|cx| from.poll_read(cx, &mut buffer)).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}
