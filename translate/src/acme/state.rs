//! What the operator writes down in Secrets about accounts and orders. Every replica of the operator reads it there, so that
//! each can answer for a challenge and say how an order stands, and another can go on with it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use weft_crds::{ISSUER_ANNOTATION, Secret, shortened};
use weft_model::{PrivateKeyPem, Proof};

use crate::{MANAGED_BY, certificate};

/// The type of Secrets that hold an [`Account`].
pub const ACCOUNT_TYPE: &str = "weft.dev/acme-account";
/// The type of Secrets that hold an [`Order`].
pub const ORDER_TYPE: &str = "weft.dev/acme-order";
/// The entry that holds either.
pub const STATE: &str = "state.json";
/// The most that the name of a Secret may have.
const MOST: usize = 253;

/// An account with a CA.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Account {
    /// The CA's directory that it is an account of.
    pub server: String,
    /// Where the CA was told to write to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// What the client needs to use it, its private key included; absent until there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<serde_json::Value>,
    /// Why there is none, or it could not be brought up to date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// A certificate that is being ordered, and what is known of the one there is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Order {
    /// The order at the CA, by its URL; absent while nothing is ordered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placed: Option<Placed>,
    /// Why the last attempt failed; absent after a success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// When the certificate that there is is to be renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Renewal>,
}

/// An order that a CA has taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placed {
    /// Where it is.
    pub url: String,
    /// The CA's directory.
    pub server: String,
    /// What it is for.
    pub hosts: BTreeSet<String>,
    /// The key that the certificate will be for.
    pub private_key: PrivateKeyPem,
    /// By host, what the CA is to be shown. They stay until the order has come to its end.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub proofs: BTreeMap<String, Proof>,
    /// Since when data planes have been told of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Timestamp>,
}

/// Why something failed, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// A reason of a condition.
    pub reason: String,
    /// The whole story.
    pub message: String,
    /// How often in a row.
    pub count: u32,
    /// When it is tried again,
    pub again: Timestamp,
    /// unless what is asked for is not this any more, as a digest.
    pub of: String,
}

impl Failure {
    /// Until when the same, `of` which it is asked again, is left alone.
    pub fn holds(&self, of: &str, now: Timestamp) -> Option<Timestamp> {
        (self.of == of && now < self.again).then_some(self.again)
    }
}

/// When a certificate is to be renewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Renewal {
    /// Which certificate: its identifier by RFC 9773, 4.1.
    pub certificate: String,
    /// When it is renewed.
    pub at: Timestamp,
    /// When the CA is asked again when that should be.
    pub ask: Timestamp,
    /// The window that the CA has suggested, from which the time was drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<(Timestamp, Timestamp)>,
}

/// The Secret with the account that an issuer orders by.
pub fn account_secret(issuer: &str) -> String {
    shortened(issuer, "-acme-account", MOST)
}

/// The Secret with the order of the certificate that is to be in a Secret.
pub fn order_secret(certificate: &str) -> String {
    shortened(certificate, "-acme-order", MOST)
}

/// Whether the operator made the certificate in a Secret with these labels and annotations, so that it may replace it.
pub fn is_ours(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> bool {
    labels.get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1) && annotations.contains_key(ISSUER_ANNOTATION)
}

/// What the operator has written down; none if it has not, or that is another's Secret.
pub(crate) fn read<T: DeserializeOwned>(secret: &Secret, kind: &str) -> Option<T> {
    let ours = secret.secret_type.as_deref() == Some(kind);
    let text = certificate::pem(secret, STATE).filter(|_| ours)?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        assert_eq!(account_secret("le"), "le-acme-account");
        assert_eq!(order_secret("shop-tls"), "shop-tls-acme-order");
        let (long, longer) = ("a".repeat(250), format!("{}b", "a".repeat(252)));
        assert_eq!(order_secret(&long).len(), 253);
        assert_ne!(order_secret(&long), order_secret(&longer));
    }
}
