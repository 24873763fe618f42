//! Routes: their rules, to what they are attached, what they use, and what is wrong with them.

use std::collections::{BTreeSet, HashSet};

use weft_crds::{Kind, ObjectRef};
use weft_model::{Key, Resource};

use super::{Translator, node::Node, outcome::Run};
use crate::{
    diagnostic::Code,
    owner::Owner,
    route::{self, Attachment, RouteResult},
    service::{self, ServiceResult},
    smi,
    status::Status,
};

impl Translator {
    pub(super) fn route(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let derived = self.read(node, |reader| match reference.kind {
            Kind::TrafficSplit => smi::split::derive(reader, reference).map(|split| (split, None)),
            _ => route::derive(reader, reference).map(|(route, status)| (route, Some(status))),
        });
        let (derived, status) = derived.unzip();
        let status = status.flatten();
        let before = self.routes.remove(reference).unwrap_or_default();
        let there = derived.is_some();
        let after = Box::new(derived.unwrap_or_default());
        run.dirty.insert(Node::Diagnosis(reference.clone()));
        let changed = self.claims.replace(&before.claims(), &after.claims());
        run.dirty.extend(changed.into_iter().map(Node::Diagnosis));
        self.count_attached(run, &before, &after);
        let frontends = |route: &RouteResult| -> Vec<Resource> {
            route.frontends.iter().cloned().map(Resource::Frontend).collect()
        };
        self.outcome.share(run, &frontends(&before), frontends(&after));
        self.count_ancestors(run, &before, &after);
        if !before.comes_as(&after) {
            let policies = self.world.policies(reference).cloned();
            run.dirty.extend(policies.map(Node::Policy));
        }
        self.count_used(run, &before, &after);
        let kept: HashSet<Key> = after.rules.iter().map(Resource::key).collect();
        for key in before.rules.iter().map(Resource::key) {
            if !kept.contains(&key) {
                self.outcome.set_resource(run, key, None);
            }
        }
        for rule in &after.rules {
            self.outcome.set_resource(run, rule.key(), Some(rule.clone()));
        }
        self.outcome.set_status(run, reference, status.map(Status::Route));
        if there {
            self.routes.insert(reference.clone(), after);
        }
    }

    /// Counts the routes at each listener, and has its owner say so.
    fn count_attached(&mut self, run: &mut Run, before: &RouteResult, after: &RouteResult) {
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

    /// Counts the routes that use a service: it is derived as long as there is one.
    fn count_used(&mut self, run: &mut Run, before: &RouteResult, after: &RouteResult) {
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
    }

    /// What is wrong with a route, with what only shows once services and other routes are known.
    pub(super) fn diagnose(&mut self, run: &mut Run, reference: &ObjectRef) {
        let Some(derived) = self.routes.get(reference) else {
            return self.outcome.set_diagnostics(run, reference, Vec::new());
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
        self.outcome.set_diagnostics(run, reference, diagnostics);
    }
}
