//! The edge. Standalone, it reads manifests from files and runs the data plane in this process, with no cluster; in a
//! cluster, it runs as a pod of a Gateway and is told by the operator what to serve.

pub mod analyze;
pub mod cluster;
pub mod echo;
pub mod explain;
pub mod files;
mod readiness;
pub mod standalone;
mod watch;

pub use standalone::{Standalone, StandaloneOptions};
pub use weft_proxy::names;
