//! What is to be written as the status of an object.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use weft_crds::{AddressStatus, AncestorStatus, GatewayStatus, Kind, ObjectRef, ParentReference};
use weft_model::{AuthorizationTarget, Key, RouteKind};
use weft_translate::Status;

use super::{Controller, key};
use crate::{
    children::{Child, ChildKind},
    infrastructure::{
        addresses::{self, Wanted},
        names,
    },
    object::Seen,
    status::{
        merge,
        programmed::{self, DataPlanes, Progress},
        write,
    },
    world,
};

impl Controller {
    /// What is to be written as the status of an object; none if nothing is.
    pub(super) fn write_of(&self, reference: &ObjectRef) -> Option<write::Write> {
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
    pub(super) fn complete(&self, reference: &ObjectRef, status: &Status, seen: &Seen) -> Option<Value> {
        let status = match status {
            Status::Gateway(status) => Status::Gateway(self.gateway_status(reference, status, seen)),
            Status::ListenerSet(status) => {
                let name = (reference.namespace.as_str(), reference.name.as_str());
                let planes = self.planes(&self.gateway_of(reference)?, seen);
                Status::ListenerSet(programmed::listener_set(status.clone(), name, &planes))
            }
            Status::Route(route) => {
                let refused = self.refused_of(reference);
                Status::Route(programmed::route(route.clone(), &refused, seen.generation))
            }
            Status::Policy(policy) if reference.kind == Kind::AuthorizationPolicy => {
                let waits: Vec<_> = policy
                    .ancestors
                    .iter()
                    .map(|ancestor| self.waits(reference, ancestor, seen).map(|(_, why)| why))
                    .collect();
                Status::Policy(programmed::policy(policy.clone(), &waits, &self.refused_of(reference)))
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

    /// What data planes refuse of an object.
    fn refused_of(&self, reference: &ObjectRef) -> Vec<(&Key, &str)> {
        let refused = self.refused.get(reference).map(Vec::as_slice).unwrap_or_default();
        refused.iter().map(|(key, why)| (key, why.as_str())).collect()
    }

    /// The Gateways of which not all data planes have taken a policy yet.
    pub(super) fn waits_for(&self, reference: &ObjectRef) -> BTreeSet<ObjectRef> {
        let world = &self.parts.world;
        let (Some(Status::Policy(policy)), Some(seen), Kind::AuthorizationPolicy) = (
            world.translator.status_of(reference),
            world.seen(reference),
            reference.kind,
        ) else {
            return BTreeSet::new();
        };
        let waits = policy
            .ancestors
            .iter()
            .filter_map(|ancestor| self.waits(reference, ancestor, seen));
        waits.flat_map(|(gateways, _)| gateways).collect()
    }

    /// For which Gateways a policy that is to be enforced for an ancestor waits, and why. Once all have taken it, it holds for what
    /// comes to be served, too: a data plane is told of policies before what they protect.
    fn waits(
        &self,
        reference: &ObjectRef,
        ancestor: &AncestorStatus,
        seen: &Seen,
    ) -> Option<(BTreeSet<ObjectRef>, String)> {
        if !programmed::is_enforced(ancestor) || programmed::was_enforced(&seen.status(), ancestor, seen.generation) {
            return None;
        }
        let waits = self
            .deciding(reference, &ancestor.ancestor_ref)
            .into_iter()
            .filter_map(|gateway| {
                let planes = DataPlanes {
                    connected: self.guarding(&key(&gateway)),
                    epoch: self.parts.world.guards.epoch(&key(&gateway)),
                    ..self.planes_of(&gateway)
                };
                match planes.progress() {
                    Progress::Waiting(why) => Some((gateway, why)),
                    Progress::Taken => None,
                }
            });
        let (gateways, why): (BTreeSet<ObjectRef>, Vec<String>) = waits
            .map(|(gateway, why)| (gateway.clone(), format!("{gateway}: {why}")))
            .unzip();
        (!gateways.is_empty()).then(|| (gateways, why.join("; ")))
    }

    /// The Gateways that decide by a policy about an ancestor.
    fn deciding(&self, reference: &ObjectRef, ancestor: &ParentReference) -> BTreeSet<ObjectRef> {
        let namespace = ancestor.namespace.as_deref().unwrap_or(&reference.namespace);
        if let Some(kind) = ancestor.listener_owner() {
            let gateway = self.gateway_of(&ObjectRef::new(kind, namespace, &ancestor.name));
            return gateway.into_iter().collect();
        }
        let targets = self.policy(reference).into_iter().flat_map(|policy| &policy.targets);
        let of_route = targets.filter(|target| match target {
            AuthorizationTarget::Route { kind, name, .. } => {
                kind_of(*kind).name() == ancestor.kind && *name == ancestor.name
            }
            _ => false,
        });
        of_route
            .flat_map(AuthorizationTarget::gateways)
            .filter_map(world::reference)
            .collect()
    }

    pub(super) fn gateway_status(&self, reference: &ObjectRef, status: &GatewayStatus, seen: &Seen) -> GatewayStatus {
        let planes = self.planes(reference, seen);
        let name = (reference.namespace.as_str(), reference.name.as_str());
        programmed::gateway(status.clone(), name, &planes, self.addresses(reference))
    }

    /// What is known of the data planes of a Gateway, for a status of its own or of what adds to it.
    pub(super) fn planes(&self, gateway: &ObjectRef, seen: &Seen) -> DataPlanes {
        DataPlanes {
            settled: programmed::is_settled(&seen.status(), seen.generation),
            ..self.planes_of(gateway)
        }
    }

    pub(super) fn planes_of(&self, gateway: &ObjectRef) -> DataPlanes {
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
    pub(super) fn addresses(&self, reference: &ObjectRef) -> Result<Vec<AddressStatus>, (&'static str, String)> {
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

    pub(super) fn child(&self, gateway: &ObjectRef, kind: ChildKind) -> Option<&Child> {
        let key = (kind, gateway.namespace.clone(), names::child(&gateway.name));
        self.parts.world.children.get(&key)
    }
}

/// The kind of the routes that are of a kind in the model.
fn kind_of(kind: RouteKind) -> Kind {
    match kind {
        RouteKind::Http => Kind::HttpRoute,
        RouteKind::Grpc => Kind::GrpcRoute,
        RouteKind::Tls => Kind::TlsRoute,
        RouteKind::Tcp => Kind::TcpRoute,
        RouteKind::Udp => Kind::UdpRoute,
        RouteKind::Split => Kind::TrafficSplit,
    }
}
