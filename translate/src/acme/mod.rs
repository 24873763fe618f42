//! Certificates by ACME: which are wanted for the listeners of a Gateway or ListenerSet that names an AcmeIssuer, what is to be
//! answered to CAs meanwhile, and what a listener says of a certificate that is not there yet.

mod issuer;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weft_crds::{AcmeChallenge, ISSUER_ANNOTATION, Kind, ListenerSpec, ObjectRef, SecretReference};
use weft_model::{CertificateKey, Challenge, ChallengeKey, GatewayKey, HostPattern};

pub use issuer::{Binding, Issuer};
pub(crate) use issuer::{resolve, stand};
pub use state::{
    ACCOUNT_TYPE, Account, Failure, ORDER_TYPE, Order, Placed, Renewal, STATE, account_secret, is_ours, order_secret,
};

use crate::{
    owner::Owner,
    world::{Reader, Slot},
};

/// A certificate that is to be had by ACME, for all listeners that refer to its Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedCertificate {
    /// By whom it is ordered.
    pub issuer: ObjectRef,
    /// The Gateways and ListenerSets that it is for.
    pub owners: BTreeSet<ObjectRef>,
    /// The hosts it is to be for, each with the challenges by which data planes answer for it.
    pub hosts: BTreeMap<String, BTreeSet<ChallengeKey>>,
}

/// What one reference of one listener asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) secret: CertificateKey,
    issuer: ObjectRef,
    host: String,
    challenge: ChallengeKey,
}

/// What becomes of a reference to a Secret.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Present if the certificate is ordered.
    pub(crate) part: Option<Part>,
    /// How that stands, or why it is not; none if all is well.
    pub(crate) said: Option<String>,
    /// What CAs ask, for this listener.
    pub(crate) challenge: Option<Arc<Challenge>>,
}

/// What a listener has to do with ACME.
pub(crate) struct Acme<'a, 'w> {
    reader: &'a Reader<'w>,
    owner: &'a Owner<'w>,
    /// The issuer that its owner names.
    issuer: &'w str,
    listener: &'a ListenerSpec,
    hostname: Option<&'a HostPattern>,
}

impl<'a, 'w> Acme<'a, 'w> {
    /// None if its owner does not ask for it.
    pub(crate) fn of(
        reader: &'a Reader<'w>,
        owner: &'a Owner<'w>,
        listener: &'a ListenerSpec,
        hostname: Option<&'a HostPattern>,
    ) -> Option<Self> {
        let issuer = owner.metadata.annotations.get(ISSUER_ANNOTATION)?;
        Some(Self {
            reader,
            owner,
            issuer,
            listener,
            hostname,
        })
    }

    /// What becomes of a reference; none if it is not one to a Secret that the operator may make.
    pub(crate) fn outcome(&self, reference: &SecretReference) -> Option<Outcome> {
        let own = self.owner.namespace();
        let local = reference.namespace.as_deref().is_none_or(|namespace| namespace == own);
        if !local || !reference.group.is_empty() || reference.kind != "Secret" || reference.name.is_empty() {
            return None;
        }
        let there = self.reader.secret(own, &reference.name);
        if there.is_some_and(|secret| !is_ours(&secret.metadata.labels, &secret.metadata.annotations)) {
            return None;
        }
        if self.reader.options.standalone {
            let said = "certificates are ordered by ACME in a cluster only".to_owned();
            return Some(Outcome::refused(said));
        }
        let host = match self.host() {
            Ok(host) => host,
            Err(why) => return Some(Outcome::refused(why)),
        };
        let order: Option<Order> = self
            .reader
            .secret(own, &order_secret(&reference.name))
            .and_then(|secret| state::read(secret, ORDER_TYPE));
        let order = order.unwrap_or_default();
        let key = ChallengeKey::from(format!("{}/{}", self.owner.key(&self.listener.name), reference.name));
        let proof = order.placed.as_ref().and_then(|placed| placed.proofs.get(&host));
        let challenge = proof.map(|proof| {
            Arc::new(Challenge {
                key: key.clone(),
                gateway: GatewayKey::from(format!(
                    "{}/{}",
                    self.owner.gateway.metadata.namespace(),
                    self.owner.gateway.metadata.name
                )),
                host: host.clone(),
                proof: proof.clone(),
            })
        });
        let said = match (&order.failure, there) {
            (Some(failure), _) => Some(format!(
                "AcmeIssuer {} could not order it: {}; it is tried again at {}",
                self.issuer,
                failure.message,
                failure.again.strftime("%Y-%m-%dT%H:%M:%SZ")
            )),
            (None, None) => Some(format!("it is being ordered by AcmeIssuer {}", self.issuer)),
            (None, Some(_)) => None,
        };
        let part = Part {
            secret: CertificateKey::from(format!("{own}/{}", reference.name)),
            issuer: self.issuer(),
            host,
            challenge: key,
        };
        Some(Outcome {
            part: Some(part),
            said,
            challenge,
        })
    }

    fn issuer(&self) -> ObjectRef {
        ObjectRef::new(Kind::AcmeIssuer, self.owner.namespace(), self.issuer)
    }

    /// The host that the certificate is to be for; else why there cannot be one.
    fn host(&self) -> Result<String, String> {
        let issuer = self.issuer();
        let Some(found) = self.reader.acme_issuer(&issuer.namespace, &issuer.name) else {
            return Err(format!(
                "the annotation {ISSUER_ANNOTATION} names the AcmeIssuer {}, which does not exist",
                self.issuer
            ));
        };
        if let Err(why) = resolve(self.reader, &issuer) {
            return Err(format!("the AcmeIssuer {} cannot be used: {why}", self.issuer));
        }
        let challenge = found.spec.challenge;
        let host = match self.hostname {
            Some(HostPattern::Exact(host)) => host.clone(),
            Some(HostPattern::Wildcard(_)) => {
                return Err(format!(
                    "{challenge} proves no wildcard: give the listener one hostname, or make the Secret yourself"
                ));
            }
            None => return Err("the listener has no hostname, so that there is no name to order it for".to_owned()),
        };
        if challenge == AcmeChallenge::Http01 && !self.has_http() {
            return Err(
                "HTTP-01 is answered on port 80, and the Gateway has no listener of HTTP: add one on port 80, or use \
                 TLS-ALPN-01 in the AcmeIssuer"
                    .to_owned(),
            );
        }
        Ok(host)
    }

    /// Whether the Gateway listens in clear. Where is not asked: what is in front of it may change the port.
    fn has_http(&self) -> bool {
        let is_http = |listener: &ListenerSpec| listener.protocol == "HTTP";
        // A ListenerSet may have added it, which only a look at the port tells.
        self.owner.gateway.spec.listeners.iter().any(is_http)
            || self.owner.listeners.iter().any(is_http)
            || !self
                .reader
                .wanting(Slot {
                    scope: Some(self.owner.gateway_reference()),
                    port: 80,
                    protocol: "HTTP".to_owned(),
                    hostname: None,
                })
                .is_empty()
    }
}

impl Outcome {
    fn refused(said: String) -> Self {
        Self {
            part: None,
            said: Some(said),
            challenge: None,
        }
    }
}

/// The certificates that parts come to. Of owners that name different issuers for one Secret, the first holds.
pub(crate) fn wanted<'a>(
    parts: impl Iterator<Item = (&'a ObjectRef, &'a Part)>,
) -> BTreeMap<CertificateKey, WantedCertificate> {
    let mut all: BTreeMap<CertificateKey, WantedCertificate> = BTreeMap::new();
    for (owner, part) in parts {
        let wanted = all.entry(part.secret.clone()).or_insert_with(|| WantedCertificate {
            issuer: part.issuer.clone(),
            owners: BTreeSet::new(),
            hosts: BTreeMap::new(),
        });
        if wanted.issuer == part.issuer {
            wanted.owners.insert(owner.clone());
            let challenges = wanted.hosts.entry(part.host.clone()).or_default();
            challenges.insert(part.challenge.clone());
        }
    }
    all
}
