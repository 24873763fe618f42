//! Services, the workloads that answer for them, and XBackends.

use std::{collections::BTreeMap, sync::Arc};

use weft_crds::ObjectRef;
use weft_model::{Key, Resource, ServiceKey, Workload, WorkloadKey};

use super::{Translator, node::Node, outcome::Run};
use crate::{
    service::{self, ServiceResult},
    status::Status,
    world::Dependency,
    xbackend,
};

impl Translator {
    pub(super) fn service(&mut self, run: &mut Run, node: &Node, key: &ServiceKey) {
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
        self.outcome.share(run, &needed(&before), needed(&derived));
        let resource = derived
            .as_ref()
            .map(|derived| Resource::Service(derived.service.clone()));
        self.outcome.set_resource(run, Key::Service(key.clone()), resource);
        // Whether a backend has endpoints is said at the routes that use it; nothing else of theirs depends on it.
        if old.is_empty() != new.is_empty() || before.is_some() != derived.is_some() {
            let service = Dependency::Object(service::object(key));
            let routes = self.graph.readers(&service);
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

    pub(super) fn workload(&mut self, run: &mut Run, key: &WorkloadKey) {
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
        self.outcome.set_resource(run, Key::Workload(key.clone()), resource);
    }

    pub(super) fn backend(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let gateways = self.ancestors.get(reference).into_iter().flatten();
        let gateways = gateways.map(|(gateway, _)| gateway.clone()).collect();
        let stand = self.read(node, |reader| xbackend::stand(reader, reference, &gateways));
        let (status, diagnostics) = stand.unzip();
        self.outcome.set_status(run, reference, status.map(Status::XBackend));
        self.outcome
            .set_diagnostics(run, reference, diagnostics.unwrap_or_default());
    }
}
