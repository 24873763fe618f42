//! Connections that are carried, and that other policies or routes may end: they look anew when there are some.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    task::{Context, Waker},
};

use crate::worker::Worker;

/// The connections of one worker.
#[derive(Default)]
pub(crate) struct Alarms {
    waiting: RefCell<Vec<Weak<Alarm>>>,
    /// Those of the policies and of the configuration.
    generations: Cell<(u64, u64)>,
}

/// What wakes one of them.
#[derive(Default)]
pub(crate) struct Alarm(RefCell<Option<Waker>>);

impl Alarms {
    /// One for a connection, for as long as it is held.
    pub(super) fn set(&self) -> Rc<Alarm> {
        let alarm = Rc::new(Alarm::default());
        let mut waiting = self.waiting.borrow_mut();
        // Each time as many have come as there were, those that are gone are forgotten.
        if waiting.len() == waiting.capacity() {
            waiting.retain(|alarm| alarm.strong_count() > 0);
        }
        waiting.push(Rc::downgrade(&alarm));
        alarm
    }

    /// Wakes all if the policies or the configuration are others than before.
    pub(crate) fn check(&self, worker: &Worker) {
        let now = (worker.mesh.protection().generation, worker.snapshot().generation);
        if self.generations.replace(now) == now {
            return;
        }
        for alarm in self.waiting.borrow().iter().filter_map(Weak::upgrade) {
            alarm.ring();
        }
    }
}

impl Alarm {
    /// Wakes whoever waits.
    pub(crate) fn ring(&self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }

    /// Whoever polls is woken when it is time to look.
    pub(crate) fn wake(&self, cx: &Context<'_>) {
        let mut waiting = self.0.borrow_mut();
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_are_gone_are_forgotten() {
        let alarms = Alarms::default();
        let _kept = alarms.set();
        for _ in 0..1000 {
            drop(alarms.set());
        }
        assert!(alarms.waiting.borrow().len() < 8);
    }
}
