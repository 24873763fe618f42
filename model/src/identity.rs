//! Who workloads are, and whom they believe.

use std::{collections::BTreeSet, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Within what identities are told apart (SPIFFE, 2.1), say `cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

/// Who a workload is: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    text: Arc<str>,
    domain: TrustDomain,
}

/// The number of a certificate, in hexadecimal digits of lower case, two for each byte, without zeroes in front.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(Arc<str>);

/// Whom workloads of the mesh believe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshTrust {
    /// Peers must be of it.
    pub trust_domain: TrustDomain,
    /// The roots as PEM: the one in use, the next one from long before it is used, and those before that still hold.
    pub roots_pem: String,
    /// Whom nobody is to believe any more although their certificates would hold.
    #[serde(default, skip_serializing_if = "Revocations::is_empty")]
    pub revoked: Revocations,
}

/// Whom nobody is to believe any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revocations {
    /// All certificates of these workloads.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub identities: BTreeSet<SpiffeId>,
    /// Single certificates.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub serials: BTreeSet<Serial>,
}

/// Why a text is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a trust domain.
    #[error(
        "{0:?} is not a trust domain: 1 to 255 lower-case letters, digits, dots, hyphens and underscores, like cluster.local"
    )]
    TrustDomain(String),
    /// Not an identity of the mesh.
    #[error("{0:?} is not an identity: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Identity(String),
    /// Not a serial number.
    #[error("{0:?} is not a serial number: at most 20 bytes in hexadecimal digits, with or without colons")]
    Serial(String),
}

impl TrustDomain {
    /// Reads one.
    ///
    /// # Errors
    /// It is not one.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 || !text.bytes().all(fits) {
            return Err(IdentityError::TrustDomain(text.to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// That of a service account.
    ///
    /// # Errors
    /// These are no names of Kubernetes.
    pub fn of(domain: &TrustDomain, namespace: &str, account: &str) -> Result<Self, IdentityError> {
        let text = format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
        if !is_name(namespace) || !is_name(account) {
            return Err(IdentityError::Identity(text));
        }
        Ok(Self {
            text: text.into(),
            domain: domain.clone(),
        })
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is not one, or of another form than those of the mesh.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let refused = || IdentityError::Identity(text.to_owned());
        let rest = text.strip_prefix("spiffe://").ok_or_else(refused)?;
        let mut parts = rest.split('/');
        let parts: [Option<&str>; 6] = std::array::from_fn(|_| parts.next());
        let [
            Some(domain),
            Some("ns"),
            Some(namespace),
            Some("sa"),
            Some(account),
            None,
        ] = parts
        else {
            return Err(refused());
        };
        let domain = TrustDomain::parse(domain).map_err(|_| refused())?;
        Self::of(&domain, namespace, account)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Within what it is told apart.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.part(3)
    }

    /// The service account.
    pub fn account(&self) -> &str {
        self.part(5)
    }

    fn part(&self, number: usize) -> &str {
        let after = &self.text["spiffe:/".len()..];
        after.split('/').nth(number).unwrap_or_default()
    }
}

/// Whether something can be the name of a namespace or of a service account (RFC 1123, subdomain).
fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(fits) && !text.starts_with('.')
}

impl Serial {
    /// That of a certificate, from the bytes of its number, the highest first.
    pub fn of(bytes: &[u8]) -> Self {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        let digits: String = bytes[start..].iter().map(|byte| format!("{byte:02x}")).collect();
        Self(digits.into())
    }

    /// Reads one as `openssl x509 -serial` or a browser writes it.
    ///
    /// # Errors
    /// It is not one.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let refused = || IdentityError::Serial(text.to_owned());
        let mut digits = text.replace(':', "").to_ascii_lowercase();
        if digits.len() % 2 == 1 {
            digits.insert(0, '0');
        }
        if digits.is_empty() || digits.len() > 42 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refused());
        }
        let bytes: Result<Vec<u8>, _> = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16))
            .collect();
        Ok(Self::of(&bytes.map_err(|_| refused())?))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Revocations {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.serials.is_empty()
    }
}

macro_rules! text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdentityError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.as_str().to_owned()
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdentityError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }
    };
}

text!(TrustDomain);
text!(SpiffeId);
text!(Serial);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_of_one_form_only() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/front").expect("an identity");
        let domain = TrustDomain::parse("cluster.local").expect("a trust domain");
        assert_eq!(SpiffeId::of(&domain, "shop", "front").as_ref(), Ok(&id));
        assert_eq!((id.namespace(), id.account()), ("shop", "front"));
        assert_eq!(id.trust_domain(), &domain);
        for other in [
            "",
            "https://cluster.local/ns/shop/sa/front",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/shop/sa/front/",
            "spiffe://cluster.local/ns/shop/sa/front/more",
            "spiffe://cluster.local/ns//sa/front",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns/shop/sa/..",
            "spiffe://cluster.local/ns/shop/sa/Front",
            "spiffe://cluster.local/ns/shop/sa/fr%6fnt",
            "spiffe://cluster.local:443/ns/shop/sa/front",
            "spiffe://Cluster.local/ns/shop/sa/front",
            "spiffe://cluster.local/ns/shop/sa/front?a",
        ] {
            assert!(SpiffeId::parse(other).is_err(), "{other}");
        }
        assert!(SpiffeId::of(&domain, "shop/sa/root", "front").is_err());
        assert!(TrustDomain::parse("a/b").is_err() && TrustDomain::parse("").is_err());
    }

    #[test]
    fn a_serial_number_is_the_same_however_it_is_written() {
        let serial = Serial::of(&[0, 0x0a, 0xbc]);
        assert_eq!(serial.as_str(), "0abc");
        for text in ["0ABC", "abc", "0a:bc", "000abc"] {
            assert_eq!(Serial::parse(text).as_ref(), Ok(&serial), "{text}");
        }
        for text in ["", "0xabc", "nine", &"f".repeat(43)] {
            assert!(Serial::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_an_identity_is_not_read() {
        let read = serde_json::from_str::<MeshTrust>;
        let trust = read(r#"{"trustDomain":"a.b","rootsPem":"","revoked":{"serials":["0A"]}}"#).expect("read");
        assert_eq!(trust.revoked.serials, BTreeSet::from([Serial::of(&[10])]));
        assert!(read(r#"{"trustDomain":"a b","rootsPem":""}"#).is_err());
    }
}
