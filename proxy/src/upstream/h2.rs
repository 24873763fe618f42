//! HTTP/2 towards a backend, on the h2 crate directly.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    task::ready,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request};
use tokio::sync::Notify;

use super::{Alpn, ConnectError, Connections, Secure, by};
use crate::{
    body::{BodyError, Piece},
    gather::gather,
    worker::Worker,
};

/// What a stream may receive before its reader has taken any of it.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all streams of a connection together: so much that those whose readers are slow never hold up the others.
const CONNECTION_WINDOW: u32 = STREAMS as u32 * STREAM_WINDOW;

/// Streams of one connection at a time, whatever the backend would take: one that is lost takes no more with it.
const STREAMS: usize = 100;

/// The HTTP/2 connections to one endpoint.
#[derive(Default)]
pub(crate) struct H2Connections {
    open: RefCell<Vec<Rc<H2Connection>>>,
    /// Those that are being opened.
    opening: RefCell<Vec<Rc<Opening>>>,
}

struct H2Connection {
    sender: SendRequest<Bytes>,
    /// By what it is secured; 0 is nothing.
    by: u64,
    /// Streams in use; shared with each stream's guard.
    streams: Cell<usize>,
    /// The tick since which it has had none.
    idle: Cell<Option<Instant>>,
}

/// A connection that is being opened, and the requests that wait for it: each opening its own, there would soon be as many
/// connections as requests, and nothing to write together.
struct Opening {
    by: u64,
    waiting: Cell<usize>,
    ended: Notify,
    /// Why there will be none.
    failed: RefCell<Option<(bool, io::ErrorKind, String)>>,
}

/// Ends an opening when dropped, however its request ends.
struct Opener<'c> {
    home: &'c H2Connections,
    opening: Rc<Opening>,
}

impl Drop for Opener<'_> {
    fn drop(&mut self) {
        self.home
            .opening
            .borrow_mut()
            .retain(|other| !Rc::ptr_eq(other, &self.opening));
        self.opening.ended.notify_waiters();
    }
}

impl Opening {
    /// Waits until there is a connection, or nobody opens one any more.
    async fn wait(&self) -> Result<(), ConnectError> {
        self.waiting.set(self.waiting.get() + 1);
        self.ended.notified().await;
        match &*self.failed.borrow() {
            None => Ok(()),
            Some((of_tls, kind, text)) => {
                let error = io::Error::new(*kind, text.clone());
                Err(if *of_tls {
                    ConnectError::Tls(error)
                } else {
                    ConnectError::Tcp(error)
                })
            }
        }
    }

    /// Lets those that wait know that it failed.
    fn fail(&self, error: &ConnectError) {
        let (of_tls, cause) = match error {
            ConnectError::Tcp(cause) => (false, cause),
            ConnectError::Tls(cause) => (true, cause),
        };
        *self.failed.borrow_mut() = Some((of_tls, cause.kind(), cause.to_string()));
    }
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
    /// A connection with room for one more stream: the first that has, so that as many streams as can be share what is
    /// written and read at once; else a new one.
    async fn sender(
        &self,
        worker: &Rc<Worker>,
        home: &Connections,
        secure: Option<&Secure>,
    ) -> Result<(SendRequest<Bytes>, StreamGuard), ConnectError> {
        let by = home.by(worker, secure);
        loop {
            let first = self.open.borrow().iter().find(|c| c.by == by && c.has_room()).cloned();
            let (connection, reused) = match first {
                Some(connection) => (connection, true),
                None => match self.opening(by) {
                    Some(opening) => {
                        opening.wait().await?;
                        continue;
                    }
                    None => (self.open(worker, home, secure).await?, false),
                },
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

    /// A connection that is being opened, with room for one more to wait, if it takes as many streams as those before it.
    fn opening(&self, by: u64) -> Option<Rc<Opening>> {
        let opening = self.opening.borrow();
        let mut fitting = opening.iter().filter(|opening| opening.by == by).peekable();
        fitting.peek()?;
        let open = self.open.borrow();
        let known = open.iter().filter(|connection| connection.by == by);
        let room = known.map(|connection| connection.limit()).min().unwrap_or(STREAMS);
        // The place of the one that opens it is taken.
        fitting.find(|opening| opening.waiting.get() + 1 < room).cloned()
    }

    /// Opens a connection, for which others may wait meanwhile.
    async fn open(
        &self,
        worker: &Rc<Worker>,
        home: &Connections,
        secure: Option<&Secure>,
    ) -> Result<Rc<H2Connection>, ConnectError> {
        let opener = Opener {
            home: self,
            opening: Rc::new(Opening {
                by: home.by(worker, secure),
                waiting: Cell::new(0),
                ended: Notify::new(),
                failed: RefCell::default(),
            }),
        };
        self.opening.borrow_mut().push(opener.opening.clone());
        let opened = self.connect(worker, home, secure).await;
        if let Err(error) = &opened {
            opener.opening.fail(error);
        }
        opened
    }

    async fn connect(
        &self,
        worker: &Rc<Worker>,
        home: &Connections,
        secure: Option<&Secure>,
    ) -> Result<Rc<H2Connection>, ConnectError> {
        let stream = home.connect(worker, secure, Alpn::Http2).await?;
        let by = by(secure, stream.is_mutual());
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
            by,
            streams: Cell::new(0),
            idle: Cell::new(None),
        });
        self.open.borrow_mut().push(connection.clone());
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
        self.open.borrow_mut().clear();
    }

    /// Closes those that have had no streams for too long.
    pub(super) fn expire_idle(&self, now: Instant, after: Duration) {
        self.open.borrow_mut().retain(|connection| {
            if connection.streams.get() > 0 {
                connection.idle.set(None);
                return true;
            }
            let since = connection.idle.get().unwrap_or(now);
            connection.idle.set(Some(since));
            now.saturating_duration_since(since) < after
        });
    }

    fn forget(&self, connection: &Rc<H2Connection>) {
        self.open.borrow_mut().retain(|kept| !Rc::ptr_eq(kept, connection));
    }
}

impl H2Connection {
    fn has_room(&self) -> bool {
        self.streams.get() < self.limit()
    }

    fn limit(&self) -> usize {
        self.sender.current_max_send_streams().clamp(1, STREAMS)
    }
}

impl StreamGuard {
    fn new(connection: &Rc<H2Connection>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.idle.set(None);
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
