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

    pub(super) fn issue(&self, order: &Order, now: OffsetDateTime) -> Result<Issued, IssueError> {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rustls_pki_types::UnixTime;
    use weft_model::SpiffeId;

    use super::*;
    use crate::{
        authority::Terms,
        identity::{TERMS, csr::Csr, tests::csr_pem},
    };

    const HOUR: Duration = Duration::from_secs(3600);
    const LIFETIME: Duration = days(1);

    fn start() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a time")
    }

    fn order() -> Order {
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/front").expect("an identity");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().expect("ASCII"))];
        let key = KeyPair::generate().expect("a key");
        let request = params.serialize_request(&key).expect("made");
        Order {
            csr: Csr::read(&csr_pem(request.der()), &identity).expect("a request"),
            identity,
            lifetime: LIFETIME,
        }
    }

    /// Signs by a CA of these terms, which was made at the start; the roots are whom everybody believes.
    fn issuer(terms: &'static Terms) -> (BuiltIn, String) {
        let authority = Authority::make(terms, start()).expect("made");
        let roots = authority.roots();
        (BuiltIn::new(watch::channel(Some(Arc::new(authority))).1), roots)
    }

    fn believed(issued: &Issued, roots: &str, at: OffsetDateTime) -> Result<(), String> {
        let seconds = u64::try_from(at.unix_timestamp()).expect("after 1970");
        issued.is_believed(roots, UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }

    #[test]
    fn an_intermediate_is_followed_by_the_next_and_what_either_has_signed_is_believed() {
        let (issuer, roots) = issuer(&TERMS);
        let first = issuer.issue(&order(), start()).expect("signed");
        let turn = start() + RENEWAL;
        let last = issuer.issue(&order(), turn - HOUR).expect("signed");
        let next = issuer.issue(&order(), turn).expect("signed");
        assert_eq!(last.chain.len(), 2, "the leaf and its intermediate");
        assert_eq!(last.chain[1], first.chain[1]);
        assert_ne!(next.chain[1], first.chain[1]);
        // For as long as leaves of the one before last, both are believed.
        for issued in [&last, &next] {
            believed(issued, &roots, turn).expect("believed");
            believed(issued, &roots, turn + LIFETIME - 2 * HOUR).expect("believed");
        }
        believed(&first, &roots, turn).expect_err("it has ended");
        believed(&next, &roots, turn + LIFETIME + HOUR).expect_err("it has ended");
        let other = Authority::make(&TERMS, start()).expect("made").roots();
        believed(&next, &other, turn).expect_err("it is of another root");
    }

    #[test]
    fn for_a_year_every_leaf_is_believed_until_it_ends() {
        let (issuer, roots) = issuer(&TERMS);
        let mut live: Vec<(OffsetDateTime, Issued)> = Vec::new();
        let mut intermediates = BTreeSet::new();
        for step in 0..365 * 2_u32 {
            let now = start() + step * 12 * HOUR;
            let issued = issuer.issue(&order(), now).expect("signed");
            intermediates.insert(issued.chain[1].to_vec());
            live.push((now + LIFETIME, issued));
            live.retain(|(end, _)| *end > now);
            for (_, issued) in &live {
                believed(issued, &roots, now).unwrap_or_else(|why| panic!("after {} h: {why}", step * 12));
            }
        }
        assert_eq!(intermediates.len(), 365_usize.div_ceil(14));
    }

    /// A CA that may have none below it.
    const ALONE: Terms = Terms { below: 0, ..TERMS };

    #[test]
    fn nothing_outlasts_the_root_and_a_ca_that_may_have_none_below_it_signs_itself() {
        let (issuer, roots) = issuer(&ALONE);
        let issued = issuer.issue(&order(), start() + days(100)).expect("signed");
        assert_eq!(issued.chain.len(), 1);
        believed(&issued, &roots, start() + days(100)).expect("believed");
        let (issuer, _) = self::issuer(&TERMS);
        let late = start() + TERMS.root - HOUR;
        let issued = issuer.issue(&order(), late).expect("signed");
        let end = (start() + TERMS.root).unix_timestamp();
        assert_eq!(issued.terms().1, u64::try_from(end).expect("after 1970"));
    }
}
