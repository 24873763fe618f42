//! A request that is only carried. Not a byte of it is changed, so the next one is not told of the span that is made here: it is a
//! child of the application's, beside whatever the next one makes. Without a trace of the application's own there is none.

use std::time::{Duration, SystemTime};

use super::{
    context::{self, Context, Said},
    span::{Asked, Kind, Parent, Span},
};
use crate::{flag::Flag, h1::Message, intercepted::Direction, l4::Story, worker::Worker};

/// Of a request that is carried and is of a trace.
#[derive(Debug)]
pub(crate) struct Seen {
    context: Context,
    state: Option<Box<str>>,
    began: SystemTime,
    asked: Asked,
}

impl Seen {
    pub(crate) fn of(worker: &Worker, message: &Message) -> Option<Box<Self>> {
        worker.spans.as_ref()?;
        let Said::Of(context) = Said::by(message) else {
            return None;
        };
        context.is_sampled().then(|| {
            Box::new(Self {
                context,
                state: context::state(message),
                began: SystemTime::now(),
                asked: Asked::of(message.method(), message.host(), message.path()),
            })
        })
    }

    /// It has ended.
    pub(crate) fn close(
        self,
        worker: &Worker,
        direction: Direction,
        story: &Story,
        (status, flag): (u16, Flag),
        took: Duration,
    ) {
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
            took,
            asked: self.asked,
            protocol: Story::HTTP1,
            scheme: "http",
            status,
            grpc: None,
            flag,
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
