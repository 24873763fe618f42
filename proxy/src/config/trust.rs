//! Trust, ready to be asked: by whose certificates backends and clients prove who they are.

use std::sync::{Arc, OnceLock};

use rustls::{
    CertificateError, DistinguishedName, Error, OtherError, RootCertStore, ServerConfig,
    client::{
        danger::{ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, aws_lc_rs::default_provider},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use weft_model::{ClientIdentity, ClientValidation, ClientValidationMode, HostPattern, SubjectAltName, TrustBundle};

/// The one provider of all TLS configurations.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(default_provider())).clone()
}

/// What a verifier of certificates does beside: whoever shows one must have its key, whether it is trusted or not.
macro_rules! check_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &$crate::config::provider().signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &$crate::config::provider().signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            $crate::config::provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    };
}
pub(crate) use check_signatures;

/// A trust bundle and what was read from it.
pub(super) struct TrustEntry {
    pub(super) source: Arc<TrustBundle>,
    roots: RootCertStore,
}

impl TrustEntry {
    /// Reads the roots, of which there must be one at least.
    pub(super) fn new(source: Arc<TrustBundle>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(source.roots_pem.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("ca.crt is not PEM: {error}"))?;
            let added = roots.add(certificate);
            added.map_err(|error| format!("ca.crt holds a certificate that cannot be a root: {error}"))?;
        }
        if roots.is_empty() {
            return Err("ca.crt holds no certificate: it must start with -----BEGIN CERTIFICATE-----".to_owned());
        }
        Ok(Self { source, roots })
    }
}

/// The roots of several bundles together. Of none, they trust nobody.
fn joined<'e>(entries: impl Iterator<Item = &'e Arc<TrustEntry>>) -> RootCertStore {
    let mut all = RootCertStore::empty();
    entries.for_each(|entry| all.extend(entry.roots.roots.iter().cloned()));
    all
}

/// The authorities that the system knows, read once.
fn system() -> Result<Arc<RootCertStore>, String> {
    static SYSTEM: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let load = || {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map(ToString::to_string).unwrap_or_default();
            return Err(format!(
                "the system has no roots{}{why}: install its package of CA certificates",
                if why.is_empty() { "" } else { ": " }
            ));
        }
        Ok(Arc::new(roots))
    };
    SYSTEM.get_or_init(load).clone()
}

/// How TLS is spoken to a Service.
#[derive(Debug)]
pub struct BackendTls {
    /// The SNI.
    pub(crate) name: ServerName<'static>,
    pub(crate) verifier: Arc<dyn ServerCertVerifier>,
    identity: Identity,
}

/// What is shown to endpoints that ask for a certificate.
#[derive(Debug)]
enum Identity {
    Gateway,
    /// None where there is none, or where it is not there.
    Own(Option<Arc<CertifiedKey>>),
}

impl BackendTls {
    /// By the model's word, with those of its bundles that are there, and its certificate if that is.
    pub(super) fn new<'e>(
        source: &weft_model::BackendTls,
        bundles: impl Iterator<Item = &'e Arc<TrustEntry>>,
        certificate: Option<&Arc<CertifiedKey>>,
    ) -> Result<Self, String> {
        let name = |text: &str| {
            let name = ServerName::try_from(text.to_owned());
            name.map_err(|_| format!("{text:?} is not a name that a certificate can have"))
        };
        let roots = match &source.roots {
            weft_model::TrustRoots::System => system()?,
            weft_model::TrustRoots::Bundles(_) => Arc::new(joined(bundles)),
        };
        let names = source.subject_alt_names.iter().map(|wanted| match wanted {
            SubjectAltName::Dns(HostPattern::Exact(host)) => name(host).map(Name::Host),
            SubjectAltName::Dns(pattern) => Ok(Name::Pattern(pattern.clone())),
            SubjectAltName::Uri(uri) => Ok(Name::Uri(uri.clone())),
        });
        let verifier = BackendVerifier {
            names: names.collect::<Result<_, _>>()?,
            roots,
        };
        Ok(Self {
            name: name(&source.hostname)?,
            verifier: Arc::new(verifier),
            identity: match source.identity {
                ClientIdentity::Gateway => Identity::Gateway,
                ClientIdentity::Nothing | ClientIdentity::Certificate(_) => Identity::Own(certificate.cloned()),
            },
        })
    }

    /// What is shown to an endpoint that asks for a certificate; `gateway` is that of the Gateway.
    pub(crate) fn identity<'a>(&'a self, gateway: Option<&'a Arc<CertifiedKey>>) -> Option<&'a Arc<CertifiedKey>> {
        match &self.identity {
            Identity::Gateway => gateway,
            Identity::Own(certificate) => certificate.as_ref(),
        }
    }
}

/// A name that a backend's certificate may have.
#[derive(Debug)]
enum Name {
    Host(ServerName<'static>),
    Pattern(HostPattern),
    Uri(String),
}

impl Name {
    fn is_in(&self, certificate: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>) -> bool {
        let Ok(leaf) = webpki::EndEntityCert::try_from(certificate) else {
            return false;
        };
        match self {
            Self::Host(name) => verify_server_name(parsed, name).is_ok(),
            Self::Pattern(pattern) => leaf
                .valid_dns_names()
                .any(|name| pattern.matches(&name.to_ascii_lowercase())),
            Self::Uri(uri) => leaf.valid_uri_names().any(|name| name == uri),
        }
    }
}

/// A certificate is from whom it should be, but for somebody else.
#[derive(Debug, thiserror::Error)]
#[error("the certificate has none of the policy's subjectAltNames")]
struct NoSuchName;

/// Checks the certificates of backends: by their SNI's name, or by other names instead (Gateway API,
/// `BackendTLSPolicyValidation`).
#[derive(Debug)]
struct BackendVerifier {
    roots: Arc<RootCertStore>,
    /// One of these must be in the certificate; if there are none, the SNI.
    names: Vec<Name>,
}

impl ServerCertVerifier for BackendVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        if self.names.is_empty() {
            verify_server_name(&parsed, server_name)?;
        } else if !self.names.iter().any(|name| name.is_in(end_entity, &parsed)) {
            return Err(CertificateError::Other(OtherError(Arc::new(NoSuchName))).into());
        }
        Ok(ServerCertVerified::assertion())
    }

    check_signatures!();
}

/// What is asked of the clients of a listener.
pub(crate) struct ClientVerification {
    validation: ClientValidation,
    /// The bundles it was made of, as far as they were there.
    bundles: Vec<Arc<TrustEntry>>,
    verifier: Arc<dyn ClientCertVerifier>,
    /// Absent where there are no roots, so that nobody is trusted.
    strict: Option<Arc<dyn ClientCertVerifier>>,
    /// Made by the first handshake. Sessions are resumed within it only: a session remembers that a client was trusted,
    /// and must not outlive what it was trusted by.
    config: OnceLock<Arc<ServerConfig>>,
}

impl ClientVerification {
    pub(super) fn new(validation: &ClientValidation, bundles: Vec<Arc<TrustEntry>>) -> Self {
        let roots = Arc::new(joined(bundles.iter()));
        // It fails where there are no roots.
        let strict = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .ok();
        Self {
            verifier: Arc::new(ClientVerifier {
                strict: strict.clone(),
                mode: validation.mode,
            }),
            strict,
            validation: validation.clone(),
            bundles,
            config: OnceLock::new(),
        }
    }

    /// Whether it would be made of the same again.
    pub(super) fn is_of(&self, validation: &ClientValidation, bundles: &[Arc<TrustEntry>]) -> bool {
        let same = |(a, b): (&Arc<TrustEntry>, &Arc<TrustEntry>)| Arc::ptr_eq(a, b);
        self.validation == *validation
            && self.bundles.len() == bundles.len()
            && self.bundles.iter().zip(bundles).all(same)
    }

    /// The configuration of handshakes that it takes part in.
    ///
    /// # Errors
    /// `make` failed.
    pub(crate) fn config(
        &self,
        make: impl FnOnce(Arc<dyn ClientCertVerifier>) -> Result<Arc<ServerConfig>, Error>,
    ) -> Result<Arc<ServerConfig>, Error> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let made = make(self.verifier.clone())?;
        Ok(self.config.get_or_init(|| made).clone())
    }

    /// Whether a chain is trusted, whether or not that is asked for.
    pub(crate) fn proves(&self, chain: &[CertificateDer<'static>]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return false;
        };
        let strict = self.strict.as_ref();
        strict.is_some_and(|strict| strict.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok())
    }

    /// Whether a client that showed this chain in an earlier handshake would be let in now.
    pub(crate) fn trusts(&self, chain: Option<&[CertificateDer<'static>]>) -> bool {
        match (self.validation.mode, chain) {
            (ClientValidationMode::AllowInsecureFallback, _) => true,
            (ClientValidationMode::AllowValidOnly, Some([leaf, intermediates @ ..])) => {
                let verified = self.verifier.verify_client_cert(leaf, intermediates, UnixTime::now());
                verified.is_ok()
            }
            (ClientValidationMode::AllowValidOnly, _) => false,
        }
    }
}

impl std::fmt::Debug for ClientVerification {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.validation.fmt(f)
    }
}

/// Checks the certificates of clients (Gateway API, `FrontendTLSValidation`).
#[derive(Debug)]
struct ClientVerifier {
    /// Absent where there are no roots, so that nobody is trusted.
    strict: Option<Arc<dyn ClientCertVerifier>>,
    mode: ClientValidationMode,
}

impl ClientVerifier {
    fn is_strict(&self) -> bool {
        self.mode == ClientValidationMode::AllowValidOnly
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.is_strict()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        match &self.strict {
            Some(strict) if self.is_strict() => strict.root_hint_subjects(),
            // Whatever the client has.
            _ => &[],
        }
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match &self.strict {
            _ if !self.is_strict() => Ok(ClientCertVerified::assertion()),
            Some(strict) => strict.verify_client_cert(end_entity, intermediates, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    check_signatures!();
}
