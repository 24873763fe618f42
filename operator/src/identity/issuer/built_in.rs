//! The issuer that is built in: each replica makes itself an intermediate CA, which never leaves its memory, and signs by
//! that. Only where the CA that was brought may have none below it does that sign itself.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::{IssueError, Issued, Order};
use crate::authority::{Authority, AuthorityError, Root, SKEW, days};

/// How long an intermediate lasts, and when the next one takes its place: what it has signed ends well before it does.
const INTERMEDIATE: Duration = days(28);
const RENEWAL: Duration = days(14);

/// Signs by a CA whose Secret somebody else watches.
pub(crate) struct BuiltIn {
    authority: watch::Receiver<Option<Arc<Authority>>>,
    signer: Mutex<Option<Arc<Signer>>>,
}

/// What signs.
struct Signer {
    /// By whom it was signed.
    root: Root,
    made: OffsetDateTime,
    end: OffsetDateTime,
    issuer: rcgen::Issuer<'static, KeyPair>,
    /// What is shown beside what it has signed.
    chain: Vec<CertificateDer<'static>>,
}

impl BuiltIn {
    pub(crate) fn new(authority: watch::Receiver<Option<Arc<Authority>>>) -> Self {
        Self {
            authority,
            signer: Mutex::default(),
        }
    }

    pub(super) fn issue(&self, order: &Order) -> Result<Issued, IssueError> {
        let now = OffsetDateTime::now_utc();
        let authority = self.authority.borrow().clone();
        let authority = authority.ok_or_else(|| {
            let text = "the operator has no CA yet: its log says why if that does not pass by itself";
            IssueError::NotNow(text.to_owned())
        })?;
        let signed = self.signer(&authority, now).and_then(|signer| signer.sign(order, now));
        signed.map_err(|error| IssueError::NotNow(error.to_string()))
    }

    /// What signs now.
    fn signer(&self, authority: &Authority, now: OffsetDateTime) -> Result<Arc<Signer>, AuthorityError> {
        let mut kept = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        let root = &authority.current;
        if let Some(signer) = kept.as_ref().filter(|signer| signer.is_good(root, now)) {
            return Ok(signer.clone());
        }
        let signer = Arc::new(Signer::make(root, now)?);
        *kept = Some(signer.clone());
        Ok(signer)
    }
}

impl Signer {
    fn make(root: &Root, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let signer = |issuer, end, chain| Self {
            root: root.clone(),
            made: now,
            end,
            issuer,
            chain,
        };
        let above = root.chain().to_vec();
        if !root.may_sign_a_ca() {
            return Ok(signer(root.issuer()?, root.validity().end, above));
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let name = format!("Weft identity intermediate {}", now.unix_timestamp());
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        params.not_before = now - SKEW;
        params.not_after = (now + INTERMEDIATE).min(root.validity().end);
        let end = params.not_after;
        let certificate = params.signed_by(&key, &root.issuer()?)?;
        let chain = [certificate.der().clone()].into_iter().chain(above).collect();
        tracing::info!(%end, "an intermediate CA for certificates of workloads was made");
        Ok(signer(rcgen::Issuer::new(params, key), end, chain))
    }

    fn is_good(&self, root: &Root, now: OffsetDateTime) -> bool {
        self.root == *root && now < self.made + RENEWAL
    }

    /// The certificate of a workload: its key, its identity, and what is said of all of them.
    fn sign(&self, order: &Order, now: OffsetDateTime) -> Result<Issued, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = order.identity.as_str().try_into()?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        params.not_before = now - SKEW;
        params.not_after = (now + order.lifetime).min(self.end);
        let certificate = params.signed_by(&order.csr.key, &self.issuer)?;
        let chain = [certificate.der()].into_iter().chain(&self.chain);
        Ok(Issued {
            chain: chain.cloned().collect(),
        })
    }
}

/// A number that no other certificate has, which must be positive.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
