//! Connections in clear that came while they might: where nobody comes in clear any more, they end.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::alarm::Alarm;
use crate::mesh::{Inbound, Mesh};

/// So long one may still end by itself. One of HTTP/1 on which nothing is under way does not get so long, and one of HTTP/2 is told to go.
const GRACE: Duration = Duration::from_secs(10);

/// Those of one worker.
#[derive(Default)]
pub(crate) struct Clears(RefCell<Vec<Weak<Clear>>>);

/// A connection in clear, for as long as it is open.
#[derive(Default)]
pub(crate) struct Clear {
    /// The port of the pod that it came to.
    port: u16,
    /// Since when nobody may come there any more.
    unwanted: Cell<Option<Instant>>,
    /// Whether there is no more time.
    is_over: Cell<bool>,
    waiting: Alarm,
}

impl Clears {
    pub(super) fn connected(&self, port: u16) -> Rc<Clear> {
        let clear = Rc::new(Clear {
            port,
            ..Clear::default()
        });
        self.0.borrow_mut().push(Rc::downgrade(&clear));
        clear
    }

    /// Looks at all of them, and tells those that are to end.
    pub(crate) fn check(&self, mesh: &Mesh, now: Instant) {
        self.0.borrow_mut().retain(|clear| {
            let Some(clear) = clear.upgrade() else { return false };
            clear.check(mesh.inbound(clear.port), now);
            true
        });
    }
}

impl Clear {
    fn check(&self, wanted: Inbound, now: Instant) {
        if wanted != Inbound::Strict {
            self.unwanted.set(None);
            return;
        }
        let since = self.unwanted.get().unwrap_or(now);
        self.unwanted.set(Some(since));
        self.is_over.set(now.saturating_duration_since(since) >= GRACE);
        self.waiting.ring();
    }

    /// Whether nobody may come there any more.
    pub(super) fn is_unwanted(&self) -> bool {
        self.unwanted.get().is_some()
    }

    /// Ready once it is to end: since there is no more time, or since it is not wanted and `rests`.
    pub(super) fn poll_over(&self, cx: &mut Context<'_>, rests: impl FnOnce() -> bool) -> Poll<()> {
        if self.is_over.get() || (self.unwanted.get().is_some() && rests()) {
            return Poll::Ready(());
        }
        self.waiting.wake(cx);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn is_over(clear: &Clear, rests: bool) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        clear.poll_over(&mut cx, || rests).is_ready()
    }

    #[test]
    fn what_rests_ends_at_once_and_the_rest_when_there_is_no_more_time() {
        let (clears, now) = (Clears::default(), Instant::now());
        let clear = clears.connected(80);
        clear.check(Inbound::Secure, now);
        assert!(!is_over(&clear, true));
        clear.check(Inbound::Strict, now);
        assert!(is_over(&clear, true) && !is_over(&clear, false));
        clear.check(Inbound::Strict, now + GRACE - Duration::from_millis(1));
        assert!(!is_over(&clear, false));
        // Who may come again has all the time again.
        clear.check(Inbound::Secure, now + GRACE);
        clear.check(Inbound::Strict, now + GRACE);
        assert!(!is_over(&clear, false));
        clear.check(Inbound::Strict, now + 2 * GRACE);
        assert!(is_over(&clear, false));
        drop(clear);
        clears.check(&Mesh::default(), now);
        assert!(clears.0.borrow().is_empty());
    }
}
