//! The log of a process about itself, on standard error.

use std::{
    env,
    io::{IsTerminal as _, stderr},
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    filter::{ParseError, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// As text, for people.
    Text,
    /// As JSON, for what gathers them.
    Json,
}

impl Lines {
    /// As text where somebody looks on.
    pub fn by_terminal() -> Self {
        if stderr().is_terminal() { Self::Text } else { Self::Json }
    }
}

/// Starts the log: as much of it as the environment's `RUST_LOG` says, like `warn` or `info,weft_proxy=debug`, or else what an
/// operator needs to know. Of the targets that are `quiet`, that is warnings only.
///
/// Directives for single spans or fields are none: what reads those costs more memory than all else at the start.
pub fn start(lines: Lines, quiet: &[&str]) {
    let usual = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(quiet.iter().map(|target| (*target, LevelFilter::WARN)));
    let told = env::var("RUST_LOG").unwrap_or_default();
    let levels = levels(&told, &usual).unwrap_or_else(|error| {
        eprintln!("RUST_LOG is not understood and left aside: {error}; write levels like info,weft_proxy=debug");
        usual
    });
    let layer = fmt::layer().with_writer(stderr).with_target(false);
    let registry = tracing_subscriber::registry();
    match lines {
        Lines::Json => registry.with(layer.json()).with(levels).init(),
        Lines::Text if stderr().is_terminal() => registry.with(layer).with(levels).init(),
        Lines::Text => registry.with(layer.with_ansi(false)).with(levels).init(),
    }
}

fn levels(told: &str, usual: &Targets) -> Result<Targets, ParseError> {
    if told.is_empty() {
        return Ok(usual.clone());
    }
    told.parse()
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_environment_says_how_much_is_logged() {
        let usual = Targets::new().with_default(LevelFilter::INFO);
        assert_eq!(levels("", &usual).expect("the usual"), usual);
        let told = levels("warn,weft_proxy=debug", &usual).expect("levels");
        assert!(told.would_enable("weft_proxy", &Level::DEBUG));
        assert!(!told.would_enable("weft_operator", &Level::INFO));
        assert!(levels("weft_proxy=loud", &usual).is_err());
    }
}
