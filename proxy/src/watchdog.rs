//! Coarse deadlines: one shared tick a worker instead of one timer a request.
//!
//! Setting a deadline is a store into a cell, and taking a watchdog takes a slot that another has left; a task of the
//! worker looks at all of them at each tick. There are two of these: one with a tick of half a second, exact enough for
//! idle and head timeouts, and one for the timeouts that rules state, which sleeps until the first of them is due and
//! then looks no more often than each ten milliseconds.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// How often idle connections are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(500);
/// How often, at most, the timeouts of rules are looked at.
const FINE_TICK: Duration = Duration::from_millis(10);

/// Free slots that are kept in any case.
const SPARE: usize = 1024;

/// All deadlines of a worker.
#[derive(Default)]
pub(crate) struct Watchdogs {
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    all: RefCell<Vec<Rc<Slot>>>,
    /// Slots that nobody has.
    free: RefCell<Vec<Rc<Slot>>>,
    /// When [`Watchdogs::keep`] looks next.
    next: Cell<Option<Instant>>,
    /// Until then a deadline is near: it has the runtime's timer. What is further off costs nothing until
    /// [`Watchdogs::approach`] finds it near.
    near: Cell<Option<Instant>>,
    /// Said when that is to be sooner.
    sooner: Notify,
}

struct Slot {
    taken: Cell<bool>,
    deadline: Cell<Option<Instant>>,
    after: Cell<Duration>,
    touched: Cell<bool>,
    expired: Cell<bool>,
    /// Nothing is under way on the connection, so that it may be closed when the process is to stop.
    idle: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A deadline, say of a connection.
pub(crate) struct Watchdog {
    slot: Rc<Slot>,
    shared: Rc<Shared>,
}

/// The deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expired;

impl Watchdogs {
    /// A watchdog without a deadline.
    pub(crate) fn watch(&self) -> Watchdog {
        let slot = self.shared.free.borrow_mut().pop().unwrap_or_else(|| {
            let slot = Rc::new(Slot {
                taken: Cell::new(true),
                deadline: Cell::new(None),
                after: Cell::new(Duration::MAX),
                touched: Cell::new(false),
                expired: Cell::new(false),
                idle: Cell::new(false),
                waker: RefCell::new(None),
            });
            self.shared.all.borrow_mut().push(slot.clone());
            slot
        });
        slot.taken.set(true);
        Watchdog {
            slot,
            shared: self.shared.clone(),
        }
    }

    /// Whether nobody has a watchdog.
    #[cfg(test)]
    fn is_idle(&self) -> bool {
        self.shared.free.borrow().len() == self.shared.all.borrow().len()
    }

    /// Wakes what has run out of time, and gives up slots of which there are far too many.
    pub(crate) fn tick(&self, now: Instant) {
        self.expire(|slot| {
            if slot.touched.take() && slot.deadline.get().is_some() {
                slot.deadline.set(now.checked_add(slot.after.get()));
            }
            slot.deadline.get().is_some_and(|deadline| deadline <= now)
        });
    }

    /// Wakes what has run out of time for as long as it is polled, within [`FINE_TICK`]. For deadlines set by
    /// [`Watchdog::arm_at`] only.
    pub(crate) async fn keep(&self) {
        let shared = &self.shared;
        loop {
            let Some(next) = shared.next.get().filter(|next| shared.is_near(*next)) else {
                shared.sooner.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until((next + FINE_TICK).into()) => {
                    self.tick(Instant::now());
                    let all = shared.all.borrow();
                    shared.next.set(all.iter().filter_map(|slot| slot.deadline.get()).min());
                }
                () = shared.sooner.notified() => {}
            }
        }
    }

    /// Says what time it is, so that [`Watchdogs::keep`] sees to what is due before the next tick but one. While the
    /// runtime has a timer, each wait for sockets costs more; most requests have ended long before their deadline is near.
    pub(crate) fn approach(&self, now: Instant) {
        self.shared.near.set(Some(now + 2 * TICK));
        if self.shared.next.get().is_some_and(|next| self.shared.is_near(next)) {
            self.shared.sooner.notify_one();
        }
    }

    /// Ends what is idle at once: the process is to stop.
    pub(crate) fn expire_idle(&self) {
        self.expire(|slot| slot.idle.get());
    }

    fn expire(&self, due: impl Fn(&Slot) -> bool) {
        let mut woken = Vec::new();
        for slot in self.shared.all.borrow().iter().filter(|slot| slot.taken.get()) {
            if due(slot) {
                slot.deadline.set(None);
                slot.expired.set(true);
                woken.extend(slot.waker.borrow_mut().take());
            }
        }
        // After a flood has passed, most slots are free: they need not be looked at for ever.
        let (free, all) = (self.shared.free.borrow().len(), self.shared.all.borrow().len());
        if free > SPARE && free > all / 2 {
            self.shared.free.borrow_mut().truncate(SPARE / 2);
            let kept: std::collections::HashSet<*const Slot> =
                self.shared.free.borrow().iter().map(Rc::as_ptr).collect();
            self.shared
                .all
                .borrow_mut()
                .retain(|slot| slot.taken.get() || kept.contains(&Rc::as_ptr(slot)));
        }
        for waker in woken {
            waker.wake();
        }
    }
}

impl Shared {
    fn is_near(&self, deadline: Instant) -> bool {
        self.near.get().is_none_or(|near| deadline <= near)
    }
}

impl Watchdog {
    /// Sets the deadline anew.
    pub(crate) fn arm(&self, now: Instant, after: Duration) {
        self.slot.expired.set(false);
        self.slot.touched.set(false);
        self.slot.after.set(after);
        self.slot.deadline.set(now.checked_add(after));
    }

    /// Sets a deadline that does not move.
    pub(crate) fn arm_at(&self, deadline: Instant) {
        self.slot.expired.set(false);
        self.slot.touched.set(false);
        self.slot.deadline.set(Some(deadline));
        if self.shared.next.get().is_none_or(|next| deadline < next) {
            self.shared.next.set(Some(deadline));
            if self.shared.is_near(deadline) {
                self.shared.sooner.notify_one();
            }
        }
    }

    /// Something has moved: the time runs anew from the next tick.
    pub(crate) fn touch(&self) {
        self.slot.touched.set(true);
    }

    /// Takes the deadline away.
    pub(crate) fn disarm(&self) {
        self.slot.expired.set(false);
        self.slot.deadline.set(None);
    }

    /// Says whether anything is under way on the connection.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.slot.idle.set(idle);
    }

    /// Whether the deadline has passed; if not, the task is woken when it does.
    pub(crate) fn poll_expired(&self, cx: &Context<'_>) -> Poll<Expired> {
        if self.slot.expired.get() {
            return Poll::Ready(Expired);
        }
        let mut waker = self.slot.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.disarm();
        self.set_idle(false);
        self.slot.waker.borrow_mut().take();
        self.slot.taken.set(false);
        self.shared.free.borrow_mut().push(self.slot.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;

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

    /// Whether the deadlines have the runtime's timer, and not only ticks.
    fn has_timer(watchdogs: &Watchdogs) -> bool {
        let next = watchdogs.shared.next.get();
        next.is_some_and(|next| watchdogs.shared.is_near(next))
    }

    #[tokio::test(flavor = "local")]
    async fn a_deadline_that_is_far_off_has_no_timer_until_it_is_near() {
        let watchdogs = Watchdogs::default();
        let now = Instant::now();
        watchdogs.approach(now);
        let (far, near) = (watchdogs.watch(), watchdogs.watch());
        far.arm_at(now + 10 * TICK);
        assert!(!has_timer(&watchdogs));
        near.arm_at(now + TICK / 50);
        assert!(has_timer(&watchdogs));
        let mut keeping = std::pin::pin!(watchdogs.keep());
        let expired = std::future::poll_fn(|cx| {
            assert!(keeping.as_mut().poll(cx).is_pending());
            near.poll_expired(cx)
        });
        assert_eq!(expired.await, Expired);
        assert!(!has_timer(&watchdogs));
        assert_eq!(far.poll_expired(&Context::from_waker(Waker::noop())), Poll::Pending);
        watchdogs.approach(now + 8 * TICK);
        assert!(has_timer(&watchdogs));
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
    fn slots_are_used_again_and_given_up_after_a_flood() {
        let watchdogs = Watchdogs::default();
        drop(watchdogs.watch());
        let kept = watchdogs.watch();
        assert_eq!(watchdogs.shared.all.borrow().len(), 1);
        let flood: Vec<Watchdog> = (0..5000).map(|_| watchdogs.watch()).collect();
        assert!(!watchdogs.is_idle());
        drop(flood);
        watchdogs.tick(Instant::now());
        assert_eq!(watchdogs.shared.all.borrow().len(), 1 + SPARE / 2);
        drop(kept);
        assert!(watchdogs.is_idle());
    }
}
