//! Whom to trust: roots, and what is asked of a peer's certificate.

use serde::{Deserialize, Serialize};

use crate::{CertificateKey, HostPattern, TrustBundleKey};

/// Certificates of authorities, from the `ca.crt` of a ConfigMap or a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustBundle {
    /// The object it came from.
    pub key: TrustBundleKey,
    /// The certificates as PEM.
    pub roots_pem: String,
}

/// How clients prove who they are (Gateway API, `FrontendTLSValidation`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientValidation {
    /// What a client's certificate must lead to. Nobody is let in by a bundle that does not exist.
    pub trust_bundles: Vec<TrustBundleKey>,
    /// What is done with a client that does not prove it.
    #[serde(default)]
    pub mode: ClientValidationMode,
}

/// What is done with a client that shows no certificate, or one that is not trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientValidationMode {
    /// It is turned away.
    #[default]
    AllowValidOnly,
    /// It is let in: the backend decides.
    AllowInsecureFallback,
}

/// How TLS is spoken to a Service (Gateway API, `BackendTLSPolicy`, `XBackend.spec.tls`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTls {
    /// The SNI; also the name that the certificate must have, unless there are `subject_alt_names`.
    pub hostname: String,
    /// One of these must be in the certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<SubjectAltName>,
    /// What the certificate must lead to.
    pub roots: TrustRoots,
    /// What is shown to endpoints that ask for a certificate.
    #[serde(default, skip_serializing_if = "ClientIdentity::is_gateways")]
    pub identity: ClientIdentity,
}

/// What is shown to endpoints that ask for a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientIdentity {
    /// That of the Gateway by which the request came, if it has one ([`crate::Listener::backend_certificate`]).
    #[default]
    Gateway,
    /// None.
    Nothing,
    /// This one, whatever the Gateway has.
    Certificate(CertificateKey),
}

impl ClientIdentity {
    fn is_gateways(&self) -> bool {
        matches!(self, Self::Gateway)
    }
}

impl BackendTls {
    /// The certificate that it names.
    pub fn certificate(&self) -> Option<&CertificateKey> {
        match &self.identity {
            ClientIdentity::Certificate(key) => Some(key),
            ClientIdentity::Gateway | ClientIdentity::Nothing => None,
        }
    }
}

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SubjectAltName {
    /// A DNS name; with a wildcard, any name that it means.
    Dns(HostPattern),
    /// A URI, compared as it is: `spiffe://cluster.local/ns/a/sa/b`.
    Uri(String),
}

/// Where trust begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TrustRoots {
    /// The authorities that the system knows.
    System,
    /// Those of these bundles, and no others.
    Bundles(Vec<TrustBundleKey>),
}
