//! The workload's side.

use std::{io, path::PathBuf};

use tonic::{Request, Status, Streaming, metadata::MetadataValue};
use weft_channel::Channel;
use weft_model::SpiffeId;

use super::{ANSWER_BYTES, Signed, Trust};
use crate::{
    endpoint::Endpoint,
    transport::{self, TransportError},
    wire::proto::weft::identity::v1::{self as proto, identity_client::IdentityClient as Client},
};

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operator could not be reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The token could not be read.
    #[error("the token {0} cannot be read: {1}")]
    Token(PathBuf, #[source] io::Error),
    /// The operator said no, or went away.
    #[error("the operator: {0}")]
    Refused(Box<Status>),
    /// The operator says what this version cannot read.
    #[error("this version cannot read what the operator says: {0}")]
    Unread(String),
}

impl IdentityError {
    /// Whether the same would be refused again, as far as the operator can tell.
    pub fn is_refusal(&self) -> bool {
        use tonic::Code::{InvalidArgument, PermissionDenied, Unauthenticated};
        let codes = [Unauthenticated, PermissionDenied, InvalidArgument];
        matches!(self, Self::Refused(status) if codes.contains(&status.code()))
    }

    /// Whether the operator gives out no certificates at all.
    pub fn is_without(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == tonic::Code::Unimplemented)
    }
}

/// A connection to the operator, which its clones share.
#[derive(Clone)]
pub struct IdentityClient {
    endpoint: Endpoint,
    client: Client<Channel>,
}

/// What the operator says about trust.
pub struct Trusts(Streaming<proto::TrustResponse>);

impl IdentityClient {
    /// Connects.
    ///
    /// # Errors
    /// The operator is not reached.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, IdentityError> {
        let channel = transport::connect(endpoint).await?;
        let origin = transport::origin(endpoint)?;
        Ok(Self {
            endpoint: endpoint.clone(),
            client: Client::with_origin(channel, origin).max_decoding_message_size(ANSWER_BYTES),
        })
    }

    /// Asks whom to believe, and is told again whenever that changes.
    ///
    /// # Errors
    /// The operator says no, or went away.
    pub async fn trust(&mut self) -> Result<Trusts, IdentityError> {
        let request = self.request(proto::TrustRequest {}).await?;
        let responses = self.client.trust(request).await.map_err(refused)?;
        Ok(Trusts(responses.into_inner()))
    }

    /// Has a key signed.
    ///
    /// # Errors
    /// The operator says no, or went away.
    pub async fn sign(&mut self, csr_pem: String) -> Result<Signed, IdentityError> {
        let request = self.request(proto::SignRequest { csr_pem }).await?;
        let signed = self.client.sign(request).await.map_err(refused)?.into_inner();
        Ok(Signed {
            chain_pem: signed.chain_pem,
            not_before: signed.not_before,
            not_after: signed.not_after,
        })
    }

    /// A request with the token, which is read anew: the kubelet renews it.
    async fn request<T>(&self, message: T) -> Result<Request<T>, IdentityError> {
        let file = &self.endpoint.token;
        let unread = |error| IdentityError::Token(file.clone(), error);
        let token = tokio::fs::read_to_string(file).await.map_err(unread)?;
        let bearer = MetadataValue::try_from(format!("Bearer {}", token.trim()));
        let mut bearer = bearer.map_err(|error| unread(io::Error::other(error)))?;
        bearer.set_sensitive(true);
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", bearer);
        Ok(request)
    }
}

impl Trusts {
    /// Waits for what is next.
    ///
    /// # Errors
    /// The operator went away, or says what cannot be read.
    pub async fn next(&mut self) -> Result<Trust, IdentityError> {
        let response = self.0.message().await.map_err(refused)?;
        let response = response.ok_or_else(|| refused(Status::unavailable("it is going away")))?;
        let unread = |error: String| IdentityError::Unread(error);
        Ok(Trust {
            trust: serde_json::from_slice(&response.trust).map_err(|error| unread(error.to_string()))?,
            identity: SpiffeId::parse(&response.identity).map_err(|error| unread(error.to_string()))?,
        })
    }
}

fn refused(status: Status) -> IdentityError {
    IdentityError::Refused(Box::new(status))
}
