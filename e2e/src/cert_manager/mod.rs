//! cert-manager signs the certificates of workloads, on the real cluster and under constant load: the mesh goes over to its CA and
//! back, certificates are renewed by it, and it denies, fails and is away. An application in `strict` loses no request, and whoever
//! runs Weft is told.

mod controller;
mod shown;

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, process::ExitCode, time::Instant};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::api::{DynamicObject, ListParams};
use serde_json::{Value, json};
use tokio::process::Command;

use self::controller::{Approver, CertManager, ISSUER, requests};
use crate::{
    cluster::{Cluster, address, eventually, name},
    failures::mesh::{Meshed, ROOT},
    load::{Load, metrics},
    report::passed,
    scene::{INJECTED, OPERATOR, OPERATORS, PREFIX, SYSTEM},
};

/// The scene's name.
const SCENE: &str = "cert-manager";
/// The ConfigMap of roots beside that of the issuer that is built in.
const ROOTS: &str = "weft-identity-roots";
/// Where the application is served.
const WEB: u16 = 3000;
/// The least there is, so that certificates are renewed while this runs.
const SHORT: &str = "mesh.certificates.lifetime=2m";
/// What the chart says by itself.
const BUILT_IN: [&str; 3] = [
    "mesh.certificates.issuer=built-in",
    "mesh.certificates.lifetime=24h",
    "mesh.certificates.certManager.name=",
];

/// Plays it, and leaves the cluster as it was.
pub(crate) async fn run() -> anyhow::Result<ExitCode> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cluster = Cluster::connect().await?;
    let start = Instant::now();
    let manager = CertManager::start(&cluster).await?;
    passed("cert-manager runs", start);
    let outcome = all(&cluster, &manager).await;
    let back = match &outcome {
        Ok(()) => Ok(()),
        Err(_) => upgrade(&BUILT_IN).await,
    };
    cluster.delete("ConfigMap", SYSTEM, ROOTS).await?;
    cluster.without(&format!("{PREFIX}{SCENE}")).await?;
    let left = requests(cluster.client()).list(&ListParams::default()).await?;
    manager.end().await?;
    outcome?;
    back?;
    let left: Vec<_> = left.iter().map(name).collect();
    ensure!(left.is_empty(), "requests are left: {left:?}");
    Ok(ExitCode::SUCCESS)
}

async fn all(cluster: &Cluster, manager: &CertManager<'_>) -> anyhow::Result<()> {
    let mut meshed = Meshed::new(cluster, SCENE, "strict").await?;
    let start = Instant::now();
    let load = meshed.load();
    load.more(200).await?;
    let built_in = built_in_root(cluster).await?;
    both_are_believed(&meshed, &built_in, manager).await?;
    let issuer = format!("mesh.certificates.certManager.name={ISSUER}");
    upgrade(&["mesh.certificates.issuer=cert-manager", &issuer, SHORT]).await?;
    settled(cluster).await?;
    cluster.restart(&meshed.namespace, "web").await?;
    load.more(200).await?;
    web_is_signed_by(&meshed, &manager.root, &built_in).await?;
    meshed
        .nothing_failed(load)
        .await
        .context("on the way to cert-manager")?;
    passed("from the built-in issuer to cert-manager", start);
    // From now on both ends are of cert-manager's.
    cluster.restart(&meshed.namespace, "relay").await?;
    meshed.relay.address.set_ip(address(&meshed.pod("relay").await?)?);
    let load = meshed.load();
    load.more(200).await?;
    by_cert_manager(&meshed, manager, &load).await?;

    let start = Instant::now();
    upgrade(&BUILT_IN).await?;
    settled(cluster).await?;
    cluster.restart(&meshed.namespace, "web").await?;
    load.more(200).await?;
    web_is_signed_by(&meshed, &built_in, &manager.root).await?;
    meshed.nothing_failed(load).await?;
    passed("back to the built-in issuer", start);
    Ok(())
}

/// What happens while cert-manager signs.
async fn by_cert_manager(meshed: &Meshed<'_>, manager: &CertManager<'_>, load: &Load) -> anyhow::Result<()> {
    let cluster = meshed.cluster;
    let first = ends(meshed).await?;
    let start = Instant::now();
    manager.stop().await?;
    a_pod_waits(meshed, load).await.context("while cert-manager is away")?;
    let denied = format!("spiffe://cluster.local/ns/{}/sa/denied", meshed.namespace);
    let _approver = Approver::start(cluster.client(), &denied);
    manager.start_without_approver().await?;
    cluster.rolled_out(&meshed.namespace, "web").await?;
    load.more(200).await?;
    passed("cert-manager was away", start);

    let start = Instant::now();
    let before = counted(cluster, "forbidden").await?;
    pod_of(meshed, "denied").await?;
    is_told(meshed, "denied", "this workload is to have none").await?;
    ensure!(counted(cluster, "forbidden").await? > before, "it is not counted");
    load.more(200).await?;
    let pod = cluster.get("Pod", &meshed.namespace, "denied").await?;
    ensure!(!is_ready(&pod), "a pod without a certificate is ready");
    cluster.kill(&meshed.namespace, "denied").await?;
    passed("a request was denied", start);

    let start = Instant::now();
    manager.signs_by(CertManager::self_signed()).await?;
    pod_of(meshed, "failing").await?;
    is_told(meshed, "failing", "private-key-secret-name").await?;
    load.more(200).await?;
    manager.signs_by(CertManager::ca()).await?;
    eventually("it is signed once the issuer is mended", async || {
        Ok(is_ready(&cluster.get("Pod", &meshed.namespace, "failing").await?))
    })
    .await?;
    passed("a request failed", start);

    let start = Instant::now();
    eventually(
        "every certificate that cert-manager has signed is renewed by it",
        async || {
            let now = ends(meshed).await?;
            Ok(first.iter().all(|(pod, end)| now.get(pod).is_some_and(|now| now > end)))
        },
    )
    .await?;
    load.more(200).await?;
    for pod in web(meshed).await? {
        shown::leads_to(pod, &manager.root).await?;
    }
    passed("certificates were renewed", start);
    Ok(())
}

/// The root by which the issuer that is built in signs.
async fn built_in_root(cluster: &Cluster) -> anyhow::Result<String> {
    let secret = cluster.get("Secret", SYSTEM, ROOT).await?;
    let root = secret.data["data"]["ca.crt"].as_str().context("it has no root")?;
    Ok(String::from_utf8(STANDARD.decode(root)?)?)
}

/// Before anything is signed by another issuer, everybody has to believe it.
async fn both_are_believed(meshed: &Meshed<'_>, built_in: &str, manager: &CertManager<'_>) -> anyhow::Result<()> {
    let before = meshed.figure("weft_trust_roots").await?;
    let roots = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ROOTS, "namespace": SYSTEM},
        "data": {"ca.crt": format!("{built_in}{}", manager.root)},
    });
    meshed.cluster.apply_object(roots).await?;
    eventually("all pods believe both", async || {
        for pod in injected(meshed).await? {
            let text = metrics(address(&pod)?).await?;
            ensure!(
                figure(&text, "weft_trust_roots ") == Some(before + 1.0),
                "not {}",
                name(&pod)
            );
        }
        Ok(true)
    })
    .await
}

/// A pod that comes while nobody signs waits, and is called by nobody; what the operator has asked for goes with it if it dies.
async fn a_pod_waits(meshed: &Meshed<'_>, load: &Load) -> anyhow::Result<()> {
    let cluster = meshed.cluster;
    let before = counted(cluster, "unavailable").await?;
    let more = json!({"spec": {"replicas": 3}});
    cluster.merge("Deployment", &meshed.namespace, "web", &more).await?;
    eventually("it is counted that nobody signs", async || {
        Ok(counted(cluster, "unavailable").await? > before)
    })
    .await?;
    operators_say(cluster, "cert-manager has not signed within 30 s").await?;
    load.more(200).await?;
    let pods = cluster.list("Pod", &meshed.namespace, "app=web").await?;
    ensure!(
        pods.iter().filter(|pod| is_ready(pod)).count() == 2,
        "a pod without a certificate is ready"
    );
    let api = requests(cluster.client());
    let waiting = RefCell::new(None);
    eventually("another request waits", async || {
        let first = api.list(&ListParams::default()).await?.items.into_iter().next();
        let waits = first.is_some();
        waiting.replace(first);
        Ok(waits)
    })
    .await?;
    let request = waiting.take().context("no request waits")?;
    let owners = request.metadata.owner_references.as_deref().unwrap_or_default();
    let operator = &owners.first().context("nobody owns the request")?.name;
    cluster.kill(SYSTEM, operator).await?;
    eventually("the request of an operator that was killed is gone", async || {
        Ok(api.get_opt(name(&request)).await?.is_none())
    })
    .await?;
    settled(cluster).await?;
    load.more(200).await
}

/// A pod of a service account of the same name.
async fn pod_of(meshed: &Meshed<'_>, account: &str) -> anyhow::Result<()> {
    let namespace = &meshed.namespace;
    let of =
        |kind: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": account, "namespace": namespace}});
    meshed.cluster.apply_object(of("ServiceAccount")).await?;
    let mut pod = of("Pod");
    pod["spec"] = json!({
        "serviceAccountName": account, "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "web", "image": "registry.k8s.io/gateway-api/echo-basic:v1.5.1",
            "env": [{"name": "POD_NAME", "value": account}, {"name": "NAMESPACE", "value": namespace}],
        }],
    });
    meshed.cluster.apply_object(pod).await
}

/// Why a pod has no certificate is in the operator's log and in that of its sidecar.
async fn is_told(meshed: &Meshed<'_>, pod: &str, why: &str) -> anyhow::Result<()> {
    operators_say(meshed.cluster, why).await?;
    eventually(format!("{pod}'s sidecar says {why:?}"), async || {
        let log = meshed.cluster.log(&meshed.namespace, pod, "weft-sidecar").await?;
        Ok(log.contains(why))
    })
    .await
}

async fn operators_say(cluster: &Cluster, what: &str) -> anyhow::Result<()> {
    eventually(format!("an operator says {what:?}"), async || {
        for pod in cluster.list("Pod", SYSTEM, OPERATORS).await? {
            if cluster.log(SYSTEM, name(&pod), "operator").await?.contains(what) {
                return Ok(true);
            }
        }
        Ok(false)
    })
    .await
}

/// How many requests have come to that, at all operators.
async fn counted(cluster: &Cluster, result: &str) -> anyhow::Result<f64> {
    let metric = format!("weft_operator_workload_certificates_total{{result=\"{result}\"}} ");
    let mut sum = 0.0;
    for pod in cluster.list("Pod", SYSTEM, OPERATORS).await? {
        sum += figure(&metrics(address(&pod)?).await?, &metric).unwrap_or(0.0);
    }
    Ok(sum)
}

fn figure(text: &str, metric: &str) -> Option<f64> {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(metric));
    values.next()?.trim().parse().ok()
}

fn is_ready(pod: &DynamicObject) -> bool {
    let conditions = pod.data["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|known| known["type"] == "Ready" && known["status"] == "True")
}

/// The pods that are to stay and have a sidecar.
async fn injected(meshed: &Meshed<'_>) -> anyhow::Result<Vec<DynamicObject>> {
    let mut pods = meshed.cluster.list("Pod", &meshed.namespace, INJECTED).await?;
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(pods)
}

/// Where the application is served.
async fn web(meshed: &Meshed<'_>) -> anyhow::Result<Vec<SocketAddr>> {
    let pods = injected(meshed).await?;
    let web = pods.iter().filter(|pod| {
        pod.metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.get("app").is_some_and(|app| app == "web"))
    });
    web.map(|pod| Ok(SocketAddr::new(address(pod)?, WEB))).collect()
}

/// Every pod of the application shows a certificate of the one, and none of the other.
async fn web_is_signed_by(meshed: &Meshed<'_>, root: &str, other: &str) -> anyhow::Result<()> {
    let web = web(meshed).await?;
    ensure!(!web.is_empty(), "nobody serves");
    for pod in web {
        shown::leads_to(pod, root).await?;
        ensure!(
            shown::leads_to(pod, other).await.is_err(),
            "{pod} is of the other issuer"
        );
    }
    Ok(())
}

/// When the certificates end of the pods that are there, by name.
async fn ends(meshed: &Meshed<'_>) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut ends = BTreeMap::new();
    for pod in injected(meshed).await?.iter().filter(|pod| is_ready(pod)) {
        let text = metrics(address(pod)?).await?;
        let mut lines = text.lines();
        let end = lines.find(|line| line.starts_with("weft_certificate_expiry_timestamp_seconds{"));
        let end = end.and_then(|line| line.rsplit(' ').next());
        ends.insert(
            name(pod).to_owned(),
            end.context("nothing is said of its certificate")?.parse()?,
        );
    }
    Ok(ends)
}

/// Tells the chart other values, as the docs say.
async fn upgrade(values: &[&str]) -> anyhow::Result<()> {
    let mut helm = Command::new("helm");
    helm.args(["upgrade", "weft", "helm/weft", "--namespace", SYSTEM]);
    helm.args(["--reuse-values", "--wait", "--timeout", "3m"]);
    for value in values {
        helm.args(["--set", value]);
    }
    let output = helm.output().await.context("helm could not be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "helm ended with {}: {}",
        output.status,
        said.trim()
    );
    Ok(())
}

/// Waits until only those operators are there that are as the chart says now.
async fn settled(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.rolled_out(SYSTEM, OPERATOR).await?;
    eventually("the operators that were there are gone", async || {
        let deployment = cluster.get("Deployment", SYSTEM, OPERATOR).await?;
        let wanted = deployment.data.pointer("/spec/replicas").and_then(Value::as_u64);
        let pods = cluster.list("Pod", SYSTEM, OPERATORS).await?;
        Ok(Some(u64::try_from(pods.len())?) == wanted && pods.iter().all(is_ready))
    })
    .await
}
