//! Work that is due: each key once, several at a time, again after a failure with growing waits.
//!
//! It is bounded by what there is, since a key that waits is there once however often it is added.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    time::{Duration, Instant},
};

/// Waits after failures double from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Keys that wait for their time, and those that are being worked on.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    /// At most so many are worked on at a time.
    limit: usize,
    due: HashMap<K, Instant>,
    order: BTreeSet<(Instant, K)>,
    running: HashMap<K, Option<Instant>>,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            due: HashMap::new(),
            order: BTreeSet::new(),
            running: HashMap::new(),
            failures: HashMap::new(),
        }
    }

    /// Adds a key. One that waits already is due at the earlier of the two times; one that is being worked on comes again
    /// after that.
    pub(crate) fn add(&mut self, key: K, at: Instant) {
        if let Some(again) = self.running.get_mut(&key) {
            *again = Some(again.map_or(at, |known| known.min(at)));
            return;
        }
        match self.due.get(&key) {
            Some(known) if *known <= at => return,
            Some(known) => {
                self.order.remove(&(*known, key.clone()));
            }
            None => {}
        }
        self.due.insert(key.clone(), at);
        self.order.insert((at, key));
    }

    /// What is due and may be worked on; it must be [`Queue::done`] later.
    pub(crate) fn take(&mut self, now: Instant) -> Option<K> {
        if self.running.len() >= self.limit || self.order.first()?.0 > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.due.remove(&key);
        self.running.insert(key.clone(), None);
        Some(key)
    }

    /// The work on a key has ended, well or not.
    pub(crate) fn done(&mut self, key: &K, well: bool, now: Instant) {
        let again = self.running.remove(key).flatten();
        if well {
            self.failures.remove(key);
            if let Some(at) = again {
                self.add(key.clone(), at);
            }
            return;
        }
        let failures = self.failures.entry(key.clone()).or_default();
        *failures += 1;
        let wait = BACKOFF.0 * 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
        self.add(key.clone(), now + wait.min(BACKOFF.1));
    }

    /// When the next is due; none while nothing waits or no more may be worked on.
    pub(crate) fn next(&self) -> Option<Instant> {
        let free = self.running.len() < self.limit;
        self.order.first().filter(|_| free).map(|(at, _)| *at)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    /// Whether a key is being worked on.
    #[cfg(test)]
    fn is_running(&self, key: &K) -> bool {
        self.running.contains_key(key)
    }
}

/// Waits for a time, for ever if there is none.
pub(crate) async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_once_and_for_the_earlier_time() {
        let now = Instant::now();
        let mut queue = Queue::new(2);
        queue.add("a", now + Duration::from_secs(2));
        queue.add("a", now + Duration::from_secs(1));
        queue.add("a", now + Duration::from_secs(3));
        assert_eq!((queue.len(), queue.next()), (1, Some(now + Duration::from_secs(1))));
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.take(now + Duration::from_secs(1)), Some("a"));
        assert_eq!(queue.take(now + Duration::from_secs(9)), None);
    }

    #[test]
    fn no_more_than_the_limit_are_worked_on() {
        let now = Instant::now();
        let mut queue = Queue::new(1);
        queue.add("a", now);
        queue.add("b", now);
        assert_eq!(queue.take(now), Some("a"));
        assert_eq!((queue.take(now), queue.next()), (None, None));
        queue.done(&"a", true, now);
        assert_eq!(queue.take(now), Some("b"));
    }

    #[test]
    fn what_is_added_while_it_is_worked_on_comes_again() {
        let now = Instant::now();
        let mut queue = Queue::new(4);
        queue.add("a", now);
        queue.take(now);
        queue.add("a", now);
        assert!(queue.take(now).is_none() && queue.is_running(&"a"));
        queue.done(&"a", true, now);
        assert_eq!(queue.take(now), Some("a"));
        queue.done(&"a", true, now);
        assert_eq!(queue.take(now), None);
    }

    #[test]
    fn failures_wait_longer_each_time_and_are_forgotten_after_a_success() {
        let now = Instant::now();
        let mut queue = Queue::new(4);
        let mut at = now;
        let mut waits = Vec::new();
        queue.add("a", now);
        for _ in 0..12 {
            assert_eq!(queue.take(at), Some("a"));
            queue.done(&"a", false, at);
            let next = queue.next().expect("it waits");
            waits.push(next - at);
            at = next;
        }
        assert_eq!(waits[..3], [200, 400, 800].map(Duration::from_millis));
        assert_eq!(waits[11], BACKOFF.1);
        queue.take(at);
        queue.done(&"a", true, at);
        queue.add("a", at);
        queue.take(at);
        queue.done(&"a", false, at);
        assert_eq!(queue.next(), Some(at + BACKOFF.0));
    }
}
