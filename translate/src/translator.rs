//! What is derived from what, and what to derive again after an edit.

mod gateways;
mod graph;
mod node;
mod outcome;
mod policies;
mod routes;
mod services;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use weft_crds::{Kind, Object, ObjectRef};
use weft_model::{CertificateKey, Change, Key, ListenerKey, Resource, ServiceKey, WorkloadKey};

use self::{
    graph::Graph,
    node::Node,
    outcome::{Outcome, Run},
};
use crate::{
    acme,
    claim::Claims,
    diagnostic::Diagnostic,
    owner::Listeners,
    route::RouteResult,
    service::ServiceResult,
    status::Status,
    world::{Dependency, Reader, World},
};

/// How to translate.
#[derive(Clone, Debug)]
pub struct Options {
    /// The controller that our GatewayClasses name, and that our statuses are written under.
    pub controller_name: String,
    /// There is one process for everything: Gateways of every class are ours, and those on one port share it.
    pub standalone: bool,
    /// There may be sidecars, to which routes of Services are told.
    pub mesh: bool,
}

/// A change of the world.
#[derive(Clone, Debug)]
pub enum Edit {
    /// The object is new or has changed.
    Put(Object),
    /// The object is gone.
    Delete(ObjectRef),
}

/// What follows from edits.
#[derive(Debug, Default)]
pub struct Output {
    /// For the data plane, in the order in which they are to be applied.
    pub changes: Vec<Change>,
    /// The statuses that have changed.
    pub statuses: Vec<(ObjectRef, Arc<Status>)>,
    /// The objects that had a status of ours and have none any more, whether they are gone or only no longer ours.
    pub cleared: Vec<ObjectRef>,
    /// The whole list of each object whose list has changed; empty when nothing is wrong any more.
    pub diagnostics: Vec<(ObjectRef, Arc<[Diagnostic]>)>,
    /// Whether other certificates than before are to be had by ACME.
    pub acme: bool,
    /// How many derivations were made: what the edits cost.
    pub derived: usize,
}

/// Translates, and remembers what was read for what.
pub struct Translator {
    options: Options,
    world: World,
    graph: Graph,
    owners: BTreeMap<ObjectRef, Arc<Listeners>>,
    /// The ListenerSets that are attached to a Gateway.
    sets: HashMap<ObjectRef, BTreeSet<ObjectRef>>,
    /// In boxes: a table has room for more entries than it has.
    routes: HashMap<ObjectRef, Box<RouteResult>>,
    services: BTreeMap<ServiceKey, ServiceResult>,
    /// How many routes use a service.
    used: HashMap<ServiceKey, usize>,
    /// How many routes are attached to a listener.
    attached: HashMap<ListenerKey, usize>,
    /// What matches of routes claim.
    claims: Claims,
    /// The services a workload answers for.
    serving: HashMap<WorkloadKey, BTreeSet<ServiceKey>>,
    /// The Gateways through which requests come to a Service, each with the number of routes.
    ancestors: HashMap<ObjectRef, BTreeMap<ObjectRef, usize>>,
    outcome: Outcome,
}

impl Translator {
    /// Of an empty world.
    pub fn new(options: Options) -> Self {
        Self {
            world: World::new(options.standalone),
            options,
            graph: Graph::default(),
            owners: BTreeMap::new(),
            sets: HashMap::new(),
            routes: HashMap::new(),
            services: BTreeMap::new(),
            used: HashMap::new(),
            attached: HashMap::new(),
            claims: Claims::default(),
            serving: HashMap::new(),
            ancestors: HashMap::new(),
            outcome: Outcome::default(),
        }
    }

    /// Takes edits over, all at once.
    pub fn apply(&mut self, edits: Vec<Edit>) -> Output {
        let mut run = Run::default();
        for edit in edits {
            let (reference, object) = match edit {
                Edit::Put(object) => (object.reference(), Some(object)),
                Edit::Delete(reference) => (reference, None),
            };
            run.dirty.extend(Node::of(&reference));
            for dependency in self.world.replace(&reference, object) {
                self.touch(&mut run, &dependency);
            }
        }
        while let Some(node) = run.dirty.pop_first() {
            run.derived += 1;
            self.derive(&mut run, node);
        }
        self.outcome.output(run)
    }

    /// Everything the data plane has been told, in the order of [`Key`].
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.outcome.resources.values()
    }

    /// How much the data plane has been told.
    pub fn size(&self) -> usize {
        self.outcome.resources.len()
    }

    /// An object that was put.
    pub fn get(&self, reference: &ObjectRef) -> Option<&Object> {
        self.world.get(reference)
    }

    /// A resource that data planes have been told.
    pub fn resource(&self, key: &Key) -> Option<&Resource> {
        self.outcome.resources.get(key)
    }

    /// The certificates that are to be had by ACME.
    pub fn wanted(&self) -> BTreeMap<CertificateKey, acme::WantedCertificate> {
        let owners = self.owners.iter();
        acme::wanted(owners.flat_map(|(owner, listeners)| listeners.acme().map(move |part| (owner, part))))
    }

    /// An AcmeIssuer with what it refers to.
    ///
    /// # Errors
    /// It is not there or cannot be used, and why.
    pub fn issuer(&self, reference: &ObjectRef) -> Result<acme::Issuer, String> {
        acme::resolve(&Reader::new(&self.options, &self.world, &self.owners), reference)
    }

    /// The objects of a kind that were put.
    pub fn references(&self, kind: Kind) -> impl Iterator<Item = &ObjectRef> {
        self.world.references().filter(move |reference| reference.kind == kind)
    }

    /// The status of one object.
    pub fn status_of(&self, reference: &ObjectRef) -> Option<&Status> {
        self.outcome.statuses.get(reference).map(AsRef::as_ref)
    }

    /// Every status.
    pub fn statuses(&self) -> impl Iterator<Item = (&ObjectRef, &Status)> {
        self.outcome
            .statuses
            .iter()
            .map(|(reference, status)| (reference, status.as_ref()))
    }

    /// Everything that is wrong.
    pub fn diagnostics(&self) -> impl Iterator<Item = (&ObjectRef, &Diagnostic)> {
        self.outcome
            .diagnostics
            .iter()
            .flat_map(|(reference, list)| list.iter().map(move |diagnostic| (reference, diagnostic)))
    }

    /// What is wrong with one object.
    pub fn diagnostics_of(&self, reference: &ObjectRef) -> &[Diagnostic] {
        self.outcome
            .diagnostics
            .get(reference)
            .map(AsRef::as_ref)
            .unwrap_or_default()
    }

    fn touch(&self, run: &mut Run, dependency: &Dependency) {
        run.dirty.extend(self.graph.readers(dependency).cloned());
    }

    /// Derives through a recorder, and remembers what was read.
    fn read<T>(&mut self, node: &Node, derive: impl FnOnce(&Reader<'_>) -> T) -> T {
        let reader = Reader::new(&self.options, &self.world, &self.owners);
        let result = derive(&reader);
        let mut read = reader.into_read();
        // What is put again is derived anyway: of itself nothing needs to be remembered, and nothing at all if it is gone.
        if let Some(reference) = node.object() {
            read.remove(&Dependency::Object(reference.clone()));
            if self.world.get(reference).is_none() {
                read.clear();
            }
        }
        self.graph.record(node, read);
        result
    }

    fn derive(&mut self, run: &mut Run, node: Node) {
        match &node {
            Node::Class(reference) => self.class(run, &node, reference),
            Node::Listeners(reference) => self.listeners(run, &node, reference),
            Node::Route(reference) => self.route(run, &node, reference),
            Node::Service(key) => self.service(run, &node, key),
            Node::Workload(key) => self.workload(run, key),
            Node::OwnerStatus(reference) => self.owner_status(run, reference),
            Node::Diagnosis(reference) => self.diagnose(run, reference),
            Node::Policy(reference) => self.policy(run, &node, reference),
            Node::Backend(reference) => self.backend(run, &node, reference),
            Node::Issuer(reference) => self.issuer_status(run, &node, reference),
            Node::Smi(reference) => self.smi(run, &node, reference),
        }
    }
}
