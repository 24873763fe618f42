//! What is put into a pod.

use std::{fmt::Display, hash::Hasher as _};

use serde_json::{Value, json};

use crate::{
    names::{INTERCEPT, PROBES, ROOTS, SIDECAR, STATE, TOKEN, UID},
    settings::Settings,
    wishes::Wishes,
};

/// What tokens are for.
const AUDIENCE: &str = "weft.dev";
/// How long they last; the kubelet renews them in time.
const TOKEN_SECONDS: u32 = 3600;

/// Where the sidecar keeps what it goes on with after a restart.
const STATE_FOLDER: &str = "/var/run/weft/state";

/// Everything that is put into a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// In front of all others: the step that turns connections, and the sidecar itself.
    pub init_containers: Vec<Value>,
    /// What it reads.
    pub volumes: Vec<Value>,
    /// The value of the label by which a pod with a sidecar is known.
    pub digest: String,
}

pub(crate) fn parts(wishes: &Wishes, settings: &Settings) -> Parts {
    let resources = wishes.resources.over(&settings.resources).render();
    let image = wishes.image.as_ref().unwrap_or(&settings.image);
    let common = |mut container: Value| {
        container["image"] = image.as_str().into();
        container["imagePullPolicy"] = settings.pull_policy.as_str().into();
        container["resources"].clone_from(&resources);
        // What it says last, if it fails, is in the pod's status.
        container["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
        container
    };
    let init_containers = vec![common(intercept(wishes)), common(sidecar(wishes, settings))];
    let volumes = volumes();
    let digest = digest(&json!([init_containers, volumes]));
    Parts {
        init_containers,
        volumes,
        digest,
    }
}

fn security(user: u32, more: &[&str]) -> Value {
    let mut capabilities = json!({"drop": ["ALL"]});
    if !more.is_empty() {
        capabilities["add"] = json!(more);
    }
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": capabilities,
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": user,
        "runAsNonRoot": user != 0,
        "runAsUser": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// The capability is only effective for root, or where it is ambient, which Kubernetes cannot be asked for.
fn intercept(wishes: &Wishes) -> Value {
    let mut args = vec!["intercept".to_owned()];
    let mut skip = |what: &str, members: Vec<String>| {
        if !members.is_empty() {
            args.push(format!("--skip-{what}={}", members.join(",")));
        }
    };
    skip("inbound-ports", written(&wishes.skip_inbound_ports));
    skip("outbound-ports", written(&wishes.skip_outbound_ports));
    skip("outbound-cidrs", written(&wishes.skip_outbound_cidrs));
    skip("uids", written(&wishes.skip_uids));
    json!({
        "name": INTERCEPT,
        "args": args,
        "securityContext": security(0, &["NET_ADMIN"]),
    })
}

fn written(members: &[impl Display]) -> Vec<String> {
    members.iter().map(ToString::to_string).collect()
}

fn sidecar(wishes: &Wishes, settings: &Settings) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": PROBES},
            "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 2,
        })
    };
    let level = wishes.log_level.unwrap_or(settings.log_level);
    let mut env = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_IP", "status.podIP"),
        field("NODE_NAME", "spec.nodeName"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        json!({"name": "WEFT_OPERATOR", "value": settings.operator}),
        json!({"name": "WEFT_SERVER_NAME", "value": settings.server_name}),
        json!({"name": "WEFT_STATE", "value": STATE_FOLDER}),
        json!({"name": "RUST_LOG", "value": level.to_string()}),
    ];
    let collector = wishes.spans.as_ref().unwrap_or(&settings.spans.collector);
    if let Some(collector) = collector {
        let sample = wishes.spans_sample.unwrap_or(settings.spans.sample);
        env.push(json!({"name": "WEFT_SPANS", "value": collector.to_string()}));
        env.push(json!({"name": "WEFT_SPANS_SAMPLE", "value": sample.to_string()}));
    }
    if let Some(format) = &wishes.access_log {
        env.push(json!({"name": "WEFT_ACCESS_LOG", "value": format}));
    }
    json!({
        "name": SIDECAR,
        // It starts before what follows and ends after the application.
        "restartPolicy": "Always",
        "args": ["run"],
        "env": env,
        "ports": [{"name": "weft-metrics", "containerPort": PROBES, "protocol": "TCP"}],
        // What comes next waits for this one, which may wait for who signs its certificate.
        "startupProbe": probe("/ready", 1, 600),
        "livenessProbe": probe("/live", 10, 3),
        "securityContext": security(UID, &[]),
        "volumeMounts": [
            {"name": TOKEN, "mountPath": "/var/run/weft/token", "readOnly": true},
            {"name": ROOTS, "mountPath": "/var/run/weft/roots", "readOnly": true},
            {"name": STATE, "mountPath": STATE_FOLDER},
        ],
    })
}

fn volumes() -> Vec<Value> {
    vec![
        json!({"name": TOKEN, "projected": {"sources": [
            {"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        ]}}),
        // A pod starts also where the operator has not been yet.
        json!({"name": ROOTS, "configMap": {
            "name": ROOTS, "items": [{"key": "ca.crt", "path": "ca.crt"}], "optional": true,
        }}),
        // Its key never comes to a disk.
        json!({"name": STATE, "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}),
    ]
}

fn digest(value: &Value) -> String {
    // Its keys are fixed. Were they others after an upgrade, sidecars would be replaced once more, and that is all.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(value.to_string().as_bytes());
    format!("{:016x}", hasher.finish())
}
