//! Certificates with their keys.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::CertificateKey;

/// A certificate chain and its private key, from a `kubernetes.io/tls` Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// The Secret it came from.
    pub key: CertificateKey,
    /// The chain as PEM, leaf first.
    pub chain_pem: String,
    /// The private key as PEM.
    pub private_key: PrivateKeyPem,
}

/// A private key as PEM. It travels on the wire, but its `Debug` form never shows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateKeyPem(Arc<str>);

impl PrivateKeyPem {
    /// What stands in place of a key wherever one is shown.
    pub const REDACTED: &str = "[redacted]";

    /// Takes the PEM text.
    pub fn new(pem: &str) -> Self {
        Self(pem.into())
    }

    /// The PEM text. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Certificate {
    /// The same certificate with its key replaced by [`PrivateKeyPem::REDACTED`], to be shown.
    pub fn redacted(&self) -> Self {
        Self {
            private_key: PrivateKeyPem::new(PrivateKeyPem::REDACTED),
            ..self.clone()
        }
    }
}

impl fmt::Debug for PrivateKeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::REDACTED)
    }
}
