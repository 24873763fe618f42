//! A stream of HTTP/2 that has become a tunnel (RFC 9113, 8.5): what its frames hold goes to a connection, and back.

use std::{future::poll_fn, pin::pin, task::Poll};

use bytes::Bytes;
use futures::future::{self, Either};
use h2::{Reason, RecvStream, SendStream};

use crate::{
    body::{BodyError, Piece},
    io::{Shared, Stream},
    l4::{Admitted, Ended, relay::abort},
    upstream::{next_piece, send_piece},
};

/// Bytes of the connection that are on their way.
const BUFFER: usize = 16 * 1024;

/// Copies both ways until both sides have ended, one fails, or policies would not let it in any more; then it is returned why. What
/// has been read ahead of the connection goes first.
pub(super) async fn join<B: Stream>(
    body: &mut RecvStream,
    stream: &mut SendStream<Bytes>,
    backend: &Shared<B>,
    early: &[u8],
    admitted: Option<&Admitted>,
) -> Option<Ended> {
    let ended = {
        let both = pin!(both(body, stream, backend, early));
        match admitted {
            Some(admitted) => admitted.during(both).await,
            None => Ok(both.await),
        }
    };
    let (denied, reason) = match ended {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a tunnel broke off");
            (None, Reason::CONNECT_ERROR)
        }
        Err(denied) => (Some(denied), Reason::CANCEL),
    };
    // Whoever is still there must not take it for the end of what was to come.
    stream.send_reset(reason);
    backend.tcp(abort);
    denied
}

async fn both<B: Stream>(
    body: &mut RecvStream,
    stream: &mut SendStream<Bytes>,
    backend: &Shared<B>,
    early: &[u8],
) -> Result<(), BodyError> {
    let (up, down) = (pin!(up(body, backend)), pin!(down(backend, stream, early)));
    // A side that has ended may still be sent to, but one that has failed takes the other with it.
    match future::select(up, down).await {
        Either::Left((Ok(()), down)) => down.await,
        Either::Right((Ok(()), up)) => up.await,
        Either::Left((broken, _)) | Either::Right((broken, _)) => broken,
    }
}

async fn up<B: Stream>(body: &mut RecvStream, backend: &Shared<B>) -> Result<(), BodyError> {
    loop {
        match next_piece(body).await? {
            Piece::Shared(bytes) => backend.write_all(&bytes).await?,
            Piece::Slice(bytes) => backend.write_all(bytes).await?,
            Piece::End(_) => return Ok(backend.shutdown().await?),
        }
    }
}

async fn down<B: Stream>(backend: &Shared<B>, stream: &mut SendStream<Bytes>, early: &[u8]) -> Result<(), BodyError> {
    send_piece(stream, Piece::Slice(early), false).await?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = poll_fn(|cx| {
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(BodyError::Gone));
            }
            backend.poll_read(cx, &mut buffer).map_err(BodyError::Io)
        });
        match read.await? {
            0 => return send_piece(stream, Piece::End(None), true).await,
            read => send_piece(stream, Piece::Slice(&buffer[..read]), false).await?,
        }
    }
}
