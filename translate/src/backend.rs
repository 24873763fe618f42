//! References from routes to Services, and to what stands for them.

use weft_crds::{BackendObjectReference, Kind, ObjectRef, ServicePort};
use weft_model::{BackendProtocol, ServiceKey, Transport};

use crate::{
    backend_tls,
    diagnostic::{Code, Diagnostic},
    world::Reader,
    xbackend,
};

/// Why a reference does not resolve: the reason of `ResolvedRefs`, and the whole story.
pub(crate) struct Unresolved {
    pub(crate) reason: &'static str,
    pub(crate) diagnostic: Diagnostic,
    /// The object that is meant, and that is to say itself what is wrong with it.
    pub(crate) found: Option<ObjectRef>,
}

/// The route that refers to something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Referrer<'r> {
    pub(crate) kind: Kind,
    pub(crate) namespace: &'r str,
    /// It is for the mesh alone. What it leads to its clients could reach without it, so that it needs no grants for Services
    /// (GEP-1294).
    pub(crate) in_mesh: bool,
}

/// Finds the Service port that a route refers to: for a UDPRoute one of UDP, for any other one of TCP. What is spoken over
/// it (`appProtocol`) matters to routes that look at requests.
pub(crate) fn resolve(
    reader: &Reader<'_>,
    from: Referrer<'_>,
    reference: &BackendObjectReference,
    path: &str,
) -> Result<ServiceKey, Box<Unresolved>> {
    if xbackend::is_meant(reference) {
        return xbackend::resolve(reader, from, reference, path);
    }
    let Referrer { kind, namespace, .. } = from;
    let fail = |reason, code: Code, field: &str, message: String, remedy: String| {
        let path = if field.is_empty() {
            path.to_owned()
        } else {
            format!("{path}.{field}")
        };
        Box::new(Unresolved {
            reason,
            diagnostic: code.at(path, message, remedy),
            found: None,
        })
    };
    if !reference.group.is_empty() || reference.kind != "Service" {
        let message = format!(
            "a backend of kind {} in group {:?} is not served",
            reference.kind, reference.group
        );
        return Err(fail(
            "InvalidKind",
            Code::BackendKind,
            "kind",
            message,
            "refer to a Service, or to an XBackend".into(),
        ));
    }
    let to = reference.namespace.as_deref().unwrap_or(namespace);
    let full = format!("{to}/{}", reference.name);
    if !from.in_mesh && !reader.permits((kind, namespace), ("", "Service", to, &reference.name)) {
        let message = format!(
            "no ReferenceGrant in {to} lets {kind}s of {namespace} use the Service {}",
            reference.name
        );
        let remedy = format!(
            "add a ReferenceGrant to {to}, from {kind} in {namespace} to Service {}",
            reference.name
        );
        return Err(fail(
            "RefNotPermitted",
            Code::MissingGrant,
            "namespace",
            message,
            remedy,
        ));
    }
    let Some(service) = reader.service(to, &reference.name) else {
        let message = format!("there is no Service {full}");
        return Err(fail(
            "BackendNotFound",
            Code::BackendNotFound,
            "name",
            message,
            "create it, or correct the name".into(),
        ));
    };
    if service.spec.service_type.as_deref() == Some("ExternalName") {
        let message = format!("the Service {full} is of type ExternalName, which is not served");
        let remedy = "refer to a Service with endpoints; a name can be made to stand for any address (CVE-2021-25740)";
        return Err(fail("InvalidKind", Code::BackendKind, "name", message, remedy.into()));
    }
    let Some(port) = reference.port else {
        let message = format!("a reference to the Service {full} needs a port");
        return Err(fail(
            "BackendNotFound",
            Code::MissingField,
            "",
            message,
            "add the port".into(),
        ));
    };
    let transport = match kind {
        Kind::UdpRoute => Transport::Udp,
        _ => Transport::Tcp,
    };
    let mut numbered = service
        .spec
        .ports
        .iter()
        .filter(|candidate| candidate.port == port)
        .peekable();
    if numbered.peek().is_none() {
        let known: Vec<String> = service.spec.ports.iter().map(|port| port.port.to_string()).collect();
        let message = format!("the Service {full} has no port {port}");
        let remedy = format!("use one of its ports: {}", known.join(", "));
        return Err(fail("BackendNotFound", Code::BackendNotFound, "port", message, remedy));
    }
    let Some(found) = numbered.find(|found| transport_of(found) == Some(transport)) else {
        let wanted = match transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        };
        let message = format!("port {port} of the Service {full} is not {wanted}");
        return Err(fail(
            "UnsupportedProtocol",
            Code::BackendProtocol,
            "port",
            message,
            format!("use a {wanted} port"),
        ));
    };
    let looks_inside = matches!(kind, Kind::HttpRoute | Kind::GrpcRoute);
    if looks_inside
        && is_https(found.app_protocol.as_deref())
        && !backend_tls::applies(reader, to, &reference.name, found.name.as_deref())
    {
        let message = format!("port {port} of the Service {full} wants TLS, and nothing says whom to trust");
        let remedy = format!("add a BackendTLSPolicy for the Service to {to}");
        return Err(fail(
            "UnsupportedProtocol",
            Code::BackendProtocol,
            "port",
            message,
            remedy,
        ));
    }
    if let Some(unknown) = found
        .app_protocol
        .as_deref()
        .filter(|name| looks_inside && protocol(Some(name)).is_none())
    {
        let message = format!("the Service {full} declares the appProtocol {unknown:?}, which is not served");
        let remedy = "use http, https, kubernetes.io/h2c, kubernetes.io/ws or grpc, or none".to_owned();
        return Err(fail(
            "UnsupportedProtocol",
            Code::BackendProtocol,
            "port",
            message,
            remedy,
        ));
    }
    Ok(ServiceKey::of(to, &reference.name, port, transport))
}

/// What a port of a Service is one of; none where that is not served.
pub(crate) fn transport_of(port: &ServicePort) -> Option<Transport> {
    match port.protocol.as_deref() {
        None | Some("TCP") => Some(Transport::Tcp),
        Some("UDP") => Some(Transport::Udp),
        Some(_) => None,
    }
}

/// Whether an `appProtocol` says that the backend speaks TLS.
fn is_https(app_protocol: Option<&str>) -> bool {
    app_protocol.is_some_and(|name| {
        let names = ["https", "kubernetes.io/wss", "wss"];
        names.iter().any(|known| name.eq_ignore_ascii_case(known))
    })
}

/// What an `appProtocol` means (GEP-1911); none when it is not served.
pub(crate) fn protocol(app_protocol: Option<&str>) -> Option<BackendProtocol> {
    let name = app_protocol.unwrap_or_default().to_ascii_lowercase();
    match name.as_str() {
        "" | "tcp" | "https" => Some(BackendProtocol::Undeclared),
        "http" | "http1" | "kubernetes.io/ws" | "ws" | "kubernetes.io/wss" | "wss" => Some(BackendProtocol::Http1),
        "kubernetes.io/h2c" | "h2c" | "http2" | "grpc" | "kubernetes.io/grpc" => Some(BackendProtocol::H2c),
        _ => None,
    }
}
