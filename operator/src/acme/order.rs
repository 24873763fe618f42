//! One certificate: whether one is to be ordered, and the order from its placing to the Secret. What has been reached is
//! written down at each step, so that whoever comes next goes on from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use instant_acme::{
    AuthorizationStatus, ChallengeStatus, ChallengeType, Identifier, NewOrder, OrderStatus, RetryPolicy,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use weft_crds::{AcmeChallenge, ObjectRef};
use weft_model::{PrivateKeyPem, Proof};
use weft_translate::acme::{Issuer, ORDER_TYPE, Order, Placed, WantedCertificate, order_secret};

use super::{
    Report, Said,
    account::{self, Open},
    error::{self, AcmeError},
    renewal::Leaf,
    store::{Held, Issued, SERVER, Store, annotation, is_ours},
};
use crate::infrastructure::names::digest;

/// How often the CA is asked how an order stands, at first, and for how long in one go.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(20));
/// When it is gone on with an order that the CA has not come to an end with.
const AGAIN: Duration = Duration::from_secs(5);
/// How long is waited for pods that are ready and not connected, before the CA is asked to come.
const STRAGGLERS: Duration = Duration::from_secs(30);

/// A certificate that is to be had.
pub(crate) struct Job {
    pub(crate) namespace: String,
    /// The Secret it is to be in.
    pub(crate) name: String,
    pub(crate) wanted: WantedCertificate,
    pub(crate) issuer: Issuer,
    pub(crate) answered: Answered,
    /// The Gateway that it is for, with which what is written down about the order goes.
    pub(crate) owner: Option<OwnerReference>,
}

/// What data planes answer for, as they have acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answered {
    /// By host, what all that are connected would say.
    pub(crate) proofs: BTreeMap<String, Proof>,
    /// Some have not said yet that they would, or have not been told.
    pub(crate) waits: bool,
    /// All that are ready are connected, and there are some.
    pub(crate) all: bool,
}

/// How an order goes on.
enum Progress {
    /// When data planes have taken what they are to answer.
    Told,
    /// The CA needs more time.
    Pending,
    /// What was known of it is not true any more: from the beginning.
    Anew,
    Issued(Issued),
}

impl Answered {
    /// Whether the CA may come, after they were told for so long.
    pub(crate) fn is_enough(&self, told: Duration) -> bool {
        !self.waits && (self.all || told >= STRAGGLERS)
    }

    fn to(&self, placed: &Placed, now: Timestamp) -> bool {
        let told = placed.told.map(|told| now.duration_since(told));
        let told = told.and_then(|told| Duration::try_from(told).ok()).unwrap_or_default();
        let mut proofs = placed.proofs.iter();
        self.is_enough(told) && proofs.all(|(host, proof)| self.proofs.get(host) == Some(proof))
    }
}

/// Looks at a certificate and does what can be done now.
pub(crate) async fn step(store: &Store, job: &Job, now: Timestamp) -> Result<Report, AcmeError> {
    let certificate = store.get(&job.name).await?;
    if certificate.as_ref().is_some_and(|secret| !is_ours(secret)) {
        return Ok(Report::done());
    }
    let hosts: BTreeSet<String> = job.wanted.hosts.keys().cloned().collect();
    let server = job.issuer.spec.server();
    let mut held: Held<Order> = store
        .state(order_secret(&job.name), ORDER_TYPE, job.owner.clone())
        .await?;
    if let Some(placed) = &held.state.placed
        && (placed.hosts != hosts || placed.server != server)
    {
        held.state.placed = None;
    }
    let of = digest(&format!("{hosts:?} {:?}", job.issuer.spec));
    if let Some(again) = held.state.failure.as_ref().and_then(|failure| failure.holds(&of, now)) {
        store.save(&mut held).await?;
        return Ok(Report::at(again));
    }
    let issued = certificate.as_ref().and_then(|secret| {
        let entry = |name: &str| String::from_utf8(secret.data.as_ref()?.get(name)?.0.clone()).ok();
        Some(Issued {
            chain_pem: entry("tls.crt")?,
            key_pem: entry("tls.key")?,
        })
    });
    let leaf = issued.and_then(|issued| Leaf::read(&issued).ok());
    let same_ca = certificate.as_ref().and_then(|secret| annotation(secret, SERVER)) == Some(server);
    let leaf = leaf.filter(|_| same_ca);
    let mut open = None;
    if held.state.placed.is_none()
        && let Some(leaf) = leaf.as_ref().filter(|leaf| leaf.covers(&job.wanted.hosts))
    {
        let mut renewal = leaf.known(held.state.renewal.as_ref()).cloned();
        if renewal.as_ref().is_none_or(|renewal| now >= renewal.ask) {
            open = account::open(store, &job.wanted.issuer, &job.issuer).await.ok();
            renewal = Some(leaf.ask(open.as_ref(), renewal.as_ref(), now).await);
        }
        held.state.renewal.clone_from(&renewal);
        if let Some(renewal) = renewal.filter(|renewal| now < renewal.at) {
            held.state.failure = None;
            store.save(&mut held).await?;
            return Ok(Report::at(renewal.at.min(renewal.ask)));
        }
    }
    if !store.may_write() {
        return Err(AcmeError::NotHeld);
    }
    // Before the CA is asked: an order that cannot be written down would be placed again and again.
    store.save(&mut held).await?;
    let result = match open {
        Some(open) => Ok(open),
        None => account::open(store, &job.wanted.issuer, &job.issuer).await,
    };
    let result = match result {
        Ok(open) => advance(store, job, &open, &mut held, leaf.as_ref(), now).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(Progress::Told) => Ok(Report {
            told: true,
            ..Report::at(now)
        }),
        Ok(Progress::Pending) => Ok(Report::at(now + AGAIN)),
        Ok(Progress::Anew) => {
            held.state.placed = None;
            store.save(&mut held).await?;
            Ok(Report::at(now))
        }
        Ok(Progress::Issued(issued)) => {
            let (what, reason) = match &certificate {
                Some(_) => ("renewed", "CertificateRenewed"),
                None => ("issued", "CertificateIssued"),
            };
            store
                .put_certificate(&job.name, certificate, &issued, (&job.wanted.issuer.name, server))
                .await?;
            held.state = Order::default();
            store.save(&mut held).await?;
            let names = hosts.into_iter().collect::<Vec<_>>().join(", ");
            let message = format!("The certificate in {} for {names} was {what} by {server}", job.name);
            tracing::info!(secret = format!("{}/{}", job.namespace, job.name), server, "{message}");
            Ok(Report {
                said: job.say(false, reason, &message),
                ..Report::at(now)
            })
        }
        Err(error) => {
            let Some(failure) = error.failure(held.state.failure.as_ref(), &of, now) else {
                return Err(error);
            };
            // An order that could not be asked about goes on; one that was refused does not.
            match failure.reason.as_str() {
                "Unreachable" | "RateLimited" => {}
                "AccountGone" => {
                    held.state.placed = None;
                    account::forget(store, &job.wanted.issuer).await?;
                }
                _ => held.state.placed = None,
            }
            let message = format!(
                "The certificate in {} could not be ordered: {}; it is tried again at {}",
                job.name, failure.message, failure.again
            );
            tracing::warn!(
                secret = format!("{}/{}", job.namespace, job.name),
                reason = failure.reason,
                "{message}"
            );
            let again = failure.again;
            held.state.failure = Some(failure);
            store.save(&mut held).await?;
            Ok(Report {
                said: job.say(true, "CertificateFailed", &message),
                ..Report::at(again)
            })
        }
    }
}

impl Job {
    /// To all that it is for.
    fn say(&self, warning: bool, reason: &'static str, message: &str) -> Vec<Said> {
        let owners = self.wanted.owners.iter();
        let said = owners.map(|owner: &ObjectRef| Said {
            owner: owner.clone(),
            warning,
            reason,
            message: message.to_owned(),
        });
        said.collect()
    }
}

/// Goes on with an order as far as that can be done now.
async fn advance(
    store: &Store,
    job: &Job,
    open: &Open,
    held: &mut Held<Order>,
    replaced: Option<&Leaf>,
    now: Timestamp,
) -> Result<Progress, AcmeError> {
    let explain = |error: instant_acme::Error| AcmeError::of(&error, &open.patience);
    let mut order = match &held.state.placed {
        Some(placed) => match open.account.order(placed.url.clone()).await {
            Ok(order) => order,
            // The CA has forgotten it.
            Err(error) if matches!(error::name(&error), Some("malformed")) => return Ok(Progress::Anew),
            Err(error) => return Err(explain(error)),
        },
        None => {
            let order = place(job, open, replaced).await.map_err(explain)?;
            held.state.placed = Some(Placed {
                url: order.url().to_owned(),
                server: job.issuer.spec.server().to_owned(),
                hosts: job.wanted.hosts.keys().cloned().collect(),
                private_key: PrivateKeyPem::new(&KeyPair::generate().map_err(cannot_make)?.serialize_pem()),
                proofs: BTreeMap::new(),
                told: None,
            });
            store.save(held).await?;
            order
        }
    };
    if order.state().status == OrderStatus::Pending {
        let Some(placed) = &mut held.state.placed else {
            return Ok(Progress::Anew);
        };
        if prove(&mut order, job.issuer.spec.challenge, placed, &open.patience).await? {
            placed.told = Some(now);
            store.save(held).await?;
            return Ok(Progress::Told);
        }
        if !job.answered.to(placed, now) {
            return Ok(Progress::Told);
        }
        let hosts = placed.hosts.len();
        tracing::debug!(
            secret = job.name,
            hosts,
            "every data plane answers for it: the CA may come"
        );
        set_ready(&mut order, job.issuer.spec.challenge)
            .await
            .map_err(explain)?;
        match order.poll_ready(&POLL).await {
            Ok(_) => {}
            Err(instant_acme::Error::Timeout(_)) => return Ok(Progress::Pending),
            // The order says that it has failed, its authorizations why.
            Err(instant_acme::Error::Api(_)) if order.state().error.is_some() => {}
            Err(error) => return Err(explain(error)),
        }
    }
    if order.state().status == OrderStatus::Invalid {
        return Err(AcmeError::refused("ChallengeFailed", why(&mut order).await));
    }
    let Some(placed) = &held.state.placed else {
        return Ok(Progress::Anew);
    };
    if order.state().status == OrderStatus::Ready {
        let csr = request(placed)?;
        match order.finalize_csr(&csr).await {
            Ok(()) => {}
            // Whoever held the Lease before has done it.
            Err(error) if matches!(error::name(&error), Some("orderNotReady")) => return Ok(Progress::Pending),
            Err(error) => return Err(explain(error)),
        }
    }
    let chain_pem = match order.state().status {
        OrderStatus::Valid => order.certificate().await.map_err(explain)?,
        _ => match order.poll_certificate(&POLL).await {
            Ok(chain) => Some(chain),
            Err(instant_acme::Error::Timeout(_)) => None,
            Err(error) => return Err(explain(error)),
        },
    };
    let Some(chain_pem) = chain_pem else {
        return Ok(Progress::Pending);
    };
    let issued = Issued {
        chain_pem,
        key_pem: placed.private_key.expose().to_owned(),
    };
    let leaf = Leaf::read(&issued).map_err(|why| AcmeError::refused("Refused", why))?;
    if !leaf.covers(&job.wanted.hosts) {
        let message = "the CA has issued a certificate for other hosts than were asked for";
        return Err(AcmeError::refused("Refused", message));
    }
    Ok(Progress::Issued(issued))
}

/// Places an order, in the place of the certificate that there is if the CA will hear of that (RFC 9773, 5).
async fn place(job: &Job, open: &Open, replaced: Option<&Leaf>) -> Result<instant_acme::Order, instant_acme::Error> {
    let hosts: Vec<Identifier> = job.wanted.hosts.keys().cloned().map(Identifier::Dns).collect();
    let new = || {
        let order = NewOrder::new(&hosts);
        match &job.issuer.spec.profile {
            Some(profile) => order.profile(profile),
            None => order,
        }
    };
    if let Some(id) = replaced.and_then(|leaf| leaf.id.clone()) {
        match open.account.new_order(&new().replaces(id)).await {
            Ok(order) => return Ok(order),
            Err(error) if matches!(error::name(&error), Some("rateLimited" | error::NONCE)) => return Err(error),
            // It is another account's, was replaced already, or the CA knows nothing of it.
            Err(error) => tracing::debug!(%error, "the order does not say which certificate it replaces"),
        }
    }
    open.account.new_order(&new()).await
}

/// Puts down what data planes are to answer; says whether that is new.
async fn prove(
    order: &mut instant_acme::Order,
    kind: AcmeChallenge,
    placed: &mut Placed,
    patience: &super::patience::Patience,
) -> Result<bool, AcmeError> {
    let mut new = false;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|error| AcmeError::of(&error, patience))?;
        let host = authorization.identifier().to_string();
        let known = placed.proofs.get(&host).is_some_and(|proof| is_for(proof, kind));
        if authorization.status != AuthorizationStatus::Pending || known {
            continue;
        }
        let Some(challenge) = authorization.challenge(type_of(kind)) else {
            let message = format!("the CA takes no {kind} for {host}: choose the other in spec.challenge");
            return Err(AcmeError::refused("ChallengeNotOffered", message));
        };
        let answer = challenge.key_authorization();
        let proof = match kind {
            AcmeChallenge::Http01 => Proof::Http {
                token: challenge.token.clone(),
                key_authorization: answer.as_str().to_owned(),
            },
            AcmeChallenge::TlsAlpn01 => {
                let key = KeyPair::generate().map_err(cannot_make)?;
                let mut params = CertificateParams::new(vec![host.clone()]).map_err(cannot_make)?;
                params.custom_extensions = vec![CustomExtension::new_acme_identifier(answer.digest().as_ref())];
                Proof::TlsAlpn {
                    certificate_pem: params.self_signed(&key).map_err(cannot_make)?.pem(),
                    private_key: PrivateKeyPem::new(&key.serialize_pem()),
                }
            }
        };
        placed.proofs.insert(host, proof);
        new = true;
    }
    Ok(new)
}

/// Has the CA come, where it has not been asked to.
async fn set_ready(order: &mut instant_acme::Order, kind: AcmeChallenge) -> Result<(), instant_acme::Error> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        if let Some(mut challenge) = authorization.challenge(type_of(kind))
            && challenge.status == ChallengeStatus::Pending
        {
            challenge.set_ready().await?;
        }
    }
    Ok(())
}

/// Why an order has failed, as its authorizations say.
async fn why(order: &mut instant_acme::Order) -> String {
    let mut said = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else { continue };
        // What was known of it is from before.
        if authorization.refresh().await.is_err() {
            continue;
        }
        let host = authorization.identifier().to_string();
        let errors = authorization
            .challenges
            .iter()
            .filter_map(|challenge| challenge.error.as_ref());
        said.extend(errors.map(|error| format!("{host}: {error}")));
    }
    match (said.is_empty(), &order.state().error) {
        (false, _) => said.join("; "),
        (true, Some(error)) => error.to_string(),
        (true, None) => "the CA says that the order is not valid, and not why".to_owned(),
    }
}

/// A certificate request (CSR) for an order.
fn request(placed: &Placed) -> Result<Vec<u8>, AcmeError> {
    let key = KeyPair::from_pem(placed.private_key.expose()).map_err(cannot_make)?;
    let hosts: Vec<String> = placed.hosts.iter().cloned().collect();
    let mut params = CertificateParams::new(hosts).map_err(cannot_make)?;
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key).map_err(cannot_make)?;
    Ok(csr.der().to_vec())
}

/// An issuer may have come to ask for the other challenge meanwhile.
fn is_for(proof: &Proof, kind: AcmeChallenge) -> bool {
    match proof {
        Proof::Http { .. } => kind == AcmeChallenge::Http01,
        Proof::TlsAlpn { .. } => kind == AcmeChallenge::TlsAlpn01,
    }
}

fn type_of(kind: AcmeChallenge) -> ChallengeType {
    match kind {
        AcmeChallenge::Http01 => ChallengeType::Http01,
        AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

fn cannot_make(error: rcgen::Error) -> AcmeError {
    AcmeError::refused("Refused", format!("a key or certificate cannot be made: {error}"))
}
