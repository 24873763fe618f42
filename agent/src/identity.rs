//! Keeps this workload's certificate, which lives in memory only: made at the start, renewed long before it ends, and used
//! for as long as it holds while the operator is away. What the operator says about trust holds from when it is said. Where
//! the operator gives out no certificates there is none, and nothing else is different.

use std::{
    convert::Infallible,
    future::pending,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio::time::{Instant, sleep_until, timeout};
use weft_discovery::{Endpoint, IdentityClient, IdentityError, Trust, Trusts, jittered};
use weft_model::{PrivateKeyPem, SpiffeId};
use weft_proxy::mesh::{Identity, Mesh, MeshError};

use crate::store::{KeptIdentity, Store};

/// Waits between attempts double from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// A connection that lasted this long was a good one: the next attempt after it comes soon.
const GOOD: Duration = Duration::from_secs(30);
/// How long the operator, and what signs for it, may take.
const PATIENCE: Duration = Duration::from_secs(40);
/// A certificate is renewed after this share of its life, or up to so much earlier, so that those that started at once do not
/// come back at once.
const RENEWAL: f64 = 2.0 / 3.0;
const JITTER: f64 = 0.1;

/// Why there is no other certificate.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Asked(#[from] IdentityError),
    #[error("it has not answered within {} s", PATIENCE.as_secs())]
    Silent,
    #[error(transparent)]
    Unusable(#[from] MeshError),
    #[error("a key or a request could not be made: {0}")]
    Made(#[from] rcgen::Error),
}

/// A certificate that has just been signed, and its key.
struct Signed {
    identity: Identity,
    key: KeyPair,
}

/// The operator's answer, which may take its time.
type Asking = Pin<Box<dyn Future<Output = Result<Signed, KeepError>> + Send>>;

/// Keeps who this workload is, and whom it believes.
pub(crate) struct Keeper {
    operator: Endpoint,
    mesh: Arc<Mesh>,
    store: Option<Arc<Store>>,
    /// When the next certificate is to be asked for.
    due: Instant,
    /// How long is waited after the next failure.
    retry: Duration,
    /// The key of the certificate in use, where that is kept.
    key: Option<PrivateKeyPem>,
    /// It was said that the operator gives out none.
    is_without: bool,
}

impl Keeper {
    pub(crate) fn new(operator: Endpoint, mesh: Arc<Mesh>, store: Option<Arc<Store>>) -> Self {
        Self {
            operator,
            mesh,
            store,
            due: Instant::now(),
            retry: BACKOFF.0,
            key: None,
            is_without: false,
        }
    }

    /// Puts in use what was kept of before, as long as that holds. Another certificate is asked for all the same.
    pub(crate) fn resume(&mut self) {
        let kept = self.store.as_ref().and_then(|store| store.identity());
        let Some(kept) = kept.filter(|kept| kept.not_after > now().as_secs()) else {
            return;
        };
        let resumed = PrivateKeyDer::from_pem_slice(kept.key_pem.expose().as_bytes())
            .map_err(|error| MeshError::Certificate(error.to_string()))
            .and_then(|key| Identity::new(&kept.chain_pem, key, kept.not_after))
            .and_then(|identity| {
                self.mesh.set_trust(kept.trust)?;
                self.mesh.set_identity(identity)
            });
        match resumed {
            Ok(()) => self.key = Some(kept.key_pem),
            Err(error) => tracing::warn!(%error, "the certificate that was kept is of no use"),
        }
    }

    /// Keeps both up to date until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut wait = BACKOFF.0;
        loop {
            let begun = Instant::now();
            let Err(error) = self.stay().await;
            if begun.elapsed() >= GOOD {
                wait = BACKOFF.0;
            }
            if matches!(&error, KeepError::Asked(asked) if asked.is_without()) {
                // It may be replaced by one that does.
                wait = BACKOFF.1;
                self.mesh.set_unsigned(true);
                if !std::mem::replace(&mut self.is_without, true) {
                    tracing::info!("the operator gives out no certificates: nobody is shown one");
                }
            } else {
                self.is_without = false;
                self.mesh.set_unsigned(false);
                self.complain(&error);
            }
            tokio::time::sleep(jittered(wait)).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// Stays connected, hears what is said about trust, and renews what is due. Whom not to believe any more is heard while a
    /// certificate is waited for, too: what signs it may be somebody who is slow, or away.
    async fn stay(&mut self) -> Result<Infallible, KeepError> {
        let mut client = IdentityClient::connect(&self.operator).await?;
        let mut trusts = client.trust().await?;
        let mut told = first(&mut trusts).await?;
        self.heed(&told).await?;
        let mut asking: Option<Asking> = None;
        loop {
            tokio::select! {
                next = trusts.next() => {
                    told = next?;
                    self.heed(&told).await?;
                }
                () = sleep_until(self.due), if asking.is_none() => {
                    asking = Some(Box::pin(ask(client.clone(), told.identity.clone())));
                }
                signed = answer(&mut asking) => {
                    asking = None;
                    match self.renewed(signed).await {
                        Ok(()) => {
                            self.retry = BACKOFF.0;
                            self.judge(&told);
                        }
                        Err(error) => {
                            self.complain(&error);
                            self.due = Instant::now() + jittered(self.retry);
                            self.retry = (self.retry * 2).min(BACKOFF.1);
                        }
                    }
                }
            }
        }
    }

    /// Puts in use what was said about trust.
    async fn heed(&mut self, told: &Trust) -> Result<(), KeepError> {
        self.mesh.set_trust(told.trust.clone())?;
        self.save().await;
        self.judge(told);
        Ok(())
    }

    /// Asks for another certificate where the one in use is one that nobody believes, or of somebody else.
    fn judge(&mut self, told: &Trust) {
        let own = self.mesh.identity();
        if own.is_some_and(|own| *own.id() != told.identity || told.trust.revoked.serials.contains(own.serial())) {
            self.due = Instant::now();
        }
    }

    /// Puts in use what was signed.
    async fn renewed(&mut self, signed: Result<Signed, KeepError>) -> Result<(), KeepError> {
        let Signed { identity, key } = signed?;
        let life = Duration::from_secs(identity.not_after()).saturating_sub(now());
        self.due = Instant::now() + life.mul_f64(RENEWAL - JITTER * random());
        tracing::info!(identity = %identity.id(), serial = %identity.serial(), seconds = life.as_secs(), "this workload has a certificate");
        self.mesh.set_identity(identity)?;
        if self.store.is_some() {
            self.key = Some(PrivateKeyPem::new(&key.serialize_pem()));
        }
        self.save().await;
        Ok(())
    }

    /// Keeps what is in use for a container that starts anew.
    async fn save(&self) {
        let (Some(store), Some(key_pem)) = (self.store.clone(), self.key.clone()) else {
            return;
        };
        let (Some(identity), Some(trust)) = (self.mesh.identity(), self.mesh.trust()) else {
            return;
        };
        let kept = KeptIdentity {
            chain_pem: identity.chain_pem().to_owned(),
            key_pem,
            not_after: identity.not_after(),
            trust: trust.source().clone(),
        };
        let saved = tokio::task::spawn_blocking(move || store.save_identity(&kept)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(%error, "the certificate cannot be kept: after a restart while the operator is away there would be none");
        }
    }

    fn complain(&self, error: &KeepError) {
        let own = self.mesh.identity();
        let until = own.map_or(0, |own| own.not_after());
        match error {
            KeepError::Asked(asked) if asked.is_refusal() => {
                tracing::error!(%error, until, "the operator does not give this workload a certificate; the one there is holds as long as it does");
            }
            _ => {
                tracing::warn!(%error, until, "nothing is heard of the operator about certificates; the one there is holds as long as it does");
            }
        }
    }
}

async fn first(trusts: &mut Trusts) -> Result<Trust, KeepError> {
    let told = timeout(PATIENCE, trusts.next()).await;
    Ok(told.map_err(|_| KeepError::Silent)??)
}

/// Has a new key signed.
async fn ask(mut client: IdentityClient, id: SpiffeId) -> Result<Signed, KeepError> {
    let key = KeyPair::generate()?;
    let signed = timeout(PATIENCE, client.sign(request(&key, &id)?)).await;
    let signed = signed.map_err(|_| KeepError::Silent)??;
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let identity = Identity::new(&signed.chain_pem, der, signed.not_after)?;
    Ok(Signed { identity, key })
}

/// Waits for the answer, if one was asked for.
async fn answer(asking: &mut Option<Asking>) -> Result<Signed, KeepError> {
    match asking {
        Some(asking) => asking.await,
        None => pending().await,
    }
}

/// Asks for a certificate that says who this is, and nothing else.
fn request(key: &KeyPair, id: &SpiffeId) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.serialize_request(key)?.pem()
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// From 0 to 1.
fn random() -> f64 {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    (random >> 32) as f64 / f64::from(u32::MAX)
}
