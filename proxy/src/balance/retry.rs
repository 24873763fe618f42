//! When a request is tried again: not at once, not all at the same moment, and not so often that trying again becomes
//! the load that keeps a backend down.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// How many tries a service's requests have left, by GEP-3388: a share of the requests of some time, and a few however
/// few requests there are.
#[derive(Debug, Default)]
pub struct RetryBudget {
    limits: Cell<weft_model::RetryBudget>,
    /// Requests of the last interval, older ones counting less and less.
    requests: Cell<f64>,
    /// Tries, likewise.
    tries: Cell<f64>,
    faded: Cell<Option<Instant>>,
    /// Tries that were taken from what is always allowed and have not come back yet.
    taken: Cell<f64>,
    given_back: Cell<Option<Instant>>,
}

impl RetryBudget {
    /// Puts other limits in the place of those so far. What was counted stays.
    pub fn limit(&self, limits: weft_model::RetryBudget) {
        self.limits.set(limits);
    }

    /// Counts a request.
    pub fn request(&self, now: Instant) {
        self.fade(now);
        self.requests.set(self.requests.get() + 1.0);
    }

    /// Whether one may be tried again; if so, that is counted.
    pub fn allow(&self, now: Instant) -> bool {
        self.fade(now);
        let share = self.requests.get() * f64::from(self.limits.get().percent) / 100.0;
        let tries = self.tries.get() + 1.0;
        if tries > share && !self.take(now) {
            return false;
        }
        self.tries.set(tries);
        true
    }

    /// Takes one of the tries that are always allowed.
    fn take(&self, now: Instant) -> bool {
        let limits = self.limits.get();
        let since = self
            .given_back
            .replace(Some(now))
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let rate = f64::from(limits.min_count) / limits.min_interval.as_secs_f64();
        let taken = (self.taken.get() - rate * since.as_secs_f64()).max(0.0) + 1.0;
        let allowed = taken <= f64::from(limits.min_count);
        self.taken.set(if allowed { taken } else { taken - 1.0 });
        allowed
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
        let kept = (-elapsed.as_secs_f64() / self.limits.get().interval.as_secs_f64()).exp();
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
        assert_eq!((0..1000).filter(|_| budget.allow(now)).count(), 10);
        let later = now + Duration::from_millis(500);
        assert_eq!((0..1000).filter(|_| budget.allow(later)).count(), 5);
    }

    #[test]
    fn other_limits_hold_from_then_on() {
        let (budget, start) = (RetryBudget::default(), Instant::now());
        budget.limit(weft_model::RetryBudget {
            percent: 0,
            min_count: 1,
            min_interval: Duration::from_secs(3600),
            ..weft_model::RetryBudget::default()
        });
        for number in 0..1000u64 {
            budget.request(start + Duration::from_millis(number));
        }
        let now = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| budget.allow(now)).count(), 1, "one in an hour");
        assert_eq!(
            (0..1000)
                .filter(|_| budget.allow(now + Duration::from_secs(3600)))
                .count(),
            1
        );
        budget.limit(weft_model::RetryBudget {
            percent: 100,
            interval: Duration::from_secs(3600),
            min_count: 1,
            min_interval: Duration::from_secs(3600),
        });
        let now = now + Duration::from_secs(3601);
        (0..100).for_each(|_| budget.request(now));
        let allowed = (0..1000).filter(|_| budget.allow(now)).count();
        assert!(
            (95..=110).contains(&allowed),
            "as many as there were requests: {allowed}"
        );
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
