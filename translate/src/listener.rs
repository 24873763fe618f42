//! The listeners of a Gateway: which of them are served, by which certificates, and which routes they take.

use std::{collections::HashMap, sync::Arc};

use weft_crds::{
    AddressStatus, Condition, Gateway, GatewayStatus, LabelSelector, ListenerSpec, ListenerStatus, RouteKindStatus,
};
use weft_model::{Certificate, GatewayKey, HostPattern, Listener, ListenerKey, ListenerProtocol, ListenerTls};

use crate::{
    certificate,
    diagnostic::{Code, Diagnostic},
    parameters,
    status::condition,
    world::Reader,
};

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
const IP_ADDRESS: &str = "IPAddress";

/// The reason of a condition, and the whole story.
pub(crate) type Problem = (&'static str, String);

/// What a Gateway has come to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatewayListeners {
    pub(crate) generation: i64,
    pub(crate) listeners: Vec<ListenerState>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    pub(crate) certificates: Vec<Arc<Certificate>>,
    /// How many listeners are asked for; those without a name of their own have no state.
    asked: usize,
    /// The addresses that were asked for by value.
    addresses: Vec<AddressStatus>,
    /// Why nothing of the Gateway is served.
    refused: Option<Problem>,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerState {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) hostname: Option<HostPattern>,
    /// Present when it is served.
    pub(crate) model: Option<Arc<Listener>>,
    pub(crate) key: ListenerKey,
    /// The kinds of routes it takes.
    pub(crate) kinds: Vec<RouteKindStatus>,
    pub(crate) namespaces: Namespaces,
    conditions: Vec<Condition>,
}

/// The namespaces whose routes a listener takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Namespaces {
    All,
    Only(String),
    Selected(LabelSelector),
    None,
}

impl Eq for Namespaces {}

impl Namespaces {
    pub(crate) fn allow(&self, reader: &Reader<'_>, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(own) => own == namespace,
            Self::Selected(selector) => selector.matches(&reader.namespace_labels(namespace)),
            Self::None => false,
        }
    }
}

/// Derives the listeners of a Gateway; none if there is no such Gateway, or it is not ours.
pub(crate) fn derive(reader: &Reader<'_>, namespace: &str, name: &str) -> Option<GatewayListeners> {
    let gateway = reader.gateway(namespace, name)?;
    if !is_ours(reader, gateway) {
        return None;
    }
    let generation = gateway.metadata.generation();
    let mut diagnostics = Vec::new();
    let refused = refuse(reader, gateway, &mut diagnostics);
    let mut certificates = Vec::new();
    let mut listeners = Vec::new();
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (at, spec) in gateway.spec.listeners.iter().enumerate() {
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
        let mut listener = one(reader, gateway, spec, &path, &mut diagnostics, &mut certificates);
        if let Some((_, message)) = &refused {
            listener.take_off(message, generation);
        }
        listeners.push(listener);
    }
    if refused.is_some() {
        certificates.clear();
    }
    certificates.sort_by(|a: &Arc<Certificate>, b| a.key.cmp(&b.key));
    certificates.dedup_by(|a, b| a.key == b.key);
    let asked_addresses = gateway.spec.addresses.iter().filter(|_| refused.is_none());
    let addresses = asked_addresses.filter_map(|address| {
        Some(AddressStatus {
            address_type: address.address_type.clone().unwrap_or_else(|| IP_ADDRESS.into()),
            value: address.value.clone()?,
        })
    });
    Some(GatewayListeners {
        generation,
        listeners,
        diagnostics,
        certificates,
        asked: gateway.spec.listeners.len(),
        addresses: addresses.collect(),
        refused,
    })
}

/// Why nothing of a Gateway can be served.
fn refuse(reader: &Reader<'_>, gateway: &Gateway, diagnostics: &mut Vec<Diagnostic>) -> Option<Problem> {
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

/// A Gateway is ours if its class names our controller; standalone, all are.
pub(crate) fn is_ours(reader: &Reader<'_>, gateway: &Gateway) -> bool {
    reader.options.standalone
        || reader
            .gateway_class("", &gateway.spec.gateway_class_name)
            .is_some_and(|class| class.spec.controller_name == reader.options.controller_name)
}

fn one(
    reader: &Reader<'_>,
    gateway: &Gateway,
    spec: &ListenerSpec,
    path: &str,
    diagnostics: &mut Vec<Diagnostic>,
    certificates: &mut Vec<Arc<Certificate>>,
) -> ListenerState {
    let generation = gateway.metadata.generation();
    let (namespace, name) = (gateway.metadata.namespace(), gateway.metadata.name.as_str());
    let mut accepted = Ok(());
    let mut conflicted = None;
    let hostname = match spec
        .hostname
        .as_deref()
        .filter(|hostname| !hostname.is_empty())
        .map(str::parse::<HostPattern>)
    {
        None => None,
        Some(Ok(hostname)) => Some(hostname),
        Some(Err(error)) => {
            diagnostics.push(Code::InvalidHostname.at(
                format!("{path}.hostname"),
                error.to_string(),
                "correct the hostname",
            ));
            accepted = Err(("Invalid", error.to_string()));
            None
        }
    };
    let protocol = match spec.protocol.as_str() {
        "HTTP" => Some(ListenerProtocol::Http),
        "HTTPS" => Some(ListenerProtocol::Https),
        other => {
            let message = format!("the protocol {other:?} is not served");
            diagnostics.push(Code::UnsupportedProtocol.at(format!("{path}.protocol"), &message, "use HTTP or HTTPS"));
            accepted = Err(("UnsupportedProtocol", message));
            None
        }
    };
    if spec.port == 0 {
        let message = "the port must be from 1 to 65535";
        diagnostics.push(Code::Invalid.at(format!("{path}.port"), message, "give the listener a port"));
        accepted = Err(("PortUnavailable", message.into()));
    }
    if accepted.is_ok()
        && let Some((reason, message)) = conflict(reader, gateway, spec)
    {
        let remedy = "give one of them another hostname or port, or remove it";
        diagnostics.push(Code::ListenerConflict.at(path, &message, remedy));
        conflicted = Some((reason, message.clone()));
        accepted = Err((reason, message));
    }
    let (kinds, kinds_problem) = kinds(protocol, spec);
    let mut resolved = match kinds_problem {
        Some(message) => {
            let at = format!("{path}.allowedRoutes.kinds");
            diagnostics.push(Code::InvalidRouteKinds.at(at, &message, "allow HTTPRoute or GRPCRoute only"));
            Err(("InvalidRouteKinds", message))
        }
        None => Ok(()),
    };
    let mut tls = None;
    if protocol == Some(ListenerProtocol::Https) {
        let (found, problem) = certificate::terminate(reader, namespace, spec, path, diagnostics);
        if let Some(problem) = problem {
            resolved = Err(problem);
        }
        if !found.is_empty() {
            tls = Some(ListenerTls {
                certificates: found.iter().map(|certificate| certificate.key.clone()).collect(),
            });
            certificates.extend(found);
        }
    }
    let key = ListenerKey::from(format!("{namespace}/{name}/{}", spec.name));
    let served = accepted.is_ok() && (tls.is_some() || protocol == Some(ListenerProtocol::Http));
    let model = protocol.filter(|_| served).map(|protocol| {
        Arc::new(Listener {
            key: key.clone(),
            gateway: GatewayKey::from(format!("{namespace}/{name}")),
            port: spec.port,
            protocol,
            hostname: hostname.clone(),
            tls,
        })
    });
    let programmed = match (&accepted, &resolved, &model) {
        (_, _, Some(_)) => condition("Programmed", true, "Programmed", "The listener is served", generation),
        (Err((_, message)), ..) | (_, Err((_, message)), _) => {
            condition("Programmed", false, "Invalid", message, generation)
        }
        _ => condition(
            "Programmed",
            false,
            "Pending",
            "The listener is not served yet",
            generation,
        ),
    };
    let mut conditions = vec![
        match &accepted {
            Ok(()) => condition("Accepted", true, "Accepted", "The listener is valid", generation),
            Err((reason, message)) => condition("Accepted", false, reason, message, generation),
        },
        programmed,
        match &resolved {
            Ok(()) => condition(
                "ResolvedRefs",
                true,
                "ResolvedRefs",
                "All references resolve",
                generation,
            ),
            Err((reason, message)) => condition("ResolvedRefs", false, reason, message, generation),
        },
    ];
    conditions.push(match conflicted {
        Some((reason, message)) => condition("Conflicted", true, reason, message, generation),
        None => condition(
            "Conflicted",
            false,
            "NoConflicts",
            "No other listener is in the way",
            generation,
        ),
    });
    let allowed = spec
        .allowed_routes
        .as_ref()
        .and_then(|allowed| allowed.namespaces.as_ref());
    let namespaces = match allowed.and_then(|namespaces| namespaces.from.as_deref()) {
        Some("All") => Namespaces::All,
        Some("None") => Namespaces::None,
        Some("Selector") => Namespaces::Selected(
            allowed
                .and_then(|namespaces| namespaces.selector.clone())
                .unwrap_or_default(),
        ),
        _ => Namespaces::Only(namespace.to_owned()),
    };
    ListenerState {
        name: spec.name.clone(),
        port: spec.port,
        hostname,
        model,
        key,
        kinds,
        namespaces,
        conditions,
    }
}

/// Another listener that this one cannot be told apart from. Within a Gateway neither is served: the API forbids to pick
/// one. Standalone, a listener is in conflict with those of older Gateways on its port as well, and these are served.
fn conflict(reader: &Reader<'_>, gateway: &Gateway, spec: &ListenerSpec) -> Option<Problem> {
    let same =
        |other: &Gateway| other.metadata.name == gateway.metadata.name && namespace_of(other) == namespace_of(gateway);
    let sharing = if reader.options.standalone {
        reader.gateways_on(spec.port)
    } else {
        Vec::new()
    };
    let older = sharing
        .iter()
        .map(|other| other.as_ref())
        .take_while(|other| !same(other));
    let older = older.flat_map(|other| other.spec.listeners.iter().map(move |listener| (other, listener)));
    let own = gateway
        .spec
        .listeners
        .iter()
        .filter(|listener| !listener.name.is_empty() && listener.name != spec.name);
    let own = own.map(|listener| (gateway, listener));
    older.chain(own).find_map(|(whose, other)| clash(spec, whose, other))
}

/// Why two listeners cannot be told apart.
fn clash(spec: &ListenerSpec, whose: &Gateway, other: &ListenerSpec) -> Option<Problem> {
    if other.port != spec.port || !matches!(other.protocol.as_str(), "HTTP" | "HTTPS") {
        return None;
    }
    let name = format!(
        "the listener {:?} of {}/{}",
        other.name,
        namespace_of(whose),
        whose.metadata.name
    );
    if other.protocol != spec.protocol {
        let message = format!("{name} speaks {} on port {}", other.protocol, other.port);
        return Some(("ProtocolConflict", message));
    }
    let host = |listener: &ListenerSpec| listener.hostname.clone().filter(|hostname| !hostname.is_empty());
    (host(other) == host(spec)).then(|| ("HostnameConflict", format!("{name} has the same port and hostname")))
}

fn namespace_of(gateway: &Gateway) -> &str {
    gateway.metadata.namespace()
}

/// The kinds of routes a listener takes, and what is wrong with those it names.
fn kinds(protocol: Option<ListenerProtocol>, spec: &ListenerSpec) -> (Vec<RouteKindStatus>, Option<String>) {
    let kind = |name: &str| RouteKindStatus {
        group: GATEWAY_GROUP.into(),
        kind: name.into(),
    };
    if protocol.is_none() {
        return (Vec::new(), None);
    }
    let served = ["HTTPRoute", "GRPCRoute"];
    let named = spec
        .allowed_routes
        .as_ref()
        .map(|allowed| allowed.kinds.as_slice())
        .unwrap_or_default();
    if named.is_empty() {
        return (served.iter().map(|name| kind(name)).collect(), None);
    }
    let fits =
        |group: Option<&str>, name: &str| group.unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP && served.contains(&name);
    let (good, bad): (Vec<_>, Vec<_>) = named
        .iter()
        .partition(|named| fits(named.group.as_deref(), &named.kind));
    let problem = bad
        .first()
        .map(|bad| format!("routes of kind {:?} cannot attach to this listener", bad.kind));
    (good.iter().map(|good| kind(&good.kind)).collect(), problem)
}

impl GatewayListeners {
    /// The Gateway's status, given how many routes are attached to each listener.
    pub(crate) fn status(&self, attached: impl Fn(&ListenerKey) -> usize) -> GatewayStatus {
        let accepted = |listener: &&ListenerState| listener.holds("Accepted");
        let valid = self.listeners.iter().filter(accepted).count();
        let not_valid: Vec<&str> = self
            .listeners
            .iter()
            .filter(|listener| !accepted(listener))
            .map(|listener| listener.name.as_str())
            .collect();
        let served = self
            .listeners
            .iter()
            .filter(|listener| listener.model.is_some())
            .count();
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
                match not_valid.as_slice() {
                    [] => "some listeners have no name of their own".to_owned(),
                    names => format!("some listeners are not valid: {}", names.join(", ")),
                },
                generation,
            ),
            _ => condition("Accepted", true, "Accepted", "The Gateway is valid", generation),
        };
        let programmed = if served > 0 {
            condition("Programmed", true, "Programmed", "The Gateway is served", generation)
        } else {
            condition("Programmed", false, "Invalid", "no listener is served", generation)
        };
        GatewayStatus {
            addresses: self.addresses.clone(),
            conditions: vec![accepted, programmed],
            listeners: self
                .listeners
                .iter()
                .map(|listener| ListenerStatus {
                    name: listener.name.clone(),
                    supported_kinds: listener.kinds.clone(),
                    attached_routes: i32::try_from(attached(&listener.key)).unwrap_or(i32::MAX),
                    conditions: listener.conditions.clone(),
                })
                .collect(),
        }
    }
}

impl ListenerState {
    /// Does not serve it after all.
    fn take_off(&mut self, why: &str, generation: i64) {
        self.model = None;
        for known in &mut self.conditions {
            if known.condition_type == "Programmed" {
                *known = condition("Programmed", false, "Invalid", why, generation);
            }
        }
    }

    pub(crate) fn holds(&self, kind: &str) -> bool {
        self.conditions
            .iter()
            .any(|condition| condition.condition_type == kind && condition.status == "True")
    }
}
