//! A listener: whether it is served, by which certificates, and which routes it takes.

use std::sync::Arc;

use weft_crds::{Condition, Kind, LabelSelector, ListenerSpec, NamespacesFrom, RouteKindStatus};
use weft_model::{
    CertificateKey, GatewayKey, HostPattern, Listener, ListenerKey, ListenerProtocol, ListenerTls, Resource,
};

use crate::{
    acme::{self, Acme},
    certificate::{self, Shown},
    diagnostic::{Code, Diagnostic},
    frontend,
    owner::{self, Owner},
    status::condition,
    world::{Reader, Slot},
};

pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The protocols that are served, of which a port speaks one.
const PROTOCOLS: [&str; 5] = ["HTTP", "HTTPS", "TLS", "TCP", "UDP"];

/// The reason of a condition, and the whole story.
pub(crate) type Problem = (&'static str, String);

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerState {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) hostname: Option<HostPattern>,
    /// Present when data planes listen.
    pub(crate) model: Option<Arc<Listener>>,
    /// They do, but have no certificate to show yet.
    awaits: bool,
    /// The certificates that are to be had by ACME.
    pub(crate) acme: Vec<acme::Part>,
    pub(crate) key: ListenerKey,
    /// The kinds of routes it takes.
    pub(crate) kinds: Vec<RouteKindStatus>,
    pub(crate) namespaces: Namespaces,
    pub(crate) conditions: Vec<Condition>,
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
    /// Those that a spec means; `own` is the namespace of whoever states it, and meant by default.
    pub(crate) fn of(spec: Option<&NamespacesFrom>, own: &str) -> Self {
        match spec.and_then(|spec| spec.from.as_deref()) {
            Some("All") => Self::All,
            Some("None") => Self::None,
            // A selector that is not there selects nothing.
            Some("Selector") => spec
                .and_then(|spec| spec.selector.clone())
                .map_or(Self::None, Self::Selected),
            _ => Self::Only(own.to_owned()),
        }
    }

    pub(crate) fn allow(&self, reader: &Reader<'_>, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(own) => own == namespace,
            Self::Selected(selector) => selector.matches(&reader.namespace_labels(namespace)),
            Self::None => false,
        }
    }
}

/// Derives a listener, whoever has it. What it needs goes into `resources`.
pub(crate) fn one(
    reader: &Reader<'_>,
    owner: &Owner<'_>,
    spec: &ListenerSpec,
    path: &str,
    backend_certificate: Option<&CertificateKey>,
    diagnostics: &mut Vec<Diagnostic>,
    resources: &mut Vec<Resource>,
) -> ListenerState {
    let generation = owner.metadata.generation();
    let namespace = owner.namespace();
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
        "TLS" => Some(ListenerProtocol::Tls),
        "TCP" => Some(ListenerProtocol::Tcp),
        "UDP" => Some(ListenerProtocol::Udp),
        other => {
            let message = format!("the protocol {other:?} is not served");
            let remedy = "use HTTP, HTTPS, TLS, TCP or UDP";
            diagnostics.push(Code::UnsupportedProtocol.at(format!("{path}.protocol"), &message, remedy));
            accepted = Err(("UnsupportedProtocol", message));
            None
        }
    };
    if spec.port == 0 {
        let message = "the port must be from 1 to 65535";
        diagnostics.push(Code::Invalid.at(format!("{path}.port"), message, "give the listener a port"));
        accepted = Err(("PortUnavailable", message.into()));
    }
    let terminates = match terminates(protocol, spec) {
        Ok(terminates) => terminates,
        Err((field, message, remedy)) => {
            diagnostics.push(Code::Invalid.at(format!("{path}.{field}"), &message, remedy));
            accepted = Err(("Invalid", message));
            false
        }
    };
    if accepted.is_ok()
        && let Some((reason, message)) = conflict(reader, owner, spec)
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
            let fitting = protocol.map(kinds_of).unwrap_or_default().join(" or ");
            diagnostics.push(Code::InvalidRouteKinds.at(at, &message, format!("allow {fitting} only")));
            Err(("InvalidRouteKinds", message))
        }
        None => Ok(()),
    };
    let mut tls = None;
    let mut shown = Shown::default();
    if terminates {
        let from = (owner.reference.kind, namespace);
        let acme = Acme::of(reader, owner, spec, hostname.as_ref()).filter(|_| accepted.is_ok());
        shown = certificate::terminate(reader, from, spec, acme.as_ref(), path, diagnostics);
        if let Some(problem) = shown.problem.take() {
            resolved = Err(problem);
        }
        let frontend = frontend::on(reader, owner.gateway, spec.port);
        if let Some(problem) = frontend.as_ref().and_then(|frontend| frontend.problem.clone()) {
            let (_, message) = &problem;
            if owner.reference.kind != Kind::Gateway {
                let remedy = "see spec.tls.frontend of the Gateway";
                diagnostics.push(Code::InvalidTrust.at(format!("{path}.port"), message, remedy));
            }
            let nobody = frontend.as_ref().is_none_or(|frontend| frontend.bundles.is_empty());
            if nobody && accepted.is_ok() {
                accepted = Err(("NoValidCACertificate", message.clone()));
            }
            resolved = Err(problem);
        }
        if !shown.found.is_empty() || !shown.awaited.is_empty() {
            let there = shown.found.iter().map(|certificate| &certificate.key);
            tls = Some(ListenerTls {
                certificates: there.chain(&shown.awaited).cloned().collect(),
                client: frontend.as_ref().map(|frontend| frontend.client.clone()),
            });
            resources.extend(shown.found.iter().cloned().map(Resource::Certificate));
            resources.extend(shown.challenges.drain(..).map(Resource::Challenge));
            let bundles = frontend.into_iter().flat_map(|frontend| frontend.bundles);
            resources.extend(bundles.map(Resource::TrustBundle));
        }
    }
    let key = owner.key(&spec.name);
    let served = accepted.is_ok() && (tls.is_some() || !terminates);
    let model = protocol.filter(|_| served).map(|protocol| {
        Arc::new(Listener {
            key: key.clone(),
            gateway: GatewayKey::from(format!(
                "{}/{}",
                owner.gateway.metadata.namespace(),
                owner.gateway.metadata.name
            )),
            port: spec.port,
            protocol,
            hostname: hostname.clone(),
            tls,
            backend_certificate: backend_certificate.cloned(),
        })
    });
    let awaits = model.is_some() && shown.found.is_empty() && !shown.awaited.is_empty();
    let programmed = match (&accepted, &resolved, &model) {
        (_, Err((_, message)), Some(_)) if awaits => condition("Programmed", false, "Pending", message, generation),
        (_, _, Some(_)) => condition("Programmed", true, "Programmed", "The listener is served", generation),
        (Err((_, message)), ..) | (_, Err((_, message)), _) => {
            let reason = conflicted.as_ref().map_or("Invalid", |(reason, _)| reason);
            condition("Programmed", false, reason, message, generation)
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
                shown.note.as_deref().unwrap_or("All references resolve"),
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
    let namespaces = Namespaces::of(allowed, namespace);
    ListenerState {
        name: spec.name.clone(),
        port: spec.port,
        hostname,
        awaits,
        acme: shown.acme,
        model,
        key,
        kinds,
        namespaces,
        conditions,
    }
}

/// Another listener that this one cannot be told apart from. Of several owners on a port the first is served; within one
/// owner neither listener is: the API forbids to pick one. A Gateway shares its ports with its ListenerSets, and
/// standalone with all others.
fn conflict(reader: &Reader<'_>, owner: &Owner<'_>, spec: &ListenerSpec) -> Option<Problem> {
    let scope = (!reader.options.standalone).then(|| owner.gateway_reference());
    let first = |protocol: &str, hostname: Option<&str>| {
        owner::first(
            reader,
            Slot {
                scope: scope.clone(),
                port: spec.port,
                protocol: protocol.to_owned(),
                hostname: hostname.map(str::to_owned),
            },
        )
    };
    let before = |found: &Owner<'_>| found.precedence() < owner.precedence();
    let clashing = |found: &Owner<'_>| {
        let mut listeners = found.listeners.iter();
        listeners.find_map(|listener| clash(spec, found, listener))
    };
    // A port speaks the protocol of whoever comes first on it.
    let rivals = PROTOCOLS
        .into_iter()
        .filter(|other| *other != spec.protocol && !apart(other, &spec.protocol));
    for other in rivals {
        let Some(theirs) = first(other, None).filter(before) else {
            continue;
        };
        let ours = first(&spec.protocol, None);
        if ours.is_none_or(|ours| theirs.precedence() <= ours.precedence()) {
            return clashing(&theirs);
        }
    }
    let same = first(&spec.protocol, Some(hostname(spec))).filter(before);
    // Where somebody before has settled what the port speaks, others of one's own that would speak something else have lost
    // already.
    let settled = first(&spec.protocol, None).is_some_and(|first| before(&first));
    same.and_then(|same| clashing(&same)).or_else(|| {
        let mut own = owner.listeners.iter();
        own.find_map(|other| {
            let is_other = !other.name.is_empty() && other.name != spec.name;
            let is_rival = is_other && (!settled || other.protocol == spec.protocol);
            is_rival.then(|| clash(spec, owner, other)).flatten()
        })
    })
}

/// The hostname of a listener; empty for all of them.
pub(crate) fn hostname(spec: &ListenerSpec) -> &str {
    spec.hostname.as_deref().unwrap_or_default()
}

/// Whether two protocols have ports of their own: a number may be used once for TCP and once for UDP.
fn apart(one: &str, other: &str) -> bool {
    (one == "UDP") != (other == "UDP")
}

/// Why two listeners cannot be told apart.
fn clash(spec: &ListenerSpec, whose: &Owner<'_>, other: &ListenerSpec) -> Option<Problem> {
    if other.port != spec.port
        || apart(&other.protocol, &spec.protocol)
        || !PROTOCOLS.contains(&other.protocol.as_str())
    {
        return None;
    }
    let name = format!("the listener {:?} of {}", other.name, whose.shown());
    if other.protocol != spec.protocol {
        let message = format!("{name} speaks {} on port {}", other.protocol, other.port);
        return Some(("ProtocolConflict", message));
    }
    if matches!(spec.protocol.as_str(), "TCP" | "UDP") {
        return Some(("ProtocolConflict", format!("{name} has the same port")));
    }
    let same = hostname(other) == hostname(spec);
    same.then(|| ("HostnameConflict", format!("{name} has the same port and hostname")))
}

/// Whether a listener terminates TLS; else the field that does not fit its protocol, what is wrong and what to do.
fn terminates(
    protocol: Option<ListenerProtocol>,
    spec: &ListenerSpec,
) -> Result<bool, (&'static str, String, &'static str)> {
    let mode = spec.tls.as_ref().and_then(|tls| tls.mode.as_deref());
    match protocol {
        None | Some(ListenerProtocol::Http) => Ok(false),
        Some(ListenerProtocol::Https) if mode == Some("Passthrough") => {
            let message = "an HTTPS listener cannot pass TLS through".to_owned();
            Err(("tls.mode", message, "use Terminate, or the protocol TLS"))
        }
        Some(ListenerProtocol::Https | ListenerProtocol::Tls) => match mode {
            None | Some("Terminate" | "") => Ok(true),
            Some("Passthrough") => Ok(false),
            Some(other) => {
                let message = format!("{other:?} is not a way to treat TLS");
                Err(("tls.mode", message, "use Terminate or Passthrough"))
            }
        },
        Some(ListenerProtocol::Tcp | ListenerProtocol::Udp) => {
            if spec.tls.is_some() {
                let message = format!("a listener of {} has no TLS", spec.protocol);
                return Err(("tls", message, "remove it, or use the protocol TLS"));
            }
            if spec.hostname.as_ref().is_some_and(|hostname| !hostname.is_empty()) {
                let message = format!("a listener of {} knows no hostname", spec.protocol);
                return Err(("hostname", message, "remove it, or use the protocol TLS"));
            }
            Ok(false)
        }
    }
}

/// The kinds of routes that fit a protocol.
fn kinds_of(protocol: ListenerProtocol) -> &'static [&'static str] {
    match protocol {
        ListenerProtocol::Http | ListenerProtocol::Https => &["HTTPRoute", "GRPCRoute"],
        ListenerProtocol::Tls => &["TLSRoute"],
        ListenerProtocol::Tcp => &["TCPRoute"],
        ListenerProtocol::Udp => &["UDPRoute"],
    }
}

/// The kinds of routes a listener takes, and what is wrong with those it names.
fn kinds(protocol: Option<ListenerProtocol>, spec: &ListenerSpec) -> (Vec<RouteKindStatus>, Option<String>) {
    let kind = |name: &str| RouteKindStatus {
        group: GATEWAY_GROUP.into(),
        kind: name.into(),
    };
    let Some(served) = protocol.map(kinds_of) else {
        return (Vec::new(), None);
    };
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

impl ListenerState {
    /// Does not serve it after all.
    pub(crate) fn take_off(&mut self, why: &str, generation: i64) {
        self.model = None;
        for known in &mut self.conditions {
            if known.condition_type == "Programmed" {
                *known = condition("Programmed", false, "Invalid", why, generation);
            }
        }
    }

    /// Whether it is served to clients.
    pub(crate) fn is_served(&self) -> bool {
        self.model.is_some() && !self.awaits
    }

    pub(crate) fn holds(&self, kind: &str) -> bool {
        self.conditions
            .iter()
            .any(|condition| condition.condition_type == kind && condition.status == "True")
    }
}
