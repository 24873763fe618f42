//! Whether requests go as well as before a step.

use weft_model::{
    Counts,
    view::{EdgeView, Side},
};

/// So many requests say something.
const ENOUGH: u64 = 10;

/// How requests went before.
pub(super) struct Watch {
    before: f64,
    tolerance: f64,
    /// Whether nobody may be refused.
    all: bool,
}

/// How they go now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As well, or nobody knows better.
    Holds(String),
    /// Not as well, for this.
    Falls(String),
}

impl Watch {
    /// `all` says that nobody may be refused.
    pub(super) fn new(before: &[EdgeView], tolerance: f64, all: bool) -> Self {
        let (counts, _) = sum(before);
        Self {
            before: success(&counts).unwrap_or(100.0),
            tolerance,
            all,
        }
    }

    /// The least of a hundred that have to succeed.
    pub(super) fn least(&self) -> f64 {
        (self.before - self.tolerance).max(0.0)
    }

    /// Judges what went to and from a namespace since the step.
    pub(super) fn judge(&self, now: &[EdgeView]) -> Verdict {
        let (counts, refused) = sum(now);
        if refused > 0 && self.all {
            return Verdict::Falls(format!("{refused} connections were refused since the step"));
        }
        let requests = counts.requests();
        match success(&counts) {
            None => Verdict::Holds("nobody has asked for anything meanwhile".to_owned()),
            Some(share) if requests >= ENOUGH && share < self.least() => Verdict::Falls(format!(
                "{share:.2} of a hundred requests succeed, and {:.2} did before",
                self.before
            )),
            Some(share) => Verdict::Holds(format!(
                "{share:.2} of a hundred requests succeed, of {requests}; {:.2} did before",
                self.before
            )),
        }
    }
}

fn success(counts: &Counts) -> Option<f64> {
    let requests = counts.requests();
    (requests > 0).then(|| 100.0 * (requests - counts.failures.min(requests)) as f64 / requests as f64)
}

/// All requests of a namespace, as both sides see them: what fails on the way, only who has asked knows.
fn sum(edges: &[EdgeView]) -> (Counts, u64) {
    let mut counts = Counts::default();
    let mut refused = 0;
    for edge in edges {
        counts.add(&edge.flow.requests);
        if edge.side == Side::Server && !edge.probed {
            refused += edge.flow.refused;
        }
    }
    (counts, refused)
}

#[cfg(test)]
mod tests {
    use super::{super::super::seen::stat::tests::edge, *};

    fn judged(requests: u64, failures: u64) -> Verdict {
        let before = [edge("front", "web", "server", 100, 2)];
        Watch::new(&before, 1.0, true).judge(&[edge("front", "web", "server", requests, failures)])
    }

    #[test]
    fn it_falls_where_fewer_succeed_than_before_and_some_have_asked() {
        assert!(matches!(judged(100, 2), Verdict::Holds(_)));
        assert!(matches!(judged(100, 3), Verdict::Holds(_)));
        assert!(matches!(judged(100, 4), Verdict::Falls(_)));
        assert!(matches!(judged(9, 9), Verdict::Holds(_)), "too few to say");
        assert!(matches!(judged(10, 10), Verdict::Falls(_)));
        assert!(matches!(judged(0, 0), Verdict::Holds(_)));
    }

    #[test]
    fn it_falls_where_somebody_is_refused() {
        let mut refused = edge("10.9.9.9", "web", "server", 0, 0);
        refused.flow.refused = 1;
        let watch = Watch::new(&[], 1.0, true);
        assert_eq!(watch.least(), 99.0);
        let refused = [refused];
        // Who has forced the step knows of it.
        assert!(matches!(Watch::new(&[], 1.0, false).judge(&refused), Verdict::Holds(_)));
        assert!(matches!(watch.judge(&refused), Verdict::Falls(why) if why.contains("refused")));
    }
}
