//! Certificates of listeners by ACME (RFC 8555): which are to be looked at and when. The rest is [`order`]'s.
//!
//! Accounts, orders and what data planes are to answer to CAs are in Secrets, which every replica of the operator reads; the
//! holder of the Lease alone writes them and speaks to CAs.

mod account;
mod error;
mod http;
mod order;
mod patience;
mod renewal;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use tokio::sync::watch;
use weft_crds::{Kind, ObjectRef};
use weft_model::CertificateKey;
use weft_translate::{
    Translator,
    acme::{WantedCertificate, account_secret, order_secret},
};

use self::store::Store;
pub(crate) use self::{
    error::AcmeError,
    order::{Answered, Job},
};
use crate::{lease::Claim, queue::Queue, world::Effects};

/// How many are worked on at a time.
const TASKS: usize = 4;
/// How often is looked whether data planes have taken what they are to answer, beside when they say so.
const LOOK: Duration = Duration::from_secs(1);
/// When is looked again whether there is an account, should nobody say so.
const LATER: Duration = Duration::from_secs(60);

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Task {
    /// The account of an issuer.
    Account(ObjectRef),
    /// A certificate.
    Certificate(CertificateKey),
}

/// What came of a look.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// When to look again; never, if nothing happens.
    again: Option<Timestamp>,
    /// It waits for data planes.
    told: bool,
    /// What is to be said by Events.
    pub(crate) said: Vec<Said>,
}

/// Something worth an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) owner: ObjectRef,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Report {
    fn at(again: Timestamp) -> Self {
        Self {
            again: Some(again),
            ..Self::default()
        }
    }

    fn done() -> Self {
        Self::default()
    }
}

/// What there is to do.
pub(crate) struct Acme {
    queue: Queue<Task>,
    wanted: BTreeMap<CertificateKey, WantedCertificate>,
    /// Which task a Secret is of, by `namespace/name`.
    secrets: BTreeMap<String, BTreeSet<Task>>,
    /// Certificates that wait for data planes, and since when.
    told: BTreeMap<CertificateKey, Instant>,
    /// What cannot go on and be written down at its place: the issuer it is of, a reason, and the whole story.
    blocked: BTreeMap<Task, (ObjectRef, &'static str, String)>,
}

impl Acme {
    pub(crate) fn new() -> Self {
        Self {
            queue: Queue::new(TASKS),
            wanted: BTreeMap::new(),
            secrets: BTreeMap::new(),
            told: BTreeMap::new(),
            blocked: BTreeMap::new(),
        }
    }

    /// Begins anew, for the Lease has come to be ours.
    pub(crate) fn begin(&mut self, translator: &Translator, now: Instant) {
        *self = Self::new();
        for issuer in translator.references(Kind::AcmeIssuer) {
            self.queue.add(Task::Account(issuer.clone()), now);
        }
        self.look(translator, now);
    }

    /// Takes over what has changed.
    pub(crate) fn heed(&mut self, effects: &Effects, translator: &Translator, now: Instant) {
        if effects.acme {
            self.look(translator, now);
        }
        for secret in &effects.secrets {
            for task in self.secrets.get(secret).into_iter().flatten() {
                self.queue.add(task.clone(), now);
            }
        }
        for issuer in effects
            .statuses
            .iter()
            .filter(|reference| reference.kind == Kind::AcmeIssuer)
        {
            self.queue.add(Task::Account(issuer.clone()), now);
            for (key, wanted) in &self.wanted {
                if wanted.issuer == *issuer {
                    self.queue.add(Task::Certificate(key.clone()), now);
                }
            }
        }
    }

    /// Finds out which certificates are wanted.
    fn look(&mut self, translator: &Translator, now: Instant) {
        let before = std::mem::replace(&mut self.wanted, translator.wanted());
        self.told.retain(|key, _| self.wanted.contains_key(key));
        self.blocked.retain(|task, (issuer, ..)| match task {
            Task::Certificate(key) => self.wanted.contains_key(key),
            Task::Account(_) => translator.get(issuer).is_some(),
        });
        self.secrets.clear();
        for (key, wanted) in &self.wanted {
            if before.get(key) != Some(wanted) {
                self.queue.add(Task::Certificate(key.clone()), now);
            }
            let Some((namespace, name)) = key.as_str().split_once('/') else {
                continue;
            };
            let task = Task::Certificate(key.clone());
            for secret in [name.to_owned(), order_secret(name), account_secret(&wanted.issuer.name)] {
                let of = self.secrets.entry(format!("{namespace}/{secret}")).or_default();
                of.insert(task.clone());
            }
        }
        for issuer in translator.references(Kind::AcmeIssuer) {
            let secret = format!("{}/{}", issuer.namespace, account_secret(&issuer.name));
            self.secrets
                .entry(secret)
                .or_default()
                .insert(Task::Account(issuer.clone()));
        }
    }

    /// Data planes have said something.
    pub(crate) fn heard(&mut self, now: Instant) {
        for key in self.told.keys() {
            self.queue.add(Task::Certificate(key.clone()), now);
        }
    }

    /// When the next is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.next()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// What is due. There is [`Acme::work`] for it, and it must be [`Acme::done`] later, or there is none.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Task> {
        self.queue.take(now)
    }

    /// The certificate that a task is about.
    pub(crate) fn wanted(&self, task: &Task) -> Option<&WantedCertificate> {
        match task {
            Task::Certificate(key) => self.wanted.get(key),
            Task::Account(_) => None,
        }
    }

    /// What is to be done for a task, given what data planes would answer; none if nothing is now.
    pub(crate) fn work(
        &mut self,
        task: &Task,
        translator: &Translator,
        answered: Answered,
        now: Instant,
    ) -> Option<Work> {
        if self.waits(task, &answered, now) {
            self.queue.done(task, true, now);
            self.queue.add(task.clone(), now + LOOK);
            return None;
        }
        let work = match task {
            Task::Account(reference) => account_of(reference, translator),
            Task::Certificate(key) => self.job(key, translator, answered),
        };
        if work.is_none() {
            self.queue.done(task, true, now);
        }
        work
    }

    /// Whether a certificate has to wait for data planes still: neither the CA nor the API server is asked meanwhile.
    fn waits(&self, task: &Task, answered: &Answered, now: Instant) -> bool {
        let Task::Certificate(key) = task else { return false };
        let told = self.told.get(key);
        told.is_some_and(|told| !answered.is_enough(now.duration_since(*told)))
    }

    fn job(&self, key: &CertificateKey, translator: &Translator, answered: Answered) -> Option<Work> {
        let wanted = self.wanted.get(key)?;
        let (namespace, name) = key.as_str().split_once('/')?;
        let issuer = translator.issuer(&wanted.issuer).ok()?;
        let owner = wanted.owners.first();
        Some(Work::Certificate(Box::new(Job {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            wanted: wanted.clone(),
            issuer,
            answered,
            owner: owner.and_then(|owner| owner_reference(translator, owner)),
        })))
    }

    /// Takes over what came of a task. Returns what is to be said, and an issuer that stands otherwise than before.
    pub(crate) fn done(
        &mut self,
        task: Task,
        result: Result<Report, AcmeError>,
        now: Instant,
    ) -> (Vec<Said>, Option<ObjectRef>) {
        let told = match &task {
            Task::Certificate(key) => self.told.remove(key),
            Task::Account(_) => None,
        };
        let before = self.blocked.remove(&task);
        let reason = match &result {
            Err(AcmeError::Forbidden(_)) => Some("Forbidden"),
            Err(AcmeError::Foreign(_)) => Some("SecretNotOurs"),
            _ => None,
        };
        let issuer = match &task {
            Task::Account(issuer) => Some(issuer.clone()),
            Task::Certificate(key) => self.wanted.get(key).map(|wanted| wanted.issuer.clone()),
        };
        let mut said = Vec::new();
        let again = match result {
            Ok(report) => {
                said = report.said;
                if let (true, Task::Certificate(key)) = (report.told, &task) {
                    self.told.insert(key.clone(), told.unwrap_or(now));
                }
                report.again.map(|again| {
                    let wait = again.duration_since(Timestamp::now());
                    now + Duration::try_from(wait).unwrap_or_default()
                })
            }
            // The Secret of the account will say that there is one.
            Err(AcmeError::NoAccount) => Some(now + LATER),
            Err(error) => {
                if let (Some(reason), Some(issuer)) = (reason, issuer) {
                    let why = error.to_string();
                    if before.is_none() {
                        tracing::warn!(?task, why, "certificates cannot be ordered");
                    }
                    self.blocked.insert(task.clone(), (issuer, reason, why));
                } else {
                    tracing::debug!(?task, %error, "it is tried again");
                }
                self.queue.done(&task, false, now);
                return (said, self.changed(&task, before));
            }
        };
        self.queue.done(&task, true, now);
        if let Some(again) = again {
            self.queue.add(task.clone(), again);
        }
        (said, self.changed(&task, before))
    }

    /// The issuer of a task, if that stands otherwise than before.
    fn changed(&self, task: &Task, before: Option<(ObjectRef, &'static str, String)>) -> Option<ObjectRef> {
        let after = self.blocked.get(task);
        (after != before.as_ref()).then(|| after.or(before.as_ref()).map(|(issuer, ..)| issuer.clone()))?
    }

    /// Why something of an issuer cannot go on: a reason, and the whole story.
    pub(crate) fn blocked(&self, issuer: &ObjectRef) -> Option<(&'static str, &str)> {
        let mut blocked = self.blocked.values().filter(|(of, ..)| of == issuer);
        blocked.next().map(|(_, reason, why)| (*reason, why.as_str()))
    }
}

/// What is to be done for a task.
pub(crate) enum Work {
    Account(ObjectRef, Box<weft_translate::acme::Issuer>),
    Certificate(Box<Job>),
}

impl Work {
    /// Does it.
    pub(crate) async fn run(self, client: Client, claim: watch::Receiver<Claim>) -> Result<Report, AcmeError> {
        let now = Timestamp::now();
        match self {
            Self::Account(reference, issuer) => {
                let store = Store::new(client, &reference.namespace, claim);
                account::ensure(&store, &reference, &issuer, now).await
            }
            Self::Certificate(job) => {
                let store = Store::new(client, &job.namespace, claim);
                order::step(&store, &job, now).await
            }
        }
    }
}

fn account_of(reference: &ObjectRef, translator: &Translator) -> Option<Work> {
    let issuer = translator.issuer(reference).ok()?;
    Some(Work::Account(reference.clone(), Box::new(issuer)))
}

fn owner_reference(translator: &Translator, owner: &ObjectRef) -> Option<OwnerReference> {
    let metadata = translator.get(owner)?.metadata();
    Some(OwnerReference {
        api_version: owner.kind.versions().into_iter().next()?,
        kind: owner.kind.name().to_owned(),
        name: owner.name.clone(),
        uid: metadata.uid.clone()?,
        controller: None,
        block_owner_deletion: None,
    })
}
