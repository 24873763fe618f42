//! What data planes have seen, on its way to the operator: the reporting and the hearing side.

mod hear;
mod tell;

pub use self::{hear::Hear, tell::Observe};
pub(crate) use self::{
    hear::{Reports, ServeReports},
    tell::tell,
};

use std::time::Duration;

/// The most that one report may have.
const REPORT_BYTES: usize = 2 * 1024 * 1024;
/// Reports beyond those that are due: some may have been held up.
const AT_ONCE: u32 = 20;
/// How often it is reported, unless the operator wants otherwise, and the bounds of what it may want.
const PACE: Duration = Duration::from_secs(5);
const FASTEST: Duration = Duration::from_millis(20);
const SLOWEST: Duration = Duration::from_secs(300);
/// How long requests are told without the operator asking for it again.
const TAPPED: Duration = Duration::from_secs(15);
