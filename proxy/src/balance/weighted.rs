//! Shares among the backends of a rule.

use std::cell::RefCell;

/// Chooses by weight, smoothly: the shares hold over any stretch of requests, not only in the long run, so that a canary
/// of a tenth gets every tenth request or so.
#[derive(Debug)]
pub struct Weighted {
    total: i64,
    /// Each weight, and how much its backend is owed.
    owed: RefCell<Vec<(i64, i64)>>,
}

impl Weighted {
    /// Takes the weights in the order of the backends.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let owed: Vec<(i64, i64)> = weights.into_iter().map(|weight| (i64::from(weight), 0)).collect();
        Self {
            total: owed.iter().map(|(weight, _)| weight).sum(),
            owed: RefCell::new(owed),
        }
    }

    /// The number of the next backend; none when no weight is over 0.
    pub fn pick(&self) -> Option<usize> {
        let mut owed = self.owed.borrow_mut();
        if let [(weight, _)] = owed.as_slice() {
            return (*weight > 0).then_some(0);
        }
        if self.total == 0 {
            return None;
        }
        for (weight, owed) in owed.iter_mut() {
            *owed += *weight;
        }
        let (best, (_, debt)) = owed
            .iter_mut()
            .enumerate()
            .filter(|(_, (weight, _))| *weight > 0)
            .max_by_key(|(_, (_, owed))| *owed)?;
        *debt -= self.total;
        Some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_hold_over_every_stretch() {
        let weighted = Weighted::new([70, 30, 0]);
        let mut taken = [0; 3];
        for number in 1..=500 {
            taken[weighted.pick().expect("weights are over 0")] += 1;
            assert!(
                (f64::from(taken[0]) - f64::from(number) * 0.7).abs() <= 1.0,
                "{taken:?}"
            );
        }
        assert_eq!(taken, [350, 150, 0]);
    }

    #[test]
    fn without_weight_there_is_no_choice() {
        assert_eq!(Weighted::new([]).pick(), None);
        assert_eq!(Weighted::new([0]).pick(), None);
        assert_eq!(Weighted::new([0, 0]).pick(), None);
        assert_eq!(Weighted::new([5]).pick(), Some(0));
    }
}
