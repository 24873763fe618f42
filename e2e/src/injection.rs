//! Pods get sidecars, and work as without; who is not in the mesh does not notice.

use std::{cell::RefCell, process::ExitCode, time::Instant};

use anyhow::{Context as _, ensure};
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, address, eventually, name},
    edge,
    failures::control::scale_operator,
    families, load, path,
    report::passed,
    scene::{OPERATOR, SYSTEM, asking, fresh},
    seeing, workloads,
};

/// A namespace that is observed, one where policies are enforced, and one that is not in the mesh.
const OBSERVED: &str = "weft-e2e-observed";
const SECURE: &str = "weft-e2e-secure";
const OUTSIDE: &str = "weft-e2e-outside";
/// The name of the chart's MutatingWebhookConfiguration.
const CONFIGURATION: &str = "weft-operator";
/// Tells back what it is asked, and asks.
const ECHO: &str = "registry.k8s.io/gateway-api/echo-advanced:v1.5.1";

/// Plays all, or those parts whose names contain something.
pub(crate) async fn run(filter: Option<&str>) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect().await?;
    let mut parts = ["injection", "edge", "workloads", "families"]
        .into_iter()
        .filter(|part| part.contains(filter.unwrap_or_default()))
        .peekable();
    ensure!(parts.peek().is_some(), "no part is called like {filter:?}");
    for part in parts {
        let start = Instant::now();
        match part {
            "injection" => injection(&cluster).await?,
            "edge" => edge::run(&cluster).await?,
            "workloads" => workloads::run(&cluster).await?,
            _ if families::run(&cluster).await? => {}
            _ => continue,
        }
        passed(part, start);
    }
    Ok(ExitCode::SUCCESS)
}

/// In namespaces of its own.
async fn injection(cluster: &Cluster) -> anyhow::Result<()> {
    let namespaces = [(OBSERVED, "observe"), (SECURE, "secure"), (OUTSIDE, "")];
    for (namespace, stage) in namespaces {
        fresh(cluster, namespace, stage).await?;
    }
    let outcome = all(cluster).await;
    for (namespace, _) in namespaces {
        cluster.delete("Namespace", "", namespace).await?;
    }
    outcome
}

async fn all(cluster: &Cluster) -> anyhow::Result<()> {
    roots(cluster).await?;
    cluster.apply(&workloads()).await?;
    choices(cluster).await?;
    cluster.rolled_out(OBSERVED, "web").await?;
    // It is ready once its own requests by way of both sidecars are answered.
    cluster.rolled_out(OBSERVED, "client").await?;
    traffic(cluster).await?;
    policies(cluster).await?;
    seeing::all(cluster, OBSERVED).await?;
    path::all(cluster, OBSERVED, OUTSIDE).await?;
    job(cluster).await?;
    last_call(cluster).await?;
    bundle(cluster).await?;
    let replicas = cluster.get("Deployment", SYSTEM, OPERATOR).await?.data["spec"]["replicas"].as_i64();
    let without = without_operator(cluster).await;
    scale_operator(cluster, replicas.unwrap_or(1)).await?;
    without
}

/// Sidecars find the roots of the operator's certificates; nobody else does.
async fn roots(cluster: &Cluster) -> anyhow::Result<()> {
    for namespace in [OBSERVED, SECURE] {
        eventually(format!("the roots are in {namespace}"), async || {
            let roots = cluster.api("ConfigMap", namespace)?.get_opt("weft-roots").await?;
            let roots = roots.context("there is no ConfigMap weft-roots")?;
            Ok(roots.data["data"]["ca.crt"]
                .as_str()
                .is_some_and(|pem| pem.contains("BEGIN CERTIFICATE")))
        })
        .await?;
    }
    ensure!(
        cluster
            .api("ConfigMap", OUTSIDE)?
            .get_opt("weft-roots")
            .await?
            .is_none()
    );
    Ok(())
}

fn workloads() -> String {
    let client = asking("client", OBSERVED, &format!("http://web.{OBSERVED}/"));
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {OBSERVED}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 3000}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: {OBSERVED}}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: registry.k8s.io/gateway-api/echo-basic:v1.5.1
        env:
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        - {{name: NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
        startupProbe: {{tcpSocket: {{port: 3000}}, periodSeconds: 1}}
        readinessProbe: {{httpGet: {{path: /health, port: 3000}}, periodSeconds: 1}}
---{client}"#
    )
}

fn pod(metadata: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"terminationGracePeriodSeconds": 2, "containers": [{
            "name": "app", "image": ECHO, "args": ["--port=8080"],
        }]},
    });
    pod["metadata"]["name"] = "tried".into();
    pod
}

/// What the API server would make of a pod.
async fn tried(cluster: &Cluster, namespace: &str, pod: Value) -> anyhow::Result<DynamicObject> {
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    Ok(cluster
        .api("Pod", namespace)?
        .create(&params, &serde_json::from_value(pod)?)
        .await?)
}

fn starts_with_sidecar(pod: &DynamicObject) -> bool {
    let names = |at: usize| pod.data["spec"]["initContainers"][at]["name"].as_str();
    (names(0), names(1)) == (Some("weft-intercept"), Some("weft-sidecar"))
}

/// Who gets a sidecar, and who says otherwise.
async fn choices(cluster: &Cluster) -> anyhow::Result<()> {
    let plain = pod(json!({}));
    for namespace in [OBSERVED, SECURE] {
        eventually(format!("a pod in {namespace} gets a sidecar"), async || {
            Ok(starts_with_sidecar(&tried(cluster, namespace, plain.clone()).await?))
        })
        .await?;
        let mut agent = plain.clone();
        agent["spec"]["hostNetwork"] = true.into();
        let out = |field: &str| pod(json!({field: {"weft.dev/inject": "disabled"}}));
        for left in [agent, out("labels"), out("annotations")] {
            let made = tried(cluster, namespace, left).await?;
            ensure!(
                made.data["spec"]["initContainers"].is_null(),
                "a pod in {namespace} gets a sidecar unasked"
            );
        }
        let wrong = pod(json!({"annotations": {"weft.dev/skip-outbound-cidrs": "everywhere"}}));
        let refused = tried(cluster, namespace, wrong)
            .await
            .err()
            .context("a wrong annotation is taken")?;
        ensure!(
            refused.to_string().contains("weft.dev/skip-outbound-cidrs"),
            "{refused}"
        );
    }
    let outside = tried(cluster, OUTSIDE, plain).await?;
    ensure!(
        outside.data["spec"]["initContainers"].is_null(),
        "a pod outside the mesh gets a sidecar"
    );
    Ok(())
}

/// The metrics of the sidecar of an application.
async fn metrics(cluster: &Cluster, app: &str) -> anyhow::Result<String> {
    let pods = cluster
        .list("Pod", OBSERVED, &format!("app={app},weft.dev/injected"))
        .await?;
    let pod = pods.first().context("it has no sidecar")?;
    load::metrics(address(pod)?).await
}

/// Requests between two applications are seen by the sidecars of both.
async fn traffic(cluster: &Cluster) -> anyhow::Result<()> {
    for (app, direction) in [("client", "outbound"), ("web", "inbound")] {
        eventually(format!("the sidecar of {app} has seen requests"), async || {
            let metrics = metrics(cluster, app).await?;
            let mut seen = metrics
                .lines()
                .filter(|line| line.starts_with("weft_destination_requests_total{"));
            let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
            Ok(seen.any(|line| {
                line.contains(&format!("direction=\"{direction}\"")) && count(line).is_some_and(|count| count > 0.0)
            }))
        })
        .await?;
    }
    Ok(())
}

/// Policies are seen in shadow, then enforced, and the kubelet is let in all the same.
async fn policies(cluster: &Cluster) -> anyhow::Result<()> {
    const POLICY: &str = "AuthorizationPolicy";
    let policy = |rules: Value| {
        json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": POLICY, "metadata": {"name": "web", "namespace": OBSERVED},
            "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "web"}], "action": "ALLOW", "rules": rules},
        })
    };
    let verdicts = async |verdict: &str| -> anyhow::Result<f64> {
        let metrics = metrics(cluster, "web").await?;
        let of = format!("policy=\"{POLICY}/{OBSERVED}/web\",verdict=\"{verdict}\"");
        let counted = metrics.lines().find(|line| line.contains(&of));
        Ok(counted
            .and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or(0.0))
    };
    let more = async |verdict: &str, what: &str| -> anyhow::Result<()> {
        let before = verdicts(verdict).await?;
        eventually(what, async || Ok(verdicts(verdict).await? > before)).await
    };
    let enforced = async |reason: &str| {
        eventually(format!("the status says {reason}"), async || {
            let found = cluster.get(POLICY, OBSERVED, "web").await?;
            let conditions = found.data["status"]["ancestors"][0]["conditions"].clone();
            let holds = |kind: &str, reason: &str| {
                let mut conditions = conditions.as_array().into_iter().flatten();
                conditions.any(|condition| condition["type"] == kind && condition["reason"] == reason)
            };
            Ok(holds("Accepted", "Accepted") && holds("Enforced", reason))
        })
        .await
    };
    let stage = |stage: &str| {
        let labels = json!({"metadata": {"labels": {"weft.dev/mesh": stage}}});
        async move { cluster.merge("Namespace", "", OBSERVED, &labels).await }
    };
    cluster.apply_object(policy(json!([]))).await?;
    enforced("Observed").await?;
    // The client asks once a second.
    more("shadow_denied", "what would be denied is counted").await?;
    stage("secure").await?;
    enforced("Enforced").await?;
    more("denied", "requests are denied").await?;
    cluster
        .rolled_out(OBSERVED, "web")
        .await
        .context("the kubelet's probes")?;
    let front = json!([{"sources": [{"type": "ServiceAccount", "serviceAccount": {"name": "default"}}]}]);
    cluster.apply_object(policy(front)).await?;
    more("allowed", "who may come does").await?;
    cluster.delete(POLICY, OBSERVED, "web").await?;
    stage("observe").await
}

/// A Job that is begun once: its sidecar is ready before it asks, and it ends with its application, whatever its sidecar does.
async fn job(cluster: &Cluster) -> anyhow::Result<()> {
    cluster
        .apply_object(json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": OBSERVED},
            "spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [{
                "name": "once", "image": ECHO,
                "command": ["/usr/local/bin/client", format!("http://web.{OBSERVED}/"), "--count=3"],
            }]}}},
        }))
        .await?;
    let number = |status: &Value, count: &str| status[count].as_u64().unwrap_or(0);
    let ended = RefCell::new(Value::Null);
    eventually("the Job has ended", async || {
        let job = cluster.get("Job", OBSERVED, "once").await?;
        let status = job.data["status"].clone();
        let is_over = number(&status, "succeeded") + number(&status, "failed") > 0;
        ended.replace(status);
        Ok(is_over)
    })
    .await?;
    let status = ended.take();
    let pods = cluster.list("Pod", OBSERVED, "job-name=once").await?;
    for pod in &pods {
        ensure!(starts_with_sidecar(pod), "the Job ran without a sidecar");
        let said = cluster.log(OBSERVED, name(pod), "once").await?;
        ensure!(
            number(&status, "succeeded") == 1 && said.matches("StatusCode=200").count() == 3,
            "the Job has ended with {status}, and said:\n{said}"
        );
    }
    ensure!(pods.len() == 1, "the Job has {} pods", pods.len());
    Ok(())
}

/// What an application asks when it is told to end, and while it does, is answered: its sidecar ends after it.
async fn last_call(cluster: &Cluster) -> anyhow::Result<()> {
    /// By this the pod is kept until it was looked at.
    const KEPT: &str = "weft.dev/e2e";
    let url = format!("http://web.{OBSERVED}/");
    let client = ["/usr/local/bin/client", &url];
    cluster
        .apply_object(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "leaves", "namespace": OBSERVED, "finalizers": [KEPT]},
            "spec": {"terminationGracePeriodSeconds": 60, "restartPolicy": "Never", "containers": [{
                "name": "app", "image": ECHO,
                "args": ["--port=8080", "--linger=2s", format!("--farewell={url}")],
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "readinessProbe": {"exec": {"command": client}, "periodSeconds": 1, "timeoutSeconds": 10},
                "lifecycle": {"preStop": {"exec": {"command": client}}},
            }]},
        }))
        .await?;
    let outcome = leaves(cluster).await;
    let free = json!({"metadata": {"finalizers": null}});
    cluster.merge("Pod", OBSERVED, "leaves", &free).await?;
    outcome
}

async fn leaves(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.ready("Pod", OBSERVED, "leaves").await?;
    cluster.delete("Pod", OBSERVED, "leaves").await?;
    let ended = RefCell::new([Value::Null, Value::Null]);
    eventually("the pod has ended", async || {
        let pod = cluster.get("Pod", OBSERVED, "leaves").await?;
        let state = |list: &str, at: usize| pod.data["status"][list][at]["state"]["terminated"].clone();
        let states = [state("containerStatuses", 0), state("initContainerStatuses", 1)];
        let over = states.iter().all(Value::is_object);
        ended.replace(states);
        Ok(over)
    })
    .await?;
    let [app, sidecar] = ended.take();
    ensure!(
        app["exitCode"] == 0,
        "what it asked at its end was not answered: {app}; its sidecar: {sidecar}"
    );
    ensure!(
        sidecar["exitCode"] == 0 && sidecar["finishedAt"].as_str() >= app["finishedAt"].as_str(),
        "its sidecar has ended before it, or badly: {app}, {sidecar}"
    );
    let events = cluster.list("Event", OBSERVED, "").await?;
    let failed = events.iter().map(|event| &event.data).find(|event| {
        let mut about = ["involvedObject", "regarding"].into_iter();
        event["reason"] == "FailedPreStopHook" && about.any(|about| event[about]["name"] == "leaves")
    });
    ensure!(
        failed.is_none(),
        "what it asked before its end was not answered: {}",
        failed.unwrap_or(&Value::Null)
    );
    Ok(())
}

/// What the API server trusts is mended.
async fn bundle(cluster: &Cluster) -> anyhow::Result<()> {
    let api = cluster.api("MutatingWebhookConfiguration", "")?;
    let bundle = |object: &DynamicObject| object.data["webhooks"][0]["clientConfig"]["caBundle"].clone();
    let before = bundle(&api.get(CONFIGURATION).await?);
    let patch = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]);
    let patch = kube::api::Patch::<DynamicObject>::Json(serde_json::from_value(patch)?);
    api.patch(CONFIGURATION, &kube::api::PatchParams::default(), &patch)
        .await?;
    eventually("the roots of the webhook are told again", async || {
        Ok(bundle(&api.get(CONFIGURATION).await?) == before)
    })
    .await
}

/// No operator is there: who is not in the mesh starts, who is observed starts as it is, and who is to be secured waits.
async fn without_operator(cluster: &Cluster) -> anyhow::Result<()> {
    let plain = pod(json!({}));
    let injected = tried(cluster, OBSERVED, plain.clone()).await?;
    scale_operator(cluster, 0).await?;
    tried(cluster, OUTSIDE, plain.clone())
        .await
        .context("a pod outside the mesh")?;
    let observed = tried(cluster, OBSERVED, plain.clone())
        .await
        .context("a pod that is observed")?;
    ensure!(!starts_with_sidecar(&observed), "somebody answers");
    let refused = tried(cluster, SECURE, plain.clone()).await;
    ensure!(refused.is_err(), "a pod that is to be secured starts without a sidecar");
    let mut agent = plain;
    agent["spec"]["hostNetwork"] = true.into();
    tried(cluster, SECURE, agent)
        .await
        .context("a pod that never gets a sidecar")?;
    // One that has its sidecar by `weft inject` needs no operator to start, nor any roots.
    let mut by_hand = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "by-hand", "namespace": OUTSIDE},
        "spec": {
            "initContainers": injected.data["spec"]["initContainers"],
            "containers": injected.data["spec"]["containers"],
            "volumes": injected.data["spec"]["volumes"].as_array().context("it has no volumes")?.iter()
                .filter(|volume| volume["name"].as_str().is_some_and(|name| name.starts_with("weft-")))
                .collect::<Vec<_>>(),
        },
    });
    for list in ["initContainers", "containers"] {
        for container in by_hand["spec"][list].as_array_mut().into_iter().flatten() {
            // The token of the dry run's account is not there.
            if let Some(mounts) = container["volumeMounts"].as_array_mut() {
                mounts.retain(|mount| mount["name"].as_str().is_some_and(|name| name.starts_with("weft-")));
            }
        }
    }
    cluster.apply_object(by_hand).await?;
    cluster
        .ready("Pod", OUTSIDE, "by-hand")
        .await
        .context("it was injected by hand")
}
