//! What is published for each Gateway.

use std::collections::{BTreeSet, HashMap};

use weft_crds::ObjectRef;
use weft_discovery::Epoch;
use weft_model::{ChallengeKey, Change, GatewayKey, Key, ListenerKey, Resource};

use crate::infrastructure::input::Transport;

/// What of that is asked about: more is known to the translation.
#[derive(Default)]
pub(super) struct Published {
    /// The last epoch that was published,
    pub(super) epoch: Epoch,
    /// and the last that had to do with a Gateway.
    epochs: HashMap<ObjectRef, Epoch>,
    listeners: HashMap<ListenerKey, (GatewayKey, u16, Transport)>,
    challenges: HashMap<ChallengeKey, GatewayKey>,
}

impl Published {
    /// Takes over what is about to be published; returns the Gateway it has to do with.
    pub(super) fn take(&mut self, change: &Change) -> Option<GatewayKey> {
        match change {
            Change::Upsert(Resource::Listener(listener)) => {
                let published = (
                    listener.gateway.clone(),
                    listener.port,
                    Transport::of(listener.protocol),
                );
                self.listeners.insert(listener.key.clone(), published);
                Some(listener.gateway.clone())
            }
            Change::Remove(Key::Listener(key)) => self.listeners.remove(key).map(|(gateway, ..)| gateway),
            Change::Upsert(Resource::Challenge(challenge)) => {
                self.challenges.insert(challenge.key.clone(), challenge.gateway.clone());
                Some(challenge.gateway.clone())
            }
            Change::Remove(Key::Challenge(key)) => self.challenges.remove(key),
            _ => None,
        }
    }

    /// The last epoch had to do with a Gateway.
    pub(super) fn touch(&mut self, gateway: ObjectRef) {
        self.epochs.insert(gateway, self.epoch);
    }

    /// A Gateway is gone.
    pub(super) fn forget(&mut self, gateway: &ObjectRef) {
        self.epochs.remove(gateway);
    }

    /// The last epoch that had to do with a Gateway.
    pub(super) fn epoch_of(&self, gateway: &ObjectRef) -> Epoch {
        self.epochs.get(gateway).copied().unwrap_or_default()
    }

    /// What CAs ask by way of a Gateway.
    pub(super) fn challenges_of(&self, gateway: &GatewayKey) -> impl Iterator<Item = &ChallengeKey> {
        let of = self.challenges.iter().filter(move |(_, of)| *of == gateway);
        of.map(|(key, _)| key)
    }

    /// The ports on which a Gateway is served, those of its own listeners and others'.
    pub(super) fn ports(&self, gateway: &GatewayKey) -> BTreeSet<(u16, Transport)> {
        let listeners = self.listeners.values().filter(|(owner, ..)| owner == gateway);
        listeners.map(|(_, port, transport)| (*port, *transport)).collect()
    }
}
