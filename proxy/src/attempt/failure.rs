//! Why a try has come to no answer that went to the client.

use std::io;

use crate::{balance::Outcome, body::BodyError, flag::Flag, h1::Refusal, upstream::ConnectError};

/// Nothing went to the client yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("no connection to the endpoint: {0}")]
    Connect(io::Error),
    #[error("no TLS with the endpoint: {0}")]
    Handshake(io::Error),
    #[error("the endpoint closed an idle connection as the request went out")]
    Stale,
    #[error("the endpoint broke off before it answered: {0}")]
    Reset(String),
    #[error("the endpoint's answer is not valid: {0}")]
    Invalid(Refusal),
    #[error("the endpoint took longer than the rule's timeouts.backendRequest")]
    BackendTimeout,
    #[error("the request took longer than the rule's timeouts.request")]
    RequestTimeout,
    #[error("the endpoint answered {0}")]
    Status(u16),
    #[error("the client went away: {0}")]
    ClientGone(String),
    #[error("the client's body is not valid: {0}")]
    ClientRefused(Refusal),
    #[error("the client's body stood still for too long")]
    ClientTimeout,
}

impl Failure {
    pub(crate) fn flag(&self) -> Flag {
        match self {
            Self::Connect(_) => Flag::ConnectFailed,
            Self::Handshake(_) => Flag::TlsFailed,
            Self::Stale | Self::Reset(_) => Flag::UpstreamReset,
            Self::Invalid(_) => Flag::UpstreamInvalid,
            Self::BackendTimeout => Flag::BackendTimeout,
            Self::RequestTimeout => Flag::RequestTimeout,
            Self::Status(_) => Flag::None,
            Self::ClientGone(_) => Flag::ClientGone,
            Self::ClientRefused(_) => Flag::Refused,
            Self::ClientTimeout => Flag::ClientTimeout,
        }
    }

    /// What the endpoint is to be held to account for.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Connect(_) | Self::Handshake(_) => Outcome::ConnectFailed,
            Self::Reset(_) | Self::Invalid(_) | Self::BackendTimeout | Self::Status(_) => Outcome::Failure,
            _ => Outcome::Cancelled,
        }
    }

    pub(super) fn of_connecting(error: ConnectError) -> Self {
        match error {
            ConnectError::Tcp(error) => Self::Connect(error),
            ConnectError::Tls(error) => Self::Handshake(error),
        }
    }

    pub(crate) fn of_body(error: BodyError) -> Self {
        match error {
            BodyError::Stalled => Self::ClientTimeout,
            BodyError::Refused(refusal) => Self::ClientRefused(refusal),
            other => Self::ClientGone(other.to_string()),
        }
    }
}
