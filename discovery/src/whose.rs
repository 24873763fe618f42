//! Whose an address is: the namespaces in the mesh of which something that is published has it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use weft_model::{Key, Resource};

/// Addresses of which one session remembers that it was asked.
const ASKED: usize = 4096;

/// What is at which address.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    of: HashMap<Key, Place>,
    /// How many resources of a namespace have it.
    at: HashMap<IpAddr, BTreeMap<Arc<str>, usize>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Place {
    namespace: Arc<str>,
    addresses: BTreeSet<IpAddr>,
}

impl Directory {
    /// Takes over that a resource is new or other than before, or gone. Returns the addresses that have become somebody's in a
    /// namespace where they were nobody's before.
    pub(crate) fn update(&mut self, key: &Key, resource: Option<&Resource>) -> Vec<(IpAddr, Arc<str>)> {
        let now = resource.and_then(place);
        if self.of.get(key) == now.as_ref() {
            return Vec::new();
        }
        let before = self.of.remove(key);
        let mut new = Vec::new();
        // First what is there now, so that what stays is not taken for new.
        if let Some(place) = now {
            for address in &place.addresses {
                let at = self.at.entry(*address).or_default();
                let count = at.entry(place.namespace.clone()).or_default();
                *count += 1;
                if *count == 1 {
                    new.push((*address, place.namespace.clone()));
                }
            }
            self.of.insert(key.clone(), place);
        }
        for address in before.iter().flat_map(|place| &place.addresses) {
            let Some(at) = self.at.get_mut(address) else { continue };
            if let Some(namespace) = before.as_ref().map(|place| &place.namespace)
                && let Some(count) = at.get_mut(namespace)
            {
                *count -= 1;
                if *count == 0 {
                    at.remove(namespace);
                }
            }
            if at.is_empty() {
                self.at.remove(address);
            }
        }
        new
    }

    /// The namespaces whose address it is.
    pub(crate) fn namespaces(&self, address: IpAddr) -> impl Iterator<Item = &Arc<str>> {
        self.at.get(&address).into_iter().flat_map(BTreeMap::keys)
    }
}

/// Where something is that sidecars speak to.
fn place(resource: &Resource) -> Option<Place> {
    let (namespace, addresses) = match resource {
        Resource::Peer(peer) => (peer.namespace.as_str(), &peer.addresses),
        Resource::MeshService(service) => (service.key.parts().0, &service.addresses),
        Resource::Frontend(frontend) if frontend.clients.is_none() => (frontend.service.parts().0, &frontend.addresses),
        _ => return None,
    };
    Some(Place {
        namespace: namespace.into(),
        addresses: addresses.iter().map(IpAddr::to_canonical).collect(),
    })
}

/// The addresses that one session has asked about.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    known: HashSet<IpAddr>,
    /// In the order in which they were asked about.
    order: VecDeque<IpAddr>,
}

impl Asked {
    /// Remembers one; returns that which is forgotten for it.
    pub(crate) fn remember(&mut self, address: IpAddr) -> Option<IpAddr> {
        if !self.known.insert(address) {
            return None;
        }
        self.order.push_back(address);
        if self.order.len() <= ASKED {
            return None;
        }
        let oldest = self.order.pop_front()?;
        self.known.remove(&oldest);
        Some(oldest)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &IpAddr> {
        self.known.iter()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use weft_model::Peer;

    use super::*;

    pub(crate) fn peer(key: &str, addresses: &[[u8; 4]]) -> Resource {
        Resource::Peer(Arc::new(Peer {
            key: key.into(),
            addresses: addresses.iter().map(|address| (*address).into()).collect(),
            namespace: key.split('/').next().unwrap_or_default().into(),
            account: "default".to_owned(),
            owner: None,
            direct_ports: Vec::new(),
            probe_ports: Vec::new(),
            asks_only: false,
        }))
    }

    #[test]
    fn an_address_is_that_of_all_who_have_it() {
        let mut directory = Directory::default();
        let mut update = |resource: &Resource| directory.update(&resource.key(), Some(resource));
        let a: IpAddr = [10, 0, 0, 1].into();
        assert_eq!(update(&peer("shop/1", &[[10, 0, 0, 1]])), [(a, "shop".into())]);
        assert!(update(&peer("shop/1", &[[10, 0, 0, 1]])).is_empty());
        assert!(
            update(&peer("shop/2", &[[10, 0, 0, 1]])).is_empty(),
            "it is known to be in shop"
        );
        // Another pod has got it before the first is known to be gone.
        assert_eq!(update(&peer("web/1", &[[10, 0, 0, 1]])), [(a, "web".into())]);
        assert_eq!(update(&peer("shop/1", &[[10, 0, 0, 2]])).len(), 1);
        let names =
            |directory: &Directory| -> Vec<String> { directory.namespaces(a).map(|name| name.to_string()).collect() };
        assert_eq!(names(&directory), ["shop", "web"]);
        directory.update(&peer("shop/2", &[]).key(), None);
        assert_eq!(names(&directory), ["web"]);
        directory.update(&peer("web/1", &[]).key(), None);
        assert_eq!(names(&directory), [""; 0]);
        directory.update(&peer("shop/1", &[]).key(), None);
        assert!(directory.at.is_empty() && directory.of.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut asked = Asked::default();
        let address = |at: usize| IpAddr::from([10, 0, (at / 256) as u8, (at % 256) as u8]);
        for at in 0..ASKED {
            assert_eq!(asked.remember(address(at)), None);
        }
        assert_eq!(asked.remember(address(0)), None);
        assert_eq!(asked.remember(address(ASKED)), Some(address(0)));
        assert_eq!(asked.iter().count(), ASKED);
    }
}
