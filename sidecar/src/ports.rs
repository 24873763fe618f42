//! What both steps of a sidecar must agree on: its ports, and how its own connections are known.

/// Health and metrics, which others reach.
pub(crate) const PROBES: u16 = 15020;
/// All admin pages, for the pod itself.
pub(crate) const ADMIN: u16 = 15021;

/// The priority of the sockets by which it goes on to where the application was going. Queues take packets of it like those that
/// have none.
pub(crate) const OWN: u32 = 4;

/// Where connections are turned to.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Ports {
    /// The port that takes connections which leave the pod
    #[arg(long, env = "WEFT_OUTBOUND_PORT", default_value_t = 15001, value_name = "PORT")]
    pub(crate) outbound_port: u16,
    /// The port that takes connections which come to the pod
    #[arg(long, env = "WEFT_INBOUND_PORT", default_value_t = 15006, value_name = "PORT")]
    pub(crate) inbound_port: u16,
}
