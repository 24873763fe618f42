//! Latencies counted in the buckets of [`Latencies`].

use std::{cell::Cell, time::Duration};

use weft_model::Latencies;

const BUCKETS: usize = Latencies::BUCKETS;

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
        let cell = &self.counts[Latencies::bucket(micros)];
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
                return Duration::from_micros(Latencies::upper(bucket));
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
            .take_while(|(bucket, _)| Latencies::upper(*bucket) <= micros)
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

    /// As it is reported.
    pub(crate) fn told(&self) -> Latencies {
        let counted = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        Latencies {
            buckets: counted.map(|(bucket, count)| (bucket as u16, *count)).collect(),
            sum_micros: self.sum_micros,
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
