//! Resources in; model, statuses and diagnostics out. Pure, deterministic and incremental.
//!
//! Every derived thing — the listeners of a Gateway, the rules of a route, the endpoints of a Service — is made by a
//! function that reads the world through a recorder. When an object changes, only what had read it is made again, so an
//! edit costs the same among 5,000 routes as among 50. The result never depends on the order of the edits.

pub mod acme;
mod alike;
mod authorization;
mod backend;
mod backend_tls;
mod certificate;
mod claim;
mod diagnostic;
mod duration;
mod features;
mod filter;
mod frontend;
mod l4;
mod listener;
mod mesh;
mod owner;
mod parameters;
mod policy;
mod route;
mod rule;
mod service;
mod session;
mod smi;
mod status;
mod traffic_policy;
mod translator;
mod trust;
mod validate;
mod world;
mod xbackend;

pub use diagnostic::{Code, Diagnostic, Level};
pub use status::Status;
pub use translator::{Edit, Options, Output, Translator};

/// The controller that Weft's GatewayClasses name.
pub const CONTROLLER: &str = "weft.dev/gateway-controller";

/// The label of what the operator makes, and its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "weft-operator");
