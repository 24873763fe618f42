//! How workloads come by their certificates: the serving and the asking side.

mod ask;
mod serve;

use weft_model::MeshTrust;

pub(crate) use self::serve::{CameFrom, Identities, ServeIdentity, shown};
pub use self::{
    ask::{IdentityClient, IdentityError, Trusts},
    serve::{Identify, Refused, Shown},
};

/// The most that a request may have. One of P-256 has half a kilobyte.
const REQUEST_BYTES: usize = 8 * 1024;
/// The most that an answer may have: ten thousand revocations and more.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// A certificate for a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The certificate and those between it and the root, as PEM.
    pub chain_pem: String,
    /// From when it holds, in seconds since 1970.
    pub not_before: u64,
    /// Until when it holds, in seconds since 1970.
    pub not_after: u64,
}

/// Whom to believe, and who one is oneself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Whom to believe.
    pub trust: MeshTrust,
    /// Who the caller is, by its token.
    pub identity: weft_model::SpiffeId,
}
