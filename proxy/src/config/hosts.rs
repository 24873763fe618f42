//! Hosts: the one a request names, those for which a route is served, and tables by hostname.

use std::sync::Arc;

use smallvec::SmallVec;
use weft_model::HostPattern;

use super::table::{AffixTable, Labels, Table};

/// The longest name DNS knows (RFC 1035 section 2.3.4). Longer ones match nothing but what has no hostname.
const LONGEST: usize = 253;

/// A host as tables know it: lower-case, without port and trailing dot.
pub(super) struct Host<'a> {
    sent: &'a str,
    /// The lower-case copy, if one was needed, and its length.
    lowered: Option<([u8; LONGEST], usize)>,
}

impl<'a> Host<'a> {
    /// Of an authority or SNI as sent. Copies it only if it has capitals, and never to the heap.
    pub(super) fn new(authority: &'a str) -> Self {
        let (name, _) = split_port(authority);
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.len() > LONGEST {
            return Self {
                sent: "",
                lowered: None,
            };
        }
        let capitals = name.bytes().any(|byte| byte.is_ascii_uppercase());
        let lowered = capitals.then(|| {
            let mut copy = [0; LONGEST];
            copy[..name.len()].copy_from_slice(name.as_bytes());
            copy[..name.len()].make_ascii_lowercase();
            (copy, name.len())
        });
        Self { sent: name, lowered }
    }

    pub(super) fn as_str(&self) -> &str {
        match &self.lowered {
            None => self.sent,
            // Only ASCII was changed, so it is the UTF-8 it was.
            Some((copy, len)) => std::str::from_utf8(&copy[..*len]).unwrap_or_default(),
        }
    }
}

/// Splits an authority into its host, an IPv6 address with its brackets, and what follows the port's colon.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Values by hostname pattern.
pub(super) struct HostTable<V> {
    exact: Table<Arc<str>, V>,
    wildcards: AffixTable<Labels, V>,
    any: Option<V>,
}

impl<V: Clone> HostTable<V> {
    /// The values of the patterns that mean this host, the most specific first: the exact name, the wildcards by
    /// length, then whatever host it is.
    pub(super) fn matching(&self, host: &str) -> impl Iterator<Item = &V> {
        self.exact
            .get(host)
            .into_iter()
            .chain(self.wildcards.matching(host).map(|(_, value)| value))
            .chain(self.any.as_ref())
    }

    pub(super) fn get(&self, pattern: Option<&HostPattern>) -> Option<&V> {
        match pattern {
            Some(HostPattern::Exact(name)) => self.exact.get(name.as_str()),
            Some(HostPattern::Wildcard(suffix)) => self.wildcards.get(suffix),
            None => self.any.as_ref(),
        }
    }

    /// The value of a pattern, made first if there is none, to be changed.
    pub(super) fn entry(&mut self, pattern: Option<&HostPattern>, make: impl FnOnce() -> V) -> &mut V {
        match pattern {
            Some(HostPattern::Exact(name)) => self.exact.entry(&name.as_str().into(), make),
            Some(HostPattern::Wildcard(suffix)) => self.wildcards.entry(&suffix.as_str().into(), make),
            None => self.any.get_or_insert_with(make),
        }
    }

    pub(super) fn remove(&mut self, pattern: Option<&HostPattern>) {
        match pattern {
            Some(HostPattern::Exact(name)) => drop(self.exact.remove(name.as_str())),
            Some(HostPattern::Wildcard(suffix)) => drop(self.wildcards.remove(suffix)),
            None => self.any = None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcards.is_empty() && self.any.is_none()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.exact
            .values()
            .chain(self.wildcards.values())
            .chain(self.any.as_ref())
    }
}

impl<V> Default for HostTable<V> {
    fn default() -> Self {
        Self {
            exact: Table::default(),
            wildcards: AffixTable::default(),
            any: None,
        }
    }
}

impl<V: Clone> Clone for HostTable<V> {
    fn clone(&self) -> Self {
        Self {
            exact: self.exact.clone(),
            wildcards: self.wildcards.clone(),
            any: self.any.clone(),
        }
    }
}

/// The hosts for which a route is served by listeners of this hostname; `None` among them is any host.
pub(super) fn hostnames(route: &[HostPattern], listener: Option<&HostPattern>) -> SmallVec<[Option<HostPattern>; 1]> {
    if route.is_empty() {
        return SmallVec::from_iter([listener.cloned()]);
    }
    let mut hostnames = SmallVec::new();
    for hostname in route {
        let both = listener.map_or_else(|| Some(hostname.clone()), |listener| listener.intersect(hostname));
        if both.is_some() && !hostnames.contains(&both) {
            hostnames.push(both);
        }
    }
    hostnames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_no_port_no_capitals_and_no_final_dot() {
        let long = "a".repeat(300);
        for (authority, host) in [
            ("example.com", "example.com"),
            ("Example.COM:8080", "example.com"),
            ("example.com.", "example.com"),
            ("example.com.:80", "example.com"),
            ("EXAMPLE.com.", "example.com"),
            ("[::1]:80", "[::1]"),
            ("[FE80::1]", "[fe80::1]"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("", ""),
            (":80", ""),
            ("É.com", "É.com"),
            ("É.COM", "É.com"),
            (long.as_str(), ""),
        ] {
            assert_eq!(Host::new(authority).as_str(), host, "{authority}");
        }
    }

    #[test]
    fn the_most_specific_pattern_comes_first() {
        let mut table = HostTable::default();
        for text in [
            "*.com",
            "a.example.com",
            "*.example.com",
            "*.a.example.com",
            "example.com",
        ] {
            let pattern = text.parse().expect(text);
            table.entry(Some(&pattern), || text);
        }
        table.entry(None, || "any");
        let found = |host: &str| table.matching(host).copied().collect::<Vec<_>>();
        assert_eq!(
            found("a.example.com"),
            ["a.example.com", "*.example.com", "*.com", "any"]
        );
        assert_eq!(
            found("b.a.example.com"),
            ["*.a.example.com", "*.example.com", "*.com", "any"]
        );
        assert_eq!(found("example.com"), ["example.com", "*.com", "any"]);
        assert_eq!(found("com"), ["any"]);
        assert_eq!(found(""), ["any"]);
    }
}
