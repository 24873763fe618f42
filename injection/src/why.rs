//! Why a pod has no sidecar: it is left as it is, or refused.

use std::fmt;

use crate::names::{INTERCEPT, POD_SECURITY};

/// Why a pod is left without a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// It says so itself.
    OptedOut,
    /// It has no network of its own.
    HostNetwork,
    /// It is not Linux.
    Windows,
    /// A node runs it, and the API server only shows it.
    Static,
    /// It is a data plane already.
    Gateway,
    /// It uses a port of the sidecar's.
    Port {
        /// Which container,
        container: String,
        /// and which port.
        port: u16,
    },
    /// Its namespace forbids the step that turns connections to the sidecar.
    Forbidden {
        /// The Pod Security Standard that is enforced.
        standard: String,
    },
}

impl Left {
    /// Whether its author has said so, so that there is nothing to tell.
    pub fn is_wanted(&self) -> bool {
        matches!(self, Self::OptedOut | Self::Gateway)
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OptedOut => f.write_str("it says weft.dev/inject: disabled"),
            Self::HostNetwork => {
                f.write_str("it uses the network of its node (hostNetwork), which is not to be turned to a sidecar")
            }
            Self::Windows => f.write_str("it is of Windows"),
            Self::Static => f.write_str("a node runs it by itself (a static pod)"),
            Self::Gateway => f.write_str("it is of a Gateway, and so a data plane itself"),
            Self::Port { container, port } => write!(
                f,
                "its container {container} has the port {port}, which is the sidecar's: use another, or say weft.dev/inject: disabled"
            ),
            Self::Forbidden { standard } => write!(
                f,
                "its namespace enforces the Pod Security Standard {standard}, which forbids NET_ADMIN to the init container \
                 {INTERCEPT}: label the namespace {POD_SECURITY}=privileged, or the pod weft.dev/inject=disabled"
            ),
        }
    }
}

/// Why a pod cannot have the sidecar that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

impl Refusal {
    pub(crate) fn new(why: String) -> Self {
        Self(why)
    }

    pub(crate) fn malformed(what: &str) -> Self {
        Self(format!("this is no pod: {what}"))
    }
}

impl From<&Left> for Refusal {
    fn from(left: &Left) -> Self {
        Self(format!("the pod cannot have a sidecar: {left}"))
    }
}

impl From<&str> for Refusal {
    fn from(why: &str) -> Self {
        Self(format!("the pod would not be protected by a sidecar: {why}"))
    }
}
