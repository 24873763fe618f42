//! The operator's own certificates: a small CA, kept in a Secret that all replicas share, and the certificate that each
//! replica shows to data planes and to the API server, which it makes itself and renews.
//!
//! A new root is told to data planes long before anything is signed by it, and an old one until it has expired, so that
//! nobody meets a certificate whose root it does not know.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::lease::{Claim, is_held};

/// The Secret that holds the CA.
pub(crate) const SECRET: &str = "weft-discovery-ca";
/// The name that the certificate of every replica has.
pub(crate) const SERVER_NAME: &str = "operator.weft.dev";
/// How long a root lasts,
const ROOT: Duration = days(365);
/// when the next one is made,
const ROOT_RENEWAL: Duration = days(243);
/// and for how long it is told to everybody before it signs.
const OVERLAP: Duration = days(2);
/// How long the certificate that is shown lasts, and when it is renewed.
const LEAF: Duration = days(2);
const LEAF_RENEWAL: Duration = days(1);
/// Clocks may differ by this much.
const SKEW: Duration = Duration::from_secs(300);
/// How often the Secret is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// And how often while it could not be read.
const RETRY: Duration = Duration::from_secs(2);

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 24 * 3600)
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// A key or certificate could not be made.
    #[error("a certificate cannot be made: {0}")]
    Made(#[from] rcgen::Error),
    /// The Secret does not hold what it should.
    #[error("the Secret {SECRET} is damaged ({0}); delete it, and a new CA is made")]
    Damaged(String),
    /// The API server said no, or nothing.
    #[error("the Secret {SECRET} cannot be read or written: {0}")]
    Api(#[from] kube::Error),
}

/// A root with its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
struct Root {
    certificate: String,
    key: String,
}

/// The roots: the one that signs, the next one, and those before.
#[derive(Clone, PartialEq, Eq)]
struct Authority {
    current: Root,
    next: Option<Root>,
    old: String,
}

impl Root {
    fn make(now: OffsetDateTime) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Weft operator {}", now.unix_timestamp()));
        params.not_before = now - SKEW;
        params.not_after = now + ROOT;
        Ok(Self {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// When it was made, and when it ends.
    fn validity(&self) -> Result<(OffsetDateTime, OffsetDateTime), CertificateError> {
        validity(&self.certificate)
    }

    /// A certificate for this replica, with all its names, and its key.
    fn issue(&self, names: &[String], now: OffsetDateTime) -> Result<CertifiedKey, CertificateError> {
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, SERVER_NAME);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = now - SKEW;
        params.not_after = (now + LEAF).min(self.validity()?.1);
        let certificate = params.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|error| CertificateError::Damaged(error.to_string()))?;
        Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
    }
}

fn validity(pem: &str) -> Result<(OffsetDateTime, OffsetDateTime), CertificateError> {
    let damaged = |why: &str| CertificateError::Damaged(why.to_owned());
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| damaged("a certificate is not PEM"))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| damaged("a certificate is not X.509"))?;
    let validity = parsed.validity();
    Ok((
        validity.not_before.to_datetime() + SKEW,
        validity.not_after.to_datetime(),
    ))
}

impl Authority {
    fn make(now: OffsetDateTime) -> Result<Self, CertificateError> {
        Ok(Self {
            current: Root::make(now)?,
            next: None,
            old: String::new(),
        })
    }

    /// What it is to be next; none while it is to stay as it is.
    fn advance(&self, now: OffsetDateTime) -> Result<Option<Self>, CertificateError> {
        let mut after = self.clone();
        let (made, ends) = self.current.validity()?;
        match &self.next {
            None if now >= made + ROOT_RENEWAL => after.next = Some(Root::make(now)?),
            Some(next) if now >= next.validity()?.0 + OVERLAP || now >= ends => {
                after.old.push_str(&self.current.certificate);
                after.current = next.clone();
                after.next = None;
            }
            _ => {}
        }
        let mut old = String::new();
        for certificate in after.old.split_inclusive("-----END CERTIFICATE-----\n") {
            if !certificate.trim().is_empty() && validity(certificate)?.1 > now {
                old.push_str(certificate);
            }
        }
        after.old = old;
        Ok((after != *self).then_some(after))
    }

    /// What data planes are to trust.
    fn roots(&self) -> String {
        let next = self.next.as_ref().map_or("", |next| &next.certificate);
        format!("{}{next}{}", self.current.certificate, self.old).replace("\r\n", "\n")
    }

    fn read(data: &BTreeMap<String, ByteString>) -> Result<Self, CertificateError> {
        let text = |name: &str| match data.get(name) {
            Some(bytes) => String::from_utf8(bytes.0.clone())
                .map(Some)
                .map_err(|_| CertificateError::Damaged(format!("{name} is not text"))),
            None => Ok(None),
        };
        let root = |name: &str| -> Result<_, CertificateError> {
            match (text(&format!("{name}.crt"))?, text(&format!("{name}.key"))?) {
                (Some(certificate), Some(key)) => Ok(Some(Root { certificate, key })),
                _ => Ok(None),
            }
        };
        let missing = || CertificateError::Damaged("ca.crt or ca.key is missing".to_owned());
        Ok(Self {
            current: root("ca")?.ok_or_else(missing)?,
            next: root("next")?,
            old: text("old.crt")?.unwrap_or_default(),
        })
    }

    fn write(&self) -> BTreeMap<String, ByteString> {
        let mut data = vec![("ca.crt", &self.current.certificate), ("ca.key", &self.current.key)];
        if let Some(next) = &self.next {
            data.extend([("next.crt", &next.certificate), ("next.key", &next.key)]);
        }
        if !self.old.is_empty() {
            data.push(("old.crt", &self.old));
        }
        let bytes = |text: &String| ByteString(text.clone().into_bytes());
        data.into_iter()
            .map(|(name, text)| (name.to_owned(), bytes(text)))
            .collect()
    }
}

/// The certificate that is shown at the moment.
#[derive(Debug, Default)]
pub(crate) struct Shown(RwLock<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Keeps the CA and the certificate that is shown.
pub(crate) struct Certificates {
    api: Api<Secret>,
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
            api: Api::namespaced(client, namespace),
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

    async fn look(&mut self, now: OffsetDateTime) -> Result<(), CertificateError> {
        let (secret, mut authority) = self.get_or_make(now).await?;
        let writes = is_held(*self.claim.borrow(), std::time::Instant::now());
        if writes && let Some(after) = authority.advance(now)? {
            let secret = Secret {
                data: Some(after.write()),
                ..secret
            };
            // It carries its version: of two that do this, one does it.
            self.api.replace(SECRET, &PostParams::default(), &secret).await?;
            tracing::info!(
                secret = SECRET,
                "the roots of the operator's certificates have moved on"
            );
            authority = after;
        }
        let due = self
            .issued
            .as_ref()
            .is_none_or(|(root, made)| *root != authority.current || now >= *made + LEAF_RENEWAL);
        if due {
            let issued = Arc::new(authority.current.issue(&self.names, now)?);
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

    /// Of several replicas that find none, one makes it and all use that.
    async fn get_or_make(&self, now: OffsetDateTime) -> Result<(Secret, Authority), CertificateError> {
        let secret = match self.api.get_opt(SECRET).await? {
            Some(secret) => secret,
            None => {
                let made = Secret {
                    metadata: ObjectMeta {
                        name: Some(SECRET.to_owned()),
                        labels: Some(BTreeMap::from([(
                            "app.kubernetes.io/part-of".to_owned(),
                            "weft".to_owned(),
                        )])),
                        ..ObjectMeta::default()
                    },
                    type_: Some("weft.dev/ca".to_owned()),
                    data: Some(Authority::make(now)?.write()),
                    ..Secret::default()
                };
                match self.api.create(&PostParams::default(), &made).await {
                    Ok(secret) => {
                        tracing::info!(secret = SECRET, "a CA for the operator's certificates was made");
                        secret
                    }
                    Err(kube::Error::Api(status)) if status.code == 409 => self.api.get(SECRET).await?,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let authority = Authority::read(secret.data.as_ref().unwrap_or(&BTreeMap::new()))?;
        Ok((secret, authority))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a time")
    }

    fn count(roots: &str) -> usize {
        CertificateDer::pem_slice_iter(roots.as_bytes())
            .filter(Result::is_ok)
            .count()
    }

    /// Whether a client that trusts `roots` takes what `authority` signs at `at`.
    fn trusts(roots: &str, authority: &Authority, at: OffsetDateTime) -> bool {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut store = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store.add(certificate.expect("a certificate")).expect("a root");
        }
        let verifier = rustls::client::WebPkiServerVerifier::builder(Arc::new(store))
            .build()
            .expect("a verifier");
        let names = [SERVER_NAME.to_owned()];
        let issued = authority.current.issue(&names, at).expect("a certificate");
        let seconds = u64::try_from(at.unix_timestamp()).expect("after 1970");
        let time = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = SERVER_NAME.try_into().expect("a name");
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            &*verifier,
            &issued.cert[0],
            &[],
            &name,
            &[],
            time,
        )
        .is_ok()
    }

    #[test]
    fn a_new_root_is_known_everywhere_before_it_signs_and_the_old_one_until_it_ends() {
        let first = Authority::make(now()).expect("made");
        assert!(trusts(&first.roots(), &first, now()));
        assert!(first.advance(now() + ROOT_RENEWAL - days(1)).expect("valid").is_none());

        let at = now() + ROOT_RENEWAL;
        let both = first.advance(at).expect("valid").expect("a next root");
        assert_eq!(count(&both.roots()), 2);
        assert!(both.current == first.current && trusts(&first.roots(), &both, at));
        assert!(both.advance(at + OVERLAP / 2).expect("valid").is_none());

        let at = at + OVERLAP;
        let moved = both.advance(at).expect("valid").expect("the next root signs");
        assert!(moved.current != first.current && moved.next.is_none());
        // Those that know both trust what is signed by either.
        assert!(trusts(&both.roots(), &moved, at) && trusts(&moved.roots(), &both, at));
        assert!(!trusts(&first.roots(), &moved, at));
        assert_eq!(count(&moved.roots()), 2);

        let at = now() + ROOT + days(1);
        let cleaned = moved.advance(at).expect("valid").expect("the old root is forgotten");
        assert_eq!(count(&cleaned.roots()), 1);
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let first = Authority::make(now()).expect("made");
        let both = first
            .advance(now() + ROOT_RENEWAL)
            .expect("valid")
            .expect("a next root");
        for authority in [first, both] {
            assert!(Authority::read(&authority.write()).expect("read") == authority);
        }
        let damaged = Authority::read(&BTreeMap::new());
        assert!(matches!(damaged, Err(CertificateError::Damaged(_))));
    }
}
