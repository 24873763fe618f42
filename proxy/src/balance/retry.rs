//! When a request is tried again: not at once, not all at the same moment, and not so often that trying again becomes
//! the load that keeps a backend down.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// The share of requests that may be tried again (GEP-3388's default).
const PERCENT: f64 = 0.20;
/// Over this time.
const INTERVAL: Duration = Duration::from_secs(10);
/// Tries that are allowed each second however few requests there are.
const MINIMUM_PER_SECOND: f64 = 10.0;

/// How many tries a service's requests have left, by GEP-3388: 20 % of the requests of ten seconds, and at least ten
/// each second.
#[derive(Debug)]
pub struct RetryBudget {
    /// Requests of the last interval, older ones counting less and less.
    requests: Cell<f64>,
    /// Tries, likewise.
    tries: Cell<f64>,
    faded: Cell<Option<Instant>>,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            requests: Cell::new(0.0),
            tries: Cell::new(0.0),
            faded: Cell::new(None),
        }
    }
}

impl RetryBudget {
    /// Counts a request.
    pub fn request(&self, now: Instant) {
        self.fade(now);
        self.requests.set(self.requests.get() + 1.0);
    }

    /// Whether one may be tried again; if so, that is counted.
    pub fn allow(&self, now: Instant) -> bool {
        self.fade(now);
        let allowed = (self.requests.get() * PERCENT).max(MINIMUM_PER_SECOND * INTERVAL.as_secs_f64());
        let tries = self.tries.get() + 1.0;
        if tries > allowed {
            return false;
        }
        self.tries.set(tries);
        true
    }

    fn fade(&self, now: Instant) {
        let Some(last) = self.faded.get() else {
            return self.faded.set(Some(now));
        };
        let elapsed = now.saturating_duration_since(last);
        // A step that small changes nothing that matters, and most requests are spared the exponential.
        if elapsed < Duration::from_millis(100) {
            return;
        }
        let kept = (-elapsed.as_secs_f64() / INTERVAL.as_secs_f64()).exp();
        self.requests.set(self.requests.get() * kept);
        self.tries.set(self.tries.get() * kept);
        self.faded.set(Some(now));
    }
}

/// How long to wait before try number `number` (from 1): at least `base`, doubled each time, and up to half as much
/// again so that those who failed together do not come back together.
pub fn backoff(base: Duration, number: u32, random: u64) -> Duration {
    let doubled = base.saturating_mul(1 << number.saturating_sub(1).min(6));
    let share = (random >> 11) as f64 / (1u64 << 53) as f64;
    doubled + doubled.mul_f64(share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_requests_may_be_tried_again() {
        let (budget, start) = (RetryBudget::default(), Instant::now());
        let mut allowed = 0;
        for number in 0..10_000u64 {
            let now = start + Duration::from_millis(number);
            budget.request(now);
            allowed += u32::from(budget.allow(now));
        }
        assert!((1_200..2_600).contains(&allowed), "{allowed}");
    }

    #[test]
    fn a_few_tries_are_always_allowed() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        budget.request(now);
        assert_eq!((0..1000).filter(|_| budget.allow(now)).count(), 100);
        assert!(budget.allow(now + Duration::from_secs(5)));
    }

    #[test]
    fn waits_double_and_never_coincide() {
        let base = Duration::from_millis(100);
        for (number, least) in [(1, 100), (2, 200), (3, 400)] {
            for random in [0, u64::MAX / 2, u64::MAX] {
                let wait = backoff(base, number, random).as_millis();
                assert!((least..=least * 3 / 2).contains(&wait), "{wait}");
            }
        }
        assert!(backoff(base, 1, 0) < backoff(base, 1, u64::MAX));
    }
}
