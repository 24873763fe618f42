//! HTTP/2 from clients, on the h2 crate directly: by ALPN over TLS, or by prior knowledge in clear.

use std::{
    cell::Cell,
    future::{Future as _, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{self, SendResponse},
};
use http::{HeaderMap, Response, StatusCode, request};
use tokio::net::TcpStream;

use super::{
    Client, Downstream, FORWARDED, Outgoing, RequestBody, Responder, ResponseFields, Unserved, h1::to_map, tunnelled,
};
use crate::{
    body::{BodyError, Piece},
    exchange::exchange,
    fields::RequestView,
    flag::Flag,
    gather::gather,
    h1::{self, Framing, encode_request_from},
    io::{Shared, Stream},
    l4::{Admitted, Ended},
    upstream::{BackendStream, next_piece, send_piece},
    watchdog::Watchdog,
    worker::Worker,
};

/// What a stream may send before any of it is passed on.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Streams that were reset but not yet seen by us; beyond it the connection is closed (rapid reset, CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// Streams reset since the client broke the protocol; beyond it the connection is closed (CVE-2025-8671).
const OWN_RESETS: usize = 64;
/// A client that is told to go has this long to say that it has understood, and until its last stream has ended.
const LEAVING: Duration = Duration::from_secs(2);
/// Bytes of responses that wait for one connection's socket.
const SEND_BUFFER: usize = 256 * 1024;

/// Serves the streams of a connection until it ends.
pub(crate) async fn serve<S: Stream>(worker: &Rc<Worker>, client: Rc<Client>, stream: S) {
    let limits = &worker.options.limits;
    let patience = client.idle_timeout(worker);
    let watchdog = worker.watchdogs.watch();
    watchdog.arm(worker.coarse_now(), limits.head_timeout);
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(OWN_RESETS))
        .max_send_buffer_size(SEND_BUFFER);
    let (stream, flusher) = gather(worker, stream);
    let mut connection = {
        let mut handshake = std::pin::pin!(builder.handshake::<_, Bytes>(stream));
        let shaken = poll_fn(|cx| {
            if watchdog.poll_expired(cx).is_ready() {
                return Poll::Ready(None);
            }
            let shaken = handshake.as_mut().poll(cx).map(Some);
            let _ = flusher.poll(cx);
            shaken
        });
        match shaken.await {
            Some(Ok(connection)) => connection,
            Some(Err(error)) => return refused(worker, &client, &error),
            None => return,
        }
    };
    let streams = Rc::new(Streams {
        worker: worker.clone(),
        open: Cell::new(0),
        ended: Cell::new(worker.coarse_now()),
    });
    let mut leaving = false;
    watchdog.set_idle(true);
    watchdog.arm(worker.coarse_now(), patience);
    loop {
        let accepted = poll_fn(|cx| {
            if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                return Poll::Ready(Some(accepted));
            }
            // Nothing more to do for now: what the streams have written goes out together. An error here is seen by
            // the next read, which fails too.
            let _ = flusher.poll(cx);
            watchdog.poll_expired(cx).map(|_| None)
        });
        match accepted.await {
            Some(Some(Ok((request, respond)))) => {
                let stays = client.is_served(worker) && client.is_trusted(&worker.snapshot());
                if !stays && !leaving {
                    connection.graceful_shutdown();
                    watchdog.set_idle(false);
                    leaving = true;
                }
                let counted = Counted::new(&streams);
                let (worker, client) = (worker.clone(), client.clone());
                let mut request = H2Request::new(request, respond);
                tokio::task::spawn_local(async move {
                    let _counted = counted;
                    exchange(&worker, &client, &mut request).await;
                });
            }
            Some(Some(Err(error))) => return refused(worker, &client, &error),
            Some(None) => {
                drop(connection);
                watchdog.set_idle(false);
                watchdog.arm(worker.coarse_now(), LEAVING);
                return flusher.linger(&watchdog).await;
            }
            None => {
                let (now, idle) = (worker.coarse_now(), streams.open.get() == 0);
                if leaving && idle {
                    return;
                }
                let left = (streams.ended.get() + patience).saturating_duration_since(now);
                if worker.draining.get() || (idle && left.is_zero()) {
                    // GOAWAY: what is under way ends, nothing new begins. From here on only its own deadline ends it: a
                    // request may be on its way that was sent before the client knew.
                    connection.graceful_shutdown();
                    watchdog.set_idle(false);
                    leaving = true;
                }
                let wait = if leaving {
                    LEAVING
                } else if idle {
                    left
                } else {
                    patience
                };
                watchdog.arm(now, wait);
            }
        }
    }
}

/// Says why a connection was ended from here, if it was.
fn refused(worker: &Worker, client: &Client, error: &h2::Error) {
    let Some(reason) = error.reason().filter(|_| !error.is_remote()) else {
        return;
    };
    let reason = format!("h2_{reason:?}").to_ascii_lowercase();
    worker.unserved(
        client,
        &Unserved {
            flag: Flag::Refused,
            status: 0,
            reason: &reason,
        },
    );
}

/// The streams of a connection.
struct Streams {
    worker: Rc<Worker>,
    open: Cell<usize>,
    /// When the last of them ended.
    ended: Cell<Instant>,
}

/// Counts a stream for as long as it lives.
struct Counted(Rc<Streams>);

impl Counted {
    fn new(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Self(streams.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.ended.set(self.0.worker.coarse_now());
    }
}

/// A request that came by HTTP/2.
pub(crate) struct H2Request {
    head: request::Parts,
    host: String,
    body: RecvStream,
    /// The body, if it was read before the request went on.
    held: Option<Vec<u8>>,
    respond: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
}

impl H2Request {
    fn new(request: http::Request<RecvStream>, respond: SendResponse<Bytes>) -> Self {
        let (head, body) = request.into_parts();
        let host = match head.uri.authority() {
            Some(authority) => authority.as_str().to_owned(),
            None => head
                .headers
                .get(http::header::HOST)
                .and_then(|host| host.to_str().ok())
                .unwrap_or("")
                .to_owned(),
        };
        Self {
            head,
            host,
            body,
            held: None,
            respond,
            stream: None,
        }
    }
}

pub(crate) struct H2RequestBody<'d>(&'d mut RecvStream);

pub(crate) struct H2Responder<'d> {
    respond: &'d mut SendResponse<Bytes>,
    stream: &'d mut Option<SendStream<Bytes>>,
    head: bool,
}

impl Downstream for H2Request {
    const HTTP2: bool = true;
    type Head = HeaderMap;
    type Body<'d> = H2RequestBody<'d>;
    type Responder<'d> = H2Responder<'d>;

    fn protocol(&self) -> &'static str {
        "HTTP/2"
    }

    fn view(&self) -> RequestView<'_, HeaderMap> {
        let path = self.head.uri.path();
        RequestView {
            method: self.head.method.as_str(),
            host: &self.host,
            path: if path.is_empty() { "/" } else { path },
            query: self.head.uri.query(),
            fields: &self.head.headers,
        }
    }

    fn head_mut(&mut self) -> &mut HeaderMap {
        &mut self.head.headers
    }

    fn is_head(&self) -> bool {
        self.head.method == http::Method::HEAD
    }

    fn is_connect(&self) -> bool {
        self.head.method == http::Method::CONNECT
    }

    fn framing(&self) -> Framing {
        if let Some(held) = &self.held {
            return Framing::Length(held.len() as u64);
        }
        // What goes through a tunnel is no body.
        if self.body.is_end_stream() || self.is_connect() {
            return Framing::None;
        }
        let length = self.head.headers.get(http::header::CONTENT_LENGTH);
        match length.and_then(|length| length.to_str().ok()?.parse().ok()) {
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        }
    }

    fn upgrade(&self) -> Option<&str> {
        None
    }

    fn buffered(&self) -> Option<&[u8]> {
        self.held.as_deref()
    }

    fn hold(&mut self, body: Vec<u8>) {
        self.held = Some(body);
    }

    fn encode(&self, out: &mut Vec<u8>, line: &Outgoing<'_>) {
        let view = self.view();
        let target = self.head.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut forwarded = [0; FORWARDED];
        let line = h1::RequestLine {
            target: Some(line.target.unwrap_or(target)),
            host: Some(line.host.unwrap_or(view.host)),
            upgrade: false,
            extra: line.client.forwarded(&mut forwarded),
        };
        encode_request_from(out, view.method, &self.head.headers, self.framing(), &line);
    }

    fn headers(&self, line: &Outgoing<'_>) -> HeaderMap {
        let mut headers = self.head.headers.clone();
        headers.remove(http::header::HOST);
        line.client.insert_forwarded(&mut headers);
        headers
    }

    fn split(&mut self) -> (H2RequestBody<'_>, H2Responder<'_>) {
        let head = self.is_head();
        let responder = H2Responder {
            respond: &mut self.respond,
            stream: &mut self.stream,
            head,
        };
        (H2RequestBody(&mut self.body), responder)
    }

    async fn tunnel(
        &mut self,
        backend: &Shared<BackendStream>,
        early: &[u8],
        admitted: Option<&Admitted>,
    ) -> Option<Ended> {
        // Only after CONNECT: an HTTP/2 request has no Upgrade field, so no backend is asked for one.
        let stream = self.stream.as_mut()?;
        tunnelled::join(&mut self.body, stream, backend, early, admitted).await
    }
}

impl RequestBody for H2RequestBody<'_> {
    async fn next(&mut self, watchdog: &Watchdog) -> Result<Piece<'_>, BodyError> {
        let mut next = pin!(next_piece(self.0));
        poll_fn(|cx| {
            // First, since frames that hold nothing may come without an end.
            if watchdog.poll_expired(cx).is_ready() {
                return Poll::Ready(Err(BodyError::Stalled));
            }
            let piece = next.as_mut().poll(cx);
            let empty = matches!(&piece, Poll::Ready(Ok(Piece::Shared(bytes))) if bytes.is_empty());
            if piece.is_ready() && !empty {
                watchdog.touch();
            }
            piece
        })
        .await
    }
}

impl Responder for H2Responder<'_> {
    type Stream = TcpStream;

    async fn respond(
        &mut self,
        status: u16,
        fields: ResponseFields<'_>,
        framing: Framing,
        first: &[u8],
        end: bool,
    ) -> Result<(), BodyError> {
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        let mut headers = match fields {
            ResponseFields::H1(message) => to_map(message),
            ResponseFields::Map(headers) => headers,
        };
        if let Framing::Length(length) = framing
            && !headers.contains_key(http::header::CONTENT_LENGTH)
            && status != 204
        {
            headers.insert(http::header::CONTENT_LENGTH, length.into());
        }
        *head.headers_mut() = headers;
        let bodiless = self.head || status == 204 || status == 304 || (end && first.is_empty());
        let mut stream = self.respond.send_response(head, bodiless)?;
        if !bodiless && !first.is_empty() {
            send_piece(&mut stream, Piece::Slice(first), end).await?;
        }
        *self.stream = Some(stream);
        Ok(())
    }

    async fn send(&mut self, piece: Piece<'_>) -> Result<(), BodyError> {
        match self.stream {
            Some(stream) => send_piece(stream, piece, false).await,
            None => Ok(()),
        }
    }

    fn raw(&self) -> Option<&Shared<TcpStream>> {
        None
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match self.stream {
            Some(stream) => stream.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        reset.map(|_| ())
    }

    fn abort(&mut self) {
        match self.stream {
            Some(stream) => stream.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}
