//! Whether a request is tried again.

use std::time::{Duration, Instant};

use weft_model::Retry;

use crate::{
    attempt::Failure,
    balance::{RetryBudget, backoff},
};

/// Tries that are made for a request that has no retry policy, when no endpoint has seen it yet.
const CONNECT_TRIES: u32 = 3;
/// How long it is waited before the first try that a policy pays for, if it does not say.
const BACKOFF: Duration = Duration::from_millis(25);

/// The tries of one request.
pub(super) struct Retries<'a> {
    policy: Option<&'a Retry>,
    /// Whether all of the request is at hand, to be sent again.
    replayable: bool,
    /// Tries the retry policy has paid for,
    paid: u32,
    /// and those that cost nothing since no endpoint saw the request.
    free: u32,
}

/// What a failed try leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another at once, on a new connection; no endpoint is to blame.
    Afresh,
    /// Another after that time, with another endpoint if there is one.
    Again(Duration),
    /// No other: too many requests are tried again.
    OverBudget,
    /// No other.
    GiveUp,
}

impl<'a> Retries<'a> {
    pub(super) fn new(policy: Option<&'a Retry>, replayable: bool) -> Self {
        Self {
            policy,
            replayable,
            paid: 0,
            free: 0,
        }
    }

    /// Whether the policy would pay for another try.
    fn has_more(&self) -> bool {
        self.replayable && self.policy.is_some_and(|policy| self.paid < policy.attempts)
    }

    /// Statuses for which there would be another try.
    pub(super) fn codes(&self) -> &'a [u16] {
        match self.policy {
            Some(policy) if self.has_more() => &policy.codes,
            _ => &[],
        }
    }

    /// What follows from a failure.
    pub(super) fn next(
        &mut self,
        failure: &Failure,
        budget: &RetryBudget,
        now: Instant,
        random: impl FnOnce() -> u64,
    ) -> Next {
        match failure {
            // A connection that had been idle was closed under the request.
            Failure::Stale if self.replayable && self.free < CONNECT_TRIES => {
                self.free += 1;
                Next::Afresh
            }
            Failure::Connect(_) | Failure::Handshake(_) if self.free < CONNECT_TRIES && self.paid == 0 => {
                self.free += 1;
                Next::Again(Duration::ZERO)
            }
            Failure::ClientGone(_) | Failure::ClientRefused(_) | Failure::ClientTimeout | Failure::RequestTimeout => {
                Next::GiveUp
            }
            _ if !self.has_more() => Next::GiveUp,
            _ if budget.allow(now) => {
                self.paid += 1;
                let base = self.policy.and_then(|policy| policy.backoff).unwrap_or(BACKOFF);
                Next::Again(backoff(base, self.paid, random()))
            }
            _ => Next::OverBudget,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn connect() -> Failure {
        Failure::Connect(io::ErrorKind::ConnectionRefused.into())
    }

    fn policy(attempts: u32) -> Retry {
        Retry {
            codes: vec![503],
            attempts,
            backoff: Some(Duration::from_secs(1)),
        }
    }

    #[test]
    fn what_no_endpoint_saw_is_tried_again_without_a_policy() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        let mut retries = Retries::new(None, false);
        for _ in 0..CONNECT_TRIES {
            assert_eq!(
                retries.next(&connect(), &budget, now, || 0),
                Next::Again(Duration::ZERO)
            );
        }
        assert_eq!(retries.next(&connect(), &budget, now, || 0), Next::GiveUp);
        let mut held = Retries::new(None, true);
        assert_eq!(held.next(&Failure::Stale, &budget, now, || 0), Next::Afresh);
        let mut streamed = Retries::new(None, false);
        assert_eq!(streamed.next(&Failure::Stale, &budget, now, || 0), Next::GiveUp);
    }

    #[test]
    fn a_policy_pays_for_its_attempts_and_waits_longer_each_time() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        let policy = policy(2);
        let mut retries = Retries::new(Some(&policy), true);
        let failure = Failure::Status(503);
        assert_eq!(retries.codes(), [503]);
        for seconds in [1, 2] {
            let next = retries.next(&failure, &budget, now, || 0);
            assert_eq!(next, Next::Again(Duration::from_secs(seconds)));
        }
        assert!(retries.codes().is_empty());
        assert_eq!(retries.next(&failure, &budget, now, || 0), Next::GiveUp);
        let mut streamed = Retries::new(Some(&policy), false);
        assert!(streamed.codes().is_empty());
        assert_eq!(streamed.next(&failure, &budget, now, || 0), Next::GiveUp);
    }

    #[test]
    fn nothing_pays_for_what_the_client_broke_off_or_for_too_many() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        let policy = policy(u32::MAX);
        let mut retries = Retries::new(Some(&policy), true);
        let gone = Failure::ClientGone(String::new());
        assert_eq!(retries.next(&gone, &budget, now, || 0), Next::GiveUp);
        let failure = Failure::Reset(String::new());
        let allowed = (0..1000).map(|_| retries.next(&failure, &budget, now, || 0));
        let allowed = allowed.take_while(|next| *next != Next::OverBudget).count();
        assert!((1..1000).contains(&allowed), "{allowed}");
    }
}
