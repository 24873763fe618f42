//! Spans as OTLP has them, by OpenTelemetry's semantic conventions for HTTP and gRPC.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use self::messages::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans, Status,
    any_value::Value, span::SpanKind, status::StatusCode,
};
pub(super) use self::messages::{ExportTraceServiceResponse, trace_service_client::TraceServiceClient};
use super::{
    SpanService,
    span::{Kind, Parent, Span},
};
use crate::flag::Flag;

/// The messages and the client, generated from `proto/`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated; what they mean is said in proto/"
)]
mod messages {
    include!(concat!(
        env!("OUT_DIR"),
        "/otlp/opentelemetry.proto.collector.trace.v1.rs"
    ));
}

/// In the flags of a span, that it says whether its parent is somebody else's, and that it is.
const REMOTE: [u32; 2] = [0x100, 0x200];

/// Methods that have names of their own; others could be anything.
const METHODS: [&str; 10] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE",
];

/// What a server of gRPC has done wrong itself, by the codes.
const GRPC_SERVER_ERRORS: [u16; 6] = [2, 4, 12, 13, 14, 15];

/// All that a collector is told of spans.
pub(super) fn request(service: &SpanService, spans: &[Span]) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource(service)),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "weft".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                }),
                spans: spans.iter().map(span).collect(),
            }],
        }],
    }
}

fn resource(service: &SpanService) -> Resource {
    let mut attributes = vec![text("service.name", &service.name)];
    if let Some(namespace) = &service.namespace {
        attributes.push(text("service.namespace", namespace));
        attributes.push(text("k8s.namespace.name", namespace));
    }
    if let Some(pod) = &service.pod {
        attributes.push(text("k8s.pod.name", pod));
    }
    Resource { attributes }
}

fn span(span: &Span) -> messages::Span {
    let method = METHODS.contains(&&*span.asked.method).then_some(&*span.asked.method);
    let mut flags = u32::from(span.flags) | REMOTE[0];
    let parent = match span.parent {
        Parent::Nobody => Vec::new(),
        Parent::Remote(id) => {
            flags |= REMOTE[1];
            id.to_vec()
        }
        Parent::Local(id) => id.to_vec(),
    };
    let error = error(span);
    let mut attributes = Vec::with_capacity(16);
    describe(span, method, &mut attributes);
    attributes.extend(error.as_deref().map(|error| text("error.type", error)));
    messages::Span {
        trace_id: span.trace.to_vec().into(),
        span_id: span.id.to_vec().into(),
        trace_state: span.state.as_deref().unwrap_or_default().to_owned(),
        parent_span_id: parent.into(),
        flags,
        name: method.unwrap_or("HTTP").to_owned(),
        kind: match span.kind {
            Kind::Server => SpanKind::Server.into(),
            Kind::Client => SpanKind::Client.into(),
        },
        start_time_unix_nano: nanos(span.began),
        end_time_unix_nano: nanos(span.began + span.took),
        attributes,
        status: error.map(|_| Status {
            message: String::new(),
            code: StatusCode::Error.into(),
        }),
    }
}

fn describe(span: &Span, method: Option<&str>, attributes: &mut Vec<KeyValue>) {
    let mut put = |key, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            attributes.push(text(key, value));
        }
    };
    put("http.request.method", Some(method.unwrap_or("_OTHER")));
    put(
        "http.request.method_original",
        Some(&*span.asked.method).filter(|_| method.is_none()),
    );
    let (host, port) = authority(&span.asked.host);
    put("server.address", Some(host));
    put("url.path", Some(&span.asked.path));
    put("url.scheme", Some(span.scheme));
    put("network.protocol.name", Some("http"));
    put(
        "network.protocol.version",
        Some(span.protocol.strip_prefix("HTTP/").unwrap_or_default()),
    );
    put("weft.route", span.route.as_ref().map(|route| route.as_str()));
    put("weft.service", span.service.as_ref().map(|service| service.as_str()));
    put("weft.peer.identity", span.identity.as_deref());
    put("rpc.system", span.grpc.map(|_| "grpc"));
    let address = span.other.map(|other| other.ip().to_canonical().to_string());
    put("network.peer.address", address.as_deref());
    put(
        "client.address",
        address.as_deref().filter(|_| span.kind == Kind::Server),
    );
    let mut put = |key, value: Option<i64>| attributes.extend(value.map(|value| number(key, value)));
    put("server.port", port.map(i64::from));
    put(
        "network.peer.port",
        span.other.as_ref().map(SocketAddr::port).map(i64::from),
    );
    put(
        "http.response.status_code",
        Some(i64::from(span.status)).filter(|status| *status > 0),
    );
    put(
        "http.request.resend_count",
        Some(i64::from(span.resent)).filter(|count| *count > 0),
    );
    put("rpc.grpc.status_code", span.grpc.map(i64::from));
}

/// What went wrong, if something did: in our words where the answer is ours, else by its status. What a client has done wrong is
/// no error of its server's.
fn error(span: &Span) -> Option<String> {
    let server = span.kind == Kind::Server;
    match (span.flag, span.grpc) {
        (Flag::None, Some(code)) if code > 0 && (!server || GRPC_SERVER_ERRORS.contains(&code)) => {
            Some(code.to_string())
        }
        (Flag::None, _) => (span.status >= if server { 500 } else { 400 }).then(|| span.status.to_string()),
        (Flag::Truncated, _) => Some(span.flag.as_str().to_owned()),
        (flag, _) if server && (400..500).contains(&span.status) && flag != Flag::ClientGone => None,
        (flag, _) => Some(flag.as_str().to_owned()),
    }
}

/// The host without its port, and the port.
fn authority(host: &str) -> (&str, Option<u16>) {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port.parse().ok()),
        _ => (host, None),
    };
    (name.trim_start_matches('[').trim_end_matches(']'), port)
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::spans::span::Asked;

    fn made(kind: Kind, status: u16, flag: Flag, grpc: Option<u16>) -> Span {
        Span {
            trace: [1; 16],
            id: [2; 8],
            parent: Parent::Nobody,
            flags: 1,
            state: None,
            kind,
            began: UNIX_EPOCH + Duration::from_secs(1),
            took: Duration::from_millis(1),
            asked: Asked::of("GET", "a.example:8080", "/a"),
            protocol: "HTTP/1.1",
            scheme: "http",
            status,
            grpc,
            flag,
            other: None,
            identity: None,
            route: None,
            service: None,
            resent: 0,
        }
    }

    #[test]
    fn an_error_is_one_of_the_side_that_has_made_it() {
        use Kind::{Client, Server};
        for (kind, status, flag, grpc, awaited) in [
            (Server, 200, Flag::None, None, None),
            (Server, 404, Flag::None, None, None),
            (Client, 404, Flag::None, None, Some("404")),
            (Server, 502, Flag::None, None, Some("502")),
            (Server, 404, Flag::NoRoute, None, None),
            (Server, 403, Flag::PolicyDenied, None, None),
            (Client, 503, Flag::ConnectFailed, None, Some("connect_failed")),
            (Server, 503, Flag::NoEndpoint, None, Some("no_endpoint")),
            (Server, 200, Flag::Truncated, None, Some("truncated")),
            (Server, 499, Flag::ClientGone, None, Some("client_gone")),
            (Server, 200, Flag::None, Some(0), None),
            (Server, 200, Flag::None, Some(5), None),
            (Client, 200, Flag::None, Some(5), Some("5")),
            (Server, 200, Flag::None, Some(14), Some("14")),
        ] {
            let made = made(kind, status, flag, grpc);
            assert_eq!(error(&made).as_deref(), awaited, "{made:?}");
        }
    }

    #[test]
    fn hosts_and_ports_are_told_apart() {
        for (host, awaited) in [
            ("a.example", ("a.example", None)),
            ("a.example:80", ("a.example", Some(80))),
            ("[2001:db8::1]:80", ("2001:db8::1", Some(80))),
            ("[2001:db8::1]", ("2001:db8::1", None)),
            ("", ("", None)),
        ] {
            assert_eq!(authority(host), awaited);
        }
    }

    #[test]
    fn methods_that_are_not_known_are_not_names() {
        let mut made = made(Kind::Server, 200, Flag::None, None);
        made.asked.method = "BREW".into();
        let told = span(&made);
        assert_eq!(told.name, "HTTP");
        assert!(told.attributes.contains(&text("http.request.method", "_OTHER")));
        assert!(told.attributes.contains(&text("http.request.method_original", "BREW")));
        assert_eq!(told.end_time_unix_nano - told.start_time_unix_nano, 1_000_000);
    }
}
