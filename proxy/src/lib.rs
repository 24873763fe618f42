//! The data plane: accept, protocol, route, policy, balance, upstream.
//!
//! [`Proxy`] runs one single-threaded worker per core. A request lives and dies on the worker that accepted its
//! connection: it takes no lock, crosses no thread, and routes by an immutable [`config::Snapshot`]. HTTP/1.1 is read and
//! written by the codec in [`h1`], HTTP/2 by the h2 crate; what is done to a request is written once for both
//! (`exchange`), against one view of it ([`fields`]).

pub mod admin;
mod attempt;
mod auth;
mod authorization;
pub mod balance;
mod body;
pub mod command;
pub mod config;
mod copy;
pub mod descriptors;
mod dial;
mod downstream;
mod edges;
mod exchange;
pub mod fields;
mod flag;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gather;
pub mod h1;
mod hpack;
mod intercepted;
mod io;
mod l4;
mod latency;
mod listen;
mod log;
pub mod mesh;
mod metrics;
mod mirror;
pub mod names;
mod options;
mod report;
mod server;
mod session;
mod spans;
mod splice;
pub mod tap;
mod tls;
mod traffic;
mod tunnel;
mod upstream;
mod watchdog;
mod worker;

pub use authorization::Verdict;
pub use config::{Resolution, Snapshot};
pub use flag::Flag;
pub use intercepted::{Direction, Intercept, Outcome, Protocol};
pub use latency::Latency;
pub use options::{AccessLog, Limits, LogFormat, LogOutput, Options};
pub use server::Proxy;
pub use spans::{SpanOptions, SpanService, SpanStats};
pub use traffic::{
    ConnectionStats, DestinationStats, EdgeStats, GRPC_CODES, Intercepted, ListenerStats, RouteStats, ServiceStats,
    Stats, Traffic,
};
