//! One request that is answered here or sent on by routes: its spans, and what the next one is told.
//!
//! At a Gateway there is a span of the request as its client sees it, and within it one of each try. Beside an application,
//! there is one of the request where it comes in, and one of each try where it leaves.

use std::{
    cell::Cell,
    net::SocketAddr,
    time::{Instant, SystemTime},
};

use http::HeaderMap;
use weft_model::{RouteKey, ServiceKey};

use super::{
    context::{self, Context, Said, SpanId, TRACEPARENT, TRACESTATE},
    span::{Asked, Kind, Parent, Span},
};
use crate::{
    authorization::Guard,
    downstream::{Client, Downstream, Outgoing},
    fields::Fields,
    flag::Flag,
    worker::Worker,
};

/// The code of gRPC for what policies do not let in.
const PERMISSION_DENIED: u16 = 7;

/// Of a request whose spans are made.
pub(crate) struct Trace {
    /// With the span of whoever has sent the request, or that was made for it here.
    context: Context,
    parent: Parent,
    state: Option<Box<str>>,
    began: (Instant, SystemTime),
    /// Whether the request as such has a span, and not only its tries.
    serves: bool,
    /// Whether its tries have.
    asks: bool,
    tries: Cell<u32>,
    grpc: GrpcStatus,
}

/// How a call of gRPC has ended: in fields of the answer, or after its body.
#[derive(Debug, Default)]
pub(crate) struct GrpcStatus(Cell<Option<u16>>);

impl GrpcStatus {
    pub(crate) fn see(&self, fields: &HeaderMap) {
        let status = fields.get("grpc-status").and_then(|status| status.to_str().ok());
        if let Some(status) = status.and_then(|status| status.parse().ok()) {
            self.0.set(Some(status));
        }
    }
}

/// One try.
pub(crate) struct Try {
    id: SpanId,
    began: Instant,
}

/// Whom a try asks, and for what.
pub(crate) struct Asking<'a> {
    pub(crate) line: &'a Outgoing<'a>,
    pub(crate) endpoint: SocketAddr,
    /// Whether by TLS.
    pub(crate) secure: bool,
}

/// How a request, or a try of it, has ended.
pub(crate) struct End<'a> {
    pub(crate) at: Instant,
    pub(crate) status: u16,
    pub(crate) flag: Flag,
    pub(crate) route: Option<&'a RouteKey>,
    pub(crate) service: Option<&'a ServiceKey>,
}

impl Trace {
    /// That of a request, if it is of one whose spans are made. The request then says so itself.
    pub(crate) fn of<D: Downstream>(
        worker: &Worker,
        client: &Client,
        request: &mut D,
        started: Instant,
    ) -> Option<Box<Self>> {
        let recorder = worker.spans.as_ref()?;
        // Who comes to the application here has begun a trace on its own side, or has not.
        let (serves, asks) = match (&client.outbound, client.guard()) {
            (None, _) => (true, true),
            (Some(_), None) => (false, true),
            (Some(_), Some(_)) => (true, false),
        };
        let said = Said::by(request.head_mut());
        if let Said::Of(context) = &said {
            return context.is_sampled().then(|| {
                let state = context::state(request.head_mut());
                let trace = Self::new(*context, Parent::Remote(context.span), state, started, (serves, asks));
                trace.told(worker, request)
            });
        }
        if !asks || !recorder.begins(worker.random() as u32) {
            return None;
        }
        if said == Said::Nonsense {
            // It was of another trace, if of any.
            request.head_mut().remove(&[TRACESTATE]);
        }
        let context = Context::new(recorder.trace_id(worker), SpanId::default());
        Some(Self::new(context, Parent::Nobody, None, started, (serves, asks)).told(worker, request))
    }

    fn new(
        context: Context,
        parent: Parent,
        state: Option<Box<str>>,
        started: Instant,
        (serves, asks): (bool, bool),
    ) -> Self {
        let now = SystemTime::now();
        Self {
            context,
            parent,
            state,
            began: (started, now.checked_sub(started.elapsed()).unwrap_or(now)),
            serves,
            asks,
            tries: Cell::new(0),
            grpc: GrpcStatus::default(),
        }
    }

    /// Has the request say by what span it goes on.
    fn told<D: Downstream>(mut self, worker: &Worker, request: &mut D) -> Box<Self> {
        if self.serves
            && let Some(recorder) = &worker.spans
        {
            self.context = self.context.by(recorder.span_id(worker));
            request.head_mut().set(&TRACEPARENT, &self.context.field());
        }
        Box::new(self)
    }

    /// Where it is seen how a call of gRPC ends.
    pub(crate) fn grpc(&self) -> &GrpcStatus {
        &self.grpc
    }

    /// A try begins, and has the request say so.
    pub(crate) fn begin<D: Downstream>(&self, worker: &Worker, request: &mut D, now: Instant) -> Option<Try> {
        let recorder = worker.spans.as_ref().filter(|_| self.asks)?;
        let id = recorder.span_id(worker);
        request.head_mut().set(&TRACEPARENT, &self.context.by(id).field());
        self.grpc.0.set(None);
        Some(Try { id, began: now })
    }

    /// It has ended.
    pub(crate) fn tried<D: Downstream>(
        &self,
        worker: &Worker,
        request: &D,
        tried: &Try,
        to: &Asking<'_>,
        end: &End<'_>,
    ) {
        let (started, began) = self.began;
        let span = self.span(request, end);
        let path = to
            .line
            .target
            .map(|target| target.split('?').next().unwrap_or_default());
        let asked = match (path, to.line.host) {
            (None, None) => span.asked,
            (path, host) => Asked::of(
                &span.asked.method,
                host.unwrap_or(&span.asked.host),
                path.unwrap_or(&span.asked.path),
            ),
        };
        let span = Span {
            asked,
            id: tried.id,
            parent: if self.serves {
                Parent::Local(self.context.span)
            } else {
                self.parent
            },
            kind: Kind::Client,
            began: began + tried.began.saturating_duration_since(started),
            took: end.at.saturating_duration_since(tried.began),
            other: Some(to.endpoint),
            scheme: if to.secure { "https" } else { "http" },
            resent: self.tries.replace(self.tries.get() + 1),
            ..span
        };
        record(worker, span);
    }

    /// The request has ended.
    pub(crate) fn close<D: Downstream>(&self, worker: &Worker, client: &Client, request: &D, end: &End<'_>) {
        let Some(recorder) = &worker.spans else { return };
        let span = self.span(request, end);
        let peer = client.guard().map(Guard::peer);
        if self.serves {
            record(
                worker,
                Span {
                    id: self.context.span,
                    kind: Kind::Server,
                    other: Some(client.peer),
                    scheme: client.scheme(),
                    identity: peer.filter(|peer| !peer.is_empty()).map(Into::into),
                    ..span
                },
            );
        } else if self.tries.get() == 0 {
            // It was not even tried: that is what is to be told of it.
            record(
                worker,
                Span {
                    id: recorder.span_id(worker),
                    ..span
                },
            );
        }
    }

    fn span<D: Downstream>(&self, request: &D, end: &End<'_>) -> Span {
        let view = request.view();
        let (started, began) = self.began;
        let grpc = view.fields.get("content-type");
        let grpc = grpc.is_some_and(|kind| kind.starts_with(b"application/grpc"));
        Span {
            trace: self.context.trace,
            id: SpanId::default(),
            parent: self.parent,
            flags: self.context.flags,
            state: self.state.clone(),
            kind: Kind::Client,
            began,
            took: end.at.saturating_duration_since(started),
            asked: Asked::by(&view),
            protocol: request.protocol(),
            scheme: "http",
            status: end.status,
            grpc: match end.flag {
                Flag::PolicyDenied => Some(PERMISSION_DENIED),
                _ => self.grpc.0.get(),
            }
            .filter(|_| grpc),
            flag: end.flag,
            other: None,
            identity: None,
            route: end.route.cloned(),
            service: end.service.cloned(),
            resent: 0,
        }
    }
}

fn record(worker: &Worker, span: Span) {
    if let Some(recorder) = &worker.spans {
        recorder.record(span);
    }
}
