//! The one task that knows the cluster: it takes what watches and data planes tell, lets it be translated and published
//! at once, and has written what is to be written, which only the holder of the Lease does.

mod gateways;
mod planes;
mod said;
mod statuses;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use kube::{Client, runtime::events::Recorder};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use weft_crds::{Kind, Object, ObjectRef};
use weft_discovery::{Epoch, Replicas};
use weft_model::{GatewayKey, Key};
use weft_translate::acme::WantedCertificate;

use self::gateways::make;
use crate::{
    acme::{self, Acme, AcmeError, Answered},
    children::Child,
    infrastructure::{apply::ApplyError, input::Settings},
    injection::roots::{self, Roots},
    lease::{Claim, is_held},
    metrics::Metrics,
    peers::Report,
    queue::{Queue, until},
    status::write::Written,
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
    /// Policies of which it was said that not all data planes of these Gateways have taken them.
    waiting: BTreeMap<ObjectRef, BTreeSet<ObjectRef>>,
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
    /// What data planes refuse of routes and policies, in their words.
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
            waiting: BTreeMap::new(),
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
                () = until(due.map(Into::into)) => {}
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

    /// Has a status looked at, and with that of a Gateway those of the ListenerSets that add to it, and of policies that wait for
    /// it: what is known of its pods is said in all of them.
    fn look_at(&mut self, reference: ObjectRef, now: Instant) {
        if reference.kind == Kind::Gateway {
            for set in self.sets_of(&reference) {
                self.hold(set, now);
            }
            let waiting = self
                .waiting
                .iter()
                .filter(|(_, gateways)| gateways.contains(&reference));
            let waiting: Vec<ObjectRef> = waiting.map(|(policy, _)| policy.clone()).collect();
            for policy in waiting {
                self.statuses.add(policy, now);
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
        self.waiting.clear();
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
            let waits_for = self.waits_for(&reference);
            if waits_for.is_empty() {
                self.waiting.remove(&reference);
            } else {
                self.waiting.insert(reference.clone(), waits_for);
            }
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
                // Before one is ready, nobody is led to any.
                answered.all &= planes.ready > 0 && planes.all_connected();
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
}

fn key(gateway: &ObjectRef) -> GatewayKey {
    GatewayKey::from(format!("{}/{}", gateway.namespace, gateway.name))
}
