//! Latencies in log-linear buckets: eight to each power of two of microseconds, so that a quantile is off by at most an eighth.
//! What one data plane has counted and what another has can be added, which quantiles cannot.

use std::time::Duration;

use serde::{Deserialize, Serialize};

const SUB: usize = 8;
/// The first bucket ends here, in microseconds (as a power of two).
const FIRST: u32 = 4;
/// The last bucket begins here: about 67 s.
const LAST: u32 = 26;

/// Latencies that were counted. Buckets in which there is nothing are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Latencies {
    /// How many were in which bucket, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<(u16, u64)>,
    /// Their sum in microseconds.
    #[serde(default)]
    pub sum_micros: u64,
}

impl Latencies {
    /// How many buckets there are.
    pub const BUCKETS: usize = (LAST - FIRST) as usize * SUB + 1;

    /// The bucket of a latency.
    pub fn bucket(micros: u64) -> usize {
        let micros = micros.clamp(1 << FIRST, 1 << LAST);
        let power = micros.ilog2();
        let sub = ((micros >> (power - 3)) & 7) as usize;
        (power - FIRST) as usize * SUB + sub
    }

    /// The upper bound of a bucket, in microseconds.
    pub fn upper(bucket: usize) -> u64 {
        let bucket = bucket.min(Self::BUCKETS - 1);
        let power = FIRST + (bucket / SUB) as u32;
        (1u64 << power) + ((bucket % SUB) as u64 + 1) * (1u64 << (power - 3))
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        let counts = self.buckets.iter().map(|(_, count)| *count);
        counts.fold(0, u64::saturating_add)
    }

    /// The latency that a share of all (0 to 1) did not exceed; none if nothing was counted.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total = self.count();
        let wanted = ((total as f64 * share).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0_u64;
        for (bucket, count) in &self.buckets {
            seen = seen.saturating_add(*count);
            if seen >= wanted {
                return Some(Duration::from_micros(Self::upper(usize::from(*bucket))));
            }
        }
        None
    }

    /// Adds what others have counted.
    pub fn add(&mut self, other: &Self) {
        self.sum_micros = self.sum_micros.saturating_add(other.sum_micros);
        for (bucket, more) in &other.buckets {
            match self.buckets.binary_search_by_key(bucket, |(bucket, _)| *bucket) {
                Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(*more),
                Err(at) => self.buckets.insert(at, (*bucket, *more)),
            }
        }
    }

    /// What was counted since an earlier state of the same.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |bucket: u16| {
            let at = earlier.buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket);
            at.map_or(0, |at| earlier.buckets[at].1)
        };
        let more = self
            .buckets
            .iter()
            .map(|(bucket, count)| (*bucket, count.saturating_sub(before(*bucket))));
        Self {
            buckets: more.filter(|(_, count)| *count > 0).collect(),
            sum_micros: self.sum_micros.saturating_sub(earlier.sum_micros),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(latencies: &[u64]) -> Latencies {
        let mut all = Latencies::default();
        for micros in latencies {
            all.add(&Latencies {
                buckets: vec![(Latencies::bucket(*micros) as u16, 1)],
                sum_micros: *micros,
            });
        }
        all
    }

    #[test]
    fn buckets_cover_every_latency_in_order() {
        let mut last = 0;
        for micros in 1..200_000u64 {
            let at = Latencies::bucket(micros);
            assert!(at >= last && at < Latencies::BUCKETS);
            let upper = Latencies::upper(at);
            assert!(micros < 1 << FIRST || upper > micros, "{micros}");
            assert!(
                micros < 1 << FIRST || upper as f64 <= micros as f64 * 1.126 + 1.0,
                "{micros} {upper}"
            );
            last = at;
        }
        assert_eq!(Latencies::bucket(u64::MAX), Latencies::BUCKETS - 1);
    }

    #[test]
    fn what_was_counted_apart_is_added_and_what_is_new_told_apart() {
        let (mut first, second) = (of(&[100, 1000, 100]), of(&[1_000_000]));
        let before = first.clone();
        first.add(&second);
        assert_eq!((first.count(), first.sum_micros), (4, 1_001_200));
        assert_eq!(first.since(&before), second);
        assert_eq!(first.since(&first), Latencies::default());
        let p99 = first.quantile(0.99).expect("there are some");
        assert!(
            p99 >= Duration::from_secs(1) && p99 < Duration::from_millis(1130),
            "{p99:?}"
        );
        assert_eq!(Latencies::default().quantile(0.5), None);
    }
}
