//! What a workload shows to whoever asks it to prove who it is.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, ensure};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What sidecars say to one another.
const ALPN: &[u8] = b"weft/tcp";

/// Believes what leads to some roots, whoever it is.
#[derive(Debug)]
struct LeadsTo {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

/// Shakes hands with a pod; holds that its certificate leads to one of these roots.
pub(super) async fn leads_to(pod: SocketAddr, roots: &str) -> anyhow::Result<()> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root?)?;
    }
    ensure!(!store.is_empty(), "there are no roots");
    let verifier = LeadsTo {
        roots: store,
        provider: provider.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.enable_sni = false;
    config.alpn_protocols = vec![ALPN.to_vec()];
    let stream = TcpStream::connect(pod).await?;
    // That nothing is proven from here comes only after its certificate has been believed.
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("workload")?, stream)
        .await
        .with_context(|| format!("what {pod} shows is not believed"))?;
    Ok(())
}

impl ServerCertVerifier for LeadsTo {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, above, now, algorithms.all)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
