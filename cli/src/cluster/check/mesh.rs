//! The mesh: whether pods get their sidecars, and have them.

use std::collections::BTreeMap;

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use kube::api::{DynamicObject, ListParams, PostParams};
use serde_json::{Value, json};
use weft_crds::MESH_LABEL;
use weft_injection::{LogLevel, Namespace, Outcome, Resources, SIDECAR, Settings, Spans, inject, is_injected};

use super::{Group, named};
use crate::cluster::{AUTHORITY, Cluster, OPERATOR, OPERATOR_NAME, connection::name_of};

/// Whether pods of namespaces in the mesh get a sidecar, and have one.
pub(super) async fn mesh(cluster: &Cluster, namespace: &str) -> anyhow::Result<Group> {
    let mut group = Group::new("mesh");
    let api = |group: &str, kind: &str| {
        let api = cluster.api(group, "v1", kind);
        api.with_context(|| format!("the API server serves no {kind}"))
    };
    let ours = ListParams::default().labels(&format!("{OPERATOR_NAME}={OPERATOR}"));
    let configurations = api("admissionregistration.k8s.io", "MutatingWebhookConfiguration")?;
    let configurations = configurations.list(&ours).await?.items;
    let configuration = configurations
        .into_iter()
        .find(|found| !services(found, namespace).is_empty());
    let what = "the API server asks the operator about pods of the mesh";
    let Some(configuration) = configuration else {
        group.warn(
            "M001",
            what,
            "there is no MutatingWebhookConfiguration: sidecars come by weft inject alone",
            "helm upgrade with mesh.webhook.enabled=true, or weft install --apply",
        );
        return Ok(group);
    };
    group.ok("M001", what);
    let authority = api("", "Secret")?.constrain(namespace).get_opt(AUTHORITY).await?;
    let root = authority.as_ref().and_then(root);
    group.holds(
        "M002",
        "it trusts the operator's certificate",
        distrust(&configuration, root.as_deref()),
        format!("the operator writes it within seconds: kubectl logs -n {namespace} -l {OPERATOR_NAME}={OPERATOR}"),
    );
    let namespaces = meshed(
        &api("", "Namespace")?
            .list(&ListParams::default().labels(MESH_LABEL))
            .await?
            .items,
    );
    let remedy = format!(
        "see that its pods are ready and that the API server can reach port 9443 of them: kubectl get endpointslices -n {namespace}"
    );
    let answers = match namespaces.keys().find(|name| name.as_str() != namespace) {
        Some(meshed) => dry_run(cluster, meshed).await?,
        None => None,
    };
    // Where no pod can be tried, it is asked by way of the API server, which then does not look at its certificate.
    let answers = match answers {
        Some(answers) => answers,
        None => asked(cluster, namespace, services(&configuration, namespace)).await,
    };
    group.holds("M003", "the operator answers about a pod", answers, remedy);
    let mut without = Vec::new();
    for (name, namespace) in &namespaces {
        let pods = api("", "Pod")?.constrain(name).list(&ListParams::default()).await?;
        without.extend(pods.items.iter().filter(|pod| lacks(pod, namespace)).map(name_of));
    }
    let what = "pods of namespaces in the mesh have a sidecar";
    if without.is_empty() {
        group.ok("M004", what);
    } else {
        let cause = format!("without one: {}", named(&without));
        group.warn(
            "M004",
            what,
            cause,
            "they were made before: kubectl rollout restart what they are of",
        );
    }
    Ok(group)
}

/// The Services of a namespace that a configuration leads to.
fn services<'c>(configuration: &'c DynamicObject, namespace: &str) -> Vec<&'c str> {
    let webhooks = configuration.data["webhooks"].as_array();
    let services = webhooks
        .into_iter()
        .flatten()
        .map(|webhook| &webhook["clientConfig"]["service"]);
    let here = services.filter(|service| service["namespace"] == namespace);
    here.filter_map(|service| service["name"].as_str()).collect()
}

/// The root that signs at the moment.
fn root(secret: &DynamicObject) -> Option<String> {
    let encoded = secret.data.pointer("/data/ca.crt")?.as_str()?;
    let pem = BASE64_STANDARD.decode(encoded).ok()?;
    Some(String::from_utf8(pem).ok()?.replace("\r\n", "\n"))
}

/// Why the API server would not trust what is signed by a root.
fn distrust(configuration: &DynamicObject, root: Option<&str>) -> Option<String> {
    let Some(root) = root else {
        return Some(format!("there is no Secret {AUTHORITY} to compare with"));
    };
    let webhooks = configuration.data["webhooks"].as_array();
    let wrong = webhooks.into_iter().flatten().find(|webhook| {
        let bundle = webhook["clientConfig"]["caBundle"].as_str();
        let bundle = bundle.and_then(|bundle| BASE64_STANDARD.decode(bundle).ok());
        let bundle = bundle.and_then(|bundle| String::from_utf8(bundle).ok());
        bundle.is_none_or(|bundle| !bundle.contains(root.trim()))
    })?;
    let name = wrong["name"].as_str().unwrap_or_default();
    Some(format!(
        "the caBundle of {name} has not the root of the Secret {AUTHORITY}"
    ))
}

fn meshed(namespaces: &[DynamicObject]) -> BTreeMap<String, Namespace> {
    let meshed = namespaces.iter().filter_map(|object| {
        let namespace = Namespace {
            labels: object.metadata.labels.clone().unwrap_or_default(),
            annotations: object.metadata.annotations.clone().unwrap_or_default(),
        };
        namespace.stage()?;
        Some((object.metadata.name.clone()?, namespace))
    });
    meshed.collect()
}

/// Whether a pod should have a sidecar and has none.
fn lacks(pod: &DynamicObject, namespace: &Namespace) -> bool {
    let settings = Settings {
        image: String::new(),
        pull_policy: String::new(),
        operator: String::new(),
        server_name: String::new(),
        resources: Resources::default(),
        log_level: LogLevel::Info,
        spans: Spans::default(),
    };
    let pod = serde_json::to_value(pod).unwrap_or_default();
    let has_ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let fits = matches!(inject(&pod, namespace, &settings), Ok(Outcome::Injected(_)));
    fits && !has_ended && !is_injected(&pod)
}

/// Has a pod made in a namespace of the mesh, but for the making. Says nothing if no pod like that may be made there.
async fn dry_run(cluster: &Cluster, namespace: &str) -> anyhow::Result<Option<Option<String>>> {
    let pods = cluster.api("", "v1", "Pod").context("the API server serves no Pods")?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "weft-check", "namespace": namespace},
        "spec": {"containers": [{"name": "check", "image": "weft.dev/check"}]},
    });
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let made = pods
        .constrain(namespace)
        .create(&params, &serde_json::from_value(pod)?)
        .await;
    Ok(match made {
        Ok(pod) => {
            let containers = pod.data.pointer("/spec/initContainers").and_then(Value::as_array);
            let mut containers = containers.into_iter().flatten();
            let there = containers.any(|container| container["name"] == SIDECAR);
            Some((!there).then(|| format!("a pod made in {namespace} gets no sidecar")))
        }
        Err(kube::Error::Api(status)) if status.code == 403 => None,
        Err(error) => Some(Some(format!("a pod cannot be made in {namespace}: {error}"))),
    })
}

/// Asks the operator by way of the API server, where no namespace is in the mesh yet.
async fn asked(cluster: &Cluster, namespace: &str, services: Vec<&str>) -> Option<String> {
    let service = services.first()?;
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "weft-check", "namespace": namespace, "object": {
            "apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "check", "image": "weft.dev/check"}]},
        }},
    });
    let path = format!("/api/v1/namespaces/{namespace}/services/https:{service}:443/proxy/inject");
    let request = http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
    let request = request.body(review.to_string().into_bytes()).ok()?;
    match cluster.client.request::<Value>(request).await {
        Ok(answer) if answer["response"]["patch"].is_string() => None,
        Ok(answer) => Some(format!("it answers {}", answer["response"])),
        Err(error) => Some(error.to_string()),
    }
}
