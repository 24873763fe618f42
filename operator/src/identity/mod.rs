//! Certificates of workloads: whoever shows the token of a pod has a key signed for that pod's service account, and is told
//! whom to believe.
//!
//! Nothing of a request is believed but that the caller has its key. Who it is says the token, and the certificate says
//! that and nothing else.

mod csr;
mod issuer;
mod keeper;
mod limiter;
mod revoked;
mod service;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use clap::ValueEnum;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use tokio::sync::watch;
use weft_model::TrustDomain;

use self::{
    issuer::{BuiltIn, CertManager, CertificateIssuer},
    keeper::{Keeper, Source},
};
use crate::{
    authority::{Terms, days},
    lease::Claim,
    metrics::Metrics,
    tokens::Tokens,
};

pub(crate) use self::{issuer::IssuerReference, service::Identities};

/// The CA of the issuer that is built in.
const TERMS: Terms = Terms {
    secret: "weft-identity-root",
    name: "Weft identity",
    below: 1,
    root: days(10 * 365),
    renewal: days(8 * 365),
    overlap: days(2),
};

/// Certificates last at least so long: each is replaced while a third of that is left,
pub(crate) const SHORTEST: Duration = Duration::from_secs(120);
/// and at most so long.
pub(crate) const LONGEST: Duration = days(7);

/// A revocation is heeded after at most this long.
pub(crate) const LOOK: Duration = Duration::from_secs(5);
/// How long cert-manager, and what is behind it, may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Who signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IssuerKind {
    /// The operator.
    BuiltIn,
    /// cert-manager.
    CertManager,
}

/// How workloads come by their certificates.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) trust_domain: TrustDomain,
    /// How long a certificate lasts.
    pub(crate) lifetime: Duration,
    pub(crate) issuer: IssuerKind,
    /// By which issuer of cert-manager.
    pub(crate) reference: IssuerReference,
    /// The operator's own pod, if it runs in one.
    pub(crate) owner: Option<OwnerReference>,
    /// The ConfigMap that holds the roots of that issuer, and whatever else is to be believed.
    pub(crate) roots: String,
    /// How often it is looked whether something has changed.
    pub(crate) look: Duration,
    /// How long that issuer may take.
    pub(crate) patience: Duration,
}

/// The service, and what keeps what it needs up to date; that runs until it is dropped.
pub(crate) fn start(
    client: &Client,
    namespace: &str,
    settings: Settings,
    tokens: Arc<Tokens>,
    claim: watch::Receiver<Claim>,
    metrics: &Metrics,
) -> (Identities, impl Future<Output = ()> + use<>) {
    let others = Source::config_map(client.clone(), namespace, settings.roots.clone());
    let (issuer, source) = match settings.issuer {
        IssuerKind::BuiltIn => {
            let (sender, authority) = watch::channel(None);
            let source = others.and_secret(client.clone(), namespace, &TERMS, claim, sender);
            (CertificateIssuer::BuiltIn(BuiltIn::new(authority)), source)
        }
        IssuerKind::CertManager => {
            let (reference, owner) = (settings.reference.clone(), settings.owner.clone());
            let issuer = CertManager::new(client.clone(), namespace, reference, owner, settings.patience);
            (CertificateIssuer::CertManager(Box::new(issuer)), others)
        }
    };
    let (keeper, trust) = Keeper::new(
        client.clone(),
        namespace,
        settings.trust_domain.clone(),
        source,
        metrics.clone(),
    );
    let identities = Identities::new(tokens, issuer, &settings, trust, metrics.clone());
    (identities, keeper.run(settings.look))
}
