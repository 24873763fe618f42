//! HTTP/2 towards a backend, on the h2 crate directly.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    task::ready,
};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request};

use super::{Alpn, ConnectError, Connections, Secure};
use crate::{
    body::{BodyError, Piece},
    gather::gather,
    worker::Worker,
};

/// What a stream may receive before its reader has taken any of it.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// The HTTP/2 connections to one endpoint.
#[derive(Default)]
pub(crate) struct H2Connections(RefCell<Vec<Rc<H2Connection>>>);

struct H2Connection {
    sender: SendRequest<Bytes>,
    /// By what it is secured; 0 is nothing.
    by: u64,
    /// Streams in use; shared with each stream's guard.
    streams: std::cell::Cell<usize>,
}

/// Holds a place on a connection for as long as a stream lives.
pub(crate) struct StreamGuard(Rc<H2Connection>);

/// A backend's answer, its head read, its body still to come.
pub(crate) struct H2Response {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: RecvStream,
    pub(crate) _guard: StreamGuard,
}

impl H2Connections {
    /// A connection with room for one more stream: the one with the fewest, else a new one.
    async fn sender(
        &self,
        worker: &Rc<Worker>,
        home: &Connections,
        secure: Option<&Secure>,
    ) -> Result<(SendRequest<Bytes>, StreamGuard), ConnectError> {
        let by = secure.map_or(0, |secure| secure.id);
        loop {
            let best = self
                .0
                .borrow()
                .iter()
                .filter(|c| c.by == by && c.streams.get() < c.limit())
                .min_by_key(|c| c.streams.get())
                .cloned();
            let (connection, reused) = match best {
                Some(connection) => (connection, true),
                None => (self.open(worker, home, secure).await?, false),
            };
            let guard = StreamGuard::new(&connection);
            match connection.sender.clone().ready().await {
                Ok(sender) => {
                    if reused {
                        worker.count_connections(|stats| stats.upstream_reused += 1);
                    }
                    return Ok((sender, guard));
                }
                Err(error) => {
                    // It has closed or is going away: forget it and look again.
                    self.forget(&connection);
                    if !reused {
                        return Err(io::Error::other(error).into());
                    }
                }
            }
        }
    }

    async fn open(
        &self,
        worker: &Rc<Worker>,
        home: &Connections,
        secure: Option<&Secure>,
    ) -> Result<Rc<H2Connection>, ConnectError> {
        let stream = home.connect(worker, secure, Alpn::Http2).await?;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(worker.options.limits.head_bytes).unwrap_or(u32::MAX))
            .enable_push(false);
        let (stream, flusher) = gather(worker, stream);
        let handshake = tokio::time::timeout(worker.options.limits.connect_timeout, builder.handshake(stream));
        let handshake = handshake.await.map_err(io::Error::from)?;
        let (sender, mut driver) = handshake.map_err(io::Error::other)?;
        let connection = Rc::new(H2Connection {
            sender,
            by: secure.map_or(0, |secure| secure.id),
            streams: std::cell::Cell::new(0),
        });
        self.0.borrow_mut().push(connection.clone());
        tokio::task::spawn_local(async move {
            let driven = poll_fn(|cx| {
                let driven = Pin::new(&mut driver).poll(cx);
                let _ = flusher.poll(cx);
                driven
            });
            if let Err(error) = driven.await {
                tracing::debug!(%error, "an HTTP/2 connection to a backend ended");
            }
        });
        Ok(connection)
    }

    /// Uses none of them again; those with streams end with these.
    pub(super) fn forget_all(&self) {
        self.0.borrow_mut().clear();
    }

    fn forget(&self, connection: &Rc<H2Connection>) {
        self.0.borrow_mut().retain(|kept| !Rc::ptr_eq(kept, connection));
    }
}

impl H2Connection {
    fn limit(&self) -> usize {
        self.sender.current_max_send_streams().clamp(1, 100)
    }
}

impl StreamGuard {
    fn new(connection: &Rc<H2Connection>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self(connection.clone())
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

impl Connections {
    /// Sends the head of a request on a stream of its own.
    pub(crate) async fn h2_request(
        &self,
        worker: &Rc<Worker>,
        secure: Option<&Secure>,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>, StreamGuard), ConnectError> {
        let (mut sender, guard) = self.h2.sender(worker, self, secure).await?;
        let (response, stream) = sender.send_request(request, end).map_err(io::Error::other)?;
        Ok((response, stream, guard))
    }
}

impl H2Response {
    /// The next piece of the body. What was taken is told to the sender, so that it may send more.
    pub(crate) async fn next(&mut self) -> Result<Piece<'static>, BodyError> {
        next_piece(&mut self.body).await
    }
}

/// The next piece of a body that comes by HTTP/2.
pub(crate) async fn next_piece(body: &mut RecvStream) -> Result<Piece<'static>, BodyError> {
    match body.data().await {
        Some(bytes) => {
            let bytes = bytes?;
            body.flow_control().release_capacity(bytes.len())?;
            Ok(Piece::Shared(bytes))
        }
        None => Ok(Piece::End(body.trailers().await?)),
    }
}

/// Sends a piece of a body on an HTTP/2 stream, as fast as the receiver takes it.
pub(crate) async fn send_piece(stream: &mut SendStream<Bytes>, piece: Piece<'_>, end: bool) -> Result<(), BodyError> {
    let mut bytes = match piece {
        Piece::Slice(slice) => Bytes::copy_from_slice(slice),
        Piece::Shared(bytes) => bytes,
        Piece::End(Some(trailers)) => return Ok(stream.send_trailers(trailers)?),
        Piece::End(None) => return Ok(stream.send_data(Bytes::new(), true)?),
    };
    while !bytes.is_empty() {
        if stream.capacity() == 0 {
            stream.reserve_capacity(bytes.len());
            let granted = poll_fn(|cx| {
                let granted = ready!(stream.poll_capacity(cx));
                std::task::Poll::Ready(granted)
            })
            .await;
            match granted {
                Some(granted) => granted?,
                None => return Err(BodyError::Truncated),
            };
            continue;
        }
        let part = bytes.split_to(bytes.len().min(stream.capacity()));
        let last = end && bytes.is_empty();
        stream.send_data(part, last)?;
        if last {
            return Ok(());
        }
    }
    if end {
        stream.send_data(Bytes::new(), true)?;
    }
    Ok(())
}
