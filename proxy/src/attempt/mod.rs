//! One try at one endpoint: send the request, read the answer, and pass it on unless it is to be tried again.

mod failure;
mod h1;
mod h2;
mod tunnel;
mod upload;

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use http::{HeaderName, HeaderValue, header};
use weft_model::{BackendProtocol, RouteKind};

pub(crate) use self::failure::Failure;
use crate::{
    balance::EndpointState,
    body::{BodyError, Broken},
    config::{BackendEntry, Rule},
    downstream::{Downstream, Outgoing, Responder},
    fields::Fields,
    flag::Flag,
    l4::Admitted,
    spans::GrpcStatus,
    upstream::{Secure, Upstream},
    worker::Worker,
};

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
    /// By what it was let in, if it asks for another protocol or for a tunnel and somebody decides about that.
    pub(crate) admitted: Option<&'a Rc<Admitted>>,
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
    /// Whether its backend has failed. What policies have ended has not.
    pub(crate) fn is_failure(&self) -> bool {
        let broken = self.broken.as_ref();
        self.status >= 500 || broken.is_some_and(|(flag, _)| *flag != Flag::PolicyDenied)
    }

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
    status: Cell<Option<u16>>,
}

async fn make<D: Downstream>(context: &Context<'_>, request: &mut D, progress: &Progress) -> Result<Sent, Failure> {
    if request.is_connect() {
        // Boxed, here and below, so that the common way over HTTP/1 does not hold the space for it.
        return Box::pin(tunnel::make(context, request, progress)).await;
    }
    let h2 = match context.upstream.protocol.get() {
        BackendProtocol::H2c => true,
        BackendProtocol::Http1 => false,
        // In the mesh, clients speak with their servers what both of them know.
        BackendProtocol::Undeclared => {
            context.rule.route.owner.kind == RouteKind::Grpc || (D::HTTP2 && context.line.client.outbound.is_some())
        }
    };
    if h2 && !context.line.upgrade {
        Box::pin(h2::make(context, request, progress)).await
    } else {
        h1::make(context, request, progress).await
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
