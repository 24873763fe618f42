//! Requests of workloads.

use rcgen::{CertificateSigningRequestParams, DistinguishedName, IsCa, PublicKey, PublicKeyData as _, SanType};
use weft_model::SpiffeId;

/// A request whose sender has the key that it is for.
#[derive(Debug)]
pub(crate) struct Csr {
    /// As it came; only the issuer that must pass it on needs it.
    pub(crate) pem: String,
    pub(crate) key: PublicKey,
}

/// Why a request is not signed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CsrError {
    #[error("it is not a PKCS #10 request as PEM, or its signature is not by its key: {0}")]
    Unreadable(String),
    #[error("its key is not of P-256")]
    Key,
    #[error("it asks for a name other than {expected}, which is what its token says: {found}")]
    Name { expected: String, found: String },
    #[error("it asks for more than a name: leave its subject empty, and everything but the URI out")]
    More,
}

/// An uncompressed point of P-256.
const POINT: usize = 65;

impl Csr {
    /// Reads one, which may ask for nothing but that identity. An issuer that looks at what is asked for comes to the same
    /// as one that does not.
    pub(crate) fn read(pem: &str, identity: &SpiffeId) -> Result<Self, CsrError> {
        let request = CertificateSigningRequestParams::from_pem(pem);
        let request = request.map_err(|error| CsrError::Unreadable(error.to_string()))?;
        let key = request.public_key;
        // The algorithm is that of the signature, by which a key of another curve can sign too.
        let point = key.der_bytes();
        if *key.algorithm() != rcgen::PKCS_ECDSA_P256_SHA256 || point.len() != POINT || point[0] != 4 {
            return Err(CsrError::Key);
        }
        let asked = request.params;
        let own = |name: &SanType| matches!(name, SanType::URI(uri) if uri.as_str() == identity.as_str());
        if asked.subject_alt_names.len() != 1 || !asked.subject_alt_names.iter().all(own) {
            return Err(CsrError::Name {
                expected: identity.to_string(),
                found: format!("{:?}", asked.subject_alt_names),
            });
        }
        let plain = asked.distinguished_name == DistinguishedName::new()
            && matches!(asked.is_ca, IsCa::NoCa)
            && asked.key_usages.is_empty()
            && asked.extended_key_usages.is_empty();
        if !plain {
            return Err(CsrError::More);
        }
        Ok(Self {
            pem: pem.to_owned(),
            key,
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};

    use super::*;

    const ID: &str = "spiffe://cluster.local/ns/shop/sa/front";

    fn uri(id: &str) -> SanType {
        SanType::URI(id.try_into().expect("ASCII"))
    }

    fn plain(names: Vec<SanType>) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params
    }

    fn read(params: &CertificateParams, key: &KeyPair) -> Result<Csr, CsrError> {
        let pem = params.serialize_request(key).and_then(|request| request.pem());
        Csr::read(&pem.expect("made"), &SpiffeId::parse(ID).expect("an identity"))
    }

    #[test]
    fn it_asks_for_the_identity_of_the_token_and_nothing_else() {
        let key = KeyPair::generate().expect("a key");
        let csr = read(&plain(vec![uri(ID)]), &key).expect("as it should be");
        assert_eq!(csr.key.der_bytes(), key.der_bytes());

        let other = "spiffe://cluster.local/ns/shop/sa/back";
        let dns = SanType::DnsName("front.shop.svc".try_into().expect("ASCII"));
        for names in [vec![uri(other)], vec![uri(ID), uri(other)], vec![uri(ID), dns], vec![]] {
            let refused = read(&plain(names.clone()), &key);
            assert!(matches!(refused, Err(CsrError::Name { .. })), "{names:?}: {refused:?}");
        }
        let mut named = plain(vec![uri(ID)]);
        named.distinguished_name.push(DnType::CommonName, "root");
        let mut ca = plain(vec![uri(ID)]);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut signs = plain(vec![uri(ID)]);
        signs.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        for more in [named, ca, signs] {
            assert_eq!(read(&more, &key).err(), Some(CsrError::More), "{more:?}");
        }
    }

    #[test]
    fn its_key_is_of_p_256_and_the_senders() {
        for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).expect("a key");
            let refused = read(&plain(vec![uri(ID)]), &key);
            assert!(
                matches!(refused, Err(CsrError::Key | CsrError::Unreadable(_))),
                "{refused:?}"
            );
        }
        let key = KeyPair::generate().expect("a key");
        let request = plain(vec![uri(ID)]).serialize_request(&key).expect("made");
        let mut der = request.der().to_vec();
        // The last byte is of the signature.
        *der.last_mut().expect("not empty") ^= 1;
        let pem = crate::identity::tests::csr_pem(&der);
        let refused = Csr::read(&pem, &SpiffeId::parse(ID).expect("an identity"));
        assert!(matches!(refused, Err(CsrError::Unreadable(_))), "{refused:?}");
        let refused = Csr::read("nonsense", &SpiffeId::parse(ID).expect("an identity"));
        assert!(matches!(refused, Err(CsrError::Unreadable(_))));
    }
}
