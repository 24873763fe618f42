//! Certificates, ready to be shown.

use std::sync::Arc;

use rustls::{
    client::verify_server_name,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use weft_model::Certificate;

/// A certificate and what it was read from.
pub(super) struct CertificateEntry {
    pub(super) source: Arc<Certificate>,
    pub(super) certified: Arc<CertifiedKey>,
}

impl CertificateEntry {
    /// Reads the chain and the key, which must belong together.
    pub(super) fn new(source: Arc<Certificate>) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(source.chain_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("tls.crt is not PEM: {error}"))?;
        let Some(leaf) = chain.first() else {
            return Err("tls.crt holds no certificate: it must start with -----BEGIN CERTIFICATE-----".to_owned());
        };
        ParsedCertificate::try_from(leaf).map_err(|error| format!("tls.crt holds a malformed certificate: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(source.private_key.expose().as_bytes())
            .map_err(|error| format!("tls.key holds no private key in PEM: {error}"))?;
        let key = any_supported_type(&key)
            .map_err(|error| format!("tls.key cannot be used: {error}; use RSA, ECDSA P-256/P-384/P-521 or Ed25519"))?;
        let certified = CertifiedKey::new(chain, key);
        certified
            .keys_match()
            .map_err(|_| "tls.key is not the key of the first certificate in tls.crt".to_owned())?;
        Ok(Self {
            source,
            certified: Arc::new(certified),
        })
    }
}

/// Whether one of the certificate's names is this host (RFC 6125, by its subjectAltName).
pub(super) fn covers(certified: &CertifiedKey, host: &str) -> bool {
    let Ok(name) = ServerName::try_from(host) else {
        return false;
    };
    let leaf = certified.end_entity_cert().and_then(ParsedCertificate::try_from);
    leaf.is_ok_and(|leaf| verify_server_name(&leaf, &name).is_ok())
}
