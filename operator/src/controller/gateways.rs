//! What is to be made in the cluster for a Gateway.

use std::collections::BTreeMap;

use kube::Client;
use serde_json::Value;
use weft_crds::{Kind, Object, ObjectRef};
use weft_translate::Status;

use super::Controller;
use crate::{
    children::{Child, ChildKind},
    infrastructure::{
        addresses::{self, Wanted},
        apply::{self, ApplyError, Step},
        input::{Input, Transport},
        render::render,
    },
    world,
};

impl Controller {
    /// What is to be done for a Gateway; none if nothing is.
    pub(super) fn steps_of(&self, reference: &ObjectRef) -> Option<Vec<Step>> {
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
    pub(super) fn parameters(&self, gateway: &weft_crds::Gateway) -> weft_crds::GatewayParametersSpec {
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

/// Does steps one after the other; returns what was made, and the first failure.
pub(super) async fn make(client: &Client, steps: Vec<Step>) -> (Vec<Child>, Result<(), ApplyError>) {
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
