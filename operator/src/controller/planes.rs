//! What data planes say, here and to the other replicas of the operator.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use weft_crds::{Kind, ObjectRef};
use weft_discovery::{Epoch, Replica, Replicas};
use weft_model::{GatewayKey, Key};
use weft_translate::Status;

use super::{Controller, key};
use crate::{
    infrastructure::names,
    peers::{GatewayReport, ReplicaReport, Report},
    world,
};

impl Controller {
    /// Whether all data planes that are connected and have to do with an object have taken an epoch.
    pub(super) fn is_taken(&self, reference: &ObjectRef, epoch: Epoch) -> bool {
        let taken = |gateway: GatewayKey| {
            let replicas = self.replicas.get(&gateway).into_iter().flatten();
            replicas
                .map(|(_, replica)| replica.taken)
                .filter(|taken| *taken > 0)
                .all(|taken| taken >= epoch)
        };
        let taken = |gateway: Option<ObjectRef>| gateway.is_none_or(|gateway| taken(key(&gateway)));
        match self.parts.world.translator.status_of(reference) {
            Some(Status::Gateway(_) | Status::ListenerSet(_)) => taken(self.gateway_of(reference)),
            Some(Status::Route(route)) => route.parents.iter().all(|parent| {
                let parent = &parent.parent_ref;
                let namespace = parent.namespace.as_deref().unwrap_or(&reference.namespace);
                let owner = parent.listener_owner();
                taken(owner.and_then(|kind| self.gateway_of(&ObjectRef::new(kind, namespace, &parent.name))))
            }),
            _ => true,
        }
    }

    /// Data planes have said something.
    pub(super) fn heard(&mut self) {
        let now = Instant::now();
        let before = std::mem::replace(&mut self.replicas, self.parts.replicas.borrow_and_update().clone());
        let by_sidecars = self.parts.refused.borrow_and_update().clone();
        let metrics = &self.parts.metrics;
        let replicas = || self.replicas.values().flat_map(BTreeMap::values);
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.data_planes.set(count(replicas().count()));
        metrics.refused.set(count(
            by_sidecars.len() + replicas().map(|replica| replica.refused.len()).sum::<usize>(),
        ));
        let refused = refused_of_routes(&self.replicas, &by_sidecars);
        let differs = |route: &&ObjectRef| self.refused.get(route) != refused.get(route);
        let routes: BTreeSet<ObjectRef> = self
            .refused
            .keys()
            .chain(refused.keys())
            .filter(differs)
            .cloned()
            .collect();
        self.refused = refused;
        if !self.writes {
            return;
        }
        let changed = |gateway: &&GatewayKey| before.get(gateway) != self.replicas.get(gateway);
        let keys: BTreeSet<&GatewayKey> = before.keys().chain(self.replicas.keys()).filter(changed).collect();
        let gateways: Vec<ObjectRef> = keys.into_iter().filter_map(world::reference).collect();
        let taken: Vec<ObjectRef> = self
            .held
            .iter()
            .filter(|(reference, epoch)| self.is_taken(reference, **epoch))
            .map(|(reference, _)| reference.clone())
            .collect();
        for reference in taken {
            self.held.remove(&reference);
            self.statuses.add(reference, now);
        }
        for reference in gateways {
            self.look_at(reference, now);
        }
        for reference in routes {
            self.statuses.add(reference, now);
        }
        self.acme.heard(now);
    }

    /// Other replicas of the operator have something new to say of data planes.
    pub(super) fn reported(&mut self) {
        self.parts.reports.mark_unchanged();
        if self.writes {
            let now = Instant::now();
            let sets: Vec<ObjectRef> = self.parts.world.all_listener_sets().cloned().collect();
            for owner in self.parts.world.all_gateways().into_iter().chain(sets) {
                self.statuses.add(owner, now);
            }
            self.acme.heard(now);
        }
    }

    /// What this replica knows of data planes.
    pub(super) fn report(&self) -> Report {
        let gateways = self.replicas.iter().filter_map(|(key, replicas)| {
            let reference = world::reference(key)?;
            let epoch = self.parts.world.epoch_of(&reference);
            let replicas = replicas
                .iter()
                .map(|(name, replica)| (name.clone(), ReplicaReport::new(replica, epoch)));
            let report = GatewayReport {
                revision: self.revision(&reference),
                replicas: replicas.collect(),
            };
            Some((key.clone(), report))
        });
        gateways.collect()
    }

    /// What a Gateway has come to: the same for all replicas of the operator that have read the same.
    pub(super) fn revision(&self, gateway: &ObjectRef) -> String {
        let status = self.parts.world.translator.status_of(gateway);
        let challenges = self.parts.world.challenges_of(&key(gateway));
        names::digest(&serde_json::to_string(&(status, challenges)).unwrap_or_default())
    }

    /// The data planes of a Gateway that are connected, here or elsewhere.
    pub(super) fn connected(&self, key: &GatewayKey, reference: &ObjectRef) -> BTreeMap<String, Replica> {
        let epoch = self.parts.world.epoch_of(reference);
        let revision = self.revision(reference);
        let reports = self.parts.reports.borrow();
        let elsewhere = reports.iter().filter_map(|report| report.get(key)).flat_map(|report| {
            let same = report.revision == revision;
            let replicas = report.replicas.iter();
            replicas.map(move |(name, replica)| (name.clone(), replica.here(epoch, same)))
        });
        let here = self.replicas.get(key).into_iter().flatten();
        // What it says here is later than what is told of it.
        elsewhere
            .chain(here.map(|(name, replica)| (name.clone(), replica.clone())))
            .collect()
    }
}

/// What data planes refuse of each route.
pub(super) fn refused_of_routes(
    replicas: &Replicas,
    by_sidecars: &BTreeMap<Key, String>,
) -> BTreeMap<ObjectRef, Vec<(Key, String)>> {
    let mut found: BTreeMap<ObjectRef, BTreeMap<Key, String>> = BTreeMap::new();
    let by_replicas = replicas.values().flat_map(BTreeMap::values);
    let by_replicas = by_replicas.flat_map(|replica| &replica.refused);
    for (key, reason) in by_sidecars.iter().chain(by_replicas) {
        let (Key::Route(route) | Key::L4Route(route)) = key else {
            continue;
        };
        let mut parts = route.as_str().split('/');
        let (Some(kind), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let Some(kind) = Kind::ALL.iter().find(|known| known.name().eq_ignore_ascii_case(kind)) else {
            continue;
        };
        let reference = ObjectRef::new(*kind, namespace, name);
        found.entry(reference).or_default().insert(key.clone(), reason.clone());
    }
    found
        .into_iter()
        .map(|(route, refused)| (route, refused.into_iter().collect()))
        .collect()
}
