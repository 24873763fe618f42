//! A request that is only carried. Not a byte of it is changed, so the next one is not told of the span that is made here: it is a
//! child of the application's, beside whatever the next one makes. Without a trace of the application's own there is none.

use std::time::{Duration, SystemTime};

use super::{
    context::{self, Context, Said},
    span::{Asked, Kind, Parent, Span},
};
use crate::{flag::Flag, h1::Message, hpack, intercepted::Direction, l4::Story, worker::Worker};

/// Of a request that is carried and is of a trace.
#[derive(Debug)]
pub(crate) struct Seen {
    context: Context,
    state: Option<Box<str>>,
    began: SystemTime,
    asked: Asked,
    protocol: &'static str,
}

/// How a request that was carried has ended.
pub(crate) struct Carried {
    pub(crate) status: u16,
    /// The code of gRPC, if there is one.
    pub(crate) grpc: Option<u16>,
    pub(crate) flag: Flag,
    pub(crate) took: Duration,
}

impl Seen {
    /// Of HTTP/1.
    pub(crate) fn of(worker: &Worker, message: &Message) -> Option<Box<Self>> {
        worker.spans.as_ref()?;
        let asked = || Asked::of(message.method(), message.host(), message.path());
        Self::by(Said::by(message), || context::state(message), asked, Story::HTTP1)
    }

    /// Of HTTP/2, as far as it was read along.
    pub(crate) fn of_fields(worker: &Worker, fields: &hpack::Fields) -> Option<Box<Self>> {
        worker.spans.as_ref()?;
        let said = Said::once(fields.traceparent.as_deref()?.as_bytes(), fields.traceparents);
        let line = [&fields.method, &fields.authority, &fields.path];
        let [method, host, path] = line.map(|text| text.as_deref().unwrap_or_default());
        let asked = || Asked::of(method, host, path);
        let state = || fields.tracestate.as_deref().and_then(context::told);
        Self::by(said, state, asked, Story::HTTP2)
    }

    fn by(
        said: Said,
        state: impl FnOnce() -> Option<Box<str>>,
        asked: impl FnOnce() -> Asked,
        protocol: &'static str,
    ) -> Option<Box<Self>> {
        let Said::Of(context) = said else {
            return None;
        };
        context.is_sampled().then(|| {
            Box::new(Self {
                context,
                state: state(),
                began: SystemTime::now(),
                asked: asked(),
                protocol,
            })
        })
    }

    /// It has ended.
    pub(crate) fn close(self, worker: &Worker, direction: Direction, story: &Story, ended: &Carried) {
        let Some(recorder) = &worker.spans else { return };
        let identity = story.peer.borrow();
        recorder.record(Span {
            trace: self.context.trace,
            id: recorder.span_id(worker),
            parent: Parent::Remote(self.context.span),
            flags: self.context.flags,
            state: self.state,
            kind: match direction {
                Direction::Inbound => Kind::Server,
                Direction::Outbound => Kind::Client,
            },
            began: self.began,
            took: ended.took,
            asked: self.asked,
            protocol: self.protocol,
            scheme: "http",
            status: ended.status,
            grpc: ended.grpc,
            flag: ended.flag,
            other: match direction {
                Direction::Inbound => Some(story.client()),
                Direction::Outbound => story.endpoint.get(),
            },
            identity: (!identity.is_empty()).then(|| identity.as_str().into()),
            route: None,
            service: None,
            resent: 0,
        });
    }
}
