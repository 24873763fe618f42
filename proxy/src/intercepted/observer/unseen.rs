//! What of a connection need not be seen, since nothing can be told of it.

use super::{Observer, Side, State};
use crate::{flag::Flag, intercepted::http1::Reader};

/// With so much left of a body, it need not go by way of a buffer.
const LONG: u64 = 64 * 1024;

/// What of a direction can go over unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::intercepted) enum Unseen {
    Nothing,
    /// So many bytes.
    Next(u64),
    /// All there is to come.
    All,
}

impl Observer<'_> {
    /// What of a direction can go over unseen from here on.
    pub(in crate::intercepted) fn unseen(&self, side: Side) -> Unseen {
        unseen(&mut self.state.borrow_mut(), side)
    }

    /// What was said to be next has gone over unseen.
    pub(in crate::intercepted) fn passed_over(&self, side: Side) {
        if side == Side::Server {
            self.heard.set(self.story.sent.get());
        }
        let mut state = self.state.borrow_mut();
        match (&mut *state, side) {
            (State::Http(conversation), Side::Client) => *conversation.requests() = Default::default(),
            (State::Http(conversation), Side::Server) => {
                conversation.answer_passed(&mut |pending| self.count(pending, Flag::None));
            }
            (State::Http2(conversation), Side::Client) => conversation.client_passed(),
            (State::Http2(conversation), Side::Server) => {
                let passed = conversation.server_passed(&mut |pending, how| self.ended2(pending, how));
                if let Err(over) = passed {
                    self.over2(true, over);
                    *state = State::Blind;
                    self.loses_sight();
                }
            }
            (State::Quiet | State::Hello(_) | State::Blind, _) => {}
        }
    }
}

pub(super) fn unseen(state: &mut State, side: Side) -> Unseen {
    let reader = match state {
        State::Blind => return Unseen::All,
        State::Http(conversation) if side == Side::Client => conversation.requests(),
        State::Http(conversation) => conversation.answers(),
        State::Http2(conversation) => {
            let skips = match side {
                Side::Client => conversation.client_skips(),
                Side::Server => conversation.server_skips(),
            };
            return if skips >= LONG {
                Unseen::Next(skips)
            } else {
                Unseen::Nothing
            };
        }
        State::Quiet | State::Hello(_) => return Unseen::Nothing,
    };
    match reader {
        Reader::Length(left) if *left >= LONG => Unseen::Next(*left),
        Reader::UntilClose => Unseen::All,
        _ => Unseen::Nothing,
    }
}
