//! Policies, AcmeIssuers and what else SMI says.

use std::{collections::BTreeSet, sync::Arc};

use weft_crds::{Kind, ObjectRef};
use weft_model::{Key, PolicyKey, Resource};

use super::{Translator, node::Node, outcome::Run};
use crate::{acme, authorization, backend_tls, smi, status::Status, traffic_policy};

impl Translator {
    pub(super) fn policy(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
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
        self.outcome.set_status(run, reference, status.map(Status::Policy));
        self.outcome
            .set_diagnostics(run, reference, diagnostics.unwrap_or_default());
    }

    fn authorization(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let routes = std::mem::take(&mut self.routes);
        let derived = self.read(node, |reader| authorization::derive(reader, reference, &routes));
        self.routes = routes;
        let (namespace, name) = (&reference.namespace, &reference.name);
        let key = Key::Authorization(PolicyKey::of(reference.kind.name(), namespace, name));
        let (status, diagnostics, policy) = match derived {
            Some(derived) => (Some(derived.status), derived.diagnostics, derived.policy),
            None => (None, Vec::new(), None),
        };
        self.outcome.set_resource(run, key, policy.map(Resource::Authorization));
        self.outcome.set_status(run, reference, status.map(Status::Policy));
        self.outcome.set_diagnostics(run, reference, diagnostics);
    }

    pub(super) fn issuer_status(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let (status, diagnostics) = self.read(node, |reader| acme::stand(reader, reference)).unzip();
        self.outcome.set_status(run, reference, status.map(Status::AcmeIssuer));
        self.outcome
            .set_diagnostics(run, reference, diagnostics.unwrap_or_default());
    }

    pub(super) fn smi(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let derived = self.read(node, |reader| smi::derive(reader, reference));
        if matches!(reference.kind, Kind::TrafficTarget | Kind::Namespace) {
            let namespace = match reference.kind {
                Kind::Namespace => &reference.name,
                _ => &reference.namespace,
            };
            let key = Key::Authorization(PolicyKey::of(reference.kind.name(), namespace, &reference.name));
            let policy = derived.policy.map(|policy| Resource::Authorization(Arc::new(policy)));
            self.outcome.set_resource(run, key, policy);
        }
        self.outcome.set_diagnostics(run, reference, derived.diagnostics);
    }
}
