//! The SMI conformance tests (learn-layer5, `smi-conformance`), with what is outdated in them mended: definitions are looked for
//! in the API that there is, URLs are as they were meant, and nothing waits for a fixed time. After them comes what they do not
//! ask: metrics, that versions are converted, and that what is wrong is said.
//!
//! Whoever tells applications to call stands outside the mesh, as the original does; what is denied by default is denied to
//! callers in the mesh alone (`weft.dev/smi-access: deny-in-mesh`).

mod access;
mod app;
mod metrics;
mod more;
mod specs;
mod split;

use std::{process::ExitCode, time::Instant};

use anyhow::{Context as _, ensure};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, eventually},
    scene::meshed,
};

/// How often something has to hold once it does.
const AGAIN: usize = 3;

/// Runs all, or those parts whose names contain something.
pub(crate) async fn run(filter: Option<&str>) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect().await?;
    let filter = filter.unwrap_or_default();
    let mut failed = Vec::new();
    let mut steps = 0;
    for part in [
        "traffic-access",
        "traffic-spec",
        "traffic-split",
        "traffic-metrics",
        "versions",
    ] {
        if !part.contains(filter) {
            continue;
        }
        let mut case = Case::new(&cluster, part);
        let start = Instant::now();
        let outcome = play(&mut case).await;
        cluster.delete("Namespace", "", &case.namespace).await?;
        steps += case.passed;
        let took = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => println!("ok      {part} ({} steps, {took:.0} s)", case.passed),
            Err(error) => {
                println!("FAILED  {part}, after {} steps ({took:.0} s): {error:#}", case.passed);
                failed.push(part);
            }
        }
    }
    ensure!(steps > 0 || !failed.is_empty(), "no part is called like {filter:?}");
    if failed.is_empty() {
        println!("{steps} steps passed");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{steps} steps passed; failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

async fn play(case: &mut Case) -> anyhow::Result<()> {
    match case.name {
        "traffic-access" => access::play(case).await,
        "traffic-spec" => specs::play(case).await,
        "traffic-split" => split::play(case).await,
        "traffic-metrics" => metrics::play(case).await,
        _ => more::play(case).await,
    }
}

/// A test case in a namespace of its own.
struct Case {
    cluster: Cluster,
    name: &'static str,
    namespace: String,
    /// Steps that have passed.
    passed: usize,
}

impl Case {
    fn new(cluster: &Cluster, name: &'static str) -> Self {
        Self {
            cluster: cluster.clone(),
            name,
            namespace: format!("weft-e2e-smi-{name}"),
            passed: 0,
        }
    }

    /// Takes down that a step has passed.
    fn step(&mut self, what: &str) {
        self.passed += 1;
        println!("        {} {}: {what}", self.name, self.passed);
    }

    /// Makes the namespace, in the mesh.
    async fn begin(&self, annotations: Value) -> anyhow::Result<()> {
        meshed(&self.cluster, &self.namespace, "secure", &annotations).await
    }

    /// Holds that a definition is there and is as it should be.
    async fn definition(&self, name: &str, kind: &str, short: &str) -> anyhow::Result<()> {
        let found = self.cluster.get("CustomResourceDefinition", "", name).await?;
        let names = &found.data["spec"]["names"];
        ensure!(names["kind"] == kind, "{name} is of the kind {}", names["kind"]);
        ensure!(
            names["shortNames"] == json!([short]),
            "{name} is called {} for short",
            names["shortNames"]
        );
        let conditions = found.data["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let established = |condition: &Value| condition["type"] == "Established" && condition["status"] == "True";
        ensure!(conditions.iter().any(established), "{name} is not established");
        Ok(())
    }

    /// Starts `app-a`, `app-b` and `app-c` with their service accounts, and waits for them.
    async fn apps(&self) -> anyhow::Result<()> {
        for letter in ["a", "b", "c"] {
            let labels = json!({"app": format!("app-{letter}")});
            self.app(letter, &labels).await?;
            self.service(&format!("app-{letter}"), &labels).await?;
        }
        self.ready().await
    }

    async fn ready(&self) -> anyhow::Result<()> {
        for letter in ["a", "b", "c"] {
            let name = format!("app-{letter}-deployment");
            self.cluster.rolled_out(&self.namespace, &name).await?;
            let labels = format!("weft.dev/injected,weft.dev/smi-test={letter}");
            let pods = self.cluster.list("Pod", &self.namespace, &labels).await?;
            ensure!(!pods.is_empty(), "the pods of {name} have no sidecar");
        }
        Ok(())
    }

    /// An application of a service account, with labels.
    async fn app(&self, letter: &str, labels: &Value) -> anyhow::Result<()> {
        let (namespace, name) = (&self.namespace, format!("app-{letter}"));
        let account = format!("service-{letter}");
        let mut of_pods = labels.clone();
        of_pods["weft.dev/smi-test"] = letter.into();
        let container = json!({
            "name": name, "image": "weft.dev/smi-app:dev", "imagePullPolicy": "Never",
            "ports": [{"containerPort": 9091, "name": "http"}],
            "env": [{"name": "SERVICE_NAME", "value": name}],
            "readinessProbe": {"httpGet": {"path": "/metrics", "port": 9091}, "periodSeconds": 1},
        });
        let objects = [
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace}}),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": format!("{name}-deployment"), "namespace": namespace, "labels": labels},
                "spec": {"selector": {"matchLabels": labels}, "template": {
                    "metadata": {"labels": of_pods},
                    "spec": {"serviceAccountName": account, "terminationGracePeriodSeconds": 1, "containers": [container]},
                }},
            }),
        ];
        for object in objects {
            self.cluster.apply_object(object).await?;
        }
        Ok(())
    }

    async fn service(&self, name: &str, selector: &Value) -> anyhow::Result<()> {
        let spec = json!({"selector": selector, "ports": [{"name": "http", "port": 9091, "targetPort": 9091}]});
        let metadata = json!({"name": name, "namespace": self.namespace});
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
        self.cluster.apply_object(service).await
    }

    async fn find(&self, name: &str) -> anyhow::Result<app::App> {
        app::App::find(&self.cluster, &self.namespace, name).await
    }

    /// The URL of a Service, as the original has it: with a dot at the end.
    fn url(&self, service: &str, path: &str) -> String {
        format!("http://{service}.{}.svc.cluster.local.:9091{path}", self.namespace)
    }

    /// The objects of a kind of SMI in a version.
    fn smi(&self, api_version: &str, kind: &str) -> anyhow::Result<Api<DynamicObject>> {
        let (group, version) = api_version.split_once('/').context("a group and a version")?;
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            plural: format!("{}s", kind.to_lowercase()),
        };
        Ok(Api::namespaced_with(self.cluster.client(), &self.namespace, &resource))
    }

    /// Makes objects of SMI, each in the version that it is written in.
    async fn apply(&self, text: &str) -> anyhow::Result<()> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
        for object in documents.into_iter().filter(|document| !document.is_null()) {
            let field = |path: &str| {
                object
                    .pointer(path)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let (version, kind, name) = (field("/apiVersion"), field("/kind"), field("/metadata/name"));
            let params = PatchParams::apply("weft-e2e").force();
            let api = self.smi(&version, &kind)?;
            api.patch(&name, &params, &Patch::Apply(&object))
                .await
                .with_context(|| format!("{version} {kind} {name} could not be applied"))?;
        }
        Ok(())
    }

    /// Takes an object away, and holds that it is gone.
    async fn remove(&self, api_version: &str, kind: &str, name: &str) -> anyhow::Result<()> {
        let api = self.smi(api_version, kind)?;
        api.delete(name, &DeleteParams::default()).await?;
        eventually(format!("the {kind} {name} is gone"), async || {
            Ok(api.get_opt(name).await?.is_none())
        })
        .await
    }
}

/// Waits until something holds, and holds it to that: what was applied may take a moment, and then stays.
async fn settled(what: &str, check: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    eventually(what, async || check().await.map(|()| true)).await?;
    for _ in 0..AGAIN {
        check()
            .await
            .with_context(|| format!("{what}: it did, and does no more"))?;
    }
    Ok(())
}
