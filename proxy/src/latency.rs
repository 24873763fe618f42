//! Latencies counted in log-linear buckets: eight to each power of two, so a quantile is off by at most an eighth.

use std::{cell::Cell, time::Duration};

const SUB: usize = 8;
/// The first bucket ends here, in microseconds (as a power of two).
const FIRST: u32 = 4;
/// The last bucket begins here: about 67 s.
const LAST: u32 = 26;
const BUCKETS: usize = (LAST - FIRST) as usize * SUB + 1;

fn bucket(micros: u64) -> usize {
    let micros = micros.clamp(1 << FIRST, 1 << LAST);
    let power = micros.ilog2();
    let sub = ((micros >> (power - 3)) & 7) as usize;
    (power - FIRST) as usize * SUB + sub
}

/// The upper bound of a bucket, in microseconds.
fn upper(bucket: usize) -> u64 {
    let power = FIRST + (bucket / SUB) as u32;
    (1u64 << power) + ((bucket % SUB) as u64 + 1) * (1u64 << (power - 3))
}

/// Where one worker counts. It has no lock and is read by its own thread only.
pub(crate) struct Histogram {
    counts: Box<[Cell<u64>; BUCKETS]>,
    sum_micros: Cell<u64>,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            counts: Box::new([const { Cell::new(0) }; BUCKETS]),
            sum_micros: Cell::new(0),
        }
    }

    pub(crate) fn record(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let cell = &self.counts[bucket(micros)];
        cell.set(cell.get() + 1);
        self.sum_micros.set(self.sum_micros.get().saturating_add(micros));
    }

    pub(crate) fn read(&self) -> Latency {
        Latency {
            counts: self.counts.iter().map(Cell::get).collect(),
            sum_micros: self.sum_micros.get(),
        }
    }
}

/// Latencies counted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Empty when nothing was ever counted.
    counts: Vec<u64>,
    sum_micros: u64,
}

impl Latency {
    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros)
    }

    /// The latency that a share of all (0 to 1) did not exceed; zero when nothing was counted.
    pub fn quantile(&self, share: f64) -> Duration {
        let total = self.count();
        let wanted = ((total as f64 * share).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_micros(upper(bucket));
            }
        }
        Duration::ZERO
    }

    /// How many did not exceed `bound`, to within a bucket.
    pub fn at_most(&self, bound: Duration) -> u64 {
        let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        self.counts
            .iter()
            .enumerate()
            .take_while(|(bucket, _)| upper(*bucket) <= micros)
            .map(|(_, count)| count)
            .sum()
    }

    /// What was counted since an earlier reading of the same histogram.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |bucket: usize| earlier.counts.get(bucket).copied().unwrap_or(0);
        Self {
            counts: self
                .counts
                .iter()
                .enumerate()
                .map(|(at, count)| count.saturating_sub(before(at)))
                .collect(),
            sum_micros: self.sum_micros.saturating_sub(earlier.sum_micros),
        }
    }

    /// Adds what another worker counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum_micros = self.sum_micros.saturating_add(other.sum_micros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_latency_in_order() {
        let mut last = 0;
        for micros in 1..200_000u64 {
            let at = bucket(micros);
            assert!(at >= last && at < BUCKETS);
            assert!(micros < 1 << FIRST || upper(at) > micros, "{micros}");
            assert!(
                micros < 1 << FIRST || upper(at) as f64 <= micros as f64 * 1.126 + 1.0,
                "{micros} {}",
                upper(at)
            );
            last = at;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_and_windows() {
        let histogram = Histogram::new();
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros * 100));
        }
        let first = histogram.read();
        assert_eq!(first.count(), 1000);
        let median = first.quantile(0.5).as_secs_f64();
        assert!((0.050..0.0565).contains(&median), "{median}");
        histogram.record(Duration::from_secs(1));
        let window = histogram.read().since(&first);
        assert_eq!(window.count(), 1);
        assert!(window.quantile(0.99) >= Duration::from_secs(1));
        assert_eq!(Latency::default().quantile(0.99), Duration::ZERO);
    }
}
