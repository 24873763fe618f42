//! A certificate that signs, with its key and what is above it.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use super::{
    AuthorityError, SKEW, Terms,
    pem::{self, Validity},
};

/// A certificate that signs. One that was made here is a root; one that was brought may have others above it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Root {
    /// What signs is the first, and what others trust is the last; there is one at least.
    certificates: Vec<CertificateDer<'static>>,
    /// As PEM.
    key: String,
    validity: Validity,
}

impl Root {
    /// A new one.
    pub(crate) fn make(terms: &Terms, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(terms.below));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{} {}", terms.name, now.unix_timestamp()));
        params.not_before = now - SKEW;
        params.not_after = now + terms.root;
        let certificates = vec![params.self_signed(&key)?.der().clone()];
        Self::checked(terms, "ca", certificates, key.serialize_pem())
    }

    /// Reads one, and sees whether it can sign at all.
    pub(super) fn read(terms: &Terms, name: &str, certificates: &str, key: &str) -> Result<Self, AuthorityError> {
        let certificates = pem::read(certificates).map_err(|why| damaged(terms, name, &why))?;
        Self::checked(terms, name, certificates, key.to_owned())
    }

    fn checked(
        terms: &Terms,
        name: &str,
        certificates: Vec<CertificateDer<'static>>,
        key: String,
    ) -> Result<Self, AuthorityError> {
        let damaged = |why: &str| damaged(terms, name, why);
        let pair = KeyPair::from_pem(&key).map_err(|error| damaged(&format!("the key cannot be read: {error}")))?;
        let signing = certificates.first().ok_or_else(|| damaged("it holds no certificate"))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(signing).map_err(|_| damaged("its first certificate is not X.509"))?;
        if !parsed.is_ca() {
            return Err(damaged("its first certificate is not that of a CA"));
        }
        if *parsed.public_key().subject_public_key.data != *pair.der_bytes() {
            return Err(damaged("the key is not that of its first certificate"));
        }
        let validity = pem::validity(signing).map_err(|why| damaged(&why))?;
        Ok(Self {
            certificates,
            key,
            validity,
        })
    }

    /// What signs.
    pub(crate) fn signing(&self) -> &CertificateDer<'static> {
        &self.certificates[0]
    }

    /// What others trust.
    pub(crate) fn anchor(&self) -> &CertificateDer<'static> {
        &self.certificates[self.certificates.len() - 1]
    }

    /// What is shown beside what it has signed: all up to what others trust, without that.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certificates[..self.certificates.len() - 1]
    }

    /// For how long it signs.
    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }

    /// Whether it may sign the certificate of another CA.
    pub(crate) fn may_sign_a_ca(&self) -> bool {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(self.signing()) else {
            return false;
        };
        let constraints = parsed.basic_constraints().ok().flatten();
        constraints.is_some_and(|constraints| constraints.value.path_len_constraint != Some(0))
    }

    /// To sign by it.
    pub(crate) fn issuer(&self) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
        Ok(Issuer::from_ca_cert_der(self.signing(), KeyPair::from_pem(&self.key)?)?)
    }

    /// As it is kept: certificates and key.
    pub(super) fn write(&self) -> (String, String) {
        (pem::write(&self.certificates), self.key.clone())
    }
}

fn damaged(terms: &Terms, name: &str, why: &str) -> AuthorityError {
    AuthorityError::Damaged {
        secret: terms.secret,
        why: format!("{name}.crt, {name}.key: {why}"),
    }
}
