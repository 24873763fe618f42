//! A request of our own to a Service, by the same pools and balancer as any other, and its answer, which is held whole.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use ::http::{HeaderMap, Method, Request, Uri, header, uri};
use bytes::{Bytes, BytesMut};

use crate::{
    balance::{EndpointState, Outcome},
    body::{BodyError, Piece, guarded},
    downstream::h1::to_map,
    h1::{Framing, RequestLine, encode_request_from},
    upstream::{ConnectError, H1Connection, H2Response, ResponseError, Secure, Upstream, send_piece},
    worker::Worker,
};

/// Bytes of an answer's body that are kept; of a larger one nothing is.
const MOST: usize = 64 * 1024;
/// Tries for a request that no endpoint has seen yet.
const TRIES: u32 = 3;

/// The request.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) host: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// The answer.
pub(super) struct Reply {
    pub(super) status: u16,
    /// Those that go further than one hop.
    pub(super) headers: HeaderMap,
    /// None if it is too large to be kept.
    pub(super) body: Option<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
}

/// How long it may take.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// When the request must have ended.
    pub(crate) end: Option<Instant>,
    /// How long one try may take.
    pub(crate) each: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("it has no endpoint{0}")]
    NoEndpoint(String),
    #[error("no connection to it: {0}")]
    Connect(ConnectError),
    #[error("it closed an idle connection as the request went out")]
    Stale,
    #[error("it broke off before it had answered: {0}")]
    Reset(String),
    #[error("it took longer than the rule's timeouts.backendRequest")]
    Timeout,
    #[error("the request took longer than the rule's timeouts.request")]
    RequestTimeout,
}

impl Call {
    /// Makes the request. One that no endpoint has seen is made again, of another.
    pub(super) async fn make(
        &self,
        worker: &Rc<Worker>,
        upstream: &Rc<Upstream>,
        secure: Option<Rc<Secure>>,
        h2: bool,
        limits: Limits,
    ) -> Result<Reply, CallError> {
        let started = Instant::now();
        let mut now = started;
        let (mut last, mut fresh) = (None, false);
        let mut tries = 0;
        upstream.budget.request(now);
        loop {
            let Some(endpoint) = upstream.pick(now, last.as_ref()) else {
                let why = Some(upstream.nowhere().1).filter(|why| !why.is_empty());
                return Err(CallError::NoEndpoint(
                    why.map(|why| format!(": {why}")).unwrap_or_default(),
                ));
            };
            let in_flight = EndpointState::start(&endpoint, now);
            let try_end = limits.each.map(|each| now + each);
            let (end, late) = match (limits.end, try_end) {
                (Some(end), Some(try_end)) if end <= try_end => (Some(end), CallError::RequestTimeout),
                (_, Some(try_end)) => (Some(try_end), CallError::Timeout),
                (end, None) => (end, CallError::RequestTimeout),
            };
            let result = if h2 {
                within(worker, end, late, self.over_h2(worker, &endpoint, secure.as_deref())).await
            } else {
                within(
                    worker,
                    end,
                    late,
                    self.over_h1(worker, &endpoint, secure.as_deref(), fresh),
                )
                .await
            };
            now = Instant::now();
            let outcome = match &result {
                Ok(reply) if reply.status < 500 => Outcome::Success,
                Ok(_) | Err(CallError::Reset(_) | CallError::Timeout) => Outcome::Failure,
                Err(CallError::Connect(_)) => Outcome::ConnectFailed,
                Err(_) => Outcome::Cancelled,
            };
            in_flight.finish(now, outcome);
            let status = result.as_ref().map_or(503, |reply| reply.status);
            upstream.cells.count(status, status >= 500, now - started);
            tries += 1;
            match result {
                Err(CallError::Stale) if tries < TRIES => fresh = true,
                Err(CallError::Connect(_)) if tries < TRIES => last = Some(endpoint),
                result => return result,
            }
        }
    }

    async fn over_h1(
        &self,
        worker: &Rc<Worker>,
        endpoint: &EndpointState,
        secure: Option<&Secure>,
        fresh: bool,
    ) -> Result<Reply, CallError> {
        let connections = &endpoint.connections;
        let connection = H1Connection::open(worker, connections, secure, fresh)
            .await
            .map_err(CallError::Connect)?;
        let watchdog = worker.watchdogs.watch();
        watchdog.arm(worker.coarse_now(), worker.options.limits.stream_idle_timeout);
        let mut out = worker.outgoing.take();
        let line = RequestLine {
            target: Some(&self.target),
            host: Some(&self.host),
            upgrade: false,
            extra: b"",
        };
        let framing = Framing::Length(self.body.len() as u64);
        encode_request_from(&mut out, self.method.as_str(), &self.headers, framing, &line);
        out.extend_from_slice(&self.body);
        let written = guarded(&watchdog, pin!(connection.stream.write_all(&out))).await;
        worker.outgoing.give(out);
        let broken = |error: String| {
            if connection.reused {
                CallError::Stale
            } else {
                CallError::Reset(error)
            }
        };
        written.map_err(|error| broken(error.to_string()))?;
        let response = connection
            .response(worker, self.method.as_str(), false, &watchdog)
            .await;
        let mut response = response.map_err(|error| match error {
            ResponseError::Closed | ResponseError::Io(_) => broken(error.to_string()),
            error => CallError::Reset(error.to_string()),
        })?;
        let Some(message) = &mut response.message else {
            return Err(CallError::Reset("its answer has no head".into()));
        };
        let headers = to_map(message);
        let mut body = Some(BytesMut::new());
        let reset = |error: BodyError| CallError::Reset(error.to_string());
        while let Some(kept) = &mut body {
            match response
                .body
                .next(&connection.stream, message, &watchdog)
                .await
                .map_err(reset)?
            {
                Piece::Slice(bytes) => kept.extend_from_slice(bytes),
                Piece::Shared(bytes) => kept.extend_from_slice(&bytes),
                Piece::End(_) => break,
            }
            if kept.len() > MOST {
                body = None;
            }
        }
        let status = response.status;
        response.release(worker, connection, connections);
        Ok(Reply {
            status,
            headers,
            body: body.map(BytesMut::freeze),
            trailers: None,
        })
    }

    async fn over_h2(
        &self,
        worker: &Rc<Worker>,
        endpoint: &EndpointState,
        secure: Option<&Secure>,
    ) -> Result<Reply, CallError> {
        let reset = |error: BodyError| match &error {
            // It took no notice of the stream, so it is safe to ask again (RFC 9113 8.7).
            BodyError::H2(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => CallError::Stale,
            error => CallError::Reset(error.to_string()),
        };
        let watchdog = worker.watchdogs.watch();
        watchdog.arm(worker.coarse_now(), worker.options.limits.stream_idle_timeout);
        let head = self
            .h2_head(secure.is_some())
            .ok_or_else(|| CallError::Reset("the request cannot be sent by HTTP/2".into()))?;
        let sent = endpoint
            .connections
            .h2_request(worker, secure, head, self.body.is_empty())
            .await;
        let (response, mut sender, guard) = sent.map_err(CallError::Connect)?;
        if !self.body.is_empty() {
            let sending = send_piece(&mut sender, Piece::Shared(self.body.clone()), true);
            guarded(&watchdog, pin!(sending)).await.map_err(reset)?;
        }
        let (parts, stream) = guarded(&watchdog, pin!(response)).await.map_err(reset)?.into_parts();
        let mut response = H2Response {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: stream,
            _guard: guard,
        };
        let mut body = Some(BytesMut::new());
        let mut trailers = None;
        while let Some(kept) = &mut body {
            match guarded(&watchdog, pin!(response.next())).await.map_err(reset)? {
                Piece::Slice(bytes) => kept.extend_from_slice(bytes),
                Piece::Shared(bytes) => kept.extend_from_slice(&bytes),
                Piece::End(last) => {
                    trailers = last;
                    break;
                }
            }
            if kept.len() > MOST {
                body = None;
            }
        }
        let mut headers = response.headers;
        headers.remove(header::CONTENT_LENGTH);
        Ok(Reply {
            status: response.status,
            headers,
            body: body.map(BytesMut::freeze),
            trailers,
        })
    }

    fn h2_head(&self, secure: bool) -> Option<Request<()>> {
        let uri = Uri::builder()
            .scheme(if secure { uri::Scheme::HTTPS } else { uri::Scheme::HTTP })
            .authority(self.host.as_str())
            .path_and_query(self.target.as_str());
        let mut head = Request::new(());
        *head.method_mut() = self.method.clone();
        *head.uri_mut() = uri.build().ok()?;
        *head.version_mut() = ::http::Version::HTTP_2;
        *head.headers_mut() = self.headers.clone();
        head.headers_mut()
            .insert(header::CONTENT_LENGTH, self.body.len().into());
        Some(head)
    }
}

/// Waits, but no longer than until `end`.
async fn within<T>(
    worker: &Worker,
    end: Option<Instant>,
    late: CallError,
    future: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let Some(end) = end else { return future.await };
    let deadline = worker.deadlines.watch();
    deadline.arm_at(end);
    let mut future = pin!(future);
    let done = poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => deadline.poll_expired(cx).map(|_| None),
    });
    done.await.unwrap_or(Err(late))
}
