//! Who takes a path: the rules of one hostname on one listener.

use std::{
    cmp::{Ordering, Reverse},
    sync::Arc,
};

use smallvec::SmallVec;
use weft_model::{PathMatch, RouteKind};

use super::{
    rule::Rule,
    table::{AffixTable, Segments, Table},
};
use crate::fields::{Fields, RequestView};

/// A match of a rule.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) rule: Arc<Rule>,
    /// Which of its matches.
    pub(super) index: usize,
}

/// Those that want the same of a path, by rank.
type Candidates = SmallVec<[Candidate; 1]>;

/// Candidates by path. Exact paths come first, then regular expressions, then prefixes, the longest first.
///
/// Where regular expressions stand is left to implementations: before prefixes, because whoever writes one next to a
/// prefix means to take something out of it.
#[derive(Clone, Default)]
pub(super) struct PathTable {
    exact: Table<Arc<str>, Candidates>,
    patterns: Vec<Candidate>,
    prefixes: AffixTable<Segments, Candidates>,
}

/// The order of candidates whose paths are equally specific (Gateway API, `HTTPRouteRule.matches`). The fields are
/// compared from top to bottom; the lesser takes the request.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank<'r> {
    /// Longer regular expressions come first; 0 for other paths.
    pub(super) pattern: Reverse<usize>,
    pub(super) method: Reverse<bool>,
    pub(super) headers: Reverse<usize>,
    pub(super) query: Reverse<usize>,
    pub(super) created: i64,
    pub(super) name: FullName<'r>,
    /// HTTPRoutes before GRPCRoutes of the same name.
    pub(super) grpc: bool,
    pub(super) rule: u32,
    pub(super) index: usize,
}

/// Ordered as the text `namespace/name`, which is not the order of the pair.
#[derive(PartialEq, Eq)]
pub(super) struct FullName<'r>(pub(super) &'r str, pub(super) &'r str);

impl Ord for FullName<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let text = |name: &Self| {
            name.0
                .bytes()
                .chain([b'/'])
                .chain(name.1.bytes())
                .collect::<SmallVec<[u8; 128]>>()
        };
        text(self).cmp(&text(other))
    }
}

impl PartialOrd for FullName<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Candidate {
    pub(super) fn rank(&self) -> Rank<'_> {
        let (owner, matcher) = (&self.rule.route.owner, &self.rule.matchers[self.index]);
        Rank {
            pattern: Reverse(match &self.rule.route.matches[self.index].path {
                PathMatch::Regex(text) => text.len(),
                PathMatch::Exact(_) | PathMatch::Prefix(_) => 0,
            }),
            method: Reverse(matcher.has_method()),
            headers: Reverse(matcher.headers()),
            query: Reverse(matcher.query()),
            created: owner.created,
            name: FullName(&owner.namespace, &owner.name),
            grpc: owner.kind == RouteKind::Grpc,
            rule: owner.rule,
            index: self.index,
        }
    }

    fn accepts<F: Fields>(&self, request: &RequestView<'_, F>) -> bool {
        self.rule.matchers[self.index].accepts(request)
    }
}

/// The key under which a prefix is kept: without a trailing slash, so `/` is the empty one.
pub(super) fn prefix_key(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

impl PathTable {
    /// The candidate that takes a request, and how many bytes of the path it took.
    pub(super) fn find<F: Fields>(&self, request: &RequestView<'_, F>) -> Option<(&Candidate, usize)> {
        let path = request.path;
        let first = |candidates: &'_ [Candidate]| candidates.iter().position(|candidate| candidate.accepts(request));
        if let Some(candidates) = self.exact.get(path)
            && let Some(index) = first(candidates)
        {
            return Some((&candidates[index], path.len()));
        }
        let described = |candidate: &&Candidate| {
            let pattern = candidate.rule.matchers[candidate.index].path.as_ref();
            pattern.is_some_and(|pattern| pattern.matches(path.as_bytes())) && candidate.accepts(request)
        };
        if let Some(candidate) = self.patterns.iter().find(described) {
            return Some((candidate, path.len()));
        }
        self.prefixes
            .matching(path)
            .find_map(|(len, candidates)| first(candidates).map(|index| (&candidates[index], len)))
    }

    pub(super) fn insert(&mut self, candidate: Candidate) {
        match &candidate.rule.route.matches[candidate.index].path {
            PathMatch::Exact(path) => insert_into(self.exact.entry(&path.as_str().into(), Candidates::new), &candidate),
            PathMatch::Prefix(prefix) => {
                insert_into(
                    self.prefixes.entry(&prefix_key(prefix).into(), Candidates::new),
                    &candidate,
                );
            }
            PathMatch::Regex(_) => {
                let index = self.patterns.partition_point(|other| other.rank() <= candidate.rank());
                self.patterns.insert(index, candidate);
            }
        }
    }

    pub(super) fn remove(&mut self, candidate: &Candidate) {
        match &candidate.rule.route.matches[candidate.index].path {
            PathMatch::Exact(path) => {
                let place = self
                    .exact
                    .get(path.as_str())
                    .and_then(|candidates| position(candidates, candidate));
                let Some(index) = place else { return };
                let candidates = self.exact.entry(&path.as_str().into(), Candidates::new);
                candidates.remove(index);
                if candidates.is_empty() {
                    self.exact.remove(path.as_str());
                }
            }
            PathMatch::Prefix(prefix) => {
                let key = prefix_key(prefix);
                let place = self
                    .prefixes
                    .get(key)
                    .and_then(|candidates| position(candidates, candidate));
                let Some(index) = place else { return };
                let candidates = self.prefixes.entry(&key.into(), Candidates::new);
                candidates.remove(index);
                if candidates.is_empty() {
                    self.prefixes.remove(key);
                }
            }
            PathMatch::Regex(_) => {
                if let Some(index) = position(&self.patterns, candidate) {
                    self.patterns.remove(index);
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.patterns.is_empty() && self.prefixes.is_empty()
    }
}

fn insert_into(candidates: &mut Candidates, candidate: &Candidate) {
    let index = candidates.partition_point(|other| other.rank() <= candidate.rank());
    candidates.insert(index, candidate.clone());
}

/// A rule is in a list twice if two of its listeners share the hostname; either place will do.
fn position(candidates: &[Candidate], candidate: &Candidate) -> Option<usize> {
    candidates
        .iter()
        .position(|other| Arc::ptr_eq(&other.rule, &candidate.rule) && other.index == candidate.index)
}
