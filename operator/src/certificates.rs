//! The certificate that each replica of the operator shows to data planes and to the API server, which it makes itself from
//! the CA that all replicas share, and renews.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use kube::Client;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::{
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::PrivateKeyDer;
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::{
    authority::{AuthorityError, Root, SKEW, Store, Terms, days},
    lease::{Claim, is_held},
};

/// The CA.
const TERMS: Terms = Terms {
    secret: "weft-discovery-ca",
    name: "Weft operator",
    below: 0,
    root: days(365),
    renewal: days(243),
    overlap: days(2),
};
/// The name that the certificate of every replica has.
pub(crate) const SERVER_NAME: &str = "operator.weft.dev";
/// How long the certificate that is shown lasts, and when it is renewed.
const LEAF: Duration = days(2);
const LEAF_RENEWAL: Duration = days(1);
/// How often the Secret is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// And how often while it could not be read.
const RETRY: Duration = Duration::from_secs(2);

/// A certificate for this replica, with all its names, and its key.
fn issue(root: &Root, names: &[String], now: OffsetDateTime) -> Result<CertifiedKey, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, SERVER_NAME);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Replicas of the operator ask each other too.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - SKEW;
    params.not_after = (now + LEAF).min(root.validity().end);
    let certificate = params.signed_by(&key, &root.issuer()?)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|error| AuthorityError::Damaged {
        secret: TERMS.secret,
        why: error.to_string(),
    })?;
    let chain = [certificate.der()].into_iter().chain(root.chain());
    Ok(CertifiedKey::new(chain.cloned().collect(), key))
}

/// The certificate that is shown at the moment.
#[derive(Debug, Default)]
pub(crate) struct Shown(RwLock<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn has_certs(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Keeps the CA and the certificate that is shown.
pub(crate) struct Certificates {
    store: Store,
    claim: watch::Receiver<Claim>,
    shown: Arc<Shown>,
    roots: watch::Sender<String>,
    /// The names of what is shown.
    names: Vec<String>,
    /// By what, and when, the certificate that is shown was made.
    issued: Option<(Root, OffsetDateTime)>,
}

impl Certificates {
    /// `host` is the name by which the API server knows the operator. The roots are an empty text until there are any.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        host: &str,
        claim: watch::Receiver<Claim>,
    ) -> (Self, Arc<Shown>, watch::Receiver<String>) {
        let shown = Arc::new(Shown::default());
        let (roots, receiver) = watch::channel(String::new());
        let certificates = Self {
            store: Store::new(client, namespace, &TERMS),
            claim,
            shown: shown.clone(),
            roots,
            names: vec![SERVER_NAME.to_owned(), host.to_owned()],
            issued: None,
        };
        (certificates, shown, receiver)
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let wait = match self.look(OffsetDateTime::now_utc()).await {
                Ok(()) => LOOK,
                Err(error) => {
                    tracing::error!(%error, "the certificate shown to data planes may be missing or grow old");
                    RETRY
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Brings the CA and what is shown up to date.
    pub(crate) async fn look(&mut self, now: OffsetDateTime) -> Result<(), AuthorityError> {
        let writes = is_held(*self.claim.borrow(), std::time::Instant::now());
        let authority = self.store.keep(now, writes).await?;
        let due = self
            .issued
            .as_ref()
            .is_none_or(|(root, made)| *root != authority.current || now >= *made + LEAF_RENEWAL);
        if due {
            let issued = Arc::new(issue(&authority, &self.names, now)?);
            *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = Some(issued);
            self.issued = Some((authority.current.clone(), now));
        }
        self.roots.send_if_modified(|roots| {
            let now = authority.roots();
            let changed = *roots != now;
            *roots = now;
            changed
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Authority, pem};

    #[test]
    fn what_is_shown_is_trusted_by_those_that_know_the_roots_and_nobody_else() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a time");
        let made = || Authority::make(&TERMS, now).expect("made");
        let (authority, other) = (made(), made());
        let issued = issue(&authority, &[SERVER_NAME.to_owned()], now).expect("a certificate");
        let trusts = |roots: &str| {
            let mut store = rustls::RootCertStore::empty();
            for certificate in pem::read(roots).expect("PEM") {
                store.add(certificate).expect("a root");
            }
            let verifier = rustls::client::WebPkiServerVerifier::builder(Arc::new(store))
                .build()
                .expect("a verifier");
            let time = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
            let name = SERVER_NAME.try_into().expect("a name");
            rustls::client::danger::ServerCertVerifier::verify_server_cert(
                &*verifier,
                &issued.cert[0],
                &issued.cert[1..],
                &name,
                &[],
                time,
            )
            .is_ok()
        };
        assert!(trusts(&authority.roots()));
        assert!(!trusts(&other.roots()));
    }
}
