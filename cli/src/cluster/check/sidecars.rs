//! `--proxy`: the sidecars themselves, each asked by way of the API server.

use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use kube::api::{DynamicObject, ListParams};
use serde_json::Value;
use weft_injection::{INJECTED, PROBES, SIDECAR};

use super::{Group, named, operator::variable};
use crate::cluster::Cluster;

/// Sidecars that are asked at a time.
const AT_ONCE: usize = 16;

/// What is wrong with sidecars: the pods of which something does not hold, and why.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wrong {
    unready: Vec<String>,
    other_image: Vec<String>,
    silent: Vec<String>,
    unproven: Vec<String>,
    alone: Vec<String>,
}

/// Whether the sidecars of a namespace, or of all, do what they are there for.
pub(super) async fn sidecars(cluster: &Cluster, weft: &str, namespace: Option<&str>) -> anyhow::Result<Group> {
    let mut group = Group::new("sidecars");
    let pods = cluster.api("", "v1", "Pod").context("the API server serves no Pods")?;
    let pods = match namespace {
        Some(namespace) => pods.constrain(namespace),
        None => pods,
    };
    let found = pods.list(&ListParams::default().labels(INJECTED)).await?.items;
    let found: Vec<DynamicObject> = found.into_iter().filter(runs).collect();
    if found.is_empty() {
        let place = namespace.map_or_else(
            || "the cluster".to_owned(),
            |namespace| format!("namespace {namespace}"),
        );
        group.warn(
            "D001",
            "there are sidecars",
            format!("no pod of {place} has one"),
            "label a namespace weft.dev/mesh=observe and restart what runs in it: docs/mesh.md",
        );
        return Ok(group);
    }
    let operator = cluster.operator(weft).await?;
    let image = operator
        .as_ref()
        .and_then(|operator| variable(operator, "WEFT_SIDECAR_IMAGE"));
    let mut wrong = Wrong::default();
    let mut ready = Vec::new();
    for pod in &found {
        let name = name(pod);
        if let Some(why) = unready(pod) {
            wrong.unready.push(format!("{name} ({why})"));
        } else {
            ready.push(name.clone());
        }
        if let (Some(wanted), Some(runs)) = (image, image_of(pod))
            && wanted != runs
        {
            wrong.other_image.push(format!("{name} ({runs})"));
        }
    }
    let mut asked = stream::iter(ready)
        .map(async |name| (metrics(cluster, &name).await, name))
        .buffered(AT_ONCE);
    while let Some((metrics, name)) = asked.next().await {
        match metrics {
            Ok(metrics) => wrong.told(name, &metrics, Timestamp::now()),
            Err(error) => wrong.silent.push(format!("{name} ({error})")),
        }
    }
    say(&mut group, &wrong, found.len());
    Ok(group)
}

fn say(group: &mut Group, wrong: &Wrong, all: usize) {
    let mut item = |code, what: &str, wrong: &[String], fails, remedy: &str| {
        let what = format!("{what} (of {all})");
        match (wrong, fails) {
            ([], _) => group.ok(code, what),
            (wrong, true) => group.fail(code, what, named(wrong), remedy),
            (wrong, false) => group.warn(code, what, named(wrong), remedy),
        }
    };
    let remedy = "kubectl describe pod, and kubectl logs -c weft-sidecar";
    item("D001", "sidecars are ready", &wrong.unready, true, remedy);
    let remedy = "kubectl rollout restart what they are of";
    item(
        "D002",
        "they are of the image that the operator gives",
        &wrong.other_image,
        false,
        remedy,
    );
    let remedy = "whoever checks needs get on pods/proxy, and the API server has to reach port 15020 of the pods";
    item("D003", "they answer", &wrong.silent, false, remedy);
    let remedy = "is the operator reached? kubectl logs -c weft-sidecar says why it gives no certificate";
    item("D004", "they can prove who they are", &wrong.unproven, true, remedy);
    let remedy = "what they were told holds on; kubectl logs -c weft-sidecar says why the operator is not reached";
    item("D005", "they are connected to the operator", &wrong.alone, true, remedy);
}

impl Wrong {
    /// Takes over what a sidecar tells of itself.
    fn told(&mut self, name: String, metrics: &str, now: Timestamp) {
        match figure(metrics, "weft_certificate_expiry_timestamp_seconds") {
            Some(expiry) if expiry > now.as_second() as f64 => {}
            Some(_) => self.unproven.push(format!("{name} (its certificate has ended)")),
            None => self.unproven.push(format!("{name} (it has no certificate)")),
        }
        if figure(metrics, "weft_operator_connected") != Some(1.0) {
            self.alone.push(name);
        }
    }
}

/// `namespace/name`.
fn name(pod: &DynamicObject) -> String {
    let metadata = &pod.metadata;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", text(&metadata.namespace), text(&metadata.name))
}

/// Whether a pod is neither over nor about to be.
fn runs(pod: &DynamicObject) -> bool {
    let phase = pod.data.pointer("/status/phase").and_then(Value::as_str);
    !matches!(phase, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none()
}

/// Why the sidecar of a pod is not ready.
fn unready(pod: &DynamicObject) -> Option<String> {
    let statuses = pod
        .data
        .pointer("/status/initContainerStatuses")
        .and_then(Value::as_array);
    let Some(status) = statuses.into_iter().flatten().find(|status| status["name"] == SIDECAR) else {
        return Some("it has not started".to_owned());
    };
    if status["ready"] == true {
        return None;
    }
    let reasons = ["waiting", "terminated"].map(|state| status["state"][state]["reason"].as_str());
    let reason = reasons.into_iter().flatten().next();
    Some(reason.unwrap_or("it is not ready").to_owned())
}

fn image_of(pod: &DynamicObject) -> Option<&str> {
    let containers = pod.data.pointer("/spec/initContainers")?.as_array()?;
    let sidecar = containers.iter().find(|container| container["name"] == SIDECAR)?;
    sidecar["image"].as_str()
}

/// What a sidecar tells of itself.
async fn metrics(cluster: &Cluster, pod: &str) -> anyhow::Result<String> {
    let (namespace, name) = pod.split_once('/').context("a pod has a namespace")?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{PROBES}/proxy/metrics");
    let request = http::Request::get(path).body(Vec::new())?;
    Ok(cluster.client.request_text(request).await?)
}

/// The value of a metric that there is once.
fn figure(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::check::text;

    fn pod(status: Value) -> DynamicObject {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "web-1"},
            "spec": {"initContainers": [{"name": "weft-intercept"}, {"name": SIDECAR, "image": "weft.dev/sidecar:1"}]},
            "status": {"phase": "Running", "initContainerStatuses": status},
        });
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn a_sidecar_is_ready_or_it_is_said_why_not() {
        let ready = pod(json!([{"name": SIDECAR, "ready": true}]));
        assert!(runs(&ready) && unready(&ready).is_none());
        assert_eq!(name(&ready), "shop/web-1");
        assert_eq!(image_of(&ready), Some("weft.dev/sidecar:1"));
        let waits = json!([{"name": SIDECAR, "ready": false, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]);
        assert_eq!(unready(&pod(waits)).as_deref(), Some("ImagePullBackOff"));
        assert_eq!(unready(&pod(json!([]))).as_deref(), Some("it has not started"));
    }

    #[test]
    fn what_sidecars_tell_of_themselves_is_summed_up() {
        let now = Timestamp::from_second(1000).expect("a time");
        let metrics = |expiry: u32, connected: u32| {
            format!(
                "# TYPE weft_certificate_expiry_timestamp_seconds gauge\n\
                 weft_certificate_expiry_timestamp_seconds{{identity=\"a\"}} {expiry}\nweft_operator_connected {connected}\n"
            )
        };
        let mut wrong = Wrong::default();
        wrong.told("shop/a".to_owned(), &metrics(2000, 1), now);
        assert_eq!(wrong, Wrong::default());
        wrong.told("shop/b".to_owned(), &metrics(900, 0), now);
        wrong.told("shop/c".to_owned(), "weft_operator_connected 1\n", now);
        let mut group = Group::new("sidecars");
        say(&mut group, &wrong, 3);
        let text = text(&[group]);
        for said in [
            "✓ sidecars are ready (of 3)",
            "D004 shop/b (its certificate has ended), shop/c (it has no certificate)",
            "D005 shop/b\n",
            "2 of the checks failed",
        ] {
            assert!(text.contains(said), "{said} is not in\n{text}");
        }
    }
}
