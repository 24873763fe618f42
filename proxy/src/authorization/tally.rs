//! What is counted and written down of the verdicts of one policy.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Lines of the log that one policy may write in a second. What is beyond is counted all the same.
const LINES: u64 = 5;

/// What became of what a policy decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It was let in.
    Allowed,
    /// It was not.
    Denied,
    /// It was let in, and would not have been if the namespace were further than `observe`.
    ShadowDenied,
    /// It is to be told of.
    Audited,
}

impl Verdict {
    /// How many there are.
    pub(super) const COUNT: usize = 4;

    /// All of them, in order of their number.
    pub const ALL: [Self; Self::COUNT] = [Self::Allowed, Self::Denied, Self::ShadowDenied, Self::Audited];

    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::ShadowDenied => "shadow_denied",
            Self::Audited => "audited",
        }
    }
}

/// The counters of one policy, which outlive changes to it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    verdicts: [AtomicU64; Verdict::COUNT],
    /// The second in which lines were last written, and how many were: seconds times 256, and the number.
    lines: AtomicU64,
}

impl Tally {
    pub(super) fn count(&self, verdict: Verdict) {
        self.verdicts[verdict as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted.
    pub(crate) fn verdicts(&self) -> [(Verdict, u64); Verdict::COUNT] {
        std::array::from_fn(|at| (Verdict::ALL[at], self.verdicts[at].load(Ordering::Relaxed)))
    }

    /// Whether another line may be written now.
    pub(super) fn may_write(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.may_write_at(now.as_secs())
    }

    fn may_write_at(&self, second: u64) -> bool {
        let next = |lines: u64| match lines {
            lines if lines >> 8 != second => Some(second << 8 | 1),
            lines if lines & 0xff < LINES => Some(lines + 1),
            _ => None,
        };
        let taken = self.lines.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_written() {
        let tally = Tally::default();
        let written = |second| (0..1000).filter(|_| tally.may_write_at(second)).count() as u64;
        assert_eq!((written(7), written(8)), (LINES, LINES));
    }
}
