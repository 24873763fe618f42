//! Matches that take the same requests, and which of them gets these.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

use smallvec::SmallVec;
use weft_crds::{Kind, ObjectRef};
use weft_model::{
    HeaderMatch, HostPattern, L4Route, ListenerKey, PathMatch, QueryMatch, Resource, Route, RouteKind, RouteOwner,
};

use crate::diagnostic::{Code, Diagnostic};

/// Requests that a match is for, or all connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ground {
    listener: ListenerKey,
    /// The narrower of the listener's and the route's.
    hostname: Option<HostPattern>,
    matched: Matched,
}

/// What a match asks of a request, in whatever order; nothing, for a rule that takes whatever comes. It stands in its rule.
#[derive(Clone, Debug)]
struct Matched(Claim);

/// A match that claims its ground. Of several on the same one, the least comes first (Gateway API,
/// `HTTPRouteRule.matches`).
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    rule: Rule,
    /// Which match of the rule; 0 where there are none.
    at: usize,
}

#[derive(Clone, Debug)]
enum Rule {
    Http(Arc<Route>),
    L4(Arc<L4Route>),
}

/// What a match asks for, its conditions in the order of their names.
#[derive(PartialEq, Eq, Hash)]
struct Asked<'m> {
    path: &'m PathMatch,
    method: Option<&'m str>,
    headers: SmallVec<[&'m HeaderMatch; 4]>,
    query: SmallVec<[&'m QueryMatch; 4]>,
}

impl Matched {
    fn asked(&self) -> Option<Asked<'_>> {
        let Rule::Http(route) = &self.0.rule else { return None };
        let matched = &route.matches[self.0.at];
        let mut asked = Asked {
            path: &matched.path,
            method: matched.method.as_deref(),
            headers: matched.headers.iter().collect(),
            query: matched.query.iter().collect(),
        };
        asked.headers.sort_by(|a, b| a.name.cmp(&b.name));
        asked.query.sort_by(|a, b| a.name.cmp(&b.name));
        Some(asked)
    }
}

impl PartialEq for Matched {
    fn eq(&self, other: &Self) -> bool {
        self.asked() == other.asked()
    }
}

impl Eq for Matched {}

impl Hash for Matched {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.asked().hash(state);
    }
}

impl Claim {
    fn owner(&self) -> &RouteOwner {
        match &self.rule {
            Rule::Http(route) => &route.owner,
            Rule::L4(route) => &route.owner,
        }
    }

    fn route(&self) -> ObjectRef {
        let owner = self.owner();
        let kind = match owner.kind {
            RouteKind::Http => Kind::HttpRoute,
            RouteKind::Grpc => Kind::GrpcRoute,
            RouteKind::Tls => Kind::TlsRoute,
            RouteKind::Tcp => Kind::TcpRoute,
            RouteKind::Udp => Kind::UdpRoute,
            RouteKind::Split => Kind::TrafficSplit,
        };
        ObjectRef::new(kind, &owner.namespace, &owner.name)
    }

    /// Says that another claim takes all that this one is for.
    fn lost_to(&self, winner: &Self) -> Diagnostic {
        let (own, other) = (self.owner(), winner.owner());
        let (place, why) = if winner.route() == self.route() {
            (String::new(), "stands earlier")
        } else if other.created < own.created {
            (format!(" of {}", winner.route()), "is of an older route")
        } else {
            (
                format!(" of {}", winner.route()),
                "is of a route whose name comes first",
            )
        };
        if matches!(self.rule, Rule::L4(_)) {
            let message = format!(
                "rule {}{place} takes all that comes to the same listeners: it {why}",
                other.rule
            );
            let path = format!("spec.rules[{}]", own.rule);
            return Code::Shadowed.at(
                path,
                message,
                "remove one of the two, or attach them to different listeners",
            );
        }
        let message = format!(
            "match {} of rule {}{place} takes all of its requests: it matches the same and {why}",
            winner.at, other.rule
        );
        let path = format!("spec.rules[{}].matches[{}]", own.rule, self.at);
        Code::Shadowed.at(path, message, "remove one of the two, or let them differ")
    }
}

impl Ord for Claim {
    fn cmp(&self, other: &Self) -> Ordering {
        let (own, others) = (self.owner(), other.owner());
        own.created
            .cmp(&others.created)
            .then_with(|| full_name(own).cmp(full_name(others)))
            // An HTTPRoute comes before a GRPCRoute of the same name.
            .then_with(|| (own.kind, own.rule, self.at).cmp(&(others.kind, others.rule, other.at)))
    }
}

/// `namespace/name`, which is compared as one text.
fn full_name(owner: &RouteOwner) -> impl Iterator<Item = u8> {
    owner.namespace.bytes().chain([b'/']).chain(owner.name.bytes())
}

impl PartialOrd for Claim {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Claim {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Claim {}

/// What a rule claims on listeners of these hostnames.
pub(crate) fn claims(rule: &Resource, listeners: &[(&ListenerKey, Option<&HostPattern>)]) -> Vec<(Ground, Claim)> {
    let (rule, hostnames, matches) = match rule {
        Resource::Route(route) => (Rule::Http(route.clone()), &route.hostnames, route.matches.len()),
        Resource::L4Route(route) => (Rule::L4(route.clone()), &route.hostnames, 1),
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    for at in 0..matches {
        for (listener, own) in listeners {
            // Whoever sends to a Service's address means it, whatever host is asked for (GEP-1294).
            let any = listener.is_frontend() && matches!(rule, Rule::Http(_));
            let hostnames: &[HostPattern] = if any { &[] } else { hostnames };
            // Two hostnames of a route may come to the same on a listener.
            for hostname in shared(hostnames, *own) {
                let claim = Claim { rule: rule.clone(), at };
                let ground = Ground {
                    listener: (*listener).clone(),
                    hostname,
                    matched: Matched(claim.clone()),
                };
                found.push((ground, claim));
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

/// All claims, by their ground, the first first.
#[derive(Default)]
pub(crate) struct Claims(HashMap<Ground, SmallVec<[Claim; 1]>>);

impl Claims {
    /// Puts a route's claims in the place of those it had. Returns the routes with a claim on ground that has come to
    /// belong to another.
    pub(crate) fn replace(&mut self, old: &[(Ground, Claim)], new: &[(Ground, Claim)]) -> HashSet<ObjectRef> {
        let grounds = old.iter().chain(new).map(|(ground, _)| ground);
        let before: HashMap<&Ground, Option<Claim>> =
            grounds.map(|ground| (ground, self.first(ground).cloned())).collect();
        for (ground, claim) in old {
            let Some(claimants) = self.0.get_mut(ground) else {
                continue;
            };
            claimants.retain(|other| other != claim);
            if claimants.is_empty() {
                self.0.remove(ground);
            }
        }
        for (ground, claim) in new {
            let claimants = self.0.entry(ground.clone()).or_default();
            if let Err(at) = claimants.binary_search(claim) {
                claimants.insert(at, claim.clone());
            }
        }
        let mut changed = HashSet::new();
        for (ground, first) in before {
            if self.first(ground) != first.as_ref() {
                changed.extend(self.0.get(ground).into_iter().flatten().map(Claim::route));
            }
        }
        changed
    }

    fn first(&self, ground: &Ground) -> Option<&Claim> {
        self.0.get(ground)?.first()
    }

    #[cfg(test)]
    pub(crate) fn size(&self) -> usize {
        self.0.len()
    }

    /// The matches of a route that get no request, for others take them all.
    pub(crate) fn shadowed(&self, claims: &[(Ground, Claim)]) -> Vec<Diagnostic> {
        let mut standing: Vec<(&Claim, Option<&Claim>)> = Vec::new();
        for (ground, claim) in claims {
            let winner = self.first(ground).filter(|first| *first != claim);
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
