//! Where spans go.

use std::{fmt, str::FromStr};

/// The port of OTLP by gRPC.
const PORT: u16 = 4317;

/// Where a collector of spans is, by OTLP over gRPC, like `http://collector.observability.svc:4317`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    secure: bool,
    host: String,
    port: u16,
}

/// It is no such place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not where a collector is: write it like http://collector.observability.svc:4317, with https:// for TLS (OTLP by gRPC)"
)]
pub struct NoCollector(String);

impl Collector {
    /// Whether it is spoken to by TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Its name, or its address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Collector {
    type Err = NoCollector;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| NoCollector(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Collector> {
    let (scheme, rest) = text.split_once("://")?;
    let secure = match scheme {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (
            host.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
            port.strip_prefix(':'),
        ),
        None => match authority.split_once(':') {
            Some((host, port)) => (named(host)?, Some(port)),
            None => (named(authority)?, None),
        },
    };
    if authority.ends_with(']') != (authority.starts_with('[') && port.is_none()) {
        return None;
    }
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None => PORT,
    };
    Some(Collector { secure, host, port })
}

/// The name of a host, or an IPv4 address.
fn named(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    (!text.is_empty() && text.chars().all(fits)).then(|| text.to_ascii_lowercase())
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_collector_is_can_be_read() {
        for (text, awaited) in [
            ("http://collector", "http://collector:4317"),
            ("https://OTLP.example:443/", "https://otlp.example:443"),
            ("http://192.0.2.1:4318", "http://192.0.2.1:4318"),
            ("http://[2001:db8::1]:4319", "http://[2001:db8::1]:4319"),
            ("http://[2001:db8::1]", "http://[2001:db8::1]:4317"),
        ] {
            let collector: Collector = text.parse().expect(text);
            assert_eq!(collector.to_string(), awaited);
            assert_eq!(awaited.parse(), Ok(collector));
        }
        for text in [
            "",
            "collector:4317",
            "http://",
            "grpc://collector:4317",
            "http://collector:4318/v1/traces",
            "http://a@collector",
            "http://collector:",
            "http://collector:0",
            "http://collector:99999",
            "http://collector?a",
            "http://2001:db8::1:4317",
            "http://[2001:db8::1]4317",
            "http://[collector]:4317",
            "http://a b",
        ] {
            assert!(text.parse::<Collector>().is_err(), "{text}");
        }
    }
}
