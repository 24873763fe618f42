//! The edge. Standalone, it reads manifests from files and runs the data plane in this process, with no cluster.

pub mod manifest;
