//! How often a pod may have something signed: once at its start and then once in a while, unless it starts again and again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// So many at once,
const BURST: u32 = 10;
/// and then one in this time.
const PACE: Duration = Duration::from_secs(30);
/// Pods that are kept apart.
const PODS: usize = 16 * 1024;

/// Counts what pods have asked for (GCRA): for each pod, when it would have used up what it had.
#[derive(Default)]
pub(super) struct Limiter(Mutex<HashMap<String, Instant>>);

impl Limiter {
    /// Counts one more; if that is too many, says when there is one again.
    pub(super) fn take(&self, pod: &str, now: Instant) -> Result<(), Duration> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = known.get(pod).copied().unwrap_or(now).max(now);
        let after = used + PACE;
        let most = now + PACE * BURST;
        if after > most {
            return Err(after - most);
        }
        if known.len() >= PODS && !known.contains_key(pod) {
            known.retain(|_, until| *until > now);
        }
        // More pods than that at once are not kept apart: their tokens bound them.
        if known.len() < PODS || known.contains_key(pod) {
            known.insert(pod.to_owned(), after);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_asks_too_often_waits_and_others_do_not() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(limiter.take("shop/front-1", now), Ok(()));
        }
        assert_eq!(limiter.take("shop/front-1", now), Err(PACE));
        assert_eq!(limiter.take("shop/front-2", now), Ok(()));
        assert_eq!(limiter.take("shop/front-1", now + PACE), Ok(()));
        assert_eq!(limiter.take("shop/front-1", now + PACE), Err(PACE));
    }
}
