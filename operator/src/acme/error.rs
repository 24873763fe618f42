//! Why something does not go on, and how long it is left alone for that.

use std::{error::Error as _, fmt::Write as _, time::Duration};

use jiff::Timestamp;
use weft_translate::acme::Failure;

use super::patience::Patience;

/// Waits after the CA has said no double from the first to the second. Let's Encrypt allows five failed validations of a
/// host an hour.
const REFUSED: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(12 * 3600));
/// Waits after it could not be reached.
const UNREACHABLE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// No CA is waited for longer, whatever it asks for.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// What makes of a problem's type its name (RFC 8555, 6.7).
const TYPES: &str = "urn:ietf:params:acme:error:";

/// The problem of a nonce that the CA does not take (any more).
pub(super) const NONCE: &str = "badNonce";

/// Why something does not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcmeError {
    /// The API server said no, or nothing.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The operator may not write Secrets there.
    #[error(
        "the operator may not write Secrets in {0}: install the chart with acme.enabled=true, or with this namespace in \
         acme.namespaces"
    )]
    Forbidden(String),
    /// There is a Secret of that name that somebody else made.
    #[error("the Secret {0} exists and was not made by Weft: delete it, or use another name")]
    Foreign(String),
    /// Another replica of the operator writes now.
    #[error("another replica of the operator writes")]
    NotHeld,
    /// There is no account with the CA yet.
    #[error("there is no account with the CA yet")]
    NoAccount,
    /// The CA has refused several nonces one after the other, as it may (RFC 8555, 6.5): nothing is wrong.
    #[error("the CA has refused every nonce so far")]
    Nonce,
    /// The CA said no, or nothing.
    #[error("{message}")]
    Ca {
        /// A reason of a condition.
        reason: &'static str,
        message: String,
        /// When it asks to be asked again.
        after: Option<Duration>,
    },
}

impl AcmeError {
    pub(crate) fn refused(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Ca {
            reason,
            message: message.into(),
            after: None,
        }
    }

    /// What a client's error comes to.
    pub(crate) fn of(error: &instant_acme::Error, patience: &Patience) -> Self {
        let reason = match name(error) {
            Some(NONCE) => return Self::Nonce,
            Some("rateLimited") => "RateLimited",
            Some("accountDoesNotExist") => "AccountGone",
            Some("externalAccountRequired" | "invalidContact" | "unsupportedContact" | "userActionRequired") => {
                "RegistrationFailed"
            }
            Some("rejectedIdentifier" | "unsupportedIdentifier" | "caa") => "RejectedHost",
            Some("connection" | "dns" | "incorrectResponse" | "tls" | "unauthorized") => "ChallengeFailed",
            Some("serverInternal") => "Unreachable",
            Some(_) => "Refused",
            None if matches!(error, instant_acme::Error::Api(_) | instant_acme::Error::Unsupported(_)) => "Refused",
            None => "Unreachable",
        };
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let _ = write!(message, ": {cause}");
            source = cause.source();
        }
        Self::Ca {
            reason,
            message,
            after: patience.asked_for(),
        }
    }

    /// Puts it down as what happened when `of` was tried after `before`; none if it is no failure of that kind.
    pub(crate) fn failure(&self, before: Option<&Failure>, of: &str, now: Timestamp) -> Option<Failure> {
        let (reason, after) = match self {
            Self::Ca { reason, after, .. } => (*reason, *after),
            Self::Api(_) | Self::Forbidden(_) | Self::Foreign(_) | Self::NotHeld | Self::NoAccount | Self::Nonce => {
                return None;
            }
        };
        let count = before.filter(|before| before.of == of).map_or(0, |before| before.count) + 1;
        let (first, most) = if reason == "Unreachable" { UNREACHABLE } else { REFUSED };
        let wait = (first * 2_u32.saturating_pow((count - 1).min(16))).min(most);
        let wait = wait.max(after.unwrap_or_default()).min(LONGEST);
        Some(Failure {
            reason: reason.to_owned(),
            message: self.to_string(),
            count,
            again: now + wait,
            of: of.to_owned(),
        })
    }
}

/// The name of the problem that a CA has reported.
pub(crate) fn name(error: &instant_acme::Error) -> Option<&str> {
    match error {
        instant_acme::Error::Api(problem) => problem.r#type.as_deref()?.strip_prefix(TYPES),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn problem(kind: &str) -> instant_acme::Error {
        let problem = serde_json::json!({"type": format!("{TYPES}{kind}"), "detail": "no", "status": 400});
        instant_acme::Error::Api(serde_json::from_value(problem).expect("a problem"))
    }

    #[test]
    fn waits_grow_and_begin_anew_for_something_else() {
        let error = AcmeError::of(&problem("unauthorized"), &Patience::default());
        let mut failure = None;
        let mut waits = Vec::new();
        for _ in 0..10 {
            failure = error.failure(failure.as_ref(), "a", now());
            let again = failure.as_ref().expect("a failure").again;
            waits.push(again.duration_since(now()).as_secs());
        }
        assert_eq!(waits[..4], [300, 600, 1200, 2400]);
        assert_eq!(waits[9], 12 * 3600);
        // No more than five in any hour.
        assert!(waits[..4].iter().sum::<i64>() > 3600);
        let other = error.failure(failure.as_ref(), "b", now()).expect("a failure");
        assert_eq!((other.count, other.reason.as_str()), (1, "ChallengeFailed"));
    }

    #[test]
    fn a_ca_that_asks_for_patience_gets_it_and_one_that_is_away_is_tried_sooner() {
        let limited = AcmeError::Ca {
            reason: "RateLimited",
            message: String::new(),
            after: Some(Duration::from_secs(7200)),
        };
        let wait = |error: &AcmeError| {
            let failure = error.failure(None, "a", now()).expect("a failure");
            failure.again.duration_since(now()).as_secs()
        };
        assert_eq!(wait(&limited), 7200);
        let away = AcmeError::of(&instant_acme::Error::Other("refused".into()), &Patience::default());
        assert_eq!(wait(&away), 10);
        assert!(AcmeError::NoAccount.failure(None, "a", now()).is_none());
    }

    #[test]
    fn refused_nonces_are_no_failure() {
        let error = AcmeError::of(&problem("badNonce"), &Patience::default());
        assert!(error.failure(None, "a", now()).is_none());
    }
}
