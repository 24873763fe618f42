//! What proves to an ACME CA whose a host is (RFC 8555, section 8; RFC 8737).

use serde::{Deserialize, Serialize};

use crate::{ChallengeKey, GatewayKey, PrivateKeyPem};

/// A question of a CA that is to be answered while a certificate is being ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Challenge {
    /// Its name.
    pub key: ChallengeKey,
    /// The Gateway by which the CA comes.
    pub gateway: GatewayKey,
    /// The host in question, in lower case.
    pub host: String,
    /// What is answered.
    pub proof: Proof,
}

/// The answer to a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Proof {
    /// HTTP-01 (RFC 8555, 8.3): the text at `/.well-known/acme-challenge/TOKEN`.
    Http {
        /// The last part of the path.
        token: String,
        /// The token and the fingerprint of the account's key.
        key_authorization: String,
    },
    /// TLS-ALPN-01 (RFC 8737): the certificate that is shown to whoever offers `acme-tls/1` alone.
    TlsAlpn {
        /// It is for the host, signed by itself and has the digest in an extension. As PEM.
        certificate_pem: String,
        /// Its key.
        private_key: PrivateKeyPem,
    },
}

impl Challenge {
    /// The same challenge with its key replaced by [`PrivateKeyPem::REDACTED`], to be shown.
    pub fn redacted(&self) -> Self {
        let mut shown = self.clone();
        if let Proof::TlsAlpn { private_key, .. } = &mut shown.proof {
            *private_key = PrivateKeyPem::new(PrivateKeyPem::REDACTED);
        }
        shown
    }
}
