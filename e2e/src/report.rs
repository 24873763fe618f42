//! What is said of what was played.

use std::time::Instant;

/// Says that something has passed that began then.
pub(crate) fn passed(what: &str, start: Instant) {
    println!("ok      {what} ({:.0} s)", start.elapsed().as_secs_f64());
}
