//! Which endpoint a request goes to, and when it is tried again. All of it belongs to one worker, and time is given from
//! outside, so that a simulation needs no clock.

mod endpoint;
mod retry;
mod weighted;

pub use endpoint::{Balancer, EndpointState, InFlight, Outcome};
pub use retry::{RetryBudget, backoff};
pub use weighted::Weighted;

/// A generator of numbers that is fast and good enough to spread load (xorshift64*).
#[derive(Debug)]
pub(crate) struct Random(std::cell::Cell<u64>);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(std::cell::Cell::new(seed | 1))
    }

    pub(crate) fn next(&self) -> u64 {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}
