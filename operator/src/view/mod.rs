//! What is seen of the traffic, served as Kubernetes serves anything: by an aggregated API. Who asks is told by the API server,
//! which proves that it is one; what he may see is asked of the API server too.
//!
//! Two groups are served: `view.weft.dev`, by which `weft` shows the mesh, and `metrics.smi-spec.io`, SMI's TrafficMetrics.

mod access;
mod api;
mod bundle;
mod callers;
mod front;
mod problem;
mod server;
mod smi;
#[cfg(test)]
mod tests;

pub(crate) use self::{bundle::Bundles, server::View};
