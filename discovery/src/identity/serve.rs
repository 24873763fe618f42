//! The operator's side.

use std::{net::IpAddr, pin::Pin, sync::Arc};

use futures::Stream;
use tokio::sync::{mpsc, watch};
use tonic::{Extensions, Request, Response, Status, metadata::MetadataMap};
use weft_model::{MeshTrust, SpiffeId};

use super::{REQUEST_BYTES, Signed};
use crate::wire::proto::weft::identity::v1 as proto;

pub(crate) use proto::identity_server::IdentityServer as ServeIdentity;

/// A token as it was shown.
#[derive(Clone, Copy)]
pub struct Shown<'t> {
    /// The token.
    pub token: &'t str,
    /// The address that the connection comes from, as it is written alone: never one of IPv4 within IPv6.
    pub from: IpAddr,
}

/// Who is at the other end of the connection that a request came by.
#[derive(Clone, Copy)]
pub(crate) struct CameFrom(pub(crate) IpAddr);

/// Says who workloads are, and signs their keys.
#[tonic::async_trait]
pub trait Identify: Send + Sync + 'static {
    /// Who shows this token.
    async fn identify(&self, shown: Shown<'_>) -> Result<SpiffeId, Refused>;

    /// Signs a key of who shows this token.
    async fn sign(&self, shown: Shown<'_>, csr_pem: &str) -> Result<Signed, Refused>;

    /// Whom to believe; none as long as that is not known.
    fn trust(&self) -> watch::Receiver<Option<Arc<MeshTrust>>>;
}

/// Why there is no certificate. The texts go to who asked.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The token is not good, or not for this.
    #[error("the token does not prove a workload: {0}")]
    Token(String),
    /// Who it is may not have what was asked for.
    #[error("{0}")]
    Forbidden(String),
    /// What was asked for is not what can be asked for.
    #[error("the request cannot be signed: {0}")]
    Request(String),
    /// It was asked too often.
    #[error("{0}")]
    TooOften(String),
    /// It can be tried again.
    #[error("{0}")]
    Unavailable(String),
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::Token(_) => Self::unauthenticated(text),
            Refused::Forbidden(_) => Self::permission_denied(text),
            Refused::Request(_) => Self::invalid_argument(text),
            Refused::TooOften(_) => Self::resource_exhausted(text),
            Refused::Unavailable(_) => Self::unavailable(text),
        }
    }
}

/// Serves the calls.
pub(crate) struct Identities(Arc<dyn Identify>);

impl Identities {
    pub(crate) fn serve(identify: Arc<dyn Identify>) -> ServeIdentity<Self> {
        ServeIdentity::new(Self(identify)).max_decoding_message_size(REQUEST_BYTES + 64)
    }
}

/// The token that a call carries.
pub(crate) fn shown<'t>(metadata: &'t MetadataMap, extensions: &Extensions) -> Result<Shown<'t>, Status> {
    let token = metadata.get("authorization").and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer "));
    let token = token.ok_or_else(|| Status::unauthenticated("no bearer token was shown"))?;
    let from = extensions.get::<CameFrom>();
    let CameFrom(from) = *from.ok_or_else(|| Status::internal("nobody knows where this comes from"))?;
    Ok(Shown { token, from })
}

type Responses = Pin<Box<dyn Stream<Item = Result<proto::TrustResponse, Status>> + Send>>;

#[tonic::async_trait]
impl proto::identity_server::Identity for Identities {
    type TrustStream = Responses;

    async fn trust(&self, request: Request<proto::TrustRequest>) -> Result<Response<Responses>, Status> {
        let identity = self
            .0
            .identify(shown(request.metadata(), request.extensions())?)
            .await?;
        let mut trust = self.0.trust();
        trust.mark_changed();
        let (sender, mut receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    changed = trust.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
                let Some(trust) = trust.borrow_and_update().clone() else {
                    continue;
                };
                let response = serde_json::to_vec(&*trust).map(|trust| proto::TrustResponse {
                    trust: trust.into(),
                    identity: identity.to_string(),
                });
                let response = response.map_err(|error| Status::internal(error.to_string()));
                if sender.send(response).await.is_err() {
                    return;
                }
            }
        });
        let responses = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        Ok(Response::new(Box::pin(responses)))
    }

    async fn sign(&self, request: Request<proto::SignRequest>) -> Result<Response<proto::SignResponse>, Status> {
        let shown = shown(request.metadata(), request.extensions())?;
        let csr = &request.get_ref().csr_pem;
        if csr.len() > REQUEST_BYTES {
            let why = format!("it has over {REQUEST_BYTES} bytes");
            return Err(Refused::Request(why).into());
        }
        let signed = self.0.sign(shown, csr).await?;
        Ok(Response::new(proto::SignResponse {
            chain_pem: signed.chain_pem,
            not_before: signed.not_before,
            not_after: signed.not_after,
        }))
    }
}
