//! Matches that take the same requests, and which of them gets these.

use std::collections::{BTreeSet, HashMap, HashSet};

use weft_crds::{Kind, ObjectRef};
use weft_model::{HostPattern, ListenerKey, Resource, RouteKind, RouteMatch, RouteOwner};

use crate::diagnostic::{Code, Diagnostic};

/// Requests that a match is for, or all connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ground {
    listener: ListenerKey,
    /// The narrower of the listener's and the route's.
    hostname: Option<HostPattern>,
    /// With its conditions in the order of their names. None for a rule that takes whatever comes.
    matched: Option<RouteMatch>,
}

/// A match that claims its ground. Of several on the same one, the least comes first (Gateway API,
/// `HTTPRouteRule.matches`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Claim {
    created: i64,
    /// `namespace/name`, which is compared as one text.
    name: String,
    /// An HTTPRoute comes before a GRPCRoute of the same name.
    kind: RouteKind,
    rule: u32,
    /// Which match of the rule; 0 where there are none.
    at: usize,
}

impl Claim {
    fn route(&self) -> ObjectRef {
        let kind = match self.kind {
            RouteKind::Http => Kind::HttpRoute,
            RouteKind::Grpc => Kind::GrpcRoute,
            RouteKind::Tls => Kind::TlsRoute,
            RouteKind::Tcp => Kind::TcpRoute,
            RouteKind::Udp => Kind::UdpRoute,
        };
        let (namespace, name) = self.name.split_once('/').unwrap_or_default();
        ObjectRef::new(kind, namespace, name)
    }

    /// Says that another claim takes all that this one is for.
    fn lost_to(&self, winner: &Self) -> Diagnostic {
        let (place, why) = if winner.route() == self.route() {
            (String::new(), "stands earlier")
        } else if winner.created < self.created {
            (format!(" of {}", winner.route()), "is of an older route")
        } else {
            (
                format!(" of {}", winner.route()),
                "is of a route whose name comes first",
            )
        };
        if !matches!(self.kind, RouteKind::Http | RouteKind::Grpc) {
            let message = format!(
                "rule {}{place} takes all that comes to the same listeners: it {why}",
                winner.rule
            );
            let path = format!("spec.rules[{}]", self.rule);
            return Code::Shadowed.at(
                path,
                message,
                "remove one of the two, or attach them to different listeners",
            );
        }
        let message = format!(
            "match {} of rule {}{place} takes all of its requests: it matches the same and {why}",
            winner.at, winner.rule
        );
        let path = format!("spec.rules[{}].matches[{}]", self.rule, self.at);
        Code::Shadowed.at(path, message, "remove one of the two, or let them differ")
    }
}

/// What a rule claims on listeners of these hostnames.
pub(crate) fn claims(rule: &Resource, listeners: &[(ListenerKey, Option<HostPattern>)]) -> Vec<(Ground, Claim)> {
    let (owner, hostnames, matches) = match rule {
        Resource::Route(route) => {
            let matches = route.matches.iter().cloned().map(|mut matched| {
                matched.headers.sort_by(|a, b| a.name.cmp(&b.name));
                matched.query.sort_by(|a, b| a.name.cmp(&b.name));
                Some(matched)
            });
            (&route.owner, &route.hostnames, matches.collect())
        }
        Resource::L4Route(route) => (&route.owner, &route.hostnames, vec![None]),
        _ => return Vec::new(),
    };
    let claim = |owner: &RouteOwner, at| Claim {
        created: owner.created,
        name: format!("{}/{}", owner.namespace, owner.name),
        kind: owner.kind,
        rule: owner.rule,
        at,
    };
    let mut found = Vec::new();
    for (at, matched) in matches.into_iter().enumerate() {
        for (listener, own) in listeners {
            // Two hostnames of a route may come to the same on a listener.
            for hostname in shared(hostnames, own.as_ref()) {
                let ground = Ground {
                    listener: listener.clone(),
                    hostname,
                    matched: matched.clone(),
                };
                found.push((ground, claim(owner, at)));
            }
        }
    }
    found
}

/// The hostnames that a route and a listener have in common; none in the set is every host.
fn shared(hostnames: &[HostPattern], own: Option<&HostPattern>) -> BTreeSet<Option<HostPattern>> {
    if hostnames.is_empty() {
        return BTreeSet::from([own.cloned()]);
    }
    let both = hostnames.iter().filter_map(|hostname| match own {
        Some(own) => hostname.intersect(own),
        None => Some(hostname.clone()),
    });
    both.map(Some).collect()
}

/// All claims, by their ground.
#[derive(Default)]
pub(crate) struct Claims(HashMap<Ground, BTreeSet<Claim>>);

impl Claims {
    /// Puts a route's claims in the place of those it had. Returns the routes with a claim on ground that has come to
    /// belong to another.
    pub(crate) fn replace(&mut self, old: &[(Ground, Claim)], new: &[(Ground, Claim)]) -> HashSet<ObjectRef> {
        let (before, after): (HashSet<_>, HashSet<_>) = (old.iter().collect(), new.iter().collect());
        let mut changed = HashSet::new();
        for (ground, claim) in before.symmetric_difference(&after).copied() {
            let claimants = self.0.entry(ground.clone()).or_default();
            let first = claimants.first().cloned();
            if !claimants.remove(claim) {
                claimants.insert(claim.clone());
            }
            if claimants.first() != first.as_ref() {
                changed.extend(claimants.iter().map(Claim::route));
            }
            if claimants.is_empty() {
                self.0.remove(ground);
            }
        }
        changed
    }

    #[cfg(test)]
    pub(crate) fn size(&self) -> usize {
        self.0.len()
    }

    /// The matches of a route that get no request, for others take them all.
    pub(crate) fn shadowed(&self, claims: &[(Ground, Claim)]) -> Vec<Diagnostic> {
        let mut standing: Vec<(&Claim, Option<&Claim>)> = Vec::new();
        for (ground, claim) in claims {
            let first = self.0.get(ground).and_then(BTreeSet::first);
            let winner = first.filter(|first| *first != claim);
            // The grounds of a match follow each other, and one of its own is enough.
            match standing.last_mut() {
                Some((known, lost)) if *known == claim => *lost = lost.filter(|_| winner.is_some()),
                _ => standing.push((claim, winner)),
            }
        }
        let lost = standing.into_iter();
        lost.filter_map(|(claim, winner)| Some(claim.lost_to(winner?)))
            .collect()
    }
}
