//! The one task that knows the cluster: it takes what watches and data planes tell, lets it be translated and published
//! at once, and has written what is to be written, which only the holder of the Lease does.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{Client, runtime::events::Recorder};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use weft_crds::{AddressStatus, GatewayStatus, Kind, Object, ObjectRef};
use weft_discovery::{Epoch, Replica, Replicas};
use weft_model::{GatewayKey, Key};
use weft_translate::{Diagnostic, Status, acme::WantedCertificate};

use crate::{
    acme::{self, Acme, AcmeError, Answered},
    children::{Child, ChildKind},
    events::{self, Transition},
    infrastructure::{
        addresses::{self, Wanted},
        apply::{self, ApplyError, Step},
        names,
        render::{Input, Settings, Transport, render},
    },
    injection::roots::{self, Roots},
    lease::{Claim, is_held},
    metrics::Metrics,
    object::Seen,
    peers::{GatewayReport, ReplicaReport, Report},
    queue::Queue,
    status::{
        merge,
        programmed::{self, DataPlanes},
        write::{self, Written},
    },
    watch::{News, Watched},
    world::{self, Effects, World},
};

/// News taken at once.
const BATCH: usize = 1024;
/// Statuses written at a time.
const STATUSES: usize = 16;
/// Gateways worked on at a time.
const GATEWAYS: usize = 8;
/// How long a status waits for data planes to take what it speaks of, so that it seldom comes before the traffic.
const HOLD: Duration = Duration::from_secs(2);

/// What it is made of.
pub(crate) struct Parts {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) controller_name: String,
    pub(crate) settings: Settings,
    pub(crate) world: World,
    pub(crate) news: mpsc::Receiver<(Watched, News)>,
    pub(crate) replicas: watch::Receiver<Replicas>,
    /// What sidecars refuse.
    pub(crate) refused: watch::Receiver<BTreeMap<Key, String>>,
    /// How many sidecars are connected.
    pub(crate) sidecars: watch::Receiver<usize>,
    pub(crate) claim: watch::Receiver<Claim>,
    pub(crate) roots: watch::Receiver<String>,
    /// What the other replicas of the operator know.
    pub(crate) reports: watch::Receiver<Vec<Report>>,
    /// Others ask what this one knows.
    pub(crate) asked: mpsc::Receiver<oneshot::Sender<Report>>,
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) metrics: Metrics,
}

/// See the module.
pub(crate) struct Controller {
    parts: Parts,
    /// Objects whose status is to be looked at.
    statuses: Queue<ObjectRef>,
    /// Of those, the ones that wait for data planes, and for what.
    held: HashMap<ObjectRef, Epoch>,
    /// Gateways for which something may have to be made.
    gateways: Queue<ObjectRef>,
    /// Certificates by ACME.
    acme: Acme,
    /// Namespaces whose sidecars need the roots of the operator's certificates.
    meshed: Roots,
    /// Why a Gateway cannot have what it asks for: a reason of its condition Programmed, and words.
    problems: HashMap<ObjectRef, (&'static str, String)>,
    tasks: JoinSet<Done>,
    replicas: Replicas,
    /// What data planes refuse of routes, in their words.
    refused: BTreeMap<ObjectRef, Vec<(Key, String)>>,
    writes: bool,
}

/// Something has been written, or not.
enum Done {
    Status(ObjectRef, Result<Written, kube::Error>),
    Gateway(ObjectRef, Vec<Child>, Result<(), ApplyError>),
    Acme(acme::Task, Result<acme::Report, AcmeError>),
    Roots(String, Result<roots::Report, ApplyError>),
}

impl Controller {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            statuses: Queue::new(STATUSES),
            held: HashMap::new(),
            gateways: Queue::new(GATEWAYS),
            acme: Acme::new(),
            meshed: Roots::new(),
            problems: HashMap::new(),
            tasks: JoinSet::new(),
            replicas: Replicas::new(),
            refused: BTreeMap::new(),
            writes: false,
        }
    }

    /// Runs until `stop` is true.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let due = [
                self.statuses.next(),
                self.gateways.next(),
                self.acme.next(),
                self.meshed.next(),
            ];
            let due = due.into_iter().flatten().min();
            let due = due.filter(|_| self.writes && self.parts.world.is_complete());
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                count = self.parts.news.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    let effects = self.parts.world.take(batch.drain(..));
                    if effects.complete {
                        tracing::info!(resources = self.parts.world.translator.size(), "everything is read and published");
                        self.parts.ready.send_replace(true);
                    }
                    self.heed(effects);
                }
                Ok(()) = self.parts.replicas.changed() => self.heard(),
                Ok(()) = self.parts.refused.changed() => self.heard(),
                Ok(()) = self.parts.sidecars.changed() => {
                    let count = *self.parts.sidecars.borrow_and_update();
                    self.parts.metrics.sidecars.set(i64::try_from(count).unwrap_or(i64::MAX));
                }
                Ok(()) = self.parts.reports.changed() => self.reported(),
                Some(answer) = self.parts.asked.recv() => drop(answer.send(self.report())),
                Ok(()) = self.parts.claim.changed() => self.claimed(),
                Ok(()) = self.parts.roots.changed() => self.look_at_roots(),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    match done {
                        Ok(done) => self.done(done),
                        Err(error) => tracing::error!(%error, "a write has failed in a way it should not"),
                    }
                }
                () = until(due) => {}
            }
            self.work();
        }
    }

    /// Whether this replica may write now.
    fn may_write(&self) -> bool {
        is_held(*self.parts.claim.borrow(), Instant::now()) && self.parts.world.is_complete()
    }

    fn heed(&mut self, effects: Effects) {
        if !self.writes {
            // Everything is looked at once the Lease is ours.
            return;
        }
        let now = Instant::now();
        self.acme.heed(&effects, &self.parts.world.translator, now);
        for reference in effects.statuses {
            self.look_at(reference, now);
        }
        for gateway in effects.gateways {
            self.gateways.add(gateway, now);
        }
        self.meshed.add(effects.namespaces, now);
        self.say_wrong(effects.wrong);
        self.parts.metrics.queued("statuses", self.statuses.len());
        self.parts.metrics.queued("gateways", self.gateways.len());
    }

    /// Has a status looked at, and those of the ListenerSets that add to a Gateway with its own: what is known of its pods
    /// is said in all of them.
    fn look_at(&mut self, reference: ObjectRef, now: Instant) {
        if reference.kind == Kind::Gateway {
            for set in self.sets_of(&reference) {
                self.hold(set, now);
            }
        }
        self.hold(reference, now);
    }

    /// Has a status written once data planes have taken what it speaks of, or a little later at the latest.
    fn hold(&mut self, reference: ObjectRef, now: Instant) {
        let epoch = match reference.kind {
            Kind::Gateway => self.parts.world.epoch_of(&reference),
            _ => self.parts.world.epoch(),
        };
        if self.is_taken(&reference, epoch) {
            self.held.remove(&reference);
            self.statuses.add(reference, now);
        } else {
            self.held.insert(reference.clone(), epoch);
            self.statuses.add(reference, now + HOLD);
        }
    }

    /// The ListenerSets that add to a Gateway.
    fn sets_of(&self, gateway: &ObjectRef) -> Vec<ObjectRef> {
        let sets = self.parts.world.all_listener_sets();
        sets.filter(|set| self.gateway_of(set).as_ref() == Some(gateway))
            .cloned()
            .collect()
    }

    /// Whether all data planes that are connected and have to do with an object have taken an epoch.
    fn is_taken(&self, reference: &ObjectRef, epoch: Epoch) -> bool {
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

    /// The Gateway that an owner of listeners is, or adds to.
    fn gateway_of(&self, owner: &ObjectRef) -> Option<ObjectRef> {
        if owner.kind == Kind::Gateway {
            return Some(owner.clone());
        }
        let Some(Object::ListenerSet(set)) = self.parts.world.translator.get(owner) else {
            return None;
        };
        let parent = &set.spec.parent_ref;
        let namespace = parent.namespace.as_deref().unwrap_or(&owner.namespace);
        Some(ObjectRef::new(Kind::Gateway, namespace, &parent.name))
    }

    /// Data planes have said something.
    fn heard(&mut self) {
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
    fn reported(&mut self) {
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
    fn report(&self) -> Report {
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
    fn revision(&self, gateway: &ObjectRef) -> String {
        let status = self.parts.world.translator.status_of(gateway);
        let challenges = self.parts.world.challenges_of(&key(gateway));
        names::digest(&serde_json::to_string(&(status, challenges)).unwrap_or_default())
    }

    /// The data planes of a Gateway that are connected, here or elsewhere.
    fn connected(&self, key: &GatewayKey, reference: &ObjectRef) -> BTreeMap<String, Replica> {
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

    /// The Lease has come to be ours or another's.
    fn claimed(&mut self) {
        let held = is_held(*self.parts.claim.borrow_and_update(), Instant::now());
        self.parts.metrics.leader.set(held.into());
        if held == self.writes {
            return;
        }
        self.writes = held;
        self.statuses = Queue::new(STATUSES);
        self.gateways = Queue::new(GATEWAYS);
        self.meshed = Roots::new();
        self.held.clear();
        if held {
            let statuses = self.parts.world.all_seen().cloned().collect();
            let gateways = self.parts.world.all_gateways();
            self.heed(Effects {
                statuses,
                gateways,
                namespaces: self.parts.world.all_meshed(),
                wrong: self.parts.world.all_wrong(),
                ..Effects::default()
            });
            self.acme.begin(&self.parts.world.translator, Instant::now());
        }
    }

    /// Everything that holds the roots is to hold the new ones.
    fn look_at_roots(&mut self) {
        self.parts.roots.mark_unchanged();
        if self.writes {
            let now = Instant::now();
            for gateway in self.parts.world.all_gateways() {
                self.gateways.add(gateway, now);
            }
            self.meshed.add(self.parts.world.all_meshed(), now);
        }
    }

    /// Starts what is due.
    fn work(&mut self) {
        if !self.may_write() {
            return;
        }
        let now = Instant::now();
        while let Some(reference) = self.statuses.take(now) {
            self.held.remove(&reference);
            match self.write_of(&reference) {
                Some(write) => {
                    let work = write.run(self.parts.client.clone(), self.parts.recorder.clone());
                    self.tasks.spawn(async move { Done::Status(reference, work.await) });
                }
                None => self.statuses.done(&reference, true, now),
            }
        }
        while let Some(gateway) = self.gateways.take(now) {
            match self.steps_of(&gateway) {
                Some(steps) => {
                    let client = self.parts.client.clone();
                    self.tasks.spawn(async move {
                        let (made, result) = make(&client, steps).await;
                        Done::Gateway(gateway, made, result)
                    });
                }
                None => self.gateways.done(&gateway, true, now),
            }
        }
        while let Some(task) = self.acme.take(now) {
            let answered = self.acme.wanted(&task).map(|wanted| self.answered(wanted));
            let translator = &self.parts.world.translator;
            if let Some(work) = self.acme.work(&task, translator, answered.unwrap_or_default(), now) {
                let work = work.run(self.parts.client.clone(), self.parts.claim.clone());
                self.tasks.spawn(async move { Done::Acme(task, work.await) });
            }
        }
        let trusted = self.parts.roots.borrow().clone();
        while let Some(work) = self.meshed.take(&self.parts.world, &trusted, now) {
            let work = work.run(self.parts.client.clone());
            self.tasks.spawn(async move {
                let (namespace, result) = work.await;
                Done::Roots(namespace, result)
            });
        }
        self.parts.metrics.queued("statuses", self.statuses.len());
        self.parts.metrics.queued("gateways", self.gateways.len());
        self.parts.metrics.queued("namespaces", self.meshed.len());
        self.parts.metrics.queued("certificates", self.acme.len());
    }

    /// What the data planes of the Gateways that a certificate is for would answer to a CA.
    fn answered(&self, wanted: &WantedCertificate) -> Answered {
        let mut answered = Answered {
            all: true,
            ..Answered::default()
        };
        let mut told = 0;
        for (host, keys) in &wanted.hosts {
            let mut proofs = keys.iter().filter_map(|key| self.parts.world.challenge(key)).peekable();
            let Some(proof) = proofs.peek().map(|challenge| challenge.proof.clone()) else {
                // It is proven already, or not asked yet.
                continue;
            };
            told += 1;
            let taken = proofs.all(|challenge| {
                let Some(gateway) = world::reference(&challenge.gateway) else {
                    return false;
                };
                let planes = self.planes_of(&gateway);
                answered.all &= planes.all_connected();
                let serve = planes.connected.values().filter(|replica| replica.taken > 0);
                let key = Key::Challenge(challenge.key.clone());
                let mut serve =
                    serve.map(|replica| replica.taken >= planes.epoch && !replica.refused.contains_key(&key));
                let somebody = planes.connected.values().any(|replica| replica.taken > 0);
                somebody && serve.all(|serves| serves) && self.addresses(&gateway).is_ok_and(|found| !found.is_empty())
            });
            if taken {
                answered.proofs.insert(host.clone(), proof);
            }
        }
        answered.waits = told == 0 || answered.proofs.len() < told;
        answered
    }

    fn done(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Status(reference, result) => {
                self.parts.metrics.write("status", result.is_ok());
                match &result {
                    Ok(Written::Now(seen)) => self.parts.world.written((**seen).clone()),
                    Ok(Written::Gone) => {}
                    Err(error) => {
                        tracing::debug!(object = %reference, %error, "a status could not be written; it is tried again")
                    }
                }
                self.statuses.done(&reference, result.is_ok(), now);
            }
            Done::Acme(task, result) => {
                self.parts.metrics.write("certificate", result.is_ok());
                let (said, issuer) = self.acme.done(task, result, now);
                for said in said {
                    self.say(said);
                }
                if let Some(issuer) = issuer {
                    self.statuses.add(issuer, now);
                }
            }
            Done::Roots(namespace, result) => {
                self.parts.metrics.write("roots", result.is_ok());
                self.meshed.done(&namespace, &result, now);
                if let Ok(roots::Report::Put(child)) = result {
                    let mut effects = Effects::default();
                    self.parts.world.put_child(*child, &mut effects);
                    self.meshed.add(effects.namespaces, now);
                }
            }
            Done::Gateway(gateway, made, result) => {
                self.parts.metrics.write("gateway", result.is_ok());
                let mut effects = Effects::default();
                for child in made {
                    self.parts.world.put_child(child, &mut effects);
                }
                self.gateways.done(&gateway, result.is_ok(), now);
                self.look_at(gateway.clone(), now);
                let problem = match result {
                    Ok(()) => None,
                    Err(ApplyError::AddressNotUsable(why)) => Some(("AddressNotUsable", why)),
                    Err(error @ ApplyError::Foreign(..)) => Some(("Invalid", error.to_string())),
                    Err(ApplyError::Api(kube::Error::Api(status))) if status.code == 403 => {
                        Some(("NoResources", status.message.clone()))
                    }
                    Err(error) => {
                        tracing::warn!(%gateway, %error, "what the Gateway needs could not be made; it is tried again");
                        return;
                    }
                };
                match problem {
                    Some((reason, why)) => {
                        tracing::warn!(%gateway, reason, why, "the Gateway cannot have what it needs; it is tried again");
                        self.problems.insert(gateway, (reason, why));
                    }
                    None => {
                        self.problems.remove(&gateway);
                    }
                }
            }
        }
    }

    /// Says by Events what is wrong with objects that have no status.
    fn say_wrong(&self, wrong: Vec<(ObjectRef, Diagnostic)>) {
        let world = &self.parts.world;
        let mut said: BTreeMap<ObjectRef, Vec<Transition>> = BTreeMap::new();
        for (reference, diagnostic) in wrong {
            said.entry(reference).or_default().push(Transition {
                warning: true,
                condition: "Translate".to_owned(),
                reason: format!("{:?}", diagnostic.code),
                message: format!("{}: {} ({})", diagnostic.path, diagnostic.message, diagnostic.remedy),
            });
        }
        let said = said.into_iter().filter_map(|(reference, transitions)| {
            let (seen, resource) = (world.seen(&reference)?, world.resource(reference.kind)?);
            Some((seen.clone(), resource.api_version.clone(), transitions))
        });
        let said: Vec<_> = said.collect();
        if said.is_empty() {
            return;
        }
        let recorder = self.parts.recorder.clone();
        // One after the other: after a change of the Lease there may be many.
        tokio::spawn(async move {
            for (seen, version, transitions) in said {
                events::publish(&recorder, &seen, &version, transitions).await;
            }
        });
    }

    /// Says something by an Event.
    fn say(&self, said: acme::Said) {
        let world = &self.parts.world;
        let (Some(seen), Some(resource)) = (world.seen(&said.owner), world.resource(said.owner.kind)) else {
            return;
        };
        let (seen, version) = (seen.clone(), resource.api_version.clone());
        let recorder = self.parts.recorder.clone();
        let transition = Transition {
            warning: said.warning,
            condition: "OrderCertificate".to_owned(),
            reason: said.reason.to_owned(),
            message: said.message,
        };
        // An Event that is not published is no reason to wait.
        tokio::spawn(async move { events::publish(&recorder, &seen, &version, vec![transition]).await });
    }

    /// What is to be written as the status of an object; none if nothing is.
    fn write_of(&self, reference: &ObjectRef) -> Option<write::Write> {
        let world = &self.parts.world;
        let seen = world.seen(reference)?;
        let current = seen.status();
        let merged = match world.translator.status_of(reference) {
            // Of a route of others nothing is said.
            Some(Status::Route(route)) if route.parents.is_empty() => {
                merge::clear(&current, &self.parts.controller_name)?
            }
            Some(status) => {
                let desired = self.complete(reference, status, seen)?;
                merge::merge(&current, &desired, &self.parts.controller_name, Timestamp::now())?
            }
            None => merge::clear(&current, &self.parts.controller_name)?,
        };
        Some(write::Write {
            resource: world.resource(reference.kind)?.clone(),
            seen: seen.clone(),
            status: merged,
            controller: self.parts.controller_name.clone(),
        })
    }

    /// The status of an object, with what data planes and the cluster have to say to it.
    fn complete(&self, reference: &ObjectRef, status: &Status, seen: &Seen) -> Option<Value> {
        let status = match status {
            Status::Gateway(status) => Status::Gateway(self.gateway_status(reference, status, seen)),
            Status::ListenerSet(status) => {
                let name = (reference.namespace.as_str(), reference.name.as_str());
                let planes = self.planes(&self.gateway_of(reference)?, seen);
                Status::ListenerSet(programmed::listener_set(status.clone(), name, &planes))
            }
            Status::Route(route) => {
                let refused = self.refused.get(reference).map(Vec::as_slice).unwrap_or_default();
                let refused: Vec<(&Key, &str)> = refused.iter().map(|(key, why)| (key, why.as_str())).collect();
                Status::Route(programmed::route(route.clone(), &refused, seen.generation))
            }
            Status::AcmeIssuer(issuer) => {
                let mut issuer = issuer.clone();
                if let Some((reason, why)) = self.acme.blocked(reference) {
                    let ready = issuer.conditions.iter_mut();
                    for ready in ready.filter(|condition| condition.condition_type == "Ready") {
                        ready.status = "False".to_owned();
                        ready.reason = reason.to_owned();
                        ready.message = why.to_owned();
                    }
                }
                Status::AcmeIssuer(issuer)
            }
            other => other.clone(),
        };
        serde_json::to_value(status).ok()
    }

    fn gateway_status(&self, reference: &ObjectRef, status: &GatewayStatus, seen: &Seen) -> GatewayStatus {
        let planes = self.planes(reference, seen);
        let name = (reference.namespace.as_str(), reference.name.as_str());
        programmed::gateway(status.clone(), name, &planes, self.addresses(reference))
    }

    /// What is known of the data planes of a Gateway, for a status of its own or of what adds to it.
    fn planes(&self, gateway: &ObjectRef, seen: &Seen) -> DataPlanes {
        DataPlanes {
            settled: programmed::is_settled(&seen.status(), seen.generation),
            ..self.planes_of(gateway)
        }
    }

    fn planes_of(&self, gateway: &ObjectRef) -> DataPlanes {
        let ready = self.child(gateway, ChildKind::Deployment);
        let ready = ready.and_then(|deployment| deployment.object["status"]["readyReplicas"].as_u64());
        DataPlanes {
            connected: self.connected(&key(gateway), gateway),
            ready: ready.and_then(|ready| usize::try_from(ready).ok()).unwrap_or_default(),
            settled: false,
            epoch: self.parts.world.epoch_of(gateway),
        }
    }

    /// The addresses of a Gateway, or why it cannot have those that it asks for.
    fn addresses(&self, reference: &ObjectRef) -> Result<Vec<AddressStatus>, (&'static str, String)> {
        if let Some(problem) = self.problems.get(reference) {
            return Err(problem.clone());
        }
        let asked = world::gateway(&self.parts.world.translator, reference).map(|gateway| &gateway.spec.addresses);
        let wanted = addresses::wanted(asked.map(Vec::as_slice).unwrap_or_default());
        if let Wanted::Unusable(why) = wanted {
            return Err(("AddressNotUsable", why));
        }
        let service = self.child(reference, ChildKind::Service);
        let mut found = service
            .map(|service| addresses::of_service(&service.object))
            .unwrap_or_default();
        if let Wanted::This(address) = wanted {
            found.retain(|found| found.value == address.to_string());
        }
        Ok(found)
    }

    fn child(&self, gateway: &ObjectRef, kind: ChildKind) -> Option<&Child> {
        let key = (kind, gateway.namespace.clone(), names::child(&gateway.name));
        self.parts.world.children.get(&key)
    }

    /// What is to be done for a Gateway; none if nothing is.
    fn steps_of(&self, reference: &ObjectRef) -> Option<Vec<Step>> {
        let world = &self.parts.world;
        let own = |child: &Child| {
            child.namespace == reference.namespace && child.gateway.as_deref() == Some(reference.name.as_str())
        };
        let nothing: BTreeMap<ChildKind, Value> = BTreeMap::new();
        let status = world.translator.status_of(reference);
        let (Some(gateway), Some(Status::Gateway(status))) = (world::gateway(&world.translator, reference), status)
        else {
            // It is gone, or another's.
            let steps = apply::plan(&nothing, &world.children, own);
            return (!steps.is_empty()).then_some(steps);
        };
        let accepted = status
            .conditions
            .iter()
            .any(|condition| condition.condition_type == "Accepted" && condition.status == "True");
        let roots = self.parts.roots.borrow().clone();
        if !accepted || roots.is_empty() || gateway.metadata.deletion_timestamp.is_some() {
            // What was made for it before stays, without listeners, so that a slip costs no address.
            return None;
        }
        let mut ports = world.ports(reference);
        ports.extend(
            gateway
                .spec
                .listeners
                .iter()
                .filter(|listener| listener.port > 0)
                .filter_map(|listener| Some((listener.port, Transport::named(&listener.protocol)?))),
        );
        let ports: Vec<_> = ports.into_iter().collect();
        let wanted = addresses::wanted(&gateway.spec.addresses);
        let parameters = self.parameters(gateway);
        let mut rendered = render(&Input {
            gateway,
            parameters: &parameters,
            ports: &ports,
            address: match wanted {
                Wanted::This(address) => Some(address),
                _ => None,
            },
            roots: &roots,
            settings: &self.parts.settings,
        });
        let unusable = matches!(wanted, Wanted::Unusable(_));
        if unusable {
            // The Service that is there stays as it is.
            rendered.remove(&ChildKind::Service);
        }
        let keep_service = unusable || ports.is_empty();
        let steps = apply::plan(&rendered, &world.children, |child| {
            own(child) && !(keep_service && child.kind == ChildKind::Service)
        });
        (!steps.is_empty()).then_some(steps)
    }

    /// The parameters of a Gateway over those of its class. The translation has seen to it that they are there.
    fn parameters(&self, gateway: &weft_crds::Gateway) -> weft_crds::GatewayParametersSpec {
        let translator = &self.parts.world.translator;
        let find = |namespace: &str, name: &str| match translator.get(&ObjectRef::new(
            Kind::GatewayParameters,
            namespace,
            name,
        )) {
            Some(Object::GatewayParameters(parameters)) => Some(parameters.spec.clone()),
            _ => None,
        };
        let class = ObjectRef::new(Kind::GatewayClass, "", &gateway.spec.gateway_class_name);
        let class = match translator.get(&class) {
            Some(Object::GatewayClass(class)) => class.spec.parameters_ref.as_ref(),
            _ => None,
        };
        let class = class
            .and_then(|reference| find(reference.namespace.as_deref()?, &reference.name))
            .unwrap_or_default();
        let infrastructure = gateway.spec.infrastructure.as_ref();
        let own = infrastructure.and_then(|infrastructure| infrastructure.parameters_ref.as_ref());
        match own.and_then(|own| find(gateway.metadata.namespace(), &own.name)) {
            Some(own) => own.over(&class),
            None => class,
        }
    }
}

fn key(gateway: &ObjectRef) -> GatewayKey {
    GatewayKey::from(format!("{}/{}", gateway.namespace, gateway.name))
}

/// Does steps one after the other; returns what was made, and the first failure.
async fn make(client: &Client, steps: Vec<Step>) -> (Vec<Child>, Result<(), ApplyError>) {
    let mut made = Vec::new();
    let deletes_service = steps
        .iter()
        .any(|step| matches!(step, Step::Delete { child } if child.kind == ChildKind::Service));
    let service = steps.iter().find_map(|step| match step {
        Step::Apply {
            kind: ChildKind::Service,
            object,
            ..
        } => Some(object),
        _ => None,
    });
    // A Service is not given up for an address that cannot be had.
    if deletes_service
        && let Some(service) = service
        && let Err(error) = apply::could_have_address(client, service).await
    {
        return (made, Err(error));
    }
    let mut result = Ok(());
    for step in &steps {
        match apply::run(client, step).await {
            Ok(child) => made.extend(child),
            // What does not depend on it is made all the same.
            Err(error) => {
                if result.is_ok() {
                    result = Err(error);
                }
            }
        }
    }
    (made, result)
}

/// What data planes refuse of each route.
fn refused_of_routes(
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

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
