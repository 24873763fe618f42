//! When a CA wants to be asked again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Response, StatusCode, header};
use jiff::Timestamp;

/// What a CA has last said about when to come again. Clones hear of the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patience(Arc<Mutex<Option<Duration>>>);

impl Patience {
    /// What it has said with its last refusal.
    pub(crate) fn asked_for(&self) -> Option<Duration> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an answer for what it says of that.
    pub(super) fn hear<B>(&self, response: &Response<B>) {
        let refused = matches!(
            response.status(),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        let asked = refused.then(|| retry_after(response, Timestamp::now())).flatten();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = asked;
    }
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
fn retry_after<B>(response: &Response<B>, now: Timestamp) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(date.duration_since(now).try_into().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_when_to_come_again_and_the_next_answer_takes_that_back() {
        let patience = Patience::default();
        let answer = |status: u16, after: &str| {
            let response = Response::builder().status(status).header(header::RETRY_AFTER, after);
            response.body(()).expect("a response")
        };
        patience.hear(&answer(200, "3"));
        assert_eq!(patience.asked_for(), None);
        patience.hear(&answer(429, " 120 "));
        assert_eq!(patience.asked_for(), Some(Duration::from_secs(120)));
        patience.hear(&answer(503, "soon"));
        assert_eq!(patience.asked_for(), None);
        let now: Timestamp = "1999-12-31T23:59:00Z".parse().expect("a time");
        let dated = answer(429, "Fri, 31 Dec 1999 23:59:59 GMT");
        assert_eq!(retry_after(&dated, now), Some(Duration::from_secs(59)));
        assert_eq!(
            retry_after(&dated, now + Duration::from_secs(3600)),
            Some(Duration::ZERO)
        );
    }
}
