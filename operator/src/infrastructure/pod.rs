//! The pods of a Gateway.

use serde_json::{Value, json};
use weft_crds::{AccessLogParameters, LogLevel, PodParameters};
use weft_injection::Spans;

use super::{
    input::Input,
    labels::{infrastructure, layered, own_labels, selector},
    names,
};

/// How long a pod that is to end still takes connections: until every node has heard that it is to end.
const LINGER_SECONDS: u32 = 5;
/// How long what is in flight may take to end after that.
const DRAIN_SECONDS: u32 = 30;
/// Where pods answer probes and say their metrics.
const ADMIN_PORT: u16 = 15020;

/// What the Deployment makes them of.
pub(super) fn pod(input: &Input<'_>, parameters: &PodParameters) -> Value {
    let (labels, annotations) = infrastructure(input);
    let mut spec = json!({
        "serviceAccountName": names::child(&input.gateway.metadata.name),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": LINGER_SECONDS + DRAIN_SECONDS + 10,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
            // Listeners bind their own ports, whatever these are, without a privilege and without the pod naming them.
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
        },
        "containers": [container(input, parameters)],
        "volumes": [
            {"name": "roots", "configMap": {"name": names::child(&input.gateway.metadata.name)}},
            {"name": "state", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
            {"name": "token", "projected": {"sources": [{
                "serviceAccountToken": {"audience": "weft.dev", "expirationSeconds": 3600, "path": "token"},
            }]}},
        ],
    });
    if !parameters.node_selector.is_empty() {
        spec["nodeSelector"] = json!(parameters.node_selector);
    }
    if !parameters.tolerations.is_empty() {
        spec["tolerations"] = json!(parameters.tolerations);
    }
    if let Some(name) = &parameters.priority_class_name {
        spec["priorityClassName"] = name.as_str().into();
    }
    if !parameters.topology_spread_constraints.is_empty() {
        let constraints = parameters.topology_spread_constraints.iter().map(|constraint| {
            let mut constraint = json!(constraint);
            constraint["labelSelector"] = json!({"matchLabels": selector(input)});
            constraint
        });
        spec["topologySpreadConstraints"] = Value::Array(constraints.collect());
    }
    let mut metadata = json!({"labels": layered([parameters.labels.clone(), labels, own_labels(input)])});
    let annotations = layered([parameters.annotations.clone(), annotations]);
    if !annotations.is_empty() {
        metadata["annotations"] = json!(annotations);
    }
    json!({"metadata": metadata, "spec": spec})
}

fn container(input: &Input<'_>, parameters: &PodParameters) -> Value {
    let settings = input.settings;
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": "admin"},
            "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 2,
        })
    };
    let resources = parameters.resources.as_ref().map(|resources| json!(resources));
    let level = input.parameters.log_level.unwrap_or(LogLevel::Info);
    json!({
        "name": "gateway",
        "image": parameters.image.as_ref().unwrap_or(&settings.image),
        "imagePullPolicy": settings.pull_policy,
        "args": arguments(input),
        "env": [
            field("POD_NAME", "metadata.name"),
            field("POD_IP", "status.podIP"),
            {"name": "RUST_LOG", "value": level.as_str()},
        ],
        "ports": [{"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        "readinessProbe": probe("/ready", 2, 2),
        // It may wait for who signs its certificate, though not as long as this.
        "startupProbe": probe("/ready", 1, 600),
        "livenessProbe": probe("/live", 10, 3),
        "resources": resources.unwrap_or_else(|| json!({"requests": {"cpu": "10m", "memory": "32Mi"}})),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
        },
        "volumeMounts": [
            {"name": "roots", "mountPath": "/etc/weft/roots", "readOnly": true},
            {"name": "state", "mountPath": "/var/lib/weft"},
            {"name": "token", "mountPath": "/var/run/secrets/weft.dev", "readOnly": true},
        ],
    })
}

fn arguments(input: &Input<'_>) -> Vec<String> {
    let metadata = &input.gateway.metadata;
    let mut arguments = vec![
        format!("--gateway={}/{}", metadata.namespace(), metadata.name),
        format!("--operator={}", input.settings.operator),
        format!("--operator-name={}", input.settings.server_name),
        "--roots=/etc/weft/roots/ca.crt".to_owned(),
        "--token=/var/run/secrets/weft.dev/token".to_owned(),
        "--state=/var/lib/weft".to_owned(),
        format!("--probes-port={ADMIN_PORT}"),
        format!("--linger={LINGER_SECONDS}s"),
        format!("--drain={DRAIN_SECONDS}s"),
    ];
    if let Some(AccessLogParameters { text, sample_percent }) = &input.parameters.access_log {
        arguments.push(format!("--access-log={}", text.as_deref().unwrap_or("json")));
        arguments.push(format!(
            "--access-log-sample={}",
            f64::from(sample_percent.unwrap_or(100)) / 100.0
        ));
    }
    arguments.extend(spans(input));
    arguments
}

/// What is told of requests: as all data planes do, but for what the parameters say.
fn spans(input: &Input<'_>) -> Vec<String> {
    let (common, own) = (
        &input.settings.spans,
        input.parameters.spans.clone().unwrap_or_default(),
    );
    // What is neither off nor a place the API server does not let in.
    let collector = own.collector.as_deref().and_then(|text| Spans::read(text).ok());
    let Some(collector) = collector.unwrap_or_else(|| common.collector.clone()) else {
        return Vec::new();
    };
    let sample = own.sample_percent.map_or(common.sample, |percent| percent / 100.0);
    vec![format!("--spans={collector}"), format!("--spans-sample={sample}")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infrastructure::render::tests::{gateway, settings};

    #[test]
    fn spans_go_where_the_operator_says_unless_the_parameters_do() {
        let gateway = gateway(json!({}));
        let mut settings = settings();
        let mut said = |all: &Spans, own: Value| {
            settings.spans = all.clone();
            let parameters = serde_json::from_value(own).expect("parameters");
            spans(&Input {
                gateway: &gateway,
                parameters: &parameters,
                ports: &[],
                address: None,
                roots: "",
                settings: &settings,
            })
        };
        let (off, on) = (
            Spans::default(),
            Spans {
                collector: Some("http://all".parse().expect("a collector")),
                sample: 0.2,
            },
        );
        let none: [&str; 0] = [];
        assert_eq!(said(&off, json!({})), none);
        assert_eq!(said(&on, json!({})), ["--spans=http://all:4317", "--spans-sample=0.2"]);
        assert_eq!(said(&on, json!({"spans": {"collector": "off"}})), none);
        assert_eq!(
            said(&off, json!({"spans": {"collector": "https://own:443"}})),
            ["--spans=https://own:443", "--spans-sample=0.01"]
        );
        assert_eq!(
            said(&on, json!({"spans": {"samplePercent": 50}})),
            ["--spans=http://all:4317", "--spans-sample=0.5"]
        );
    }
}
