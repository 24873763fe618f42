//! Logs of the process itself, on standard error.

use std::io::{IsTerminal as _, stderr};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};
use weft_proxy::command::log_levels;

/// Starts logging; `RUST_LOG` says how much, and the default is what an operator needs to know.
pub(crate) fn start() {
    let default = Targets::new().with_default(LevelFilter::INFO);
    let levels = log_levels(&default.with_target("notify", LevelFilter::WARN));
    let lines = fmt::layer()
        .with_writer(stderr)
        .with_target(false)
        .with_ansi(stderr().is_terminal());
    tracing_subscriber::registry().with(lines).with(levels).init();
}
