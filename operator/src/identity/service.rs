//! What workloads ask.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use weft_discovery::{Identify, Refused, Shown, Signed};
use weft_model::{MeshTrust, SpiffeId, TrustDomain};

use super::{
    Settings,
    csr::{Csr, CsrError},
    issuer::{CertificateIssuer, IssueError, Order},
    limiter::Limiter,
};
use crate::{
    metrics::Metrics,
    tokens::{Bearer, Tokens, Unproven},
};

/// Answers workloads.
pub(crate) struct Identities {
    tokens: Arc<Tokens>,
    issuer: CertificateIssuer,
    trust_domain: TrustDomain,
    lifetime: Duration,
    limiter: Limiter,
    trust: watch::Receiver<Option<Arc<MeshTrust>>>,
    metrics: Metrics,
}

impl Identities {
    pub(super) fn new(
        tokens: Arc<Tokens>,
        issuer: CertificateIssuer,
        settings: &Settings,
        trust: watch::Receiver<Option<Arc<MeshTrust>>>,
        metrics: Metrics,
    ) -> Self {
        Self {
            tokens,
            issuer,
            trust_domain: settings.trust_domain.clone(),
            lifetime: settings.lifetime,
            limiter: Limiter::default(),
            trust,
            metrics,
        }
    }

    /// Who showed the token, and from which pod.
    fn caller(&self, bearer: Result<Bearer, Unproven>) -> Result<(SpiffeId, String), Refused> {
        let bearer = bearer.map_err(|unproven| match unproven {
            Unproven::Token(why) => Refused::Token(why),
            Unproven::Stolen(why) => Refused::Forbidden(why),
            Unproven::Unavailable(why) => Refused::Unavailable(format!("the token could not be checked: {why}")),
        })?;
        let Bearer {
            namespace,
            account,
            pod,
            ..
        } = bearer;
        let pod = pod.ok_or_else(|| {
            let text = "it is bound to no pod: mount a projected token of the audience weft.dev";
            Refused::Token(text.to_owned())
        })?;
        let identity = SpiffeId::of(&self.trust_domain, &namespace, &account);
        let identity = identity.map_err(|error| Refused::Token(error.to_string()))?;
        Ok((identity, format!("{namespace}/{pod}")))
    }

    async fn signed(&self, shown: Shown<'_>, csr_pem: &str) -> Result<Signed, Refused> {
        // Asked anew each time: a pod that is gone gets none.
        let (identity, pod) = self.caller(self.tokens.review(shown).await)?;
        self.limiter.take(&pod, Instant::now()).map_err(|wait| {
            let seconds = wait.as_secs() + 1;
            Refused::TooOften(format!(
                "the pod {pod} has asked for too many certificates: the next one is signed in {seconds} s"
            ))
        })?;
        let trust = self.trust.borrow().clone().ok_or_else(|| {
            let text = "the operator does not know yet whom the mesh believes: its log says why if that does not pass by itself";
            Refused::Unavailable(text.to_owned())
        })?;
        if trust.revoked.identities.contains(&identity) {
            return Err(Refused::Forbidden(format!(
                "{identity} is revoked: it is in the ConfigMap {}",
                super::revoked::CONFIG_MAP
            )));
        }
        let csr = Csr::read(csr_pem, &identity).map_err(|error| match error {
            CsrError::Name { .. } => Refused::Forbidden(error.to_string()),
            error => Refused::Request(error.to_string()),
        })?;
        let order = Order {
            identity,
            csr,
            lifetime: self.lifetime,
        };
        let issued = self.issuer.issue(&order, &trust).await.map_err(|error| match error {
            IssueError::NotNow(_) => Refused::Unavailable(error.to_string()),
            IssueError::Denied(_) | IssueError::Other(_) => Refused::Forbidden(error.to_string()),
        })?;
        let (not_before, not_after, serial) = issued.terms();
        tracing::info!(identity = %order.identity, pod, %serial, not_after, "the certificate of a workload was signed");
        Ok(Signed {
            chain_pem: issued.pem(),
            not_before,
            not_after,
        })
    }
}

#[weft_discovery::async_trait]
impl Identify for Identities {
    async fn identify(&self, shown: Shown<'_>) -> Result<SpiffeId, Refused> {
        self.caller(self.tokens.bearer(shown).await)
            .map(|(identity, _)| identity)
    }

    async fn sign(&self, shown: Shown<'_>, csr_pem: &str) -> Result<Signed, Refused> {
        let signed = self.signed(shown, csr_pem).await;
        self.metrics.signed(signed.as_ref().err());
        if let Err(refused) = &signed {
            tracing::warn!(why = %refused, "the certificate of a workload was not signed");
        }
        signed
    }

    fn trust(&self) -> watch::Receiver<Option<Arc<MeshTrust>>> {
        self.trust.clone()
    }
}
