//! Who connects: the API server, another replica of the operator, or nobody who would be answered. Which it is, its certificate
//! says.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::WebPkiSupportedAlgorithms,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::front::{Front, Fronts};
use crate::certificates::SERVER_NAME;

/// Of which CA replicas of the operator are.
pub(super) type Own = Arc<ArcSwapOption<Arc<dyn ClientCertVerifier>>>;

/// Who connects.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// The API server.
    Front(Arc<Front>),
    /// Another replica.
    Replica,
}

/// Tells them apart.
#[derive(Debug)]
pub(super) struct Callers {
    pub(super) fronts: Fronts,
    pub(super) own: Own,
}

impl Callers {
    /// Whose certificate it is.
    pub(super) fn who(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Option<Caller> {
        let (leaf, above) = chain.split_first()?;
        let own = self.own.load_full();
        if let Some(own) = own
            && own.verify_client_cert(leaf, above, now).is_ok()
            && names(leaf)?.1.iter().any(|name| name == SERVER_NAME)
        {
            return Some(Caller::Replica);
        }
        let front = self.fronts.load_full()?;
        front.verifier.verify_client_cert(leaf, above, now).ok()?;
        let (common, _) = names(leaf)?;
        let named = front.names.is_empty() || common.is_some_and(|name| front.names.contains(&name));
        named.then_some(Caller::Front(front))
    }
}

/// The common name of a certificate, and its DNS names.
fn names(certificate: &CertificateDer<'_>) -> Option<(Option<String>, Vec<String>)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let common = certificate.subject().iter_common_name().next();
    let common = common.and_then(|name| Some(name.as_str().ok()?.to_owned()));
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.map(|names| {
        let dns = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        dns.collect()
    });
    Some((common, names.unwrap_or_default()))
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    /// Who has none is told that by HTTP.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<CertificateDer<'_>> = [leaf].into_iter().chain(above).cloned().collect();
        let who = self.who(&chain, now);
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        who.map(|_| ClientCertVerified::assertion()).ok_or(unknown)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms
}
