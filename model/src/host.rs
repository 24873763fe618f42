//! Hostnames as Gateway API listeners and routes state them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// An exact hostname, or `*.` and a suffix that stands for one or more labels (Gateway API `Hostname`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Lower-case, without a port or a trailing dot.
    Exact(String),
    /// What follows the `*`, so it starts with a dot: `.example.com`. The apex itself does not match.
    Wildcard(String),
}

/// The text is not a hostname.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a hostname: use lower-case labels separated by dots, with at most one leading `*.`, and no port or IP address"
)]
pub struct HostPatternError(pub String);

impl HostPattern {
    /// Whether `host` (lower-case, without a port) is one of those meant.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }

    /// The hosts that both patterns mean, which is the narrower of the two, or none.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => (a == b).then(|| self.clone()),
            (Self::Exact(a), wildcard) => wildcard.matches(a).then(|| self.clone()),
            (wildcard, Self::Exact(b)) => wildcard.matches(b).then(|| other.clone()),
            (Self::Wildcard(a), Self::Wildcard(b)) if a.ends_with(b.as_str()) => Some(self.clone()),
            (Self::Wildcard(a), Self::Wildcard(b)) if b.ends_with(a.as_str()) => Some(other.clone()),
            _ => None,
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let address = name.parse::<std::net::IpAddr>().is_ok();
        if text.len() > 253 || address || !name.split('.').all(label) {
            return Err(HostPatternError(text.to_owned()));
        }
        Ok(if wildcard {
            Self::Wildcard(format!(".{name}"))
        } else {
            Self::Exact(name.to_owned())
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostPattern {
        text.parse().expect(text)
    }

    #[test]
    fn a_wildcard_stands_for_labels_but_not_for_the_apex() {
        let wildcard = host("*.example.com");
        assert!(wildcard.matches("a.example.com"));
        assert!(wildcard.matches("a.b.example.com"));
        assert!(!wildcard.matches("example.com"));
        assert!(!wildcard.matches("aexample.com"));
    }

    #[test]
    fn an_intersection_is_the_narrower_pattern() {
        for (a, b, both) in [
            ("a.example.com", "*.example.com", Some("a.example.com")),
            ("*.com", "*.example.com", Some("*.example.com")),
            ("*.example.com", "*.example.org", None),
            ("*.example.com", "example.com", None),
            ("example.com", "example.com", Some("example.com")),
        ] {
            assert_eq!(host(a).intersect(&host(b)), both.map(host), "{a} and {b}");
            assert_eq!(host(b).intersect(&host(a)), both.map(host), "{b} and {a}");
        }
    }

    #[test]
    fn what_is_not_a_hostname_is_refused() {
        for text in [
            "", "*", "*.", "a..b", "A.com", "1.2.3.4", "a:80", "-a.com", "*.*.com", "a_b.com",
        ] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}
