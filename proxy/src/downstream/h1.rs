//! HTTP/1.1 from clients, in clear or over TLS.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Client, Downstream, FORWARDED, Outgoing, RequestBody, Responder, ResponseFields, Unserved};
use crate::{
    body::{BodyError, H1Body, Piece, SMALL, guarded, write_piece},
    exchange::exchange,
    fields::RequestView,
    flag::Flag,
    h1::{self, Framing, Limits, Message, Parse, Pooled, Refusal, RequestLine, chunk_head},
    io::{Shared, Stream},
    l4::{Admitted, Ended},
    tunnel,
    upstream::BackendStream,
    watchdog::Watchdog,
    worker::Worker,
};

/// What HTTP/2 connections begin with (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a client that is sent away has to read why.
const LINGER: Duration = Duration::from_secs(2);

/// What a connection turned out to be, or how it ended.
pub(crate) enum Served<S> {
    /// It has ended.
    Closed,
    /// The client speaks HTTP/2 by prior knowledge; these bytes have been read already.
    Http2(S, Vec<u8>),
}

/// What came where a head of a request was expected.
enum Arrived {
    Request(Pooled),
    Preface(Pooled),
    Refused(Refusal, Pooled),
    TooSlow(Pooled),
    Closed,
}

/// Serves requests on a connection until either side closes it. What has been read of it already is in `carried`.
pub(crate) async fn serve<S: Stream>(
    worker: &Rc<Worker>,
    client: &Client,
    stream: S,
    mut carried: Option<Pooled>,
) -> Served<S> {
    let stream = Shared::new(stream);
    let watchdog = worker.watchdogs.watch();
    let mut first = client.tls.is_none();
    loop {
        let idle = client.idle_timeout(worker);
        let arrived = read_head(worker, &stream, &watchdog, carried.take(), first, idle).await;
        first = false;
        match arrived {
            Arrived::Request(message) => {
                // Boxed, here and below, so that a connection that lies idle does not hold the space for it.
                match Box::pin(one(worker, client, &stream, &watchdog, message)).await {
                    Some(rest) => carried = rest,
                    None => return Served::Closed,
                }
            }
            Arrived::Preface(message) => {
                let read = message.rest().to_vec();
                return Served::Http2(stream.into_inner(), read);
            }
            Arrived::Refused(refusal, message) => {
                let why = Unserved {
                    flag: Flag::Refused,
                    status: refusal.status(),
                    reason: refusal.reason(),
                };
                worker.unserved(client, &why);
                if refusal != Refusal::NotHttp {
                    Box::pin(turn_away(worker, &stream, &watchdog, &why, message)).await;
                }
                return Served::Closed;
            }
            Arrived::TooSlow(message) => {
                let why = Unserved {
                    flag: Flag::ClientTimeout,
                    status: Flag::ClientTimeout.status(),
                    reason: "head_timeout",
                };
                worker.unserved(client, &why);
                Box::pin(turn_away(worker, &stream, &watchdog, &why, message)).await;
                return Served::Closed;
            }
            Arrived::Closed => return Served::Closed,
        }
    }
}

/// Serves one request. Returns what came after it, or nothing when the connection is to be closed.
async fn one<S: Stream>(
    worker: &Rc<Worker>,
    client: &Client,
    stream: &Shared<S>,
    watchdog: &Watchdog,
    message: Pooled,
) -> Option<Option<Pooled>> {
    let body = H1Body::new(message.framing());
    let whole = match message.framing() {
        Framing::Length(length) => message.rest().len() as u64 >= length,
        _ => false,
    };
    let close = !message.keep_alive() || !client.is_served(worker);
    let mut request = H1Request {
        worker,
        stream,
        watchdog,
        continue_pending: message.expects_continue() && message.rest().is_empty(),
        message,
        body,
        whole,
        held: None,
        reply: Reply {
            close,
            begun: false,
            chunked: false,
            until_close: false,
            aborted: false,
        },
    };
    let finished = exchange(worker, client, &mut request).await;
    let H1Request {
        mut message,
        mut body,
        reply,
        ..
    } = request;
    let mut reusable = finished.reusable && !reply.close && !reply.until_close && !reply.aborted;
    if whole && let Framing::Length(length) = message.framing() {
        // The body went out straight from the buffer.
        message.consume(usize::try_from(length).unwrap_or(usize::MAX));
    } else {
        body.settle(&mut message);
        reusable &= body.is_done();
    }
    if !reusable {
        if !reply.aborted {
            linger(stream, worker, watchdog, message).await;
        }
        return None;
    }
    if message.rest().is_empty() {
        return Some(None);
    }
    Message::next(&mut message);
    Some(Some(message))
}

/// Waits for a head. No buffer is held until the first byte has come.
async fn read_head<S: Stream>(
    worker: &Rc<Worker>,
    stream: &Shared<S>,
    watchdog: &Watchdog,
    carried: Option<Pooled>,
    first: bool,
    idle: Duration,
) -> Arrived {
    let limits = Limits {
        head_bytes: worker.options.limits.head_bytes,
        fields: worker.options.limits.fields,
    };
    let mut held = carried;
    let timeouts = &worker.options.limits;
    let wait = if first || held.is_some() {
        timeouts.head_timeout
    } else {
        idle
    };
    watchdog.arm(worker.coarse_now(), wait);
    watchdog.set_idle(held.is_none());
    let arrived = loop {
        if let Some(message) = &mut held {
            if first && is_preface(message.rest_unparsed()) {
                if message.rest_unparsed().len() >= PREFACE.len() {
                    break Arrived::Preface(held.take().unwrap_or_else(|| worker.messages.take()));
                }
            } else {
                match message.parse_request(&limits) {
                    Ok(Parse::Complete) => {
                        break Arrived::Request(held.take().unwrap_or_else(|| worker.messages.take()));
                    }
                    Ok(Parse::Partial) => {}
                    Err(refusal) => {
                        break Arrived::Refused(refusal, held.take().unwrap_or_else(|| worker.messages.take()));
                    }
                }
            }
        }
        let had_some = held.is_some();
        let read = poll_fn(|cx| {
            if watchdog.poll_expired(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let mut message = held.take().unwrap_or_else(|| worker.messages.take());
            let polled = stream.poll_read(cx, message.space());
            if let Poll::Ready(Ok(read)) = &polled {
                message.filled(*read);
            }
            if !message.is_empty() {
                held = Some(message);
            }
            polled
        })
        .await;
        match read {
            // Empty lines are no part of a head.
            Ok(0) => match held.take().filter(|message| !message.is_empty()) {
                Some(message) => break Arrived::Refused(Refusal::TruncatedHead, message),
                None => break Arrived::Closed,
            },
            Ok(_) if !had_some => {
                watchdog.set_idle(false);
                watchdog.arm(worker.coarse_now(), timeouts.head_timeout);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut && had_some => {
                break Arrived::TooSlow(held.take().unwrap_or_else(|| worker.messages.take()));
            }
            Err(_) => break Arrived::Closed,
        }
    };
    watchdog.set_idle(false);
    arrived
}

/// Whether HTTP/2 may have begun.
pub(crate) fn is_preface(bytes: &[u8]) -> bool {
    let length = bytes.len().min(PREFACE.len());
    length > 0 && bytes[..length] == PREFACE[..length]
}

/// Answers what is not a request, and closes.
async fn turn_away<S: Stream>(
    worker: &Rc<Worker>,
    stream: &Shared<S>,
    watchdog: &Watchdog,
    why: &Unserved<'_>,
    message: Pooled,
) {
    let mut out = worker.outgoing.take();
    let text = format!("{}\n", why.reason);
    let mut headers = HeaderMap::new();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    h1::encode_response_from(&mut out, why.status, &headers, Framing::Length(text.len() as u64), true);
    out.extend_from_slice(text.as_bytes());
    watchdog.arm(worker.coarse_now(), LINGER);
    let sent = guarded(watchdog, pin!(stream.write_all(&out))).await;
    worker.outgoing.give(out);
    if sent.is_ok() {
        linger(stream, worker, watchdog, message).await;
    }
}

/// Closes so that the client still gets what was sent to it: a socket closed with unread bytes is reset, and a reset
/// may overtake the response. So a bounded amount is read and thrown away first.
async fn linger<S: Stream>(stream: &Shared<S>, worker: &Worker, watchdog: &Watchdog, mut message: Pooled) {
    const MOST: usize = 256 * 1024;
    watchdog.arm(worker.coarse_now(), LINGER);
    if guarded(watchdog, pin!(stream.shutdown())).await.is_err() {
        return;
    }
    let mut read = 0;
    while read < MOST {
        let more = poll_fn(|cx| {
            if watchdog.poll_expired(cx).is_ready() {
                return Poll::Ready(Ok(0));
            }
            message.clear();
            stream.poll_read(cx, message.space())
        });
        match more.await {
            Ok(0) | Err(_) => return,
            Ok(more) => read += more,
        }
    }
}

/// A request that came by HTTP/1.
pub(crate) struct H1Request<'c, S> {
    worker: &'c Rc<Worker>,
    stream: &'c Shared<S>,
    watchdog: &'c Watchdog,
    message: Pooled,
    body: H1Body,
    /// All of the body came with the head.
    whole: bool,
    /// The body, if it was read before the request went on.
    held: Option<Vec<u8>>,
    /// The client waits to be told before it sends the body.
    continue_pending: bool,
    reply: Reply,
}

/// How the response goes out.
struct Reply {
    /// The connection is closed after it.
    close: bool,
    begun: bool,
    chunked: bool,
    /// Its end is the connection's.
    until_close: bool,
    aborted: bool,
}

pub(crate) struct H1RequestBody<'d, S> {
    stream: &'d Shared<S>,
    message: &'d mut Message,
    body: &'d mut H1Body,
    continue_pending: &'d mut bool,
}

pub(crate) struct H1Responder<'d, S> {
    worker: &'d Worker,
    stream: &'d Shared<S>,
    reply: &'d mut Reply,
    http10: bool,
    head: bool,
    connect: bool,
}

impl<S: Stream> Downstream for H1Request<'_, S> {
    const HTTP2: bool = false;
    type Head = Message;
    type Body<'d>
        = H1RequestBody<'d, S>
    where
        Self: 'd;
    type Responder<'d>
        = H1Responder<'d, S>
    where
        Self: 'd;

    fn protocol(&self) -> &'static str {
        if self.message.is_http10() {
            "HTTP/1.0"
        } else {
            "HTTP/1.1"
        }
    }

    fn view(&self) -> RequestView<'_, Message> {
        let message = &*self.message;
        RequestView {
            method: message.method(),
            host: message.host(),
            path: message.path(),
            query: message.query(),
            fields: message,
        }
    }

    fn head_mut(&mut self) -> &mut Message {
        &mut self.message
    }

    fn is_head(&self) -> bool {
        self.message.is_head()
    }

    fn is_connect(&self) -> bool {
        self.message.is_connect()
    }

    fn framing(&self) -> Framing {
        self.message.framing()
    }

    fn upgrade(&self) -> Option<&str> {
        self.message.upgrade()
    }

    fn buffered(&self) -> Option<&[u8]> {
        if let Some(held) = &self.held {
            return Some(held);
        }
        match self.message.framing() {
            Framing::Length(length) if self.whole => {
                self.message.rest().get(..usize::try_from(length).unwrap_or(usize::MAX))
            }
            _ => None,
        }
    }

    fn hold(&mut self, body: Vec<u8>) {
        self.message.reframe(body.len());
        self.held = Some(body);
    }

    fn encode(&self, out: &mut Vec<u8>, line: &Outgoing<'_>) {
        let mut forwarded = [0; FORWARDED];
        let line = RequestLine {
            target: line.target,
            host: line.host,
            upgrade: line.upgrade,
            extra: line.client.forwarded(&mut forwarded),
        };
        self.message.encode_request(out, &line);
    }

    fn headers(&self, line: &Outgoing<'_>) -> HeaderMap {
        let mut headers = to_map(&self.message);
        line.client.insert_forwarded(&mut headers);
        if let Framing::Length(length) = self.message.framing() {
            headers.insert(http::header::CONTENT_LENGTH, length.into());
        }
        headers
    }

    fn split(&mut self) -> (H1RequestBody<'_, S>, H1Responder<'_, S>) {
        let responder = H1Responder {
            worker: self.worker,
            stream: self.stream,
            reply: &mut self.reply,
            http10: self.message.is_http10(),
            head: self.message.is_head(),
            connect: self.message.is_connect(),
        };
        let body = H1RequestBody {
            stream: self.stream,
            message: &mut self.message,
            body: &mut self.body,
            continue_pending: &mut self.continue_pending,
        };
        (body, responder)
    }

    async fn tunnel(
        &mut self,
        backend: &Shared<BackendStream>,
        early: &[u8],
        admitted: Option<&Admitted>,
    ) -> Option<Ended> {
        let sent = self.message.rest().to_vec();
        self.watchdog.disarm();
        let denied = tunnel::join(self.stream, &sent, backend, early, admitted).await;
        self.reply.aborted |= denied.is_some();
        denied
    }
}

impl<S: Stream> RequestBody for H1RequestBody<'_, S> {
    async fn next(&mut self, watchdog: &Watchdog) -> Result<Piece<'_>, BodyError> {
        if std::mem::take(self.continue_pending) {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        self.body.next(self.stream, self.message, watchdog).await
    }
}

impl<S: Stream> Responder for H1Responder<'_, S> {
    type Stream = S;

    async fn respond(
        &mut self,
        status: u16,
        fields: ResponseFields<'_>,
        framing: Framing,
        first: &[u8],
        end: bool,
    ) -> Result<(), BodyError> {
        let bodiless = self.head || status == 204 || status == 304 || status < 200;
        let framing = match framing {
            // A client of HTTP/1.0 knows no chunks.
            Framing::Chunked if self.http10 && !bodiless => Framing::UntilClose,
            Framing::UntilClose if !self.http10 => Framing::Chunked,
            framing => framing,
        };
        self.reply.begun = true;
        self.reply.chunked = framing == Framing::Chunked && !bodiless;
        self.reply.until_close = framing == Framing::UntilClose && !bodiless;
        self.reply.close |= self.worker.draining.get() || self.reply.until_close || self.connect;
        // What a tunnel begins with is the last that is said of the connection.
        let close = self.reply.close && !(self.connect && (200..300).contains(&status));
        let mut out = self.worker.outgoing.take();
        match &fields {
            ResponseFields::H1(message) => message.encode_response(&mut out, framing, close),
            ResponseFields::Map(map) => h1::encode_response_from(&mut out, status, map, framing, close),
        }
        let sent = if self.reply.chunked {
            if !first.is_empty() {
                let mut head = [0; 18];
                out.extend_from_slice(chunk_head(first.len(), &mut head));
                out.extend_from_slice(first);
                out.extend_from_slice(b"\r\n");
            }
            if end {
                h1::encode_trailers(&mut out, None);
            }
            self.stream.write_all(&out).await
        } else if bodiless || first.len() <= SMALL {
            out.extend_from_slice(if bodiless { b"" } else { first });
            self.stream.write_all(&out).await
        } else {
            self.stream.write_parts([&out, first]).await
        };
        self.worker.outgoing.give(out);
        Ok(sent?)
    }

    async fn send(&mut self, piece: Piece<'_>) -> Result<(), BodyError> {
        Ok(write_piece(self.stream, self.reply.chunked, piece).await?)
    }

    fn raw(&self) -> Option<&Shared<S>> {
        (!self.reply.chunked).then_some(self.stream)
    }

    fn abort(&mut self) {
        self.reply.aborted = true;
    }

    fn poll_gone(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// The end-to-end fields of an HTTP/1 message, as HTTP/2 has them.
pub(crate) fn to_map(message: &Message) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16);
    // One allocation holds all the values, instead of one each.
    let mut values = BytesMut::with_capacity(message.head_length());
    message.each_end_to_end(&mut |name, value| {
        values.extend_from_slice(value);
        let value = HeaderValue::from_maybe_shared(values.split().freeze());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value)
            && name != http::header::HOST
        {
            headers.append(name, value);
        }
    });
    headers
}
