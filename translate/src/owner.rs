//! Who has listeners: Gateways, and the ListenerSets that add to them. Which of them are served, and how they stand.

use std::{collections::HashMap, sync::Arc};

use weft_crds::{
    AddressStatus, Condition, Gateway, GatewayStatus, Kind, ListenerSetStatus, ListenerSpec, ListenerStatus, Metadata,
    Object, ObjectRef,
};
use weft_model::{CertificateKey, ListenerKey, Resource};

use crate::{
    acme, certificate,
    diagnostic::{Code, Diagnostic},
    frontend,
    listener::{self, GATEWAY_GROUP, ListenerState, Namespaces, Problem},
    parameters,
    status::condition,
    world::{Reader, Slot},
};

const IP_ADDRESS: &str = "IPAddress";

/// A Gateway, or a ListenerSet of one, that is ours.
pub(crate) struct Owner<'w> {
    pub(crate) reference: ObjectRef,
    pub(crate) metadata: &'w Metadata,
    pub(crate) listeners: &'w [ListenerSpec],
    /// Itself, or the one it adds to.
    pub(crate) gateway: &'w Arc<Gateway>,
}

/// The listeners an owner has come to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listeners {
    pub(crate) generation: i64,
    /// The Gateway they belong to.
    pub(crate) gateway: ObjectRef,
    pub(crate) listeners: Vec<ListenerState>,
    /// The certificates and trust bundles they need.
    pub(crate) resources: Vec<Resource>,
    /// How many listeners are asked for; those without a name of their own have no state.
    asked: usize,
    /// The addresses that were asked for by value.
    addresses: Vec<AddressStatus>,
    /// Why none of them is served.
    refused: Option<Problem>,
    /// Of a Gateway, what is said of it beside its listeners.
    further: Vec<Condition>,
}

/// What comes of an object that may have listeners.
#[derive(Default)]
pub(crate) struct Derived {
    /// None if there is no such object, or it is not ours.
    pub(crate) listeners: Option<Listeners>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl<'w> Owner<'w> {
    /// Its namespace.
    pub(crate) fn namespace(&self) -> &'w str {
        self.metadata.namespace()
    }

    fn is_set(&self) -> bool {
        self.reference.kind == Kind::ListenerSet
    }

    /// The key of one of its listeners.
    pub(crate) fn key(&self, listener: &str) -> ListenerKey {
        let (namespace, name) = (&self.reference.namespace, &self.reference.name);
        if self.is_set() {
            ListenerKey::of_set(namespace, name, listener)
        } else {
            ListenerKey::of_gateway(namespace, name, listener)
        }
    }

    /// The name of its Gateway.
    pub(crate) fn gateway_reference(&self) -> ObjectRef {
        let gateway = &self.gateway.metadata;
        ObjectRef::new(Kind::Gateway, gateway.namespace(), &gateway.name)
    }

    /// As it is named where it is in the way of another.
    pub(crate) fn shown(&self) -> String {
        let kind = if self.is_set() { "ListenerSet " } else { "" };
        format!("{kind}{}/{}", self.namespace(), self.metadata.name)
    }

    /// Of several owners, the least comes first: Gateways before ListenerSets, then by age and name.
    pub(crate) fn precedence(&self) -> (bool, i64, &str, &str) {
        let metadata = self.metadata;
        (self.is_set(), metadata.created(), metadata.namespace(), &metadata.name)
    }

    /// The owner of a listener.
    pub(crate) fn of(key: &ListenerKey) -> ObjectRef {
        let parts: Vec<&str> = key.as_str().split('/').collect();
        match parts.as_slice() {
            [_, namespace, name, _] => ObjectRef::new(Kind::ListenerSet, namespace, name),
            [namespace, name, _] => ObjectRef::new(Kind::Gateway, namespace, name),
            _ => ObjectRef::new(Kind::Gateway, "", ""),
        }
    }
}

/// A Gateway is ours if its class names our controller; standalone, all are.
fn is_ours(reader: &Reader<'_>, gateway: &Gateway) -> bool {
    reader.options.standalone
        || reader
            .gateway_class("", &gateway.spec.gateway_class_name)
            .is_some_and(|class| class.spec.controller_name == reader.options.controller_name)
}

fn find<'w>(reader: &Reader<'w>, reference: &ObjectRef) -> Option<Owner<'w>> {
    let (metadata, listeners, gateway) = match reader.object(reference.clone())? {
        Object::Gateway(gateway) => (&gateway.metadata, &gateway.spec.listeners, gateway),
        Object::ListenerSet(set) => {
            let parent = &set.spec.parent_ref;
            if parent.group != GATEWAY_GROUP || parent.kind != Kind::Gateway.name() {
                return None;
            }
            let gateway = reader.gateway(
                parent.namespace.as_deref().unwrap_or(&reference.namespace),
                &parent.name,
            )?;
            (&set.metadata, &set.spec.listeners, gateway)
        }
        _ => return None,
    };
    is_ours(reader, gateway).then(|| Owner {
        reference: reference.clone(),
        metadata,
        listeners,
        gateway,
    })
}

/// Whether the Gateway lets an owner have listeners on it.
fn is_allowed(reader: &Reader<'_>, owner: &Owner<'_>) -> bool {
    if !owner.is_set() {
        return true;
    }
    let allowed = owner.gateway.spec.allowed_listeners.as_ref();
    let from = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    let from = from.filter(|from| from.from.as_deref().is_some_and(|from| !from.is_empty()));
    let namespaces = from.map_or(Namespaces::None, |from| {
        Namespaces::of(Some(from), owner.gateway.metadata.namespace())
    });
    namespaces.allow(reader, owner.namespace())
}

/// The first owner, among those that may have listeners, that wants a slot of a port.
pub(crate) fn first<'w>(reader: &Reader<'w>, slot: Slot) -> Option<Owner<'w>> {
    let wanting = reader.wanting(slot).into_iter();
    let owners = wanting.filter_map(|reference| find(reader, reference));
    let owners = owners.filter(|owner| is_allowed(reader, owner));
    owners.min_by(|a, b| a.precedence().cmp(&b.precedence()))
}

/// Derives the listeners of a Gateway or a ListenerSet.
pub(crate) fn derive(reader: &Reader<'_>, reference: &ObjectRef) -> Derived {
    let mut diagnostics = Vec::new();
    let Some(owner) = find(reader, reference) else {
        orphan(reader, reference, &mut diagnostics);
        return Derived {
            listeners: None,
            diagnostics,
        };
    };
    let generation = owner.metadata.generation();
    let mut refused = refuse(reader, &owner, &mut diagnostics);
    let allowed = is_allowed(reader, &owner);
    if !allowed {
        let message = format!(
            "the Gateway {}/{} does not allow ListenerSets of the namespace {}",
            owner.gateway.metadata.namespace(),
            owner.gateway.metadata.name,
            owner.namespace()
        );
        let remedy = "set allowedListeners.namespaces in the Gateway: without it, none is allowed";
        diagnostics.push(Code::ListenerSetNotAllowed.at("spec.parentRef", &message, remedy));
        refused = Some(("NotAllowed", message));
    }
    let mut resources = Vec::new();
    let mut further = Vec::new();
    let backend_certificate = backend_certificate(reader, &owner, &mut resources, &mut further, &mut diagnostics);
    if !owner.is_set() && frontend::check(reader, owner.gateway, &mut diagnostics) {
        let message = "clients are let in without a certificate that is trusted";
        further.push(condition(
            "InsecureFrontendValidationMode",
            true,
            "ConfigurationChanged",
            message,
            generation,
        ));
    }
    let mut listeners = Vec::new();
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (at, spec) in owner.listeners.iter().enumerate().filter(|_| allowed) {
        let path = format!("spec.listeners[{at}]");
        if spec.name.is_empty() {
            let message = "the listener has no name";
            diagnostics.push(Code::MissingField.at(
                format!("{path}.name"),
                message,
                "give it one: routes attach by it",
            ));
            continue;
        }
        if let Some(first) = names.insert(&spec.name, at) {
            let message = format!("the name {:?} is that of spec.listeners[{first}] too", spec.name);
            diagnostics.push(Code::DuplicateName.at(
                format!("{path}.name"),
                message,
                "give each listener a name of its own",
            ));
            continue;
        }
        let mut listener = listener::one(
            reader,
            &owner,
            spec,
            &path,
            backend_certificate.as_ref(),
            &mut diagnostics,
            &mut resources,
        );
        if let Some((_, message)) = &refused {
            listener.take_off(message, generation);
        }
        listeners.push(listener);
    }
    if refused.is_some() {
        resources.clear();
    }
    resources.sort_by_cached_key(Resource::key);
    resources.dedup_by_key(|resource| resource.key());
    let asked_addresses = owner.gateway.spec.addresses.iter().filter(|_| refused.is_none());
    let addresses = asked_addresses.filter_map(|address| {
        Some(AddressStatus {
            address_type: address.address_type.clone().unwrap_or_else(|| IP_ADDRESS.into()),
            value: address.value.clone()?,
        })
    });
    let listeners = Listeners {
        generation,
        gateway: owner.gateway_reference(),
        listeners,
        resources,
        asked: owner.listeners.len(),
        addresses: addresses.collect(),
        refused,
        further,
    };
    Derived {
        listeners: Some(listeners),
        diagnostics,
    }
}

/// Says why a ListenerSet adds to nothing. If its Gateway is there, it is another controller's.
fn orphan(reader: &Reader<'_>, reference: &ObjectRef, diagnostics: &mut Vec<Diagnostic>) {
    let Some(Object::ListenerSet(set)) = reader.object(reference.clone()) else {
        return;
    };
    let parent = &set.spec.parent_ref;
    if parent.group != GATEWAY_GROUP || parent.kind != Kind::Gateway.name() {
        let message = format!(
            "a ListenerSet cannot add to a {} of group {:?}",
            parent.kind, parent.group
        );
        diagnostics.push(Code::Invalid.at("spec.parentRef.kind", message, "name a Gateway"));
        return;
    }
    let namespace = parent.namespace.as_deref().unwrap_or(&reference.namespace);
    if reader.gateway(namespace, &parent.name).is_none() {
        let message = format!("there is no Gateway {namespace}/{}", parent.name);
        diagnostics.push(Code::ParentNotFound.at("spec.parentRef.name", message, "create it, or correct the name"));
    }
}

/// Why nothing of an owner can be served.
fn refuse(reader: &Reader<'_>, owner: &Owner<'_>, diagnostics: &mut Vec<Diagnostic>) -> Option<Problem> {
    let mut found = Vec::new();
    let problem = refuse_gateway(reader, owner.gateway, &mut found);
    if owner.is_set() {
        let (_, message) = problem?;
        return Some(("ParentNotAccepted", message));
    }
    diagnostics.extend(found);
    problem
}

/// Why nothing of a Gateway can be served.
fn refuse_gateway(reader: &Reader<'_>, gateway: &Gateway, diagnostics: &mut Vec<Diagnostic>) -> Option<Problem> {
    let infrastructure = gateway.spec.infrastructure.as_ref();
    if let Some(reference) = infrastructure.and_then(|infrastructure| infrastructure.parameters_ref.as_ref())
        && let Some(message) = parameters::problem(reader, reference, Some(gateway.metadata.namespace()))
    {
        let path = "spec.infrastructure.parametersRef";
        let remedy = "create it, or remove the reference";
        diagnostics.push(Code::Invalid.at(path, &message, remedy));
        return Some(("InvalidParameters", message));
    }
    gateway.spec.addresses.iter().enumerate().find_map(|(at, address)| {
        let unknown = address
            .address_type
            .as_deref()
            .filter(|kind| !matches!(*kind, IP_ADDRESS | "Hostname"))?;
        let message = format!("addresses of type {unknown} are not supported");
        let path = format!("spec.addresses[{at}].type");
        diagnostics.push(Code::Invalid.at(path, &message, "use IPAddress or Hostname"));
        Some(("UnsupportedAddress", message))
    })
}

/// Finds what the Gateway shows to backends, and says how the Gateway stands with it.
fn backend_certificate(
    reader: &Reader<'_>,
    owner: &Owner<'_>,
    resources: &mut Vec<Resource>,
    further: &mut Vec<Condition>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<CertificateKey> {
    let backend = owner.gateway.spec.tls.as_ref()?.backend.as_ref()?;
    let reference = backend.client_certificate_ref.as_ref()?;
    let generation = owner.metadata.generation();
    let from = (Kind::Gateway, owner.gateway.metadata.namespace());
    match certificate::certificate(reader, from, reference) {
        Ok(certificate) => {
            let message = "All references resolve";
            further.push(condition("ResolvedRefs", true, "ResolvedRefs", message, generation));
            let key = certificate.key.clone();
            resources.push(Resource::Certificate(Arc::new(certificate)));
            Some(key)
        }
        Err((code, reason, message, remedy)) => {
            let reason = match reason {
                "RefNotPermitted" => reason,
                _ => "InvalidClientCertificateRef",
            };
            further.push(condition("ResolvedRefs", false, reason, &message, generation));
            if !owner.is_set() {
                let path = "spec.tls.backend.clientCertificateRef.name";
                diagnostics.push(code.at(path, message, remedy));
            }
            None
        }
    }
}

impl Listeners {
    /// The listeners that are served.
    pub(crate) fn served(&self) -> impl Iterator<Item = &ListenerState> {
        self.listeners.iter().filter(|listener| listener.is_served())
    }

    /// The certificates that are to be had by ACME.
    pub(crate) fn acme(&self) -> impl Iterator<Item = &acme::Part> {
        let listened = self.listeners.iter().filter(|listener| listener.model.is_some());
        listened.flat_map(|listener| &listener.acme)
    }

    /// Whether a ListenerSet counts as attached to its Gateway.
    pub(crate) fn is_accepted_set(&self) -> bool {
        self.refused.is_none() && self.served().next().is_some()
    }

    /// The Gateway's status, given how many routes are attached to each listener, and how many ListenerSets.
    pub(crate) fn gateway_status(&self, attached: impl Fn(&ListenerKey) -> usize, sets: usize) -> GatewayStatus {
        let accepted = |listener: &&ListenerState| listener.holds("Accepted");
        let valid = self.listeners.iter().filter(accepted).count();
        let not_valid = self.names(|listener| !listener.holds("Accepted"));
        let generation = self.generation;
        let accepted = match (&self.refused, valid) {
            (Some((reason, message)), _) => condition("Accepted", false, reason, message, generation),
            (None, 0) => condition(
                "Accepted",
                false,
                "ListenersNotValid",
                "no listener is valid",
                generation,
            ),
            (None, valid) if valid < self.asked => condition(
                "Accepted",
                true,
                "ListenersNotValid",
                some_not_valid(&not_valid),
                generation,
            ),
            _ => condition("Accepted", true, "Accepted", "The Gateway is valid", generation),
        };
        let programmed = if self.served().next().is_some() || sets > 0 {
            condition("Programmed", true, "Programmed", "The Gateway is served", generation)
        } else {
            condition("Programmed", false, "Invalid", "no listener is served", generation)
        };
        let mut conditions = vec![accepted, programmed];
        conditions.extend(self.further.iter().cloned());
        GatewayStatus {
            addresses: self.addresses.clone(),
            conditions,
            listeners: self.listener_statuses(attached),
            attached_listener_sets: i32::try_from(sets).unwrap_or(i32::MAX),
        }
    }

    /// The ListenerSet's status, given how many routes are attached to each listener.
    pub(crate) fn set_status(&self, attached: impl Fn(&ListenerKey) -> usize) -> ListenerSetStatus {
        let generation = self.generation;
        let served = self.served().count();
        let not_valid = self.names(|listener| !listener.is_served());
        let conditions = match (&self.refused, served) {
            (Some((reason, message)), _) => {
                ["Accepted", "Programmed"].map(|kind| condition(kind, false, reason, message, generation))
            }
            (None, 0) => ["Accepted", "Programmed"]
                .map(|kind| condition(kind, false, "ListenersNotValid", "no listener is valid", generation)),
            (None, served) => [
                if served < self.asked {
                    condition(
                        "Accepted",
                        true,
                        "ListenersNotValid",
                        some_not_valid(&not_valid),
                        generation,
                    )
                } else {
                    condition("Accepted", true, "Accepted", "The ListenerSet is valid", generation)
                },
                condition(
                    "Programmed",
                    true,
                    "Programmed",
                    "The ListenerSet is served",
                    generation,
                ),
            ],
        };
        ListenerSetStatus {
            conditions: conditions.into(),
            listeners: self.listener_statuses(attached),
        }
    }

    fn names(&self, which: impl Fn(&ListenerState) -> bool) -> Vec<&str> {
        let listeners = self.listeners.iter().filter(|listener| which(listener));
        listeners.map(|listener| listener.name.as_str()).collect()
    }

    fn listener_statuses(&self, attached: impl Fn(&ListenerKey) -> usize) -> Vec<ListenerStatus> {
        let status = |listener: &ListenerState| ListenerStatus {
            name: listener.name.clone(),
            supported_kinds: listener.kinds.clone(),
            attached_routes: i32::try_from(attached(&listener.key)).unwrap_or(i32::MAX),
            conditions: listener.conditions.clone(),
        };
        self.listeners.iter().map(status).collect()
    }
}

fn some_not_valid(names: &[&str]) -> String {
    match names {
        [] => "some listeners have no name of their own".to_owned(),
        names => format!("some listeners are not valid: {}", names.join(", ")),
    }
}
