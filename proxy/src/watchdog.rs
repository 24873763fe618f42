//! Coarse deadlines for connections: one shared tick a worker instead of one timer a request.
//!
//! Setting a deadline is a store into a cell; a task of the worker looks at all of them twice a second. That is exact
//! enough for idle and head timeouts, and costs nothing on the path of a request. Timeouts that a route states are exact
//! and have timers of their own.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// How often deadlines are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(500);

/// All deadlines of a worker.
#[derive(Default)]
pub(crate) struct Watchdogs {
    all: RefCell<Vec<Weak<Slot>>>,
}

struct Slot {
    deadline: Cell<Option<Instant>>,
    after: Cell<Duration>,
    touched: Cell<bool>,
    expired: Cell<bool>,
    /// Nothing is under way on the connection, so that it may be closed when the process is to stop.
    idle: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// The deadline of one connection.
pub(crate) struct Watchdog(Rc<Slot>);

/// The deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expired;

impl Watchdogs {
    /// A watchdog without a deadline.
    pub(crate) fn watch(&self) -> Watchdog {
        let slot = Rc::new(Slot {
            deadline: Cell::new(None),
            after: Cell::new(Duration::MAX),
            touched: Cell::new(false),
            expired: Cell::new(false),
            idle: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.all.borrow_mut().push(Rc::downgrade(&slot));
        Watchdog(slot)
    }

    /// Wakes what has run out of time, and forgets connections that have ended.
    pub(crate) fn tick(&self, now: Instant) {
        self.expire(|slot| {
            if slot.touched.take() && slot.deadline.get().is_some() {
                slot.deadline.set(now.checked_add(slot.after.get()));
            }
            slot.deadline.get().is_some_and(|deadline| deadline <= now)
        });
    }

    /// Ends what is idle at once: the process is to stop.
    pub(crate) fn expire_idle(&self) {
        self.expire(|slot| slot.idle.get());
    }

    fn expire(&self, due: impl Fn(&Slot) -> bool) {
        let mut woken = Vec::new();
        self.all.borrow_mut().retain(|slot| {
            let Some(slot) = slot.upgrade() else { return false };
            if due(&slot) {
                slot.deadline.set(None);
                slot.expired.set(true);
                woken.extend(slot.waker.borrow_mut().take());
            }
            true
        });
        for waker in woken {
            waker.wake();
        }
    }
}

impl Watchdog {
    /// Sets the deadline anew.
    pub(crate) fn arm(&self, now: Instant, after: Duration) {
        self.0.expired.set(false);
        self.0.touched.set(false);
        self.0.after.set(after);
        self.0.deadline.set(now.checked_add(after));
    }

    /// Something has moved: the time runs anew from the next tick.
    pub(crate) fn touch(&self) {
        self.0.touched.set(true);
    }

    /// Takes the deadline away.
    pub(crate) fn disarm(&self) {
        self.0.expired.set(false);
        self.0.deadline.set(None);
    }

    /// Says whether anything is under way on the connection.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.0.idle.set(idle);
    }

    /// Whether the deadline has passed; if not, the task is woken when it does.
    pub(crate) fn poll_expired(&self, cx: &Context<'_>) -> Poll<Expired> {
        if self.0.expired.get() {
            return Poll::Ready(Expired);
        }
        let mut waker = self.0.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_wakes_its_task_once_it_has_passed() {
        let watchdogs = Watchdogs::default();
        let watchdog = watchdogs.watch();
        let start = Instant::now();
        let cx = Context::from_waker(Waker::noop());
        watchdog.arm(start, Duration::from_secs(2));
        watchdogs.tick(start + Duration::from_secs(1));
        assert_eq!(watchdog.poll_expired(&cx), Poll::Pending);
        watchdogs.tick(start + Duration::from_secs(3));
        assert_eq!(watchdog.poll_expired(&cx), Poll::Ready(Expired));
        watchdog.arm(start, Duration::from_secs(2));
        watchdog.touch();
        watchdogs.tick(start + Duration::from_secs(3));
        assert_eq!(watchdog.poll_expired(&cx), Poll::Pending);
    }

    #[test]
    fn only_idle_connections_end_when_the_process_stops() {
        let watchdogs = Watchdogs::default();
        let (idle, busy) = (watchdogs.watch(), watchdogs.watch());
        idle.set_idle(true);
        watchdogs.expire_idle();
        let cx = Context::from_waker(Waker::noop());
        assert_eq!(idle.poll_expired(&cx), Poll::Ready(Expired));
        assert_eq!(busy.poll_expired(&cx), Poll::Pending);
    }

    #[test]
    fn ended_connections_are_forgotten() {
        let watchdogs = Watchdogs::default();
        drop(watchdogs.watch());
        let kept = watchdogs.watch();
        watchdogs.tick(Instant::now());
        assert_eq!(watchdogs.all.borrow().len(), 1);
        drop(kept);
    }
}
