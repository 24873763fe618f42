//! How a connection of HTTP/2 that is seen is brought to its end (see [`crate::intercepted::parting`]): when its client is to go, when it is told
//! so, and when nothing of it is left.

use std::task::Context;

use super::{Observer, State};
use crate::{
    flag::Flag,
    intercepted::{
        Direction,
        parting::{Parted, Parting},
    },
    l4::Ended,
};

impl Observer<'_> {
    /// Has the client told to go.
    pub(super) fn part(&self) -> &Parting {
        self.parting.get_or_init(|| Box::new(Parting::new(self.worker)))
    }

    /// Looks whether the client is to go: since there are routes for its requests by now, or nobody may come like this any more.
    /// Says so once, also if it was found otherwise. Whoever polls is woken when it is to be asked again.
    pub(in crate::intercepted) fn is_to_go(&self, cx: &Context<'_>, unwanted: bool) -> bool {
        if self.is_http2() {
            if self.guard.is_none() && self.direction == Direction::Outbound {
                self.wakes(cx);
                let snapshot = self.worker.snapshot();
                let same = self.generation.replace(snapshot.generation) == snapshot.generation;
                if !same && self.destination_has_routes(&snapshot) {
                    self.part();
                }
            }
            if unwanted {
                self.part();
            }
        }
        self.parting.get().is_some_and(|parting| parting.begins())
    }

    /// Whether something is to be said for the server before it goes on, since it pauses between two frames.
    pub(super) fn interrupts(&self) -> bool {
        let paused = match &*self.state.borrow() {
            State::Http2(conversation) => conversation.is_between(),
            _ => false,
        };
        paused && self.has_sent_all() && self.tells(&[])
    }

    /// Has the client told to go, and then the rest of what the server has said, if it has not been told yet.
    pub(super) fn tells(&self, rest: &[u8]) -> bool {
        let Some(parting) = self.parting.get().filter(|parting| parting.is_untold()) else {
            return false;
        };
        if matches!(&*self.state.borrow(), State::Http2(conversation) if conversation.is_leaving()) {
            // Its server has done so.
            parting.told(self.worker);
            return false;
        }
        self.heard.set(self.heard.get() + parting.tell(rest) as u64);
        true
    }

    /// What is to be said to the client before anything else.
    pub(in crate::intercepted) fn speech(&self) -> Option<Vec<u8>> {
        self.parting.get()?.speech()
    }

    /// It has been said.
    pub(in crate::intercepted) fn told(&self) {
        if let Some(parting) = self.parting.get() {
            parting.told(self.worker);
            self.worker.book.dismissed(self.direction);
        }
    }

    /// How it ends, once it does: its client has been told to go and nothing is under way any more, or it does not go.
    pub(in crate::intercepted) fn parted(&self, cx: &Context<'_>) -> Option<Parted> {
        let parting = self.parting.get()?;
        let State::Http2(conversation) = &*self.state.borrow() else {
            return None;
        };
        let between = conversation.is_between() && self.has_sent_all();
        let ended = if parting.is_over() {
            let flag = match self.guard {
                Some(_) => Flag::PolicyDenied,
                None => Flag::Refused,
            };
            let reason =
                "its requests are for routes or policies since it was open; it was told to go and has begun others";
            Ended::new(flag, reason)
        } else if parting.poll_heard(cx).is_ready() && conversation.is_quiet() && between {
            Ended::well()
        } else {
            return None;
        };
        Some(Parted {
            last: between.then(|| conversation.last_taken()),
            ended,
        })
    }

    /// Ends it if the client has begun a request after this one.
    pub(super) fn keeps_out(&self, parting: &Parting, before: u32) {
        if let State::Http2(conversation) = &mut *self.state.borrow_mut()
            && conversation.last() > before
        {
            conversation.forget_after(before);
            parting.cut();
        }
    }

    /// Nothing can be told of the rest any more: if its client is to go since policies decide, it may not go on.
    pub(super) fn loses_sight(&self) {
        let Some(guard) = self.guard.filter(|_| self.parting.get().is_some()) else {
            return;
        };
        let protection = self.worker.mesh.protection();
        if protection.enforced && protection.guards(guard) {
            let reason = "policies are for its requests, which cannot be told apart any more";
            self.denied.replace(Some(reason.to_owned()));
        }
    }

    pub(super) fn last_stream(&self) -> Option<u32> {
        match &*self.state.borrow() {
            State::Http2(conversation) => Some(conversation.last()),
            _ => None,
        }
    }

    /// Where in what the server has just said there could be another frame.
    pub(super) fn border(&self) -> Option<usize> {
        match &*self.state.borrow() {
            State::Http2(conversation) => conversation.border(),
            _ => None,
        }
    }
}
