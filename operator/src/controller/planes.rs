//! What data planes say, here and to the other replicas of the operator.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use weft_crds::{Kind, ObjectRef};
use weft_discovery::{Epoch, Replica, Replicas};
use weft_model::{AuthorizationPolicy, GatewayKey, Key, PolicyKey, Resource};
use weft_translate::Status;

use super::{Controller, key};
use crate::{
    guards,
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
            _ => self.guarded_by(reference).all(|gateway| taken(Some(gateway))),
        }
    }

    /// What an AuthorizationPolicy has come to.
    pub(super) fn policy(&self, reference: &ObjectRef) -> Option<&AuthorizationPolicy> {
        if reference.kind != Kind::AuthorizationPolicy {
            return None;
        }
        let key = PolicyKey::of(reference.kind.name(), &reference.namespace, &reference.name);
        match self.parts.world.translator.resource(&Key::Authorization(key))? {
            Resource::Authorization(policy) => Some(policy),
            _ => None,
        }
    }

    /// The Gateways that decide by a policy; none of anything else.
    pub(super) fn guarded_by(&self, reference: &ObjectRef) -> impl Iterator<Item = ObjectRef> {
        let policy = self.policy(reference).into_iter();
        let keys = policy.flat_map(guards::gateways);
        keys.filter_map(|key| world::reference(&key))
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
        let refused = refused_of(&self.replicas, &by_sidecars);
        let differs = |object: &&ObjectRef| self.refused.get(object) != refused.get(object);
        let objects: BTreeSet<ObjectRef> = self
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
        for reference in objects {
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
            let waiting: Vec<ObjectRef> = self.waiting.keys().cloned().collect();
            let owners = self.parts.world.all_gateways().into_iter().chain(sets);
            for reference in owners.chain(waiting) {
                self.statuses.add(reference, now);
            }
            self.acme.heard(now);
        }
    }

    /// What this replica knows of data planes.
    pub(super) fn report(&self) -> Report {
        let gateways = self.replicas.iter().filter_map(|(key, replicas)| {
            let reference = world::reference(key)?;
            let world = &self.parts.world;
            let (epoch, guards) = (world.epoch_of(&reference), world.guards.epoch(key));
            let replicas = replicas
                .iter()
                .map(|(name, replica)| (name.clone(), ReplicaReport::new(replica, epoch, guards)));
            let report = GatewayReport {
                revision: self.revision(&reference),
                guards: world.guards.revision(key),
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

    /// The data planes of a Gateway that are connected, here or elsewhere, as they stand with the Gateway.
    pub(super) fn connected(&self, key: &GatewayKey, reference: &ObjectRef) -> BTreeMap<String, Replica> {
        let epoch = self.parts.world.epoch_of(reference);
        let revision = self.revision(reference);
        self.connected_at(
            key,
            epoch,
            |report| report.revision == revision,
            |replica| replica.current,
        )
    }

    /// The same, as they stand with the policies for it.
    pub(super) fn guarding(&self, key: &GatewayKey) -> BTreeMap<String, Replica> {
        let guards = &self.parts.world.guards;
        let (epoch, revision) = (guards.epoch(key), guards.revision(key));
        self.connected_at(
            key,
            epoch,
            |report| report.guards == revision,
            |replica| replica.guarded,
        )
    }

    /// Those elsewhere have an epoch of ours if the other replica speaks of the `same`, and of that they `have` all.
    fn connected_at(
        &self,
        key: &GatewayKey,
        epoch: Epoch,
        same: impl Fn(&GatewayReport) -> bool,
        have: impl Fn(&ReplicaReport) -> bool,
    ) -> BTreeMap<String, Replica> {
        let reports = self.parts.reports.borrow();
        let elsewhere = reports.iter().filter_map(|report| report.get(key)).flat_map(|report| {
            let (same, have) = (same(report), &have);
            let replicas = report.replicas.iter();
            replicas.map(move |(name, replica)| (name.clone(), replica.here(epoch, same && have(replica))))
        });
        let here = self.replicas.get(key).into_iter().flatten();
        // What it says here is later than what is told of it.
        elsewhere
            .chain(here.map(|(name, replica)| (name.clone(), replica.clone())))
            .collect()
    }
}

/// What data planes refuse of each route and policy.
pub(super) fn refused_of(
    replicas: &Replicas,
    by_sidecars: &BTreeMap<Key, String>,
) -> BTreeMap<ObjectRef, Vec<(Key, String)>> {
    let mut found: BTreeMap<ObjectRef, BTreeMap<Key, String>> = BTreeMap::new();
    let by_replicas = replicas.values().flat_map(BTreeMap::values);
    let by_replicas = by_replicas.flat_map(|replica| &replica.refused);
    for (key, reason) in by_sidecars.iter().chain(by_replicas) {
        let object = match key {
            Key::Route(route) | Key::L4Route(route) => route.as_str(),
            Key::Authorization(policy) => policy.as_str(),
            _ => continue,
        };
        let mut parts = object.split('/');
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
