//! One try at one endpoint: send the request, read the answer, and pass it on unless it is to be tried again.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use http::{HeaderName, HeaderValue, Method, Request, Uri, header, uri};
use weft_model::{BackendProtocol, RouteKind};

use crate::{
    balance::{EndpointState, Outcome},
    body::{BodyError, Broken, Piece},
    config::{BackendEntry, Rule},
    copy::copy,
    downstream::{Downstream, Outgoing, RequestBody, Responder, ResponseFields},
    fields::Fields,
    flag::Flag,
    h1::{Framing, Message, Refusal, chunk_head},
    intercepted::barred,
    spans::GrpcStatus,
    upstream::{
        ConnectError, H1Connection, H1Response, H2Response, ResponseError, Secure, Upstream, is_of_tls, send_piece,
    },
    watchdog::Watchdog,
    worker::Worker,
};

/// A body this small goes into the buffer of its head: copying it costs less than a second part in the system call.
pub(crate) const SMALL: usize = 4 * 1024;

/// What a try needs to know.
pub(crate) struct Context<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) upstream: &'a Upstream,
    pub(crate) endpoint: &'a EndpointState,
    /// By what the connection is secured.
    pub(crate) secure: Option<&'a Secure>,
    pub(crate) line: &'a Outgoing<'a>,
    pub(crate) rule: &'a Arc<Rule>,
    pub(crate) backend: &'a BackendEntry,
    pub(crate) origin: Option<&'a [u8]>,
    /// Fields that are ours to add to the response.
    pub(crate) add: &'a [(HeaderName, HeaderValue)],
    /// Whether a connection that has lain idle must not be used.
    pub(crate) fresh: bool,
    /// Statuses for which the request is to be tried again instead of passed on.
    pub(crate) retry_codes: &'a [u16],
    /// Where it is seen how a call of gRPC ends, if somebody wants to know.
    pub(crate) grpc: Option<&'a GrpcStatus>,
}

impl Context<'_> {
    /// Applies the response filters.
    fn edit_response<F: Fields>(&self, fields: &mut F) {
        self.backend.filters.edit_response(fields, self.origin);
        self.rule.filters.edit_response(fields, self.origin);
        for (name, value) in self.add {
            if *name == header::SET_COOKIE {
                fields.append(name, value);
            } else {
                fields.set(name, value);
            }
        }
    }
}

/// The answer went to the client.
pub(crate) struct Sent {
    pub(crate) status: u16,
    /// Whether the client's connection can carry another request.
    pub(crate) reusable: bool,
    /// Why the answer is not whole.
    pub(crate) broken: Option<(Flag, String)>,
}

impl Sent {
    /// The answer had begun but did not end well.
    fn broken(status: u16, broken: Broken) -> Self {
        let (flag, error) = match broken {
            Broken::Backend(error) => (Flag::Truncated, error),
            Broken::Client(error) => (Flag::ClientGone, error),
        };
        Self {
            status,
            reusable: false,
            broken: Some((flag, error.to_string())),
        }
    }
}

/// Nothing went to the client yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("no connection to the endpoint: {0}")]
    Connect(io::Error),
    #[error("no TLS with the endpoint: {0}")]
    Handshake(io::Error),
    #[error("the endpoint closed an idle connection as the request went out")]
    Stale,
    #[error("the endpoint broke off before it answered: {0}")]
    Reset(String),
    #[error("the endpoint's answer is not valid: {0}")]
    Invalid(Refusal),
    #[error("the endpoint took longer than the rule's timeouts.backendRequest")]
    BackendTimeout,
    #[error("the request took longer than the rule's timeouts.request")]
    RequestTimeout,
    #[error("the endpoint answered {0}")]
    Status(u16),
    #[error("the client went away: {0}")]
    ClientGone(String),
    #[error("the client's body is not valid: {0}")]
    ClientRefused(Refusal),
    #[error("the client's body stood still for too long")]
    ClientTimeout,
}

impl Failure {
    pub(crate) fn flag(&self) -> Flag {
        match self {
            Self::Connect(_) => Flag::ConnectFailed,
            Self::Handshake(_) => Flag::TlsFailed,
            Self::Stale | Self::Reset(_) => Flag::UpstreamReset,
            Self::Invalid(_) => Flag::UpstreamInvalid,
            Self::BackendTimeout => Flag::BackendTimeout,
            Self::RequestTimeout => Flag::RequestTimeout,
            Self::Status(_) => Flag::None,
            Self::ClientGone(_) => Flag::ClientGone,
            Self::ClientRefused(_) => Flag::Refused,
            Self::ClientTimeout => Flag::ClientTimeout,
        }
    }

    /// What the endpoint is to be held to account for.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Connect(_) | Self::Handshake(_) => Outcome::ConnectFailed,
            Self::Reset(_) | Self::Invalid(_) | Self::BackendTimeout | Self::Status(_) => Outcome::Failure,
            _ => Outcome::Cancelled,
        }
    }

    fn of_connecting(error: ConnectError) -> Self {
        match error {
            ConnectError::Tcp(error) => Self::Connect(error),
            ConnectError::Tls(error) => Self::Handshake(error),
        }
    }

    pub(crate) fn of_body(error: BodyError) -> Self {
        match error {
            BodyError::Stalled => Self::ClientTimeout,
            BodyError::Refused(refusal) => Self::ClientRefused(refusal),
            other => Self::ClientGone(other.to_string()),
        }
    }
}

/// Makes the try, for no longer than the request and the try may take.
pub(crate) async fn with_limits<D: Downstream>(
    context: &Context<'_>,
    request: &mut D,
    request_end: Option<Instant>,
    try_end: Option<Instant>,
) -> Result<Sent, Failure> {
    let (end, failure) = match (request_end, try_end) {
        (None, None) => return make(context, request, &Progress::default()).await,
        (Some(request_end), Some(try_end)) if try_end < request_end => (try_end, Failure::BackendTimeout),
        (None, Some(try_end)) => (try_end, Failure::BackendTimeout),
        (Some(request_end), _) => (request_end, Failure::RequestTimeout),
    };
    let progress = Progress::default();
    let deadline = context.worker.deadlines.watch();
    deadline.arm_at(end);
    let result = {
        let mut made = pin!(make(context, request, &progress));
        poll_fn(|cx| match made.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => deadline.poll_expired(cx).map(|_| None),
        })
        .await
    };
    match result {
        Some(result) => result,
        None => match progress.status.get() {
            // The head has gone out: all that can be done is to break off.
            Some(status) => {
                let (_, mut responder) = request.split();
                responder.abort();
                let flag = failure.flag();
                Ok(Sent {
                    status,
                    reusable: false,
                    broken: Some((flag, failure.to_string())),
                })
            }
            None => Err(failure),
        },
    }
}

/// How far a try has come.
#[derive(Default)]
struct Progress {
    /// The status, once the client has been sent it.
    status: std::cell::Cell<Option<u16>>,
}

async fn make<D: Downstream>(context: &Context<'_>, request: &mut D, progress: &Progress) -> Result<Sent, Failure> {
    let h2 = match context.upstream.protocol.get() {
        BackendProtocol::H2c => true,
        BackendProtocol::Http1 => false,
        // In the mesh, clients speak with their servers what both of them know.
        BackendProtocol::Undeclared => {
            context.rule.route.owner.kind == RouteKind::Grpc || (D::HTTP2 && context.line.client.outbound.is_some())
        }
    };
    if h2 && !context.line.upgrade {
        // Boxed, so that the common way over HTTP/1 does not hold the space for it.
        Box::pin(over_h2(context, request, progress)).await
    } else {
        over_h1(context, request, progress).await
    }
}

async fn over_h1<D: Downstream>(context: &Context<'_>, request: &mut D, progress: &Progress) -> Result<Sent, Failure> {
    let worker = context.worker;
    let connections = &context.endpoint.connections;
    let connection = H1Connection::open(worker, connections, context.secure, context.fresh)
        .await
        .map_err(Failure::of_connecting)?;
    let watchdog = worker.watchdogs.watch();
    watchdog.arm(worker.coarse_now(), worker.options.limits.stream_idle_timeout);
    let framing = request.framing();
    let head_request = request.is_head();

    let mut out = worker.outgoing.take();
    request.encode(&mut out, context.line);
    let buffered = request.buffered();
    let uploaded_at_once = framing == Framing::None || buffered.is_some();
    let written = match buffered {
        Some(body) if body.len() > SMALL => guarded(&watchdog, pin!(connection.stream.write_parts([&out, body]))).await,
        body => {
            out.extend_from_slice(body.unwrap_or_default());
            guarded(&watchdog, pin!(connection.stream.write_all(&out))).await
        }
    };
    worker.outgoing.give(out);
    if let Err(error) = written {
        return Err(if connection.reused {
            Failure::Stale
        } else {
            Failure::Reset(error.to_string())
        });
    }

    let (relayed, response) = {
        let (mut body, mut responder) = request.split();
        let mut upload = Upload {
            sending: pin!(async {
                if uploaded_at_once {
                    return Ok(());
                }
                upload_h1(&mut body, &connection, framing, &watchdog).await
            }),
            state: if uploaded_at_once {
                UploadState::Done
            } else {
                UploadState::Sending
            },
        };
        let answered = upload
            .while_doing(pin!(unless_gone(
                &mut responder,
                pin!(connection.response(
                    worker,
                    if head_request { "HEAD" } else { "GET" },
                    context.line.upgrade,
                    &watchdog
                ))
            )))
            .await;
        let mut response = match answered {
            Ok(response) => response,
            Err(error) => {
                return Err(match (upload.state, error) {
                    (UploadState::ClientFailed(error), _) | (_, ResponseError::Upload(error @ BodyError::Gone)) => {
                        Failure::of_body(error)
                    }
                    (_, ResponseError::Closed | ResponseError::Io(_)) if connection.reused => Failure::Stale,
                    (_, ResponseError::Io(error)) if is_of_tls(&error) => Failure::Handshake(error),
                    (_, ResponseError::Refused(refusal)) => Failure::Invalid(refusal),
                    (_, error) => Failure::Reset(error.to_string()),
                });
            }
        };
        let status = response.status;
        if context.retry_codes.contains(&status) {
            return Err(Failure::Status(status));
        }
        if let Some(head) = &mut response.message {
            context.edit_response(&mut **head);
        }
        progress.status.set(Some(status));
        let relayed = if status == 101 && context.line.upgrade {
            relay_h1(worker, &connection, &mut response, &mut responder, &watchdog, true).await
        } else {
            upload
                .while_doing(pin!(relay_h1(
                    worker,
                    &connection,
                    &mut response,
                    &mut responder,
                    &watchdog,
                    head_request,
                )))
                .await
        };
        if relayed.is_err() {
            responder.abort();
        }
        let uploaded = matches!(upload.state, UploadState::Done);
        (relayed.map(|()| uploaded), response)
    };
    let status = response.status;
    Ok(match relayed {
        Ok(_) if status == 101 && context.line.upgrade => {
            let early = response.message.as_deref().map_or(&[][..], Message::rest);
            match context.line.client.guard() {
                None => request.tunnel(&connection.stream, early).await,
                Some(guard) => tokio::select! {
                    () = request.tunnel(&connection.stream, early) => {}
                    () = barred(worker, guard) => {}
                },
            }
            Sent {
                status,
                reusable: false,
                broken: None,
            }
        }
        Ok(uploaded) => {
            if uploaded {
                response.release(worker, connection, connections);
            }
            Sent {
                status,
                reusable: uploaded,
                broken: None,
            }
        }
        Err(broken) => Sent::broken(status, broken),
    })
}

async fn over_h2<D: Downstream>(context: &Context<'_>, request: &mut D, progress: &Progress) -> Result<Sent, Failure> {
    let worker = context.worker;
    let connections = &context.endpoint.connections;
    let watchdog = worker.watchdogs.watch();
    watchdog.arm(worker.coarse_now(), worker.options.limits.stream_idle_timeout);
    let framing = request.framing();
    let head_request = request.is_head();
    let head = h2_head(context, request)?;
    let (response, mut sender, guard) = connections
        .h2_request(worker, context.secure, head, framing == Framing::None)
        .await
        .map_err(Failure::of_connecting)?;

    let uploaded_at_once = framing == Framing::None || request.buffered().is_some();
    if framing != Framing::None
        && let Some(bytes) = request.buffered()
    {
        send_piece(&mut sender, Piece::Slice(bytes), true)
            .await
            .map_err(|error| Failure::Reset(error.to_string()))?;
    }
    let (mut body, mut responder) = request.split();
    let mut upload = Upload {
        sending: pin!(async {
            if uploaded_at_once {
                return Ok(());
            }
            upload_h2(&mut body, &mut sender, &watchdog).await
        }),
        state: if uploaded_at_once {
            UploadState::Done
        } else {
            UploadState::Sending
        },
    };
    let answered = upload
        .while_doing(pin!(unless_gone(
            &mut responder,
            pin!(guarded(&watchdog, pin!(response)))
        )))
        .await;
    let (parts, stream) = match answered {
        Ok(response) => response.into_parts(),
        Err(error) => {
            return Err(match (upload.state, error) {
                (UploadState::ClientFailed(error), _) | (_, error @ BodyError::Gone) => Failure::of_body(error),
                // The backend took no notice of the stream, so it is safe to send it elsewhere (RFC 9113 8.7).
                (_, BodyError::H2(error)) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => Failure::Stale,
                (_, error) => Failure::Reset(error.to_string()),
            });
        }
    };
    let mut response = H2Response {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: stream,
        _guard: guard,
    };
    let status = response.status;
    if context.retry_codes.contains(&status) {
        return Err(Failure::Status(status));
    }
    context.edit_response(&mut response.headers);
    progress.status.set(Some(status));
    let relayed = upload
        .while_doing(pin!(relay_h2(
            context,
            &mut response,
            &mut responder,
            &watchdog,
            head_request
        )))
        .await;
    let uploaded = matches!(upload.state, UploadState::Done);
    Ok(match relayed {
        Ok(()) => Sent {
            status,
            reusable: uploaded,
            broken: None,
        },
        Err(broken) => {
            responder.abort();
            Sent::broken(status, broken)
        }
    })
}

/// The head of a request as HTTP/2 has it.
fn h2_head<D: Downstream>(context: &Context<'_>, request: &D) -> Result<Request<()>, Failure> {
    let view = request.view();
    let invalid = |what: &str| Failure::ClientGone(format!("the {what} cannot be sent by HTTP/2"));
    let path_and_query = match (context.line.target, view.query) {
        (Some(target), _) => target.to_owned(),
        (None, Some(query)) => format!("{}?{query}", view.path),
        (None, None) => view.path.to_owned(),
    };
    let uri = Uri::builder()
        .scheme(if context.secure.is_some() {
            uri::Scheme::HTTPS
        } else {
            uri::Scheme::HTTP
        })
        .authority(context.line.host.unwrap_or(view.host))
        .path_and_query(path_and_query)
        .build()
        .map_err(|_| invalid("target"))?;
    let method = Method::from_bytes(view.method.as_bytes()).map_err(|_| invalid("method"))?;
    let mut head = Request::new(());
    *head.method_mut() = method;
    *head.uri_mut() = uri;
    *head.version_mut() = http::Version::HTTP_2;
    *head.headers_mut() = request.headers(context.line);
    Ok(head)
}

/// The request's body on its way, driven along with whatever else is waited for.
struct Upload<'f, F> {
    sending: Pin<&'f mut F>,
    state: UploadState,
}

enum UploadState {
    Sending,
    Done,
    /// The client broke off.
    ClientFailed(BodyError),
    /// The backend takes no more; it may have answered already, so the answer is still waited for.
    BackendFailed,
}

/// Whose fault it is that an upload ended early.
enum UploadError {
    Client(BodyError),
    Backend,
}

impl<F: Future<Output = Result<(), UploadError>>> Upload<'_, F> {
    /// Waits for `other`, and sends on meanwhile. If the client breaks off, so does this, with its error. Pinned by the
    /// caller: a future that pins its own parameter is twice as large.
    fn while_doing<T, E: From<BodyError>>(
        &mut self,
        mut other: Pin<&mut impl Future<Output = Result<T, E>>>,
    ) -> impl Future<Output = Result<T, E>> {
        poll_fn(move |cx| {
            if matches!(self.state, UploadState::Sending)
                && let Poll::Ready(result) = self.sending.as_mut().poll(cx)
            {
                self.state = match result {
                    Ok(()) => UploadState::Done,
                    Err(UploadError::Backend) => UploadState::BackendFailed,
                    Err(UploadError::Client(error)) => {
                        self.state = UploadState::ClientFailed(error);
                        return Poll::Ready(Err(BodyError::Truncated.into()));
                    }
                };
            }
            other.as_mut().poll(cx)
        })
    }
}

async fn upload_h1<B: RequestBody>(
    body: &mut B,
    connection: &H1Connection,
    framing: Framing,
    watchdog: &Watchdog,
) -> Result<(), UploadError> {
    loop {
        let piece = body.next(watchdog).await.map_err(UploadError::Client)?;
        let last = matches!(piece, Piece::End(_));
        let sent = write_piece(&connection.stream, framing == Framing::Chunked, piece).await;
        sent.map_err(|_| UploadError::Backend)?;
        if last {
            return Ok(());
        }
    }
}

async fn upload_h2<B: RequestBody>(
    body: &mut B,
    sender: &mut h2::SendStream<bytes::Bytes>,
    watchdog: &Watchdog,
) -> Result<(), UploadError> {
    loop {
        let piece = match body.next(watchdog).await {
            Ok(piece) => piece,
            Err(error) => {
                sender.send_reset(h2::Reason::CANCEL);
                return Err(UploadError::Client(error));
            }
        };
        let last = matches!(piece, Piece::End(_));
        send_piece(sender, piece, false)
            .await
            .map_err(|_| UploadError::Backend)?;
        if last {
            return Ok(());
        }
    }
}

/// Writes a piece of a body as HTTP/1.1 frames it.
pub(crate) async fn write_piece<S: crate::io::Stream>(
    stream: &crate::io::Shared<S>,
    chunked: bool,
    piece: Piece<'_>,
) -> io::Result<()> {
    let bytes: &[u8] = match &piece {
        Piece::Slice(slice) => slice,
        Piece::Shared(bytes) => bytes,
        Piece::End(trailers) if chunked => {
            let mut out = Vec::with_capacity(64);
            crate::h1::encode_trailers(&mut out, trailers.as_ref());
            return stream.write_all(&out).await;
        }
        Piece::End(_) => return Ok(()),
    };
    if bytes.is_empty() {
        return Ok(());
    }
    if !chunked {
        return stream.write_all(bytes).await;
    }
    let mut head = [0; 18];
    let head = chunk_head(bytes.len(), &mut head);
    stream.write_parts([head, bytes, b"\r\n"]).await
}

/// Passes an HTTP/1.1 answer on. What came with its head goes out with its head.
async fn relay_h1<R: Responder>(
    worker: &Worker,
    connection: &H1Connection,
    response: &mut H1Response,
    responder: &mut R,
    watchdog: &Watchdog,
    head_request: bool,
) -> Result<(), Broken> {
    let H1Response {
        message,
        body,
        keep_alive,
        ..
    } = response;
    let Some(head) = message else { return Ok(()) };
    let framing = head.framing();
    let (first, end) = if head_request || body.is_done() {
        (&b""[..], true)
    } else {
        let first = body.at_hand(head);
        (first, body.is_done())
    };
    let responding = responder.respond(head.status(), ResponseFields::H1(head), framing, first, end);
    guarded(watchdog, pin!(responding)).await.map_err(Broken::Client)?;
    if end {
        return Ok(());
    }
    if let Some(client) = responder.raw()
        && let Some(length) = body.take_raw()
    {
        // The head is no longer needed, and while the backend pauses, neither is a buffer.
        *message = None;
        let clean = copy(
            worker,
            &connection.stream,
            client,
            length,
            &std::cell::Cell::new(0),
            watchdog,
        )
        .await?;
        *keep_alive &= clean;
        return Ok(());
    }
    let message = head;
    loop {
        let next = pin!(body.next(&connection.stream, message, watchdog));
        let piece = unless_gone(responder, next).await.map_err(Broken::waiting)?;
        let last = matches!(piece, Piece::End(_));
        guarded(watchdog, pin!(responder.send(piece)))
            .await
            .map_err(Broken::Client)?;
        if last {
            return Ok(());
        }
    }
}

/// Passes an HTTP/2 answer on.
async fn relay_h2<R: Responder>(
    context: &Context<'_>,
    response: &mut H2Response,
    responder: &mut R,
    watchdog: &Watchdog,
    head_request: bool,
) -> Result<(), Broken> {
    let headers = std::mem::take(&mut response.headers);
    if let Some(grpc) = context.grpc {
        grpc.see(&headers);
    }
    let length = headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    let ended = response.body.is_end_stream();
    let framing = match length {
        Some(length) => Framing::Length(length),
        None if ended && !head_request => Framing::Length(0),
        None => Framing::Chunked,
    };
    let end = ended || head_request;
    let responding = responder.respond(response.status, ResponseFields::Map(headers), framing, b"", end);
    guarded(watchdog, pin!(responding)).await.map_err(Broken::Client)?;
    if end {
        return Ok(());
    }
    loop {
        let next = pin!(response.next());
        let piece = unless_gone(responder, pin!(guarded(watchdog, next))).await;
        let piece = piece.map_err(Broken::waiting)?;
        let last = matches!(piece, Piece::End(_));
        if let (Some(grpc), Piece::End(Some(trailers))) = (context.grpc, &piece) {
            grpc.see(trailers);
        }
        guarded(watchdog, pin!(responder.send(piece)))
            .await
            .map_err(Broken::Client)?;
        if last {
            return Ok(());
        }
    }
}

/// Waits for the backend, unless the client takes its request back.
fn unless_gone<T, E: From<BodyError>>(
    responder: &mut impl Responder,
    mut awaited: Pin<&mut impl Future<Output = Result<T, E>>>,
) -> impl Future<Output = Result<T, E>> {
    poll_fn(move |cx| {
        if let Poll::Ready(result) = awaited.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        responder.poll_gone(cx).map(|()| Err(BodyError::Gone.into()))
    })
}

/// Waits for either side, but not for ever.
pub(crate) fn guarded<T, E: Into<BodyError>>(
    watchdog: &Watchdog,
    mut frame: Pin<&mut impl Future<Output = Result<T, E>>>,
) -> impl Future<Output = Result<T, BodyError>> {
    poll_fn(move |cx| {
        if let Poll::Ready(result) = frame.as_mut().poll(cx) {
            watchdog.touch();
            return Poll::Ready(result.map_err(Into::into));
        }
        watchdog.poll_expired(cx).map(|_| Err(BodyError::Stalled))
    })
}
