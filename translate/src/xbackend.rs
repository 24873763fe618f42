//! XBackend: a destination by its name in DNS, with how it is spoken to (GEP-4894), and how it stands.

use std::{collections::BTreeSet, sync::Arc};

use weft_crds::{
    BackendObjectReference, BackendTlsValidation, Condition, Kind, ObjectRef, ParentStatus, XBackend, XBackendStatus,
    XBackendTls,
};
use weft_model::{BackendProtocol, BackendTls, ClientIdentity, HostPattern, NamedEndpoint, Resource, ServiceKey};

use crate::{
    backend::{Referrer, Unresolved},
    backend_tls, certificate,
    diagnostic::{Code, Diagnostic},
    listener::Problem,
    policy,
    status::condition,
    world::Reader,
};

const KIND: Kind = Kind::XBackend;
/// The most Gateways that a status may name.
const PARENTS: usize = 32;
/// Where Services have their names: a route refers to those as Services, as far as grants allow it.
const CLUSTER: &str = "cluster.local";

/// What an XBackend comes to.
pub(crate) struct Lowered {
    /// Where it is; or why it cannot be served.
    pub(crate) destination: Result<Destination, Problem>,
    /// How TLS is spoken to it.
    pub(crate) tls: Option<BackendTls>,
    /// The certificates and roots that this names.
    pub(crate) resources: Vec<Resource>,
    /// Why nothing may be sent: TLS is asked for, and cannot be spoken.
    pub(crate) broken: Option<String>,
    accepted: Result<(), Problem>,
    resolved: Result<(), Problem>,
    diagnostics: Vec<Diagnostic>,
}

/// Where an XBackend is, and what is spoken there.
pub(crate) struct Destination {
    pub(crate) name: NamedEndpoint,
    spoken: Spoken,
}

/// What is spoken to an XBackend (`BackendProtocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    /// What the route speaks.
    Routes,
    Tcp,
    Http,
    Http11,
    Http2,
    H2c,
    Grpc,
}

impl Spoken {
    fn of(name: Option<&str>) -> Option<Self> {
        Some(match name {
            None => Self::Routes,
            Some("TCP") => Self::Tcp,
            Some("HTTP") => Self::Http,
            Some("HTTP11") => Self::Http11,
            Some("HTTP2") => Self::Http2,
            Some("H2C") => Self::H2c,
            Some("GRPC") => Self::Grpc,
            Some(_) => return None,
        })
    }

    /// Whether routes of a kind can send there.
    fn serves(self, kind: Kind) -> bool {
        match kind {
            Kind::HttpRoute => self != Self::Tcp,
            Kind::GrpcRoute => !matches!(self, Self::Tcp | Self::Http11),
            Kind::UdpRoute => false,
            // They look at nothing that they carry.
            _ => true,
        }
    }
}

impl Destination {
    /// As the model has it.
    pub(crate) fn protocol(&self) -> BackendProtocol {
        match self.spoken {
            Spoken::Routes | Spoken::Tcp | Spoken::Http => BackendProtocol::Undeclared,
            Spoken::Http11 => BackendProtocol::Http1,
            Spoken::Http2 | Spoken::H2c | Spoken::Grpc => BackendProtocol::H2c,
        }
    }
}

/// Whether a reference is to an XBackend.
pub(crate) fn is_meant(reference: &BackendObjectReference) -> bool {
    reference.group == KIND.group() && reference.kind == KIND.name()
}

/// Finds the XBackend that a route refers to.
pub(crate) fn resolve(
    reader: &Reader<'_>,
    from: Referrer<'_>,
    reference: &BackendObjectReference,
    path: &str,
) -> Result<ServiceKey, Box<Unresolved>> {
    let Referrer { kind, namespace, .. } = from;
    let to = reference.namespace.as_deref().unwrap_or(namespace);
    let name = &reference.name;
    let full = format!("{KIND} {to}/{name}");
    let fail = |reason, diagnostic, found| {
        Err(Box::new(Unresolved {
            reason,
            diagnostic,
            found,
        }))
    };
    if !reader.permits((kind, namespace), (KIND.group(), KIND.name(), to, name)) {
        let message = format!("no ReferenceGrant in {to} lets {kind}s of {namespace} use the {KIND} {name}");
        let remedy = format!("add a ReferenceGrant to {to}, from {kind} in {namespace} to {KIND} {name}");
        let diagnostic = Code::MissingGrant.at(format!("{path}.namespace"), message, remedy);
        return fail("RefNotPermitted", diagnostic, None);
    }
    let Some(backend) = reader.xbackend(to, name) else {
        let message = format!("there is no {full}");
        let diagnostic = Code::BackendNotFound.at(format!("{path}.name"), message, "create it, or correct the name");
        return fail("BackendNotFound", diagnostic, None);
    };
    let found = Some(ObjectRef::new(KIND, to, name));
    let destination = match lower(reader, backend).destination {
        Ok(destination) => destination,
        Err((reason, why)) => {
            let reason = match reason {
                "UnsupportedProtocol" => reason,
                _ => "UnsupportedValue",
            };
            let message = format!("the {full} cannot be served: {why}");
            let diagnostic = Code::BackendInvalid.at(path, message, "see what is said of it");
            return fail(reason, diagnostic, found);
        }
    };
    let port = destination.name.port;
    if let Some(other) = reference.port.filter(|other| *other != port) {
        let message = format!("the {full} has no port {other}");
        let remedy = format!("leave the port out, or use its own: {port}");
        let diagnostic = Code::BackendNotFound.at(format!("{path}.port"), message, remedy);
        return fail("BackendNotFound", diagnostic, found);
    }
    if !destination.spoken.serves(kind) {
        let message = match kind {
            Kind::UdpRoute => format!("the {full} speaks no UDP"),
            _ => {
                let protocol = backend.spec.protocol.as_deref().unwrap_or_default();
                format!("the {full} speaks {protocol}, which is not for {kind}s")
            }
        };
        let remedy = "correct its protocol, or refer to it from a route of another kind";
        let diagnostic = Code::BackendProtocol.at(path, message, remedy);
        return fail("UnsupportedProtocol", diagnostic, found);
    }
    Ok(ServiceKey::of_xbackend(to, name, port))
}

/// What is wrong with an XBackend.
#[derive(Default)]
struct Checked {
    refused: Option<Problem>,
    diagnostics: Vec<Diagnostic>,
}

impl Checked {
    fn refuse(&mut self, code: Code, reason: &'static str, path: &str, message: String, remedy: &str) {
        self.diagnostics.push(code.at(path, &message, remedy));
        self.refused.get_or_insert((reason, message));
    }

    fn invalid(&mut self, path: &str, message: String, remedy: &str) {
        self.refuse(Code::Invalid, "Invalid", path, message, remedy);
    }

    fn missing(&mut self, path: &str, message: &str, remedy: &str) {
        self.refuse(Code::MissingField, "Invalid", path, message.to_owned(), remedy);
    }
}

/// What an XBackend comes to.
pub(crate) fn lower(reader: &Reader<'_>, backend: &XBackend) -> Lowered {
    let mut checked = Checked::default();
    let name = NamedEndpoint {
        hostname: hostname(backend, &mut checked),
        port: port(backend, &mut checked),
    };
    let spoken = spoken(backend, &mut checked);
    let mut lowered = Lowered {
        destination: Err(Problem::default()),
        tls: None,
        resources: Vec::new(),
        broken: None,
        accepted: Ok(()),
        resolved: Ok(()),
        diagnostics: Vec::new(),
    };
    match mode(backend.spec.tls.as_ref(), &mut checked) {
        Some(Mode::Clear) if spoken != Spoken::Tcp && checked.refused.is_none() => {
            let message = format!(
                "requests go to {} in clear, over networks that are not the cluster's",
                name.hostname
            );
            let remedy = "set tls.mode to ServerOnly";
            checked
                .diagnostics
                .push(Code::BackendInClear.at("spec.tls", message, remedy));
        }
        Some(Mode::Clear) | None => {}
        Some(Mode::Tls(tls)) => {
            if spoken == Spoken::H2c {
                let message = "H2C is HTTP/2 in clear, and TLS is asked for".to_owned();
                let remedy = "use HTTP2, or the TLS mode None";
                let (code, reason) = (Code::BackendProtocol, "UnsupportedProtocol");
                checked.refuse(code, reason, "spec.protocol", message, remedy);
            }
            lowered.speak_tls(reader, backend, tls, &mut checked);
        }
    }
    lowered.diagnostics.append(&mut checked.diagnostics);
    lowered.destination = match checked.refused {
        Some(problem) => {
            lowered.accepted = Err(problem.clone());
            Err(problem)
        }
        None => Ok(Destination { name, spoken }),
    };
    lowered
}

/// The name in DNS; something, where it is refused.
fn hostname(backend: &XBackend, checked: &mut Checked) -> String {
    let kind = backend.spec.backend_type.as_str();
    match kind {
        "ExternalHostname" => {}
        "" => checked.missing("spec.type", "the type is missing", "use ExternalHostname"),
        _ => {
            let message = format!("a backend of type {kind:?} is not served");
            let remedy = "use ExternalHostname; refer to Services by their own kind";
            checked.refuse(Code::Invalid, "UnsupportedValue", "spec.type", message, remedy);
            return String::new();
        }
    }
    let path = "spec.externalHostname";
    let Some(external) = &backend.spec.external_hostname else {
        checked.missing(path, "a backend of type ExternalHostname needs its hostname", "add it");
        return String::new();
    };
    let hostname = external.hostname.clone();
    let path = format!("{path}.hostname");
    let of_cluster = hostname == CLUSTER || hostname.strip_suffix(CLUSTER).is_some_and(|rest| rest.ends_with('.'));
    // No top-level domain is a number: such a name is an address, however it is written.
    let last = hostname.rsplit('.').next().unwrap_or_default();
    let address = last.bytes().all(|byte| byte.is_ascii_digit());
    if of_cluster {
        let message = format!("{hostname} is a name of the cluster's own");
        checked.invalid(
            &path,
            message,
            "refer to the Service itself, with a ReferenceGrant if need be",
        );
    } else if address || !matches!(hostname.parse(), Ok(HostPattern::Exact(_))) {
        let message = format!("{hostname:?} is not the name of one host");
        let remedy = "use lower-case labels separated by dots; IP addresses are not allowed";
        checked.invalid(&path, message, remedy);
    }
    hostname
}

fn port(backend: &XBackend, checked: &mut Checked) -> u16 {
    let port = &backend.spec.port;
    if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty())
        && (name.len() > 63 || name.contains('.') || !matches!(name.parse(), Ok(HostPattern::Exact(_))))
    {
        let message = format!("{name:?} is not a DNS label");
        checked.invalid("spec.port.name", message, "use lower-case letters, digits and -");
    }
    match port.port.or(port.number) {
        None => checked.missing("spec.port", "the port has no number", "add spec.port.port"),
        Some(0) => checked.invalid("spec.port.port", "0 is not a port".into(), "use 1 to 65535"),
        Some(number) => return number,
    }
    0
}

fn spoken(backend: &XBackend, checked: &mut Checked) -> Spoken {
    let protocol = backend.spec.protocol.as_deref();
    Spoken::of(protocol).unwrap_or_else(|| {
        let message = format!("the protocol {:?} is not served", protocol.unwrap_or_default());
        let remedy = "use HTTP, HTTP11, HTTP2, H2C, GRPC or TCP, or leave it to the route";
        let (code, reason) = (Code::BackendProtocol, "UnsupportedProtocol");
        checked.refuse(code, reason, "spec.protocol", message, remedy);
        Spoken::Routes
    })
}

enum Mode<'b> {
    Clear,
    Tls(&'b XBackendTls),
}

/// Whether TLS is asked for; none where that is not clear.
fn mode<'b>(tls: Option<&'b XBackendTls>, checked: &mut Checked) -> Option<Mode<'b>> {
    let Some(tls) = tls else { return Some(Mode::Clear) };
    let path = "spec.tls.clientCertificateRef";
    match (tls.mode.as_str(), &tls.client_certificate_ref) {
        ("None", None) => return Some(Mode::Clear),
        ("ServerOnly", None) | ("ClientAndServer", Some(_)) => return Some(Mode::Tls(tls)),
        ("ClientAndServer", None) => checked.missing(path, "ClientAndServer needs a client certificate", "add it"),
        (mode @ ("None" | "ServerOnly"), Some(_)) => {
            let message = format!("the TLS mode {mode} shows no certificate");
            checked.invalid(path, message, "remove it, or use ClientAndServer");
        }
        ("", _) => checked.missing("spec.tls.mode", "the TLS mode is missing", "use ServerOnly"),
        (other, _) => {
            let message = format!("the TLS mode {other:?} is not known");
            checked.invalid("spec.tls.mode", message, "use None, ServerOnly or ClientAndServer");
        }
    }
    None
}

impl Lowered {
    fn speak_tls(&mut self, reader: &Reader<'_>, backend: &XBackend, tls: &XBackendTls, checked: &mut Checked) {
        let from = (KIND, backend.metadata.namespace());
        // The API leaves out what is to be checked then: what anybody would who goes to that name.
        let default = BackendTlsValidation {
            hostname: backend.spec.external_hostname.clone().unwrap_or_default().hostname,
            well_known_ca_certificates: Some("System".into()),
            ..BackendTlsValidation::default()
        };
        let validation = tls.validation.as_ref().unwrap_or(&default);
        let validated = backend_tls::validation(reader, from, validation, "spec.tls.validation");
        // Of a default nothing is wrong but what has been said.
        if tls.validation.is_some() {
            checked.diagnostics.extend(validated.diagnostics);
        }
        self.resources
            .extend(validated.bundles.into_iter().map(Resource::TrustBundle));
        self.resolved = validated.resolved;
        match (validated.tls, validated.accepted) {
            (Ok(tls), _) => self.tls = Some(tls),
            (Err(_), Err((reason @ "Invalid", message))) => {
                checked.refused.get_or_insert((reason, message));
            }
            (Err(why), accepted) => {
                self.accepted = accepted;
                self.broken = Some(why);
            }
        }
        let identity = match &tls.client_certificate_ref {
            None => ClientIdentity::Nothing,
            Some(reference) => match certificate::certificate(reader, from, reference) {
                Ok(certificate) => {
                    let key = certificate.key.clone();
                    self.resources.push(Resource::Certificate(Arc::new(certificate)));
                    ClientIdentity::Certificate(key)
                }
                Err((code, reason, message, remedy)) => {
                    // The API's names for what is wrong with it are those of `Gateway.spec.tls.backend`.
                    let reason = match reason {
                        "InvalidCertificateRef" => "InvalidClientCertificateRef",
                        other => other,
                    };
                    let path = "spec.tls.clientCertificateRef";
                    checked.diagnostics.push(code.at(path, &message, remedy));
                    self.broken.get_or_insert_with(|| message.clone());
                    if self.resolved.is_ok() {
                        self.resolved = Err((reason, message));
                    }
                    ClientIdentity::Nothing
                }
            },
        };
        match &mut self.tls {
            Some(tls) if self.broken.is_none() => tls.identity = identity,
            // Nothing goes out where TLS cannot be spoken as it was asked for.
            _ => {
                self.tls = None;
                self.resources.clear();
            }
        }
    }
}

/// How an XBackend stands with the Gateways through which requests come to it; none if there is no such XBackend.
pub(crate) fn stand(
    reader: &Reader<'_>,
    reference: &ObjectRef,
    gateways: &BTreeSet<ObjectRef>,
) -> Option<(XBackendStatus, Vec<Diagnostic>)> {
    let backend = reader.xbackend(&reference.namespace, &reference.name)?;
    let generation = backend.metadata.generation();
    let lowered = lower(reader, backend);
    let say = |kind: &str, holds: &Result<(), Problem>, message: &str| -> Condition {
        match holds {
            Ok(()) => condition(kind, true, kind, message, generation),
            Err((reason, message)) => condition(kind, false, reason, message, generation),
        }
    };
    let conditions = [
        say("Accepted", &lowered.accepted, "The backend is valid"),
        say("ResolvedRefs", &lowered.resolved, "All references resolve"),
    ];
    let parent = |gateway: &ObjectRef| ParentStatus {
        parent_ref: policy::parent_reference(gateway),
        controller_name: reader.options.controller_name.clone(),
        conditions: conditions.to_vec(),
    };
    let status = XBackendStatus {
        parents: gateways.iter().take(PARENTS).map(parent).collect(),
    };
    Some((status, lowered.diagnostics))
}
