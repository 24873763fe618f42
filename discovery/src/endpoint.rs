//! The operator, as a data plane finds it.

use std::path::PathBuf;

/// Where the operator is, and how to prove who asks. Files are read at each attempt, so that they may be renewed.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// The name its certificate must have.
    pub server_name: String,
    /// PEM of the roots its certificate must come from.
    pub roots: PathBuf,
    /// A service account token for the audience `weft.dev`.
    pub token: PathBuf,
}
