//! What handshakes between workloads are made with.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DistinguishedName, Error, OtherError, ServerConfig,
    client::danger::{ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use weft_model::{Serial, SpiffeId};

use super::{
    error::MeshError,
    trust::{End, Trust},
};
use crate::config::{check_signatures, provider};

/// What a connection between workloads carries: HTTP,
pub(crate) const HTTP: &[u8] = b"weft/h2";
/// or anything else.
pub(crate) const TCP: &[u8] = b"weft/tcp";

/// The certificate of this workload, and its key.
#[derive(Debug)]
pub struct Identity {
    id: SpiffeId,
    serial: Serial,
    chain_pem: String,
    key: Arc<CertifiedKey>,
    not_after: u64,
}

impl Identity {
    /// Reads it. It holds until `not_after`, in seconds since 1970.
    ///
    /// # Errors
    /// It cannot be read, or the key is another's.
    pub fn new(chain_pem: &str, key: PrivateKeyDer<'static>, not_after: u64) -> Result<Self, MeshError> {
        let unusable = |why: String| MeshError::Certificate(why);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect();
        let chain = chain.map_err(|error| unusable(error.to_string()))?;
        let key = CertifiedKey::from_der(chain, key, &provider())?;
        let leaf = webpki::EndEntityCert::try_from(&key.cert[0]).map_err(|error| unusable(error.to_string()))?;
        let name = leaf.valid_uri_names().next().unwrap_or_default();
        Ok(Self {
            id: SpiffeId::parse(name).map_err(|error| unusable(error.to_string()))?,
            serial: Serial::of(leaf.serial()),
            not_after,
            chain_pem: chain_pem.to_owned(),
            key: Arc::new(key),
        })
    }

    /// Who this workload is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The certificate and those between it and a root.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The number of its certificate.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// Until when it holds, in seconds since 1970.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }
}

/// Certificate and trust, as long as both are the same.
#[derive(Default)]
pub(crate) struct Credentials {
    /// Another for each that was in use.
    pub(crate) generation: u64,
    pub(super) identity: Option<Arc<Identity>>,
    pub(crate) trust: Option<Arc<Trust>>,
    /// Once there are both. Sessions are resumed within these only: what they remember was believed under the same trust.
    pub(crate) tls: Option<Tls>,
}

/// Configurations of handshakes.
pub(crate) struct Tls {
    /// For clients that say what they carry.
    pub(crate) server: Arc<ServerConfig>,
    /// To say that it is HTTP.
    pub(crate) http: Arc<ClientConfig>,
    /// To say that it is anything else.
    pub(crate) tcp: Arc<ClientConfig>,
}

impl Credentials {
    pub(super) fn new(
        generation: u64,
        identity: Option<Arc<Identity>>,
        trust: Option<Arc<Trust>>,
    ) -> Result<Self, MeshError> {
        let tls = match (&identity, &trust) {
            (Some(identity), Some(trust)) => Some(Tls::new(identity, trust)?),
            _ => None,
        };
        Ok(Self {
            generation,
            identity,
            trust,
            tls,
        })
    }
}

impl Tls {
    fn new(identity: &Arc<Identity>, trust: &Arc<Trust>) -> Result<Self, Error> {
        let own = Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&identity.key)));
        let verifier = Arc::new(Verifier(trust.clone()));
        // Both ends are ours.
        let versions = &[&rustls::version::TLS13];
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(own.clone());
        server.alpn_protocols = vec![HTTP.to_vec(), TCP.to_vec()];
        server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        let mut http = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(own);
        http.enable_sni = false;
        let mut tcp = http.clone();
        http.alpn_protocols = vec![HTTP.to_vec()];
        tcp.alpn_protocols = vec![TCP.to_vec()];
        Ok(Self {
            server: Arc::new(server),
            http: Arc::new(http),
            tcp: Arc::new(tcp),
        })
    }
}

/// Checks the certificates of peers. Whether a peer is the one that is meant is looked at after the handshake: before
/// anything is said to it.
#[derive(Debug)]
struct Verifier(Arc<Trust>);

impl Verifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        end: End,
        now: UnixTime,
    ) -> Result<(), Error> {
        let chain: Vec<CertificateDer<'_>> = [leaf].into_iter().chain(above).cloned().collect();
        let verified = self.0.verify(&chain, end, now);
        verified.map_err(|error| CertificateError::Other(OtherError(Arc::new(error))))?;
        Ok(())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, above, End::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    check_signatures!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, above, End::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    check_signatures!();
}
