//! What ACME CAs ask while certificates are being ordered, and what they are answered. There are few, and mostly none.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::ClientHello,
    sign::{CertifiedKey, SingleCertAndKey},
};
use weft_model::{Challenge, ChallengeKey, Proof};

use super::{hosts::Host, trust::provider};
use crate::fields::{Fields, RequestView};

/// Where a CA asks by HTTP (RFC 8555, 8.3).
const PATH: &str = "/.well-known/acme-challenge/";
/// The one protocol that a CA offers when it asks by TLS (RFC 8737).
const ALPN: &[u8] = b"acme-tls/1";

/// All there are at one moment.
#[derive(Clone, Default)]
pub(crate) struct Challenges {
    known: BTreeMap<ChallengeKey, Known>,
    /// By token. Several listeners of a host may ask for the same.
    texts: HashMap<String, Text>,
    /// By host.
    certificates: HashMap<String, Arc<ServerConfig>>,
}

#[derive(Clone)]
struct Known {
    source: Arc<Challenge>,
    config: Option<Arc<ServerConfig>>,
}

#[derive(Clone)]
struct Text {
    host: String,
    key_authorization: Arc<str>,
}

impl Challenges {
    /// Puts a challenge in the place of the one of its name; says whether that changes anything.
    ///
    /// # Errors
    /// Its certificate or key cannot be used.
    pub(super) fn put(&mut self, source: Arc<Challenge>) -> Result<bool, String> {
        if self.known.get(&source.key).is_some_and(|known| known.source == source) {
            return Ok(false);
        }
        let config = match &source.proof {
            Proof::TlsAlpn {
                certificate_pem,
                private_key,
            } => Some(config(certificate_pem, private_key.expose())?),
            Proof::Http { .. } => None,
        };
        self.known.insert(source.key.clone(), Known { source, config });
        self.index();
        Ok(true)
    }

    /// Forgets a challenge; says whether there was one.
    pub(super) fn remove(&mut self, key: &ChallengeKey) -> bool {
        let was = self.known.remove(key).is_some();
        self.index();
        was
    }

    /// They are few: it is made anew with each change.
    fn index(&mut self) {
        self.texts.clear();
        self.certificates.clear();
        for Known { source, config } in self.known.values() {
            if let Some(config) = config {
                self.certificates.insert(source.host.clone(), config.clone());
            }
            if let Proof::Http {
                token,
                key_authorization,
            } = &source.proof
            {
                let text = Text {
                    host: source.host.clone(),
                    key_authorization: key_authorization.as_str().into(),
                };
                self.texts.insert(token.clone(), text);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = &Arc<Challenge>> {
        self.known.values().map(|known| &known.source)
    }

    /// The text for a request of a CA; none if it is none, or nobody has been asked for that.
    pub(crate) fn text<F: Fields>(&self, request: &RequestView<'_, F>) -> Option<Arc<str>> {
        let token = request.path.strip_prefix(PATH)?;
        if !matches!(request.method, "GET" | "HEAD") {
            return None;
        }
        let text = self.texts.get(token)?;
        (Host::new(request.host).as_str() == text.host).then(|| text.key_authorization.clone())
    }

    /// By what a handshake with a CA is done; none if it is not one that asks for this.
    pub(crate) fn config(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let mut offered = hello.alpn()?;
        if offered.next() != Some(ALPN) || offered.next().is_some() {
            return None;
        }
        let host = Host::new(hello.server_name()?);
        self.certificates.get(host.as_str()).cloned()
    }
}

/// A handshake that shows one certificate and speaks nothing but the CA's protocol.
fn config(certificate: &str, key: &str) -> Result<Arc<ServerConfig>, String> {
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("its certificate is not PEM: {error}"))?;
    if chain.is_empty() {
        return Err("it has no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| "its key is not PEM".to_owned())?;
    let key = any_supported_type(&key).map_err(|error| format!("its key cannot be used: {error}"))?;
    // The extension with the proof is critical, and rustls, which does not know it, would refuse to look at the rest.
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_no_client_auth();
    let mut made = builder.with_cert_resolver(Arc::new(shown));
    made.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(made))
}
