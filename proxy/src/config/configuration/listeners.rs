//! Listeners, and which of them are on their port.

use std::{collections::BTreeSet, sync::Arc};

use weft_model::{CertificateKey, Key, Listener, ListenerKey, Rejected, TrustBundleKey};

use super::{
    super::{Place, Port, Snapshot, port::Served, trust::ClientVerification},
    Configuration, remove_from,
};

impl Snapshot {
    /// Puts a listener on its port, which is there, with its certificates and bundles as far as they are.
    pub(super) fn serve(&mut self, listener: &Arc<Listener>) {
        let certificate = |key| self.certificates.get(key).map(|entry| Arc::clone(&entry.certified));
        let shown = listener.tls.iter().flat_map(|tls| &tls.certificates);
        let certificates = shown.filter_map(certificate).collect();
        let identity = listener.backend_certificate.as_ref().and_then(certificate);
        let validation = listener.tls.as_ref().and_then(|tls| tls.client.as_ref());
        let client = validation.map(|validation| {
            let keys = validation.trust_bundles.iter();
            let bundles: Vec<_> = keys.filter_map(|key| self.trust_bundles.get(key)).cloned().collect();
            // Kept if it is the same, with the sessions that can be resumed.
            let port = self.ports.get(&place_of(listener));
            let before = port.and_then(|port| port.verification_of(listener));
            match before.filter(|before| before.is_of(validation, &bundles)) {
                Some(before) => Arc::clone(before),
                None => Arc::new(ClientVerification::new(validation, bundles)),
            }
        });
        if let Some(port) = self.ports.get_mut(&place_of(listener)) {
            Arc::make_mut(port).serve(Served {
                listener: Arc::clone(listener),
                certificates,
                client,
                identity,
            });
        }
    }
}

impl Configuration {
    pub(super) fn put_listener(&mut self, listener: Arc<Listener>) -> bool {
        if self.next.listeners.get(&listener.key) == Some(&listener) {
            return false;
        }
        self.remove_listener(&listener.key);
        self.by_port
            .entry(place_of(&listener))
            .or_default()
            .insert(listener.key.clone());
        for certificate in shown_by(&listener) {
            let by = self.shown_by.entry(certificate.clone()).or_default();
            by.insert(Key::Listener(listener.key.clone()));
        }
        for bundle in trusted_by(&listener) {
            let by = self.trusted_by.entry(bundle.clone()).or_default();
            by.insert(Key::Listener(listener.key.clone()));
        }
        self.guard_listener(&listener, true);
        self.touched.ports.insert(place_of(&listener));
        self.next.listeners.insert(listener.key.clone(), listener);
        true
    }

    pub(super) fn remove_listener(&mut self, key: &ListenerKey) -> bool {
        let Some(old) = self.next.listeners.remove(key) else {
            return false;
        };
        remove_from(&mut self.by_port, &place_of(&old), key);
        self.guard_listener(&old, false);
        for certificate in shown_by(&old) {
            remove_from(&mut self.shown_by, certificate, &Key::Listener(key.clone()));
        }
        for bundle in trusted_by(&old) {
            remove_from(&mut self.trusted_by, bundle, &Key::Listener(key.clone()));
        }
        self.touched.ports.insert(place_of(&old));
        true
    }

    /// Makes ports serve what their listeners say. All that goes, goes first: a listener may move between them.
    pub(super) fn settle_ports(&mut self, places: &BTreeSet<Place>, rejected: &mut Vec<Rejected>) {
        let wanted: Vec<_> = places
            .iter()
            .map(|place| (*place, self.wanted(*place, rejected)))
            .collect();
        for (place, wanted) in &wanted {
            self.withdraw_others(*place, wanted);
        }
        for (place, wanted) in wanted {
            for listener in wanted {
                self.serve(place, listener);
            }
        }
    }

    /// The listeners that a port is to serve, by key. It speaks one protocol, that of the first.
    pub(super) fn wanted(&self, place: Place, rejected: &mut Vec<Rejected>) -> Vec<Arc<Listener>> {
        let (number, _) = place;
        let keys = self.by_port.get(&place).into_iter().flatten();
        let mut wanted: Vec<_> = keys.filter_map(|key| self.next.listeners.get(key).cloned()).collect();
        let Some(first) = wanted.first().cloned() else {
            return wanted;
        };
        for other in wanted.extract_if(.., |listener| listener.protocol != first.protocol) {
            let Listener { key, protocol, .. } = &*first;
            let reason =
                format!("port {number} speaks {protocol:?} for listener {key}: use its protocol, or another port");
            rejected.push(Rejected {
                key: Key::Listener(other.key.clone()),
                reason,
            });
        }
        wanted
    }

    /// Takes the listeners off a port that are not wanted there, or not for the hostname they were there for.
    pub(super) fn withdraw_others(&mut self, place: Place, wanted: &[Arc<Listener>]) {
        let Some(port) = self.next.ports.get(&place) else {
            return;
        };
        let present: Vec<_> = port.listeners().cloned().collect();
        let stays = |old: &Listener| {
            let new = wanted
                .binary_search_by(|new| new.key.cmp(&old.key))
                .ok()
                .map(|index| &wanted[index]);
            new.is_some_and(|new| new.hostname == old.hostname)
        };
        for old in present.iter().filter(|old| !stays(old)) {
            let rules = self.next.attached(&self.attached, &old.key);
            if let Some(port) = self.next.ports.get_mut(&place) {
                Arc::make_mut(port).withdraw(old, &rules);
            }
            self.served.remove(&old.key);
        }
        if self.next.ports.get(&place).is_some_and(|port| port.is_empty()) {
            self.next.ports.remove(&place);
        }
    }

    /// Puts a listener on its port, with the routes that name it, or its new version in place of the old one.
    pub(super) fn serve(&mut self, place: Place, listener: Arc<Listener>) {
        let old = self.served.insert(listener.key.clone(), Arc::clone(&listener));
        if old.as_ref() == Some(&listener) {
            return;
        }
        let ports = self.next.ports.entry(place);
        ports.or_insert_with(|| Arc::new(Port::new(place.0)));
        self.next.serve(&listener);
        let rules = match old {
            None => self.next.attached(&self.attached, &listener.key),
            Some(_) => return,
        };
        if let Some(port) = self.next.ports.get_mut(&place) {
            let group = Arc::make_mut(port).group(&listener);
            rules.iter().for_each(|rule| group.attach(rule));
        }
    }
}

/// Where a listener listens.
pub(super) fn place_of(listener: &Listener) -> Place {
    (listener.port, listener.protocol.transport())
}

/// The certificates a listener names: those it shows to clients, and the one for backends.
pub(super) fn shown_by(listener: &Listener) -> impl Iterator<Item = &CertificateKey> {
    let shown = listener.tls.iter().flat_map(|tls| &tls.certificates);
    shown.chain(&listener.backend_certificate)
}

/// The trust bundles a listener names.
pub(super) fn trusted_by(listener: &Listener) -> impl Iterator<Item = &TrustBundleKey> {
    let client = listener.tls.iter().flat_map(|tls| &tls.client);
    client.flat_map(|client| &client.trust_bundles)
}
