//! The edge. Standalone, it reads manifests from files and runs the data plane in this process, with no cluster.

pub mod admin;
pub mod analyze;
pub mod echo;
pub mod explain;
pub mod files;
pub mod standalone;
mod watch;

pub use standalone::{Standalone, StandaloneOptions, State};
