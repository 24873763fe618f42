//! What is the same for all pods, unless they or their namespaces say otherwise.

use std::{fmt, str::FromStr};

use serde_json::{Value, json};
use weft_model::Collector;

use crate::quantity::Quantity;

/// What sidecars are like.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The image; its entrypoint is `weft-sidecar`.
    pub image: String,
    /// When it is pulled.
    pub pull_policy: String,
    /// Where the operator is reached, `HOST:PORT`.
    pub operator: String,
    /// The name that the operator's certificate has.
    pub server_name: String,
    /// What a sidecar may use.
    pub resources: Resources,
    /// How much it logs.
    pub log_level: LogLevel,
    /// What it tells of requests.
    pub spans: Spans,
}

/// Where spans of requests go, and how many traces are begun.
#[derive(Clone, Debug, PartialEq)]
pub struct Spans {
    /// Where they go; there are none when absent.
    pub collector: Option<Collector>,
    /// The share of requests with which a trace is begun, from 0 to 1, where none comes with them.
    pub sample: f64,
}

impl Spans {
    /// In how many requests a trace is begun, unless it is said.
    pub const SAMPLE: f64 = 0.01;

    /// Reads `off`, or where a collector is. Nothing is off.
    ///
    /// # Errors
    /// It is neither.
    pub fn read(text: &str) -> Result<Option<Collector>, String> {
        match text {
            "" | "off" => Ok(None),
            text => text.parse().map(Some).map_err(|error| format!("{error}; or off")),
        }
    }

    /// Reads a share.
    ///
    /// # Errors
    /// It is no number from 0 to 1.
    pub fn share(text: &str) -> Result<f64, String> {
        let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
        share.ok_or_else(|| format!("{text:?} is not a share: write a number from 0 to 1"))
    }
}

impl Default for Spans {
    fn default() -> Self {
        Self {
            collector: None,
            sample: Self::SAMPLE,
        }
    }
}

/// What a container asks for, and what it may not exceed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Cores that it has in any case.
    pub cpu_request: Option<Quantity>,
    /// Memory that it has in any case.
    pub memory_request: Option<Quantity>,
    /// Cores at most.
    pub cpu_limit: Option<Quantity>,
    /// Memory at most.
    pub memory_limit: Option<Quantity>,
}

impl Resources {
    /// These where they say something, else those.
    pub(crate) fn over(&self, other: &Self) -> Self {
        let either = |own: &Option<Quantity>, other: &Option<Quantity>| own.clone().or_else(|| other.clone());
        let mut merged = Self {
            cpu_request: either(&self.cpu_request, &other.cpu_request),
            memory_request: either(&self.memory_request, &other.memory_request),
            cpu_limit: either(&self.cpu_limit, &other.cpu_limit),
            memory_limit: either(&self.memory_limit, &other.memory_limit),
        };
        // Who says one of the two means it: the other, which was said for all, gives way.
        bound(&mut merged.cpu_request, &mut merged.cpu_limit, self.cpu_limit.is_some());
        bound(
            &mut merged.memory_request,
            &mut merged.memory_limit,
            self.memory_limit.is_some(),
        );
        merged
    }

    /// What is wrong with them, if something is.
    pub fn problem(&self) -> Option<String> {
        let exceeds = |request: &Option<Quantity>, limit: &Option<Quantity>| match (request, limit) {
            (Some(request), Some(limit)) if request.value() > limit.value() => Some(format!("{request} > {limit}")),
            _ => None,
        };
        let cpu = exceeds(&self.cpu_request, &self.cpu_limit).map(|what| ("cpu", what));
        let wrong = cpu.or_else(|| exceeds(&self.memory_request, &self.memory_limit).map(|what| ("memory", what)));
        wrong.map(|(of, what)| format!("the request of {of} is above its limit: {what}"))
    }

    pub(crate) fn render(&self) -> Value {
        let pair = |cpu: &Option<Quantity>, memory: &Option<Quantity>| {
            let mut pair = json!({});
            for (name, quantity) in [("cpu", cpu), ("memory", memory)] {
                if let Some(quantity) = quantity {
                    pair[name] = quantity.to_string().into();
                }
            }
            pair
        };
        let mut resources = json!({});
        let requests = pair(&self.cpu_request, &self.memory_request);
        let limits = pair(&self.cpu_limit, &self.memory_limit);
        for (name, pair) in [("requests", requests), ("limits", limits)] {
            if pair != json!({}) {
                resources[name] = pair;
            }
        }
        resources
    }
}

/// Lets a request and a limit that were said by different people not contradict each other.
fn bound(request: &mut Option<Quantity>, limit: &mut Option<Quantity>, limit_is_own: bool) {
    if let (Some(wanted), Some(most)) = (&request, &limit)
        && wanted.value() > most.value()
    {
        if limit_is_own {
            request.clone_from(limit);
        } else {
            limit.clone_from(request);
        }
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What went wrong.
    Error,
    /// What may go wrong.
    Warn,
    /// What happens seldom.
    #[default]
    Info,
    /// What happens.
    Debug,
    /// Everything.
    Trace,
}

/// It is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of off, error, warn, info, debug and trace")]
pub struct UnknownLogLevel(String);

const LEVELS: [(LogLevel, &str); 6] = [
    (LogLevel::Off, "off"),
    (LogLevel::Error, "error"),
    (LogLevel::Warn, "warn"),
    (LogLevel::Info, "info"),
    (LogLevel::Debug, "debug"),
    (LogLevel::Trace, "trace"),
];

impl FromStr for LogLevel {
    type Err = UnknownLogLevel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = LEVELS.iter().find(|(_, name)| *name == text);
        known
            .map(|(level, _)| *level)
            .ok_or_else(|| UnknownLogLevel(text.to_owned()))
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = LEVELS.iter().find(|(level, _)| level == self);
        f.write_str(known.map_or("info", |(_, name)| name))
    }
}
