//! What is derived from what, and what to derive again after an edit.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use weft_crds::{GatewayClassStatus, Kind, Object, ObjectRef};
use weft_model::{CertificateKey, Change, Key, ListenerKey, PolicyKey, Resource, ServiceKey, Workload, WorkloadKey};

use crate::{
    acme,
    alike::Alike,
    authorization, backend_tls,
    claim::Claims,
    diagnostic::{Code, Diagnostic},
    features, mesh,
    owner::{self, Listeners, Owner},
    parameters,
    route::{self, Attachment, RouteResult},
    service::{self, ServiceResult},
    smi,
    status::{Status, condition},
    traffic_policy,
    world::{Dependency, Reader, World},
    xbackend,
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

/// Something to derive. The order is that of the stages: what comes later reads what came before.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Node {
    /// How a GatewayClass or an XMesh stands.
    Class(ObjectRef),
    /// The listeners of a Gateway or a ListenerSet.
    Listeners(ObjectRef),
    /// The rules of a route or of a TrafficSplit.
    Route(ObjectRef),
    Service(ServiceKey),
    Workload(WorkloadKey),
    /// How a Gateway or a ListenerSet stands, which depends on what is attached to it.
    OwnerStatus(ObjectRef),
    /// What is wrong with a route, which depends on services and on other routes.
    Diagnosis(ObjectRef),
    /// How a policy stands, which depends on the routes that lead to its targets.
    Policy(ObjectRef),
    /// How an XBackend stands, which depends on the routes that lead to it.
    Backend(ObjectRef),
    /// How an AcmeIssuer stands.
    Issuer(ObjectRef),
    /// What else SMI says, by its objects and by namespaces.
    Smi(ObjectRef),
}

/// Translates, and remembers what was read for what.
pub struct Translator {
    options: Options,
    world: World,
    readers: HashMap<Dependency, HashSet<Node>>,
    reads: HashMap<Node, Box<[Dependency]>>,
    owners: BTreeMap<ObjectRef, Arc<Listeners>>,
    /// The ListenerSets that are attached to a Gateway.
    sets: HashMap<ObjectRef, BTreeSet<ObjectRef>>,
    routes: HashMap<ObjectRef, RouteResult>,
    services: BTreeMap<ServiceKey, ServiceResult>,
    /// How many routes use a service.
    used: HashMap<ServiceKey, usize>,
    /// How many routes are attached to a listener.
    attached: HashMap<ListenerKey, usize>,
    /// What matches of routes claim.
    claims: Claims,
    /// The services a workload answers for.
    serving: HashMap<WorkloadKey, BTreeSet<ServiceKey>>,
    resources: BTreeMap<Key, Resource>,
    /// How many owners of listeners, and services, need a certificate or a trust bundle, and how many routes a frontend.
    shared: HashMap<Key, usize>,
    /// The Gateways through which requests come to a Service, each with the number of routes.
    ancestors: HashMap<ObjectRef, BTreeMap<ObjectRef, usize>>,
    statuses: BTreeMap<ObjectRef, Arc<Status>>,
    diagnostics: BTreeMap<ObjectRef, Arc<[Diagnostic]>>,
    /// What of statuses and diagnostics is the same for many.
    alike: (Alike<Status>, Alike<[Diagnostic]>),
}

/// What one run gathers.
#[derive(Default)]
struct Run {
    dirty: BTreeSet<Node>,
    /// Resources as they were before the run.
    before: BTreeMap<Key, Option<Resource>>,
    statuses: BTreeSet<ObjectRef>,
    diagnostics: BTreeSet<ObjectRef>,
    acme: bool,
    derived: usize,
}

impl Translator {
    /// Of an empty world.
    pub fn new(options: Options) -> Self {
        Self {
            world: World::new(options.standalone),
            options,
            readers: HashMap::new(),
            reads: HashMap::new(),
            owners: BTreeMap::new(),
            sets: HashMap::new(),
            routes: HashMap::new(),
            services: BTreeMap::new(),
            used: HashMap::new(),
            attached: HashMap::new(),
            claims: Claims::default(),
            serving: HashMap::new(),
            resources: BTreeMap::new(),
            shared: HashMap::new(),
            ancestors: HashMap::new(),
            statuses: BTreeMap::new(),
            diagnostics: BTreeMap::new(),
            alike: Default::default(),
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
            match reference.kind {
                Kind::GatewayClass | Kind::XMesh => {
                    run.dirty.insert(Node::Class(reference.clone()));
                }
                Kind::Gateway | Kind::ListenerSet => {
                    run.dirty.insert(Node::Listeners(reference.clone()));
                }
                Kind::BackendTlsPolicy | Kind::XBackendTrafficPolicy | Kind::AuthorizationPolicy => {
                    run.dirty.insert(Node::Policy(reference.clone()));
                }
                Kind::XBackend => {
                    run.dirty.insert(Node::Backend(reference.clone()));
                }
                Kind::AcmeIssuer => {
                    run.dirty.insert(Node::Issuer(reference.clone()));
                }
                Kind::HttpRoute
                | Kind::GrpcRoute
                | Kind::TlsRoute
                | Kind::TcpRoute
                | Kind::UdpRoute
                | Kind::TrafficSplit => {
                    run.dirty.insert(Node::Route(reference.clone()));
                }
                Kind::TrafficTarget | Kind::IdentityBinding | Kind::HttpRouteGroup | Kind::Namespace => {
                    run.dirty.insert(Node::Smi(reference.clone()));
                }
                _ => {}
            }
            for dependency in self.world.replace(&reference, object) {
                self.touch(&mut run, &dependency);
            }
        }
        while let Some(node) = run.dirty.pop_first() {
            run.derived += 1;
            self.derive(&mut run, node);
        }
        self.output(run)
    }

    /// Everything the data plane has been told, in the order of [`Key`].
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values()
    }

    /// How much the data plane has been told.
    pub fn size(&self) -> usize {
        self.resources.len()
    }

    /// An object that was put.
    pub fn get(&self, reference: &ObjectRef) -> Option<&Object> {
        self.world.get(reference)
    }

    /// A resource that data planes have been told.
    pub fn resource(&self, key: &Key) -> Option<&Resource> {
        self.resources.get(key)
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
        self.statuses.get(reference).map(AsRef::as_ref)
    }

    /// Every status.
    pub fn statuses(&self) -> impl Iterator<Item = (&ObjectRef, &Status)> {
        self.statuses
            .iter()
            .map(|(reference, status)| (reference, status.as_ref()))
    }

    /// Everything that is wrong.
    pub fn diagnostics(&self) -> impl Iterator<Item = (&ObjectRef, &Diagnostic)> {
        self.diagnostics
            .iter()
            .flat_map(|(reference, list)| list.iter().map(move |diagnostic| (reference, diagnostic)))
    }

    /// What is wrong with one object.
    pub fn diagnostics_of(&self, reference: &ObjectRef) -> &[Diagnostic] {
        self.diagnostics.get(reference).map(AsRef::as_ref).unwrap_or_default()
    }

    fn touch(&self, run: &mut Run, dependency: &Dependency) {
        if let Some(nodes) = self.readers.get(dependency) {
            run.dirty.extend(nodes.iter().cloned());
        }
    }

    /// Derives through a recorder, and remembers what was read.
    fn read<T>(&mut self, node: &Node, derive: impl FnOnce(&Reader<'_>) -> T) -> T {
        let reader = Reader::new(&self.options, &self.world, &self.owners);
        let result = derive(&reader);
        let mut read = reader.into_read();
        // What is put again is derived anyway: of itself nothing needs to be remembered, and nothing at all if it is gone.
        if let Node::Class(reference)
        | Node::Listeners(reference)
        | Node::Route(reference)
        | Node::Policy(reference)
        | Node::Backend(reference)
        | Node::Issuer(reference)
        | Node::Smi(reference) = node
        {
            read.remove(&Dependency::Object(reference.clone()));
            if self.world.get(reference).is_none() {
                read.clear();
            }
        }
        let before = self.reads.remove(node).unwrap_or_default();
        for gone in before.iter().filter(|dependency| !read.contains(dependency)) {
            if let Some(nodes) = self.readers.get_mut(gone) {
                nodes.remove(node);
                if nodes.is_empty() {
                    self.readers.remove(gone);
                }
            }
        }
        let read: Box<[Dependency]> = read
            .into_iter()
            .map(|dependency| {
                // All who read the same share one name of it.
                let shared = self.readers.get_key_value(&dependency);
                let dependency = shared.map_or(dependency, |(known, _)| known.clone());
                let readers = self.readers.entry(dependency.clone()).or_default();
                readers.insert(node.clone());
                dependency
            })
            .collect();
        if !read.is_empty() {
            self.reads.insert(node.clone(), read);
        }
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

    fn class(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let status = self.read(node, |reader| {
            if reference.kind == Kind::XMesh {
                return mesh::stand(reader, &reference.name).map(Status::XMesh);
            }
            let class = reader.gateway_class("", &reference.name)?;
            (class.spec.controller_name == reader.options.controller_name).then(|| {
                let generation = class.metadata.generation();
                let reference = class.spec.parameters_ref.as_ref();
                let accepted = match reference.and_then(|reference| parameters::problem(reader, reference, None)) {
                    None => condition("Accepted", true, "Accepted", "The class is served", generation),
                    Some(message) => condition("Accepted", false, "InvalidParameters", message, generation),
                };
                Status::GatewayClass(GatewayClassStatus {
                    conditions: vec![accepted],
                    supported_features: features::of_gateways(),
                })
            })
        });
        self.set_status(run, reference, status);
    }

    fn listeners(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let derived = self.read(node, |reader| owner::derive(reader, reference));
        let listeners = derived.listeners.map(Arc::new);
        self.set_diagnostics(run, reference, derived.diagnostics);
        let before = match &listeners {
            Some(listeners) => self.owners.insert(reference.clone(), listeners.clone()),
            None => self.owners.remove(reference),
        };
        run.dirty.insert(Node::OwnerStatus(reference.clone()));
        if before == listeners {
            return;
        }
        let parts = |listeners: &Option<Arc<Listeners>>| -> Vec<acme::Part> {
            let listeners = listeners.iter().flat_map(|listeners| listeners.acme());
            listeners.cloned().collect()
        };
        run.acme |= parts(&before) != parts(&listeners);
        if reference.kind == Kind::ListenerSet {
            self.attach_set(run, reference, before.as_deref(), listeners.as_deref());
        }
        let resources = |listeners: &Listeners| -> BTreeMap<Key, Resource> {
            let served = listeners
                .listeners
                .iter()
                .filter_map(|listener| listener.model.clone())
                .map(Resource::Listener);
            served.map(|resource| (resource.key(), resource)).collect()
        };
        let (old, new) = (before.as_deref().map(&resources), listeners.as_deref().map(&resources));
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        for key in old.keys().filter(|key| !new.contains_key(key)) {
            self.set_resource(run, key.clone(), None);
        }
        for (key, resource) in new {
            self.set_resource(run, key, Some(resource));
        }
        let needed = |listeners: &Option<Arc<Listeners>>| -> Vec<Resource> {
            let listeners = listeners.iter();
            listeners.flat_map(|listeners| listeners.resources.clone()).collect()
        };
        self.share(run, &needed(&before), needed(&listeners));
        self.touch(run, &Dependency::Listeners(reference.clone()));
    }

    /// Counts a ListenerSet for its Gateway, if it is accepted.
    fn attach_set(
        &mut self,
        run: &mut Run,
        reference: &ObjectRef,
        before: Option<&Listeners>,
        after: Option<&Listeners>,
    ) {
        let gateway = |listeners: Option<&Listeners>| {
            let accepted = listeners.filter(|listeners| listeners.is_accepted_set());
            accepted.map(|listeners| listeners.gateway.clone())
        };
        let (before, after) = (gateway(before), gateway(after));
        if before == after {
            return;
        }
        if let Some(gateway) = before
            && let Some(sets) = self.sets.get_mut(&gateway)
        {
            sets.remove(reference);
            if sets.is_empty() {
                self.sets.remove(&gateway);
            }
            run.dirty.insert(Node::OwnerStatus(gateway));
        }
        if let Some(gateway) = after {
            self.sets.entry(gateway.clone()).or_default().insert(reference.clone());
            run.dirty.insert(Node::OwnerStatus(gateway));
        }
    }

    /// Keeps resources that several need for as long as one does.
    fn share(&mut self, run: &mut Run, before: &[Resource], after: Vec<Resource>) {
        for resource in after {
            *self.shared.entry(resource.key()).or_default() += 1;
            self.set_resource(run, resource.key(), Some(resource));
        }
        for key in before.iter().map(Resource::key) {
            let uses = self.shared.entry(key.clone()).or_default();
            *uses -= 1;
            if *uses == 0 {
                self.shared.remove(&key);
                self.set_resource(run, key, None);
            }
        }
    }

    /// Counts through which Gateways requests come to Services and XBackends, and has these and their policies say so.
    fn count_ancestors(&mut self, run: &mut Run, before: &RouteResult, after: &RouteResult) {
        let pairs = |route: &RouteResult| -> BTreeSet<(ObjectRef, ObjectRef)> {
            let services = route.services().into_iter().map(service::object);
            let services = services.chain(route.unserved.iter().cloned());
            let gateways = |service: ObjectRef| {
                route
                    .gateways
                    .iter()
                    .map(move |gateway| (service.clone(), gateway.clone()))
            };
            services.flat_map(gateways).collect()
        };
        let (before, after) = (pairs(before), pairs(after));
        for pair in before.symmetric_difference(&after) {
            let (service, gateway) = pair;
            let gateways = self.ancestors.entry(service.clone()).or_default();
            let count = gateways.entry(gateway.clone()).or_default();
            let come = after.contains(pair);
            *count = if come { *count + 1 } else { *count - 1 };
            let turned = *count == usize::from(come);
            if *count == 0 {
                gateways.remove(gateway);
            }
            if gateways.is_empty() {
                self.ancestors.remove(service);
            }
            if turned {
                run.dirty
                    .extend(self.world.policies(service).cloned().map(Node::Policy));
                if service.kind == Kind::XBackend {
                    run.dirty.insert(Node::Backend(service.clone()));
                }
            }
        }
    }

    fn authorization(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let routes = std::mem::take(&mut self.routes);
        let gateways = |route: &ObjectRef| -> BTreeSet<ObjectRef> {
            let found = routes.get(route).into_iter();
            found.flat_map(|route| route.gateways.iter().cloned()).collect()
        };
        let derived = self.read(node, |reader| authorization::derive(reader, reference, gateways));
        self.routes = routes;
        let (namespace, name) = (&reference.namespace, &reference.name);
        let key = Key::Authorization(PolicyKey::of(reference.kind.name(), namespace, name));
        let (status, diagnostics, policy) = match derived {
            Some(derived) => (Some(derived.status), derived.diagnostics, derived.policy),
            None => (None, Vec::new(), None),
        };
        self.set_resource(run, key, policy.map(Resource::Authorization));
        self.set_status(run, reference, status.map(Status::Policy));
        self.set_diagnostics(run, reference, diagnostics);
    }

    fn policy(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        if reference.kind == Kind::AuthorizationPolicy {
            return self.authorization(run, node, reference);
        }
        let ancestors = std::mem::take(&mut self.ancestors);
        let gateways = |service: &ObjectRef| -> BTreeSet<ObjectRef> {
            let gateways = ancestors.get(service).into_iter().flatten();
            gateways.map(|(gateway, _)| gateway.clone()).collect()
        };
        let stand = self.read(node, |reader| match reference.kind {
            Kind::BackendTlsPolicy => backend_tls::stand(reader, reference, gateways),
            _ => traffic_policy::stand(reader, reference, gateways),
        });
        self.ancestors = ancestors;
        let (status, diagnostics) = stand.unzip();
        self.set_status(run, reference, status.map(Status::Policy));
        self.set_diagnostics(run, reference, diagnostics.unwrap_or_default());
    }

    fn backend(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let gateways = self.ancestors.get(reference).into_iter().flatten();
        let gateways = gateways.map(|(gateway, _)| gateway.clone()).collect();
        let stand = self.read(node, |reader| xbackend::stand(reader, reference, &gateways));
        let (status, diagnostics) = stand.unzip();
        self.set_status(run, reference, status.map(Status::XBackend));
        self.set_diagnostics(run, reference, diagnostics.unwrap_or_default());
    }

    fn issuer_status(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let (status, diagnostics) = self.read(node, |reader| acme::stand(reader, reference)).unzip();
        self.set_status(run, reference, status.map(Status::AcmeIssuer));
        self.set_diagnostics(run, reference, diagnostics.unwrap_or_default());
    }

    fn smi(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let derived = self.read(node, |reader| smi::derive(reader, reference));
        if matches!(reference.kind, Kind::TrafficTarget | Kind::Namespace) {
            let namespace = match reference.kind {
                Kind::Namespace => &reference.name,
                _ => &reference.namespace,
            };
            let key = Key::Authorization(PolicyKey::of(reference.kind.name(), namespace, &reference.name));
            let policy = derived.policy.map(|policy| Resource::Authorization(Arc::new(policy)));
            self.set_resource(run, key, policy);
        }
        self.set_diagnostics(run, reference, derived.diagnostics);
    }

    fn route(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let derived = self.read(node, |reader| match reference.kind {
            Kind::TrafficSplit => smi::split::derive(reader, reference).map(|split| (split, None)),
            _ => route::derive(reader, reference).map(|(route, status)| (route, Some(status))),
        });
        let (derived, status) = derived.unzip();
        let status = status.flatten();
        let before = self.routes.remove(reference).unwrap_or_default();
        let there = derived.is_some();
        let after = derived.unwrap_or_default();
        run.dirty.insert(Node::Diagnosis(reference.clone()));
        let changed = self.claims.replace(&before.claims(), &after.claims());
        run.dirty.extend(changed.into_iter().map(Node::Diagnosis));
        let listener = |attached: &&Attachment| !attached.listener.is_frontend();
        let gone = before.attached.iter().filter(|old| !after.is_attached(&old.listener));
        for attached in gone.filter(listener) {
            let count = self.attached.entry(attached.listener.clone()).or_default();
            *count -= 1;
            if *count == 0 {
                self.attached.remove(&attached.listener);
            }
            run.dirty.insert(Node::OwnerStatus(Owner::of(&attached.listener)));
        }
        let new = after.attached.iter().filter(|new| !before.is_attached(&new.listener));
        for attached in new.filter(listener) {
            *self.attached.entry(attached.listener.clone()).or_default() += 1;
            run.dirty.insert(Node::OwnerStatus(Owner::of(&attached.listener)));
        }
        let frontends = |route: &RouteResult| -> Vec<Resource> {
            route.frontends.iter().cloned().map(Resource::Frontend).collect()
        };
        self.share(run, &frontends(&before), frontends(&after));
        self.count_ancestors(run, &before, &after);
        if before.gateways != after.gateways {
            let policies = self.world.policies(reference).cloned();
            run.dirty.extend(policies.map(Node::Policy));
        }
        let (old, new) = (before.services(), after.services());
        for &key in new.difference(&old) {
            let uses = self.used.entry(key.clone()).or_default();
            *uses += 1;
            if *uses == 1 {
                run.dirty.insert(Node::Service(key.clone()));
            }
        }
        for &key in old.difference(&new) {
            let uses = self.used.entry(key.clone()).or_default();
            *uses -= 1;
            if *uses == 0 {
                self.used.remove(key);
                run.dirty.insert(Node::Service(key.clone()));
            }
        }
        let kept: HashSet<Key> = after.rules.iter().map(Resource::key).collect();
        for key in before.rules.iter().map(Resource::key) {
            if !kept.contains(&key) {
                self.set_resource(run, key, None);
            }
        }
        for rule in &after.rules {
            self.set_resource(run, rule.key(), Some(rule.clone()));
        }
        self.set_status(run, reference, status.map(Status::Route));
        if there {
            self.routes.insert(reference.clone(), after);
        }
    }

    fn service(&mut self, run: &mut Run, node: &Node, key: &ServiceKey) {
        let wanted = self.used.contains_key(key);
        let derived = self.read(node, |reader| if wanted { service::derive(reader, key) } else { None });
        let before = self.services.remove(key);
        let empty = BTreeMap::new();
        let old = before.as_ref().map_or(&empty, |before| &before.endpoints);
        let new = derived.as_ref().map_or(&empty, |derived| &derived.endpoints);
        for workload in old.keys().filter(|workload| !new.contains_key(workload)) {
            if let Some(services) = self.serving.get_mut(workload) {
                services.remove(key);
            }
        }
        for workload in new.keys() {
            self.serving.entry(workload.clone()).or_default().insert(key.clone());
        }
        for workload in old
            .keys()
            .chain(new.keys())
            .filter(|workload| old.get(workload) != new.get(workload))
        {
            run.dirty.insert(Node::Workload(workload.clone()));
        }
        let needed = |result: &Option<ServiceResult>| -> Vec<Resource> {
            let results = result.iter();
            results.flat_map(|result| result.resources.clone()).collect()
        };
        self.share(run, &needed(&before), needed(&derived));
        let resource = derived
            .as_ref()
            .map(|derived| Resource::Service(derived.service.clone()));
        self.set_resource(run, Key::Service(key.clone()), resource);
        // Whether a backend has endpoints is said at the routes that use it; nothing else of theirs depends on it.
        if old.is_empty() != new.is_empty() || before.is_some() != derived.is_some() {
            let service = Dependency::Object(service::object(key));
            let routes = self.readers.get(&service).into_iter().flatten();
            let routes: Vec<Node> = routes
                .filter_map(|node| match node {
                    Node::Route(reference) => Some(Node::Diagnosis(reference.clone())),
                    _ => None,
                })
                .collect();
            run.dirty.extend(routes);
        }
        if let Some(derived) = derived {
            self.services.insert(key.clone(), derived);
        }
    }

    fn workload(&mut self, run: &mut Run, key: &WorkloadKey) {
        let services = self.serving.get(key).cloned().unwrap_or_default();
        let mut workload: Option<Workload> = None;
        for service in services {
            let Some(answering) = self
                .services
                .get(&service)
                .and_then(|derived| derived.endpoints.get(key))
            else {
                continue;
            };
            let workload = workload.get_or_insert_with(|| Workload {
                key: key.clone(),
                address: answering.address,
                services: BTreeMap::new(),
                zone: answering.zone.clone(),
            });
            workload.services.insert(service, answering.port);
        }
        if workload.is_none() {
            self.serving.remove(key);
        }
        let resource = workload.map(|workload| Resource::Workload(Arc::new(workload)));
        self.set_resource(run, Key::Workload(key.clone()), resource);
    }

    fn owner_status(&mut self, run: &mut Run, reference: &ObjectRef) {
        let attached = |listener: &ListenerKey| self.attached.get(listener).copied().unwrap_or(0);
        let status = self.owners.get(reference).map(|listeners| match reference.kind {
            Kind::ListenerSet => Status::ListenerSet(listeners.set_status(attached)),
            _ => {
                let sets = self.sets.get(reference).map_or(0, BTreeSet::len);
                Status::Gateway(listeners.gateway_status(attached, sets))
            }
        });
        self.set_status(run, reference, status);
    }

    /// What is wrong with a route, with what only shows once services and other routes are known.
    fn diagnose(&mut self, run: &mut Run, reference: &ObjectRef) {
        let Some(derived) = self.routes.get(reference) else {
            return self.set_diagnostics(run, reference, Vec::new());
        };
        let mut diagnostics = derived.diagnostics.to_vec();
        diagnostics.extend(self.claims.shadowed(&derived.claims()));
        for (path, key) in derived.backends() {
            let known = self.services.get(key);
            let bare = |known: &ServiceResult| known.endpoints.is_empty() && known.service.names.is_empty();
            if known.is_some_and(bare) {
                let message = format!("the Service {key} has no endpoints that are ready");
                let remedy = "start its pods, or add an EndpointSlice; `weft up --echo` answers for it";
                diagnostics.push(Code::NoEndpoints.at(path, message, remedy));
            }
        }
        self.set_diagnostics(run, reference, diagnostics);
    }

    fn set_resource(&mut self, run: &mut Run, key: Key, resource: Option<Resource>) {
        let before = match resource {
            Some(resource) => self.resources.insert(key.clone(), resource),
            None => self.resources.remove(&key),
        };
        run.before.entry(key).or_insert(before);
    }

    fn set_status(&mut self, run: &mut Run, reference: &ObjectRef, status: Option<Status>) {
        let alike = &mut self.alike.0;
        let status = status.map(|status| alike.share(status));
        let before = match status.clone() {
            Some(status) => self.statuses.insert(reference.clone(), status),
            None => self.statuses.remove(reference),
        };
        if before != status {
            run.statuses.insert(reference.clone());
        }
        before.iter().for_each(|before| alike.release(before));
    }

    fn set_diagnostics(&mut self, run: &mut Run, reference: &ObjectRef, mut list: Vec<Diagnostic>) {
        list.sort_by(|a, b| (a.level, &a.path, a.code).cmp(&(b.level, &b.path, b.code)));
        list.dedup();
        let alike = &mut self.alike.1;
        let list = (!list.is_empty()).then(|| alike.share(list));
        let before = match list.clone() {
            Some(list) => self.diagnostics.insert(reference.clone(), list),
            None => self.diagnostics.remove(reference),
        };
        if before != list {
            run.diagnostics.insert(reference.clone());
        }
        before.iter().for_each(|before| alike.release(before));
    }

    /// Make before break: what is new or changed comes first, in the order of [`Key`]; what is gone goes in the reverse.
    fn output(&self, run: Run) -> Output {
        let mut changes = Vec::new();
        let mut removals = Vec::new();
        for (key, before) in run.before {
            match (before, self.resources.get(&key)) {
                (before, Some(after)) if before.as_ref() != Some(after) => changes.push(Change::Upsert(after.clone())),
                (Some(_), None) => removals.push(Change::Remove(key)),
                _ => {}
            }
        }
        changes.extend(removals.into_iter().rev());
        let (mut statuses, mut cleared) = (Vec::new(), Vec::new());
        for reference in run.statuses {
            match self.statuses.get(&reference) {
                Some(status) => statuses.push((reference, status.clone())),
                None => cleared.push(reference),
            }
        }
        let diagnostics = run.diagnostics.into_iter().map(|reference| {
            let list = self.diagnostics.get(&reference).cloned().unwrap_or_default();
            (reference, list)
        });
        Output {
            changes,
            statuses,
            cleared,
            diagnostics: diagnostics.collect(),
            acme: run.acme,
            derived: run.derived,
        }
    }
}

#[cfg(test)]
mod tests;
