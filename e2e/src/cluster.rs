//! The API server, and objects of any kind in it.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    net::IpAddr,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    discovery::{ApiCapabilities, Discovery},
};
use serde_json::Value;

/// How long anything may take: far longer than it does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster and the kinds it serves.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    kinds: BTreeMap<String, (ApiResource, ApiCapabilities)>,
}

impl Cluster {
    /// Connects as `kubectl` would.
    pub(crate) async fn connect() -> anyhow::Result<Self> {
        let client = Client::try_default().await.context("set KUBECONFIG")?;
        let discovery = Discovery::new(client.clone()).run_aggregated().await?;
        let mut kinds = BTreeMap::new();
        // Some kinds of SMI are called like those of Gateway API: those who mean them name their group.
        let groups = discovery.groups();
        for group in groups.filter(|group| !group.name().ends_with(".smi-spec.io")) {
            for (resource, capabilities) in group.recommended_resources() {
                kinds.entry(resource.kind.clone()).or_insert((resource, capabilities));
            }
        }
        Ok(Self { client, kinds })
    }

    /// For kinds that are meant by group and version.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The objects of a kind in a namespace.
    pub(crate) fn api(&self, kind: &str, namespace: &str) -> anyhow::Result<Api<DynamicObject>> {
        let known = self
            .kinds
            .get(kind)
            .with_context(|| format!("the cluster knows no {kind}"))?;
        Ok(Api::dynamic(self.client.clone(), &known.0, &known.1.scope).constrain(namespace))
    }

    /// What the API server answers at a path.
    pub(crate) async fn raw(&self, path: &str) -> anyhow::Result<Value> {
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(self.client.request(request).await?)
    }

    /// What it answers somebody else.
    pub(crate) async fn raw_as(&self, user: &str, path: &str) -> anyhow::Result<Value> {
        let request = http::Request::get(path)
            .header("impersonate-user", user)
            .body(Vec::new())?;
        Ok(self.client.request(request).await?)
    }

    /// The first line of what it goes on to tell somebody else.
    pub(crate) async fn first_line_as(&self, user: &str, path: &str) -> anyhow::Result<String> {
        let request = http::Request::get(path)
            .header("impersonate-user", user)
            .body(Vec::new())?;
        let mut lines = pin!(self.client.request_stream(request).await?.lines());
        lines.try_next().await?.context("it has ended without a word")
    }

    /// What a container has said.
    pub(crate) async fn log(&self, namespace: &str, pod: &str, container: &str) -> anyhow::Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?container={container}");
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(self.client.request_text(request).await?)
    }

    /// Makes objects as a text says.
    pub(crate) async fn apply(&self, text: &str) -> anyhow::Result<()> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
        for document in documents.into_iter().filter(|document| !document.is_null()) {
            self.apply_object(document).await?;
        }
        Ok(())
    }

    /// Makes an object as it is said.
    pub(crate) async fn apply_object(&self, object: Value) -> anyhow::Result<()> {
        let text = |path: &str| {
            object
                .pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let api = self.api(&text("/kind"), &text("/metadata/namespace"))?;
        let params = PatchParams::apply("weft-e2e").force();
        let name = text("/metadata/name");
        api.patch(&name, &params, &Patch::Apply(&object))
            .await
            .with_context(|| format!("{} {name} could not be applied", text("/kind")))?;
        Ok(())
    }

    pub(crate) async fn get(&self, kind: &str, namespace: &str, name: &str) -> anyhow::Result<DynamicObject> {
        Ok(self.api(kind, namespace)?.get(name).await?)
    }

    pub(crate) async fn merge(&self, kind: &str, namespace: &str, name: &str, patch: &Value) -> anyhow::Result<()> {
        let api = self.api(kind, namespace)?;
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Changes members of lists by their names.
    pub(crate) async fn strategic(&self, kind: &str, namespace: &str, name: &str, patch: &Value) -> anyhow::Result<()> {
        let api = self.api(kind, namespace)?;
        api.patch(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await?;
        Ok(())
    }

    pub(crate) async fn delete(&self, kind: &str, namespace: &str, name: &str) -> anyhow::Result<()> {
        match self
            .api(kind, namespace)?
            .delete(name, &DeleteParams::background())
            .await
        {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            result => Ok(result.map(|_| ())?),
        }
    }

    /// Takes away what an earlier run may have left of a namespace, and waits until it is gone.
    pub(crate) async fn without(&self, namespace: &str) -> anyhow::Result<()> {
        self.delete("Namespace", "", namespace).await?;
        eventually(
            format!("the namespace {namespace} of an earlier run is gone"),
            async || Ok(self.api("Namespace", "")?.get_opt(namespace).await?.is_none()),
        )
        .await
    }

    /// Ends a pod at once, as a node that dies does.
    pub(crate) async fn kill(&self, namespace: &str, pod: &str) -> anyhow::Result<()> {
        let at_once = DeleteParams::default().grace_period(0);
        match self.api("Pod", namespace)?.delete(pod, &at_once).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            result => Ok(result.map(|_| ())?),
        }
    }

    pub(crate) async fn list(&self, kind: &str, namespace: &str, labels: &str) -> anyhow::Result<Vec<DynamicObject>> {
        let params = ListParams::default().labels(labels);
        Ok(self.api(kind, namespace)?.list(&params).await?.items)
    }

    /// Lets a Deployment start all its pods anew, and waits until it has.
    pub(crate) async fn restart(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let now = Instant::now();
        let mark = format!("{now:?}");
        let patch =
            serde_json::json!({"spec": {"template": {"metadata": {"annotations": {"weft.dev/restarted": mark}}}}});
        self.merge("Deployment", namespace, name, &patch).await?;
        self.rolled_out(namespace, name).await
    }

    /// Waits until all pods of a Deployment are as it says, and ready.
    pub(crate) async fn rolled_out(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        eventually(format!("the pods of {namespace}/{name} are ready"), async || {
            let deployment = self.get("Deployment", namespace, name).await?;
            let number = |path: &str| deployment.data.pointer(path).and_then(Value::as_i64).unwrap_or(0);
            let wanted = number("/spec/replicas");
            let seen = number("/status/observedGeneration") >= deployment.metadata.generation.unwrap_or(0);
            let counts = ["/status/updatedReplicas", "/status/readyReplicas", "/status/replicas"];
            Ok(seen && counts.iter().all(|count| number(count) == wanted))
        })
        .await
    }

    /// Waits until an object says that it is ready.
    pub(crate) async fn ready(&self, kind: &str, namespace: &str, name: &str) -> anyhow::Result<()> {
        eventually(format!("the {kind} {namespace}/{name} is ready"), async || {
            let object = self.get(kind, namespace, name).await?;
            let mut ready = Vec::new();
            conditions(&object.data["status"], "Ready", &mut ready);
            Ok(ready.iter().any(|known| known["status"] == "True"))
        })
        .await
    }

    /// Waits until a Gateway is served by all its pods.
    pub(crate) async fn programmed(&self, namespace: &str, gateway: &str) -> anyhow::Result<()> {
        eventually(format!("the Gateway {namespace}/{gateway} is programmed"), async || {
            self.holds("Gateway", namespace, gateway, "Programmed").await
        })
        .await
    }

    /// The address of a Service, of the cluster's first family.
    pub(crate) async fn cluster_ip(&self, namespace: &str, name: &str) -> anyhow::Result<IpAddr> {
        let service = self.get("Service", namespace, name).await?;
        let address = service.data["spec"]["clusterIP"].as_str();
        let address = address.and_then(|address| address.parse().ok());
        address.with_context(|| format!("the Service {name} has no address"))
    }

    /// Where a Gateway is, according to its status.
    pub(crate) async fn gateway_address(&self, namespace: &str, gateway: &str) -> anyhow::Result<IpAddr> {
        let gateway = self.get("Gateway", namespace, gateway).await?;
        let address = gateway.data["status"]["addresses"][0]["value"].as_str();
        Ok(address.context("the Gateway has no address")?.parse()?)
    }

    /// Whether a condition holds of the object as it is now; of every parent, listener and ancestor of which it is said.
    pub(crate) async fn holds(&self, kind: &str, namespace: &str, name: &str, condition: &str) -> anyhow::Result<bool> {
        let object = self.get(kind, namespace, name).await?;
        Ok(condition_holds(&object, condition))
    }
}

fn condition_holds(object: &DynamicObject, condition: &str) -> bool {
    let mut found = Vec::new();
    conditions(&object.data["status"], condition, &mut found);
    !found.is_empty()
        && found.iter().all(|known| {
            known["status"] == "True" && known["observedGeneration"].as_i64() == object.metadata.generation
        })
}

/// Every condition of a type, wherever it stands in a status.
fn conditions<'s>(status: &'s Value, condition: &str, found: &mut Vec<&'s Value>) {
    match status {
        Value::Object(fields) if fields.get("type").is_some_and(|kind| kind == condition) => found.push(status),
        Value::Object(fields) => fields.values().for_each(|value| conditions(value, condition, found)),
        Value::Array(values) => values.iter().for_each(|value| conditions(value, condition, found)),
        _ => {}
    }
}

/// Waits until something holds. An API server that does not answer is asked again.
pub(crate) async fn eventually<F: Future<Output = anyhow::Result<bool>>>(
    what: impl fmt::Display,
    mut holds: impl FnMut() -> F,
) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let last = match tokio::time::timeout(Duration::from_secs(10), holds()).await {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) => "it does not hold".to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "no answer came".to_owned(),
        };
        if Instant::now() >= end {
            bail!("{what}: not within {} s: {last}", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Where a pod is.
pub(crate) fn address(pod: &DynamicObject) -> anyhow::Result<IpAddr> {
    let address = pod.data["status"]["podIP"].as_str();
    Ok(address.context("a pod has no address")?.parse()?)
}

/// The name of an object.
pub(crate) fn name(object: &DynamicObject) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}
