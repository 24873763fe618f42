//! A namespace with a Gateway, a backend of several pods and a route between them; gone when the test is over.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, eventually},
    load::{Target, status},
};

/// The namespace of Weft itself.
pub(crate) const SYSTEM: &str = "weft-system";
/// The operator's Deployment and Lease.
pub(crate) const OPERATOR: &str = "weft-operator";
/// Its pods.
pub(crate) const OPERATORS: &str = "app.kubernetes.io/name=weft-operator";
/// The Gateway of every scene.
pub(crate) const GATEWAY: &str = "edge";
/// What is made of it.
pub(crate) const OF_GATEWAY: &str = "gateway.networking.k8s.io/gateway-name=edge";

/// What a pod with a sidecar is labelled with.
pub(crate) const INJECTED: &str = "weft.dev/injected";
/// What the namespaces of tests begin with.
pub(crate) const PREFIX: &str = "weft-e2e-";

/// What a test plays in.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: String,
    /// Where the Gateway answers on port 80.
    pub(crate) address: IpAddr,
}

impl Scene {
    /// Sets it up, and waits until requests are answered.
    pub(crate) async fn new(cluster: &Cluster, name: &str, gateways: u32, backends: u32) -> anyhow::Result<Self> {
        let namespace = format!("{PREFIX}{name}");
        cluster.without(&namespace).await?;
        cluster.apply(&manifests(&namespace, gateways, backends)).await?;
        cluster.programmed(&namespace, GATEWAY).await?;
        let address = cluster.gateway_address(&namespace, GATEWAY).await?;
        let scene = Self {
            cluster: cluster.clone(),
            namespace,
            address,
        };
        cluster.rolled_out(&scene.namespace, "web").await?;
        scene.deployment_ready().await?;
        let target = scene.target("web.example", "/");
        eventually("the route answers", async || Ok(status(&target).await? == 200)).await?;
        Ok(scene)
    }

    /// Requests for a host and a path, by port 80.
    pub(crate) fn target(&self, host: &str, path: &str) -> Target {
        Target {
            address: SocketAddr::new(self.address, 80),
            host: host.to_owned(),
            path: path.to_owned(),
        }
    }

    /// What the operator has made of the Gateway, of a kind, and the pods that have come of that.
    pub(crate) async fn made(&self, kind: &str) -> anyhow::Result<Vec<DynamicObject>> {
        self.cluster.list(kind, &self.namespace, OF_GATEWAY).await
    }

    /// The Deployment that the operator has made for the Gateway.
    pub(crate) async fn deployment(&self) -> anyhow::Result<String> {
        let found = self.made("Deployment").await?;
        let name = found.into_iter().next().and_then(|deployment| deployment.metadata.name);
        name.context("the Gateway has no Deployment")
    }

    async fn deployment_ready(&self) -> anyhow::Result<()> {
        self.cluster
            .rolled_out(&self.namespace, &self.deployment().await?)
            .await
    }

    /// Takes it down.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.cluster.delete("Namespace", "", &self.namespace).await
    }
}

fn manifests(namespace: &str, gateways: u32, backends: u32) -> String {
    let gateway = gateway(namespace, gateways, &[HTTP]);
    let (web, route) = (web(namespace, backends), route(namespace, "web", "web.example", "web"));
    format!("{}---{gateway}---{web}---{route}", self::namespace(namespace))
}

/// Makes a namespace anew, in a stage if one is said.
pub(crate) async fn fresh(cluster: &Cluster, namespace: &str, stage: &str) -> anyhow::Result<()> {
    cluster.without(namespace).await?;
    let mut object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    if !stage.is_empty() {
        object["metadata"]["labels"] = json!({"weft.dev/mesh": stage});
    }
    cluster.apply_object(object).await
}

/// Makes a namespace anew that is in the mesh, with annotations, and waits until pods find there what their sidecars need.
pub(crate) async fn meshed(cluster: &Cluster, namespace: &str, stage: &str, annotations: &Value) -> anyhow::Result<()> {
    cluster.without(namespace).await?;
    let metadata = json!({"name": namespace, "labels": {"weft.dev/mesh": stage}, "annotations": annotations});
    cluster
        .apply_object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
        .await?;
    eventually(format!("{namespace} is in the mesh"), async || {
        let roots = cluster.api("ConfigMap", namespace)?.get_opt("weft-roots").await?;
        Ok(roots.is_some())
    })
    .await
}

/// A namespace that is not in the mesh.
pub(crate) fn namespace(name: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: {name}}}
"#
    )
}

/// A listener of every host.
pub(crate) const HTTP: &str = "{name: http, protocol: HTTP, port: 80}";

/// A Gateway of several pods.
pub(crate) fn gateway(namespace: &str, pods: u32, listeners: &[&str]) -> String {
    format!(
        r#"
apiVersion: weft.dev/v1alpha1
kind: GatewayParameters
metadata: {{name: some, namespace: {namespace}}}
spec: {{replicas: {pods}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {GATEWAY}, namespace: {namespace}}}
spec:
  gatewayClassName: weft
  infrastructure: {{parametersRef: {{group: weft.dev, kind: GatewayParameters, name: some}}}}
  listeners: [{}]
"#,
        listeners.join(", ")
    )
}

/// A Service of several pods that end without losing a request.
pub(crate) fn web(namespace: &str, pods: u32) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {namespace}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 3000}}]}}
---
{}"#,
        pods_of("web", namespace, pods)
    )
}

/// Pods that end without losing a request, with a label `app`.
pub(crate) fn pods_of(app: &str, namespace: &str, pods: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {app}, namespace: {namespace}}}
spec:
  replicas: {pods}
  selector: {{matchLabels: {{app: {app}}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: {app}}}}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: web
        image: registry.k8s.io/gateway-api/echo-basic:v1.5.1
        env:
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        - {{name: NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
        readinessProbe: {{httpGet: {{path: /health, port: 3000}}, periodSeconds: 1}}
        # It ends at once when it is told to: first all who might still ask have to hear of it.
        lifecycle: {{preStop: {{sleep: {{seconds: 5}}}}}}
        resources: {{requests: {{cpu: 10m}}}}
"#
    )
}

/// A pod that answers at 8080, asks by itself, and is ready as soon as it is answered.
pub(crate) fn asking(app: &str, namespace: &str, url: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {app}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  template:
    metadata: {{labels: {{app: {app}}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: {app}
        image: registry.k8s.io/gateway-api/echo-advanced:v1.5.1
        args: [--port=8080]
        readinessProbe: {{exec: {{command: [/usr/local/bin/client, "{url}"]}}, periodSeconds: 1, timeoutSeconds: 10}}
"#
    )
}

/// An HTTPRoute of one host to one Service.
pub(crate) fn route(namespace: &str, name: &str, host: &str, service: &str) -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{name: {GATEWAY}}}]
  hostnames: [{host}]
  rules: [{{backendRefs: [{{name: {service}, port: 80}}]}}]
"#
    )
}
