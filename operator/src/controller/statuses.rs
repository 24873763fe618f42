//! What is to be written as the status of an object.

use jiff::Timestamp;
use serde_json::Value;
use weft_crds::{AddressStatus, GatewayStatus, ObjectRef};
use weft_model::Key;
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
        programmed::{self, DataPlanes},
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
