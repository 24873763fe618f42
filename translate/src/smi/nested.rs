//! Splits whose backends are split themselves: the share of such a backend goes on to the backends of its own split, in the
//! same port, as what is sent to it does.

use weft_crds::{BackendObjectReference, Kind, ObjectRef, ServicePort, TrafficSplit};
use weft_model::{ServiceKey, Transport};

use super::split::{first, has_requests};
use crate::{
    backend::{self, Referrer},
    mesh,
    world::Reader,
};

/// Beyond it, a share goes to the Service as it is.
const DEPTH: usize = 8;
/// Numbers stay below; the least shares are rounded.
const LARGEST: u128 = 1 << 60;

/// Shares of something, of which each is its number over the sum of all.
pub(super) type Shares = Vec<(u128, ServiceKey)>;

/// What a backend comes to.
pub(super) struct Followed {
    pub(super) shares: Shares,
    /// The Service to which it leads back, which is sent its share as it is.
    pub(super) back: Option<ObjectRef>,
}

/// Follows a backend to whom its share is sent in the end. `path` are the Services whose splits have led there.
pub(super) fn follow(reader: &Reader<'_>, service: &ObjectRef, key: &ServiceKey, path: &[ObjectRef]) -> Followed {
    let itself = |back| Followed {
        shares: vec![(1, key.clone())],
        back,
    };
    let (.., port) = key.parts();
    let Some(split) = effective(reader, service, port) else {
        return itself(None);
    };
    if path.contains(service) {
        return itself(Some(service.clone()));
    }
    if path.len() >= DEPTH {
        return itself(None);
    }
    let path = [path, std::slice::from_ref(service)].concat();
    let mut back = None;
    let found = split.spec.backends.iter().filter_map(|backend| {
        let name = split.local(&backend.service).ok()?;
        let next = ObjectRef::new(Kind::Service, &service.namespace, name);
        let key = resolve(reader, &next, port)?;
        let followed = follow(reader, &next, &key, &path);
        back = back.take().or(followed.back);
        Some((u128::from(backend.weight.milli()), followed.shares))
    });
    let shares = joined(found.collect());
    // A split that is left with no share is no split.
    match shares.iter().any(|(share, _)| *share > 0) {
        true => Followed { shares, back },
        false => itself(back),
    }
}

/// The split that is in effect for what is sent to a port of a Service. One of some requests only is not followed: what it
/// takes is not known by weights alone.
fn effective<'w>(reader: &Reader<'w>, service: &ObjectRef, port: u16) -> Option<&'w TrafficSplit> {
    let split = first(reader, service)?;
    if !split.spec.matches.is_empty() {
        return None;
    }
    let root = reader.service(&service.namespace, &service.name)?;
    mesh::addresses(root).ok()?;
    let of_port = |one: &&ServicePort| one.port == port && backend::transport_of(one) == Some(Transport::Tcp);
    let port = root.spec.ports.iter().find(of_port)?;
    mesh::taken(reader, service, port).is_none().then_some(split)
}

fn resolve(reader: &Reader<'_>, service: &ObjectRef, port: u16) -> Option<ServiceKey> {
    let by_requests = reader
        .service(&service.namespace, &service.name)
        .is_some_and(|service| {
            let mut ports = service.spec.ports.iter();
            ports.any(|one| one.port == port && has_requests(one))
        });
    let from = Referrer {
        kind: if by_requests { Kind::HttpRoute } else { Kind::TcpRoute },
        namespace: &service.namespace,
        in_mesh: true,
    };
    let reference = BackendObjectReference {
        group: String::new(),
        kind: Kind::Service.name().to_owned(),
        name: service.name.clone(),
        namespace: None,
        port: Some(port),
    };
    backend::resolve(reader, from, &reference, "").ok()
}

/// Joins what backends come to by their weights, in the order in which they are named first.
pub(super) fn joined(backends: Vec<(u128, Shares)>) -> Shares {
    let all = exactly(&backends).unwrap_or_else(|| rounded(&backends));
    let divisor = all
        .iter()
        .fold(0, |divisor, (share, _)| common_divisor(divisor, *share))
        .max(1);
    let largest = all.iter().map(|(share, _)| share / divisor).max().unwrap_or(0);
    let beyond = largest.div_ceil(LARGEST).max(1);
    let fitted = all
        .into_iter()
        .map(|(share, key)| ((share / divisor).div_ceil(beyond), key));
    fitted.collect()
}

fn total(shares: &Shares) -> u128 {
    shares.iter().map(|(share, _)| share).sum::<u128>().max(1)
}

fn add(all: &mut Shares, share: u128, key: &ServiceKey) {
    match all.iter_mut().find(|(_, known)| known == key) {
        Some((known, _)) => *known = known.saturating_add(share),
        None => all.push((share, key.clone())),
    }
}

/// None if the numbers would be too large.
fn exactly(backends: &[(u128, Shares)]) -> Option<Shares> {
    let mut common: u128 = 1;
    for (_, shares) in backends {
        let total = total(shares);
        common = (common / common_divisor(common, total)).checked_mul(total)?;
    }
    let mut all = Shares::new();
    for (weight, shares) in backends {
        let each = weight.checked_mul(common / total(shares))?;
        for (share, key) in shares {
            add(&mut all, each.checked_mul(*share)?, key);
        }
    }
    Some(all)
}

/// Weights and shares are below 2^64, and what is left of 128 bits is the precision.
fn rounded(backends: &[(u128, Shares)]) -> Shares {
    let mut all = Shares::new();
    for (weight, shares) in backends {
        let total = total(shares);
        for (share, key) in shares {
            let part = (share << 40).div_ceil(total);
            add(&mut all, weight.saturating_mul(part), key);
        }
    }
    all
}

fn common_divisor(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(list: &[(u128, &str)]) -> Shares {
        list.iter()
            .map(|(share, key)| (*share, ServiceKey::from(*key)))
            .collect()
    }

    #[test]
    fn shares_of_shares_keep_their_ratio() {
        let half = shares(&[(1, "b"), (1, "c")]);
        let thirds = shares(&[(1, "d"), (2, "b")]);
        assert_eq!(
            joined(vec![(50, shares(&[(1, "a")])), (50, half.clone())]),
            shares(&[(2, "a"), (1, "b"), (1, "c")])
        );
        assert_eq!(
            joined(vec![(1, half), (1, thirds)]),
            shares(&[(7, "b"), (3, "c"), (2, "d")])
        );
        assert_eq!(
            joined(vec![(0, shares(&[(1, "a")])), (5, shares(&[(1, "b")]))]),
            shares(&[(0, "a"), (1, "b")])
        );
        assert_eq!(joined(Vec::new()), Shares::new());
    }

    #[test]
    fn numbers_do_not_grow_without_end() {
        let mut all = shares(&[(1, "a")]);
        for prime in [
            1_000_000_007_000,
            999_999_937_000,
            998_244_353_000,
            1_000_003_000,
            1_000_033_000,
        ] {
            all = joined(vec![(prime, all), (1000, shares(&[(1, "b")]))]);
            assert!(all.iter().all(|(share, _)| (1..=LARGEST).contains(share)), "{all:?}");
        }
    }
}
