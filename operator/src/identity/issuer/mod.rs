//! Who signs the certificates of workloads.

mod built_in;
mod cert_manager;

use std::{sync::Arc, time::Duration};

use rcgen::PublicKeyData as _;
use rustls::{
    RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    server::{ParsedCertificate, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use weft_model::{MeshTrust, SpiffeId};
use x509_parser::extensions::GeneralName;

pub(super) use self::{built_in::BuiltIn, cert_manager::CertManager};
use super::csr::Csr;
use crate::authority::pem;

pub(crate) use self::cert_manager::IssuerReference;

/// Signs certificates of workloads. What another one needs is a variant here, and nothing elsewhere.
pub(super) enum CertificateIssuer {
    /// The operator, by a CA of its own or one that was brought.
    BuiltIn(BuiltIn),
    /// Whatever is behind an issuer of cert-manager.
    CertManager(Box<CertManager>),
}

/// What is to be signed: the identity is proven, and the request asks for nothing else.
pub(super) struct Order {
    pub(super) identity: SpiffeId,
    pub(super) csr: Csr,
    pub(super) lifetime: Duration,
}

/// What was signed: the certificate, and those between it and the root.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) chain: Vec<CertificateDer<'static>>,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    /// It can be tried again.
    #[error("{0}")]
    NotNow(String),
    /// The issuer does not want to.
    #[error("{0}")]
    Denied(String),
    /// What came back is not what was asked for.
    #[error("the issuer has signed something else than what it was asked for: {0}")]
    Other(String),
}

impl CertificateIssuer {
    /// Signs what those who believe these will believe.
    pub(super) async fn issue(&self, order: &Order, trust: &MeshTrust) -> Result<Issued, IssueError> {
        let issued = match self {
            Self::BuiltIn(issuer) => issuer.issue(order, OffsetDateTime::now_utc())?,
            Self::CertManager(issuer) => issuer.issue(order).await?,
        };
        issued.check(order)?;
        issued.is_believed(&trust.roots_pem, UnixTime::now()).map_err(|why| {
            IssueError::NotNow(format!(
                "nobody in the mesh would believe what the issuer has signed ({why}): add the root that it signs by to the ConfigMap of roots"
            ))
        })?;
        Ok(issued)
    }
}

impl Issued {
    /// Whether it is for that key, says that identity, and nothing else.
    fn check(&self, order: &Order) -> Result<(), IssueError> {
        let other = |why: &str| Err(IssueError::Other(why.to_owned()));
        let Some(leaf) = self.chain.first() else {
            return other("nothing");
        };
        let Ok((_, leaf)) = x509_parser::parse_x509_certificate(leaf) else {
            return other("what is no certificate");
        };
        if *leaf.public_key().subject_public_key.data != *order.csr.key.der_bytes() {
            return other("a certificate for another key");
        }
        let names = leaf.subject_alternative_name().ok().flatten();
        let names = names.map(|names| &names.value.general_names[..]);
        match names {
            Some([GeneralName::URI(uri)]) if *uri == order.identity.as_str() => {}
            names => return other(&format!("a certificate for {names:?}")),
        }
        if leaf.is_ca() {
            return other("a certificate of a CA");
        }
        Ok(())
    }

    /// Whether those who believe these roots would believe it now, as a client's and as a server's.
    fn is_believed(&self, roots_pem: &str, now: UnixTime) -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        for root in pem::read(roots_pem)? {
            roots.add(root).map_err(|error| error.to_string())?;
        }
        let Some((leaf, above)) = self.chain.split_first() else {
            return Err("it is nothing".to_owned());
        };
        // Clocks differ, and an issuer may count from this very moment by its own.
        let (start, ..) = self.terms();
        let now = now.max(UnixTime::since_unix_epoch(Duration::from_secs(start)));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let as_server = ParsedCertificate::try_from(leaf)
            .and_then(|leaf| verify_server_cert_signed_by_trust_anchor(&leaf, &roots, above, now, algorithms.all));
        as_server.map_err(|error| error.to_string())?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let clients = clients.map_err(|error| error.to_string())?;
        let as_client = clients.verify_client_cert(leaf, above, now);
        as_client.map(drop).map_err(|error| error.to_string())
    }

    /// From when and until when it holds, in seconds since 1970, and its number.
    pub(super) fn terms(&self) -> (u64, u64, weft_model::Serial) {
        let leaf = self.chain.first().map(|leaf| x509_parser::parse_x509_certificate(leaf));
        let Some(Ok((_, leaf))) = leaf else {
            return (0, 0, weft_model::Serial::of(&[]));
        };
        let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or_default();
        let validity = leaf.validity();
        let serial = weft_model::Serial::of(leaf.raw_serial());
        (seconds(validity.not_before), seconds(validity.not_after), serial)
    }

    /// As PEM.
    pub(super) fn pem(&self) -> String {
        pem::write(&self.chain)
    }
}
