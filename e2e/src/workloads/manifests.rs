//! What the applications are. No probe names a port of an application: the kubelet would be let in there.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::NAMESPACE;
use crate::scene::{GATEWAY, HTTP};

/// All that run.
pub(super) const APPS: [&str; 8] = ["collector", "web", "v1", "v2", "client", "leaver", "skipped", "plain"];
/// What is answered by itself, beside HTTP at 8080.
pub(super) const UNTURNED: u16 = 8081;
pub(super) const TCP: u16 = 9090;
pub(super) const TLS: u16 = 8443;
pub(super) const GRPC: u16 = 7070;
/// Where spans are taken.
const OTLP: u16 = 4317;

const ECHO: &str = "registry.k8s.io/gateway-api/echo-advanced:v1.5.1";

/// The Services, and the application that each is of. `front` has routes, and nobody's sidecar sees who goes to `direct`.
const SERVICES: [(&str, &str, &[u16]); 7] = [
    ("collector", "collector", &[OTLP, 8080]),
    ("web", "web", &[8080, UNTURNED, TCP, TLS, GRPC]),
    ("front", "web", &[TCP, TLS]),
    ("direct", "web", &[8080]),
    ("v1", "v1", &[8080, TCP, TLS]),
    ("v2", "v2", &[8080, TCP, TLS]),
    ("plain", "plain", &[8080, TCP]),
];

/// Where spans go.
pub(super) fn collector() -> String {
    format!("http://collector.{NAMESPACE}.svc:{OTLP}")
}

pub(super) fn services() -> impl Iterator<Item = Value> {
    SERVICES.iter().map(|(name, app, ports)| {
        let ports = ports
            .iter()
            .map(|port| json!({"name": format!("port-{port}"), "port": port}));
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"selector": {"app": app}, "ports": ports.collect::<Vec<_>>()},
        })
    })
}

/// Their accounts and their pods. One goes past its sidecar where a Service is.
pub(super) fn apps(direct: IpAddr) -> Vec<Value> {
    let skip = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    let by_all = |app| {
        let (labels, annotations) = match app {
            // Nothing proves anything where spans are told of.
            "collector" => (json!({}), json!({"weft.dev/skip-inbound-ports": skip(&[OTLP, 8080])})),
            "web" => (
                json!({}),
                json!({"weft.dev/skip-inbound-ports": skip(&[UNTURNED]), "weft.dev/sidecar-access-log": "json"}),
            ),
            "leaver" => (
                json!({}),
                json!({
                    "weft.dev/skip-outbound-ports": skip(&[TCP]),
                    "weft.dev/skip-outbound-cidrs": format!("{direct}/32"),
                    "weft.dev/sidecar-cpu-request": "15m",
                    "weft.dev/sidecar-cpu-limit": "2",
                    "weft.dev/sidecar-memory-request": "48Mi",
                }),
            ),
            // As whom the image runs.
            "skipped" => (json!({}), json!({"weft.dev/skip-uids": "1338"})),
            "plain" => (json!({"weft.dev/inject": "disabled"}), json!({})),
            _ => (json!({}), json!({})),
        };
        [account(app), deployment(app, labels, &annotations)]
    };
    APPS.into_iter().flat_map(by_all).collect()
}

fn account(app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": app, "namespace": NAMESPACE}})
}

fn deployment(app: &str, mut labels: Value, annotations: &Value) -> Value {
    labels["app"] = app.into();
    let container = if app == "collector" {
        json!({"name": "app", "image": "weft.dev/collector:dev"})
    } else {
        json!({
            "name": "app", "image": ECHO,
            "args": [
                "--port=8080", format!("--port={UNTURNED}"), format!("--tcp={TCP}"), format!("--tls={TLS}"),
                format!("--grpc={GRPC}"),
            ],
            "startupProbe": {
                "exec": {"command": ["/usr/local/bin/client", "http://127.0.0.1:8080/"]},
                "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 60,
            },
        })
    };
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app, "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": {"app": app}}, "template": {
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": {"serviceAccountName": app, "terminationGracePeriodSeconds": 2, "containers": [container]},
        }},
    })
}

/// A Gateway that tells of its requests, and leads to `web`.
pub(super) fn edge() -> String {
    format!(
        r#"
apiVersion: weft.dev/v1alpha1
kind: GatewayParameters
metadata: {{name: traced, namespace: {NAMESPACE}}}
spec: {{spans: {{collector: "{}", samplePercent: 0}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {GATEWAY}, namespace: {NAMESPACE}}}
spec:
  gatewayClassName: weft
  infrastructure: {{parametersRef: {{group: weft.dev, kind: GatewayParameters, name: traced}}}}
  listeners: [{HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web, namespace: {NAMESPACE}}}
spec:
  parentRefs: [{{name: {GATEWAY}}}]
  hostnames: [web.example]
  rules: [{{backendRefs: [{{name: web, port: 8080}}]}}]
"#,
        collector()
    )
}
