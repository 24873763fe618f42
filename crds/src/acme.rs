//! AcmeIssuer: where certificates of listeners are ordered by ACME (RFC 8555), and how it is proven whose the hosts are.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{CaCertificateReference, Condition, Metadata};

/// `weft.dev/v1alpha1 AcmeIssuer`: what the annotation [`ISSUER_ANNOTATION`] of a Gateway or ListenerSet names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AcmeIssuer {
    /// Its metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: AcmeIssuerSpec,
}

/// The annotation by which a Gateway or a ListenerSet has its certificates ordered. It names an [`AcmeIssuer`] of the same
/// namespace.
pub const ISSUER_ANNOTATION: &str = "weft.dev/acme-issuer";

/// Where certificates are ordered, and how it is proven whose the hosts are. Whoever makes one agrees to the terms of
/// service of the CA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AcmeIssuerSpec {
    /// The URL of the CA's directory (RFC 8555, 7.1.1); that of Let's Encrypt when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Where the CA may write to about the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// ConfigMaps or Secrets of the namespace with the roots (`ca.crt`) that the CA's own certificate leads to; those of
    /// the system when absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub ca_certificate_refs: Vec<CaCertificateReference>,
    /// How it is proven whose a host is; HTTP-01 when absent.
    pub challenge: AcmeChallenge,
    /// The account that somebody has with the CA already, where the CA asks for one (RFC 8555, 7.3.4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_account_binding: Option<ExternalAccountBinding>,
    /// Which of the CA's profiles certificates are made by; that which the CA chooses when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// How it is proven whose a host is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AcmeChallenge {
    /// By an answer on port 80 (RFC 8555, 8.3).
    #[default]
    #[serde(rename = "HTTP-01")]
    Http01,
    /// By a certificate on port 443 (RFC 8737).
    #[serde(rename = "TLS-ALPN-01")]
    TlsAlpn01,
}

/// An account with the CA that exists outside of ACME.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalAccountBinding {
    /// What the CA calls the key.
    pub key_id: String,
    /// A Secret of the namespace with the key in `hmac-key`, in base64url as the CA gives it.
    pub secret_ref: SecretName,
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretName {
    /// Its name.
    pub name: String,
}

/// `status` of an AcmeIssuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeIssuerStatus {
    /// `Accepted`: it can be used as it is; `Ready`: there is an account with the CA.
    pub conditions: Vec<Condition>,
}

impl AcmeIssuerSpec {
    /// What is meant where no server is named.
    pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

    /// The URL of the CA's directory.
    pub fn server(&self) -> &str {
        self.server.as_deref().unwrap_or(Self::LETS_ENCRYPT)
    }
}

impl fmt::Display for AcmeChallenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http01 => "HTTP-01",
            Self::TlsAlpn01 => "TLS-ALPN-01",
        })
    }
}
