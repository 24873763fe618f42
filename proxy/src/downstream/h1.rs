//! HTTP/1.1 from clients, in clear or over TLS.

mod request;

use std::{future::poll_fn, io, pin::pin, rc::Rc, task::Poll, time::Duration};

use http::{HeaderMap, HeaderValue};

pub(crate) use self::request::to_map;
use self::request::{H1Request, Reply};
use super::{Client, Unserved};
use crate::{
    body::{H1Body, guarded},
    exchange::exchange,
    flag::Flag,
    h1::{self, Framing, Limits, Message, Parse, Pooled, Refusal},
    io::{Shared, Stream},
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
