//! What is counted and told of a connection that is seen: what it speaks, and each request with how it ended.

use std::time::Instant;

use super::{Observer, State};
use crate::{
    authorization::Doing,
    flag::Flag,
    intercepted::{Protocol, http1::Pending, http2::How},
    l4::Ended,
    spans,
};

impl Observer<'_> {
    pub(super) fn ended2(&self, pending: Pending, how: How) {
        let flag = match (how, pending.status) {
            (How::Answered, _) => Flag::None,
            (How::Cancelled, _) => Flag::ClientGone,
            (How::Reset, None) => Flag::UpstreamReset,
            (How::Reset, Some(_)) => Flag::Truncated,
        };
        self.count(pending, flag);
    }

    /// The connection has ended: requests that were not answered to the end have failed.
    pub(in crate::intercepted) fn finish(&self, ended: &Ended) {
        let in_clear = self.guard.is_some_and(|guard| guard.identity.is_none());
        if in_clear && self.said.get() + self.story.received.get() == 0 {
            self.edge.silent();
        }
        let moved = self.story.received.get() + self.story.sent.get() > 0;
        self.decide(if moved { Protocol::Opaque } else { Protocol::Silent });
        let broken = |pending: Pending| {
            let flag = match (ended.flag, pending.status) {
                (Flag::None, None) => Flag::UpstreamReset,
                (Flag::None | Flag::UpstreamReset, Some(_)) => Flag::Truncated,
                (flag, _) => flag,
            };
            self.count(pending, flag);
        };
        match &mut *self.state.borrow_mut() {
            State::Http(conversation) => conversation.unanswered().for_each(broken),
            State::Http2(conversation) => conversation.unanswered().for_each(broken),
            State::Quiet | State::Hello(_) | State::Blind => {}
        }
    }

    /// Counts what the connection speaks, once.
    pub(super) fn decide(&self, protocol: Protocol) {
        if !self.decided.replace(true) {
            self.spoken.set(Some(protocol));
            self.story.protocol.set(protocol.logged());
            self.worker.book.decided(self.direction, protocol);
            let is_opaque = matches!(protocol, Protocol::Tls | Protocol::Opaque | Protocol::ServerFirst);
            if let Some(guard) = self.guard.filter(|_| is_opaque) {
                let protection = self.worker.mesh.protection();
                protection.count_unproven(guard, &Doing::Opaque, self.edge);
            }
        }
    }

    pub(super) fn count(&self, pending: Pending, flag: Flag) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(pending.started);
        let status = pending.status.unwrap_or(flag.status());
        let failed = status >= 500
            || matches!(flag, Flag::Truncated | Flag::UpstreamReset)
            || pending.grpc.is_some_and(is_failure);
        if let Some(code) = pending.grpc {
            self.destination.called(code);
        }
        for cells in [self.port, &self.destination.requests] {
            cells.count(status, failed, elapsed);
        }
        self.edge.count(status, failed, elapsed, now);
        if let Some(line) = &pending.line {
            self.story
                .request(self.worker, &line.method, &line.host, &line.path, status, flag, elapsed);
        }
        if let Some(span) = pending.span {
            let ended = spans::Carried {
                status,
                grpc: pending.grpc,
                flag,
                took: elapsed,
            };
            span.close(self.worker, self.direction, self.story, &ended);
        }
    }
}

/// Whether a code of gRPC says that the server has failed, and not that it was asked for what cannot be.
fn is_failure(code: u16) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS, or one that there is not.
    matches!(code, 2 | 4 | 12 | 13 | 14 | 15 | 17..)
}
