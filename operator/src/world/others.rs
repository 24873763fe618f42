//! Where the other replicas of the operator are, by the slices of its own Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use tokio::sync::watch;
use weft_crds::{EndpointSlice, Kind, Object, ObjectRef};

/// Which replica of the operator this is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Myself {
    pub(crate) namespace: String,
    /// The Service in front of all replicas.
    pub(crate) service: String,
    /// Its pod's name.
    pub(crate) identity: String,
}

/// The other replicas.
pub(super) struct Others {
    myself: Myself,
    /// The slices of the operator's own Service,
    own: BTreeMap<String, Arc<EndpointSlice>>,
    /// and where the others are by them.
    addresses: watch::Sender<BTreeSet<IpAddr>>,
}

impl Others {
    pub(super) fn new(myself: Myself) -> Self {
        Self {
            myself,
            own: BTreeMap::new(),
            addresses: watch::Sender::new(BTreeSet::new()),
        }
    }

    /// Where they are, as it is told.
    pub(super) fn addresses(&self) -> watch::Receiver<BTreeSet<IpAddr>> {
        self.addresses.subscribe()
    }

    /// Looks whether an object is about the operator's own replicas.
    pub(super) fn notice(&mut self, reference: &ObjectRef, object: Option<&Object>) {
        if reference.kind != Kind::EndpointSlice || reference.namespace != self.myself.namespace {
            return;
        }
        let known = match object {
            Some(Object::EndpointSlice(slice))
                if slice
                    .metadata
                    .labels
                    .get("kubernetes.io/service-name")
                    .is_some_and(|of| *of == self.myself.service) =>
            {
                self.own.insert(reference.name.clone(), slice.clone());
                true
            }
            _ => self.own.remove(&reference.name).is_some(),
        };
        if known {
            let others = others(self.own.values().map(AsRef::as_ref), &self.myself.identity);
            self.addresses.send_if_modified(|known| {
                let changed = *known != others;
                *known = others;
                changed
            });
        }
    }
}

/// The addresses of all replicas but one, from the slices of their Service.
fn others<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, identity: &str) -> BTreeSet<IpAddr> {
    let endpoints = slices.flat_map(|slice| &slice.endpoints);
    let others = endpoints.filter(|endpoint| {
        let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
        pod != Some(identity)
    });
    others
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|address| address.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_others_are_all_but_this_one() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "s"}, "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "me"}},
                {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "other"}},
            ],
        }))
        .expect("a slice");
        assert_eq!(
            others([&slice].into_iter(), "me"),
            BTreeSet::from([IpAddr::from([10, 0, 0, 2])])
        );
    }
}
