//! Keeps up to date what is signed by, whom to believe, and whom not.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::sync::watch;
use weft_model::{MeshTrust, Revocations, TrustDomain};

use super::revoked;
use crate::{
    authority::{Authority, AuthorityError, Store, Terms, pem},
    lease::{Claim, is_held},
    metrics::Metrics,
};

/// What is in a ConfigMap of roots.
const ROOTS: &str = "ca.crt";

/// Where the roots come from.
pub(super) struct Source {
    /// The CA that signs, if its key is here.
    own: Option<Own>,
    /// The ConfigMap of the roots of others.
    others: Api<ConfigMap>,
    name: String,
    /// Those that were last read there.
    known: Vec<CertificateDer<'static>>,
}

/// A CA of which the key is here.
struct Own {
    store: Store,
    claim: watch::Receiver<Claim>,
    authority: watch::Sender<Option<Arc<Authority>>>,
}

/// Why the roots are not known.
#[derive(Debug, thiserror::Error)]
enum RootsError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("the ConfigMap {0} cannot be read: {1}")]
    Api(String, #[source] kube::Error),
    #[error("the ConfigMap {0} does not exist: put the roots of the issuer into its {ROOTS}")]
    Missing(String),
    #[error("{ROOTS} of the ConfigMap {0}: {1}")]
    Damaged(String, String),
}

impl Source {
    /// Roots of others alone.
    pub(super) fn config_map(client: Client, namespace: &str, name: String) -> Self {
        Self {
            own: None,
            others: Api::namespaced(client, namespace),
            name,
            known: Vec::new(),
        }
    }

    /// The same beside a CA that signs here.
    pub(super) fn and_secret(
        self,
        client: Client,
        namespace: &str,
        terms: &'static Terms,
        claim: watch::Receiver<Claim>,
        authority: watch::Sender<Option<Arc<Authority>>>,
    ) -> Self {
        let own = Own {
            store: Store::new(client, namespace, terms),
            claim,
            authority,
        };
        Self { own: Some(own), ..self }
    }

    /// The roots as they are now; where the CA is here, those of others may be missing, and if they cannot be understood that is
    /// said and those that were there stay.
    async fn roots(&mut self, now: OffsetDateTime, complaint: &mut Vec<String>) -> Result<Roots, RootsError> {
        let others = self.others().await;
        let Some(own) = &self.own else {
            let others = others?.ok_or_else(|| RootsError::Missing(self.name.clone()))?;
            return Ok(Roots {
                pem: pem::write(&others),
                authority: None,
            });
        };
        match others {
            Ok(others) => self.known = others.unwrap_or_default(),
            Err(error @ RootsError::Damaged(..)) => complaint.push(error.to_string()),
            Err(error) => return Err(error),
        }
        let writes = is_held(*own.claim.borrow(), std::time::Instant::now());
        let authority = own.store.keep(now, writes).await?;
        let mut roots = authority.anchors();
        for other in &self.known {
            if !roots.contains(&other) {
                roots.push(other);
            }
        }
        Ok(Roots {
            pem: pem::write(roots),
            authority: Some(authority),
        })
    }

    /// Those of others; none where nobody has put any there.
    async fn others(&self) -> Result<Option<Vec<CertificateDer<'static>>>, RootsError> {
        let name = || self.name.clone();
        let found = self.others.get_opt(&self.name).await;
        let Some(found) = found.map_err(|error| RootsError::Api(name(), error))? else {
            return Ok(None);
        };
        let data = found.data.unwrap_or_default();
        let text = data.get(ROOTS).map(String::as_str).unwrap_or_default();
        let roots = pem::read(text).map_err(|why| RootsError::Damaged(name(), why))?;
        Ok(Some(roots))
    }

    /// Lets it be signed by what everybody has been told of.
    fn sign_by(&self, now: Option<Authority>) {
        if let (Some(own), Some(now)) = (&self.own, now) {
            own.authority.send_if_modified(|known| {
                let changed = known.as_deref() != Some(&now);
                if changed {
                    *known = Some(Arc::new(now));
                }
                changed
            });
        }
    }
}

/// Roots as PEM, and what signs by one of them if that is here.
struct Roots {
    pem: String,
    authority: Option<Authority>,
}

/// Keeps all of it up to date.
pub(super) struct Keeper {
    source: Source,
    revocations: Api<ConfigMap>,
    trust_domain: TrustDomain,
    trust: watch::Sender<Option<Arc<MeshTrust>>>,
    metrics: Metrics,
    /// What was last complained of.
    complaint: Vec<String>,
}

impl Keeper {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        trust_domain: TrustDomain,
        source: Source,
        metrics: Metrics,
    ) -> (Self, watch::Receiver<Option<Arc<MeshTrust>>>) {
        let (trust, receiver) = watch::channel(None);
        let keeper = Self {
            source,
            revocations: Api::namespaced(client, namespace),
            trust_domain,
            trust,
            metrics,
            complaint: Vec::new(),
        };
        (keeper, receiver)
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self, pace: Duration) {
        loop {
            self.look(OffsetDateTime::now_utc()).await;
            tokio::time::sleep(pace).await;
        }
    }

    /// Looks at everything once. What cannot be read stays as it was.
    async fn look(&mut self, now: OffsetDateTime) {
        let mut complaint = Vec::new();
        let known = self.trust.borrow().clone();
        let revoked = match self.revocations.get_opt(revoked::CONFIG_MAP).await {
            Ok(found) => {
                let data = found.and_then(|found| found.data).unwrap_or_else(BTreeMap::new);
                let (revoked, refused) = revoked::read(&data);
                complaint.extend(refused.into_iter().map(|why| format!("{}: {why}", revoked::CONFIG_MAP)));
                Some(revoked)
            }
            Err(error) => {
                complaint.push(format!("{} cannot be read: {error}", revoked::CONFIG_MAP));
                known.as_ref().map(|known| known.revoked.clone())
            }
        };
        match (self.source.roots(now, &mut complaint).await, revoked) {
            (Ok(roots), Some(revoked)) => {
                self.tell(roots.pem, revoked);
                if let Some(authority) = &roots.authority {
                    self.metrics
                        .identity_ca_expiry
                        .set(authority.validity().end.unix_timestamp());
                }
                self.source.sign_by(roots.authority);
            }
            (Err(error), revoked) => {
                complaint.push(error.to_string());
                if let (Some(known), Some(revoked)) = (known, revoked) {
                    self.tell(known.roots_pem.clone(), revoked);
                }
            }
            // Nobody is told of roots before it is known who is revoked.
            (Ok(_), None) => {}
        }
        if complaint != self.complaint {
            for why in &complaint {
                tracing::error!(why, "what certificates of workloads need is not as it should be");
            }
            self.complaint = complaint;
        }
    }

    fn tell(&self, roots_pem: String, revoked: Revocations) {
        let now = MeshTrust {
            trust_domain: self.trust_domain.clone(),
            roots_pem,
            revoked,
        };
        self.trust.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&now);
            if changed {
                *known = Some(Arc::new(now));
            }
            changed
        });
    }
}
