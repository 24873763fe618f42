//! cert-manager in the cluster, and who approves instead of it.

use anyhow::Context as _;
use kube::{
    Client,
    api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{
    cluster::{Cluster, eventually},
    scene::SYSTEM,
};

/// Its namespace and its Deployment.
const NAME: &str = "cert-manager";
/// Its ClusterIssuer,
pub(super) const ISSUER: &str = "weft";
/// and the Secret of the CA of that.
const SECRET: &str = "weft-ca";
const MANIFEST: &str = include_str!("../../cluster/cert-manager.yaml");

/// cert-manager, as it runs.
pub(super) struct CertManager<'c> {
    cluster: &'c Cluster,
    /// The root of its CA, as PEM.
    pub(super) root: String,
}

impl<'c> CertManager<'c> {
    /// Starts it, with a CA that was just made; waits until it can sign.
    pub(super) async fn start(cluster: &'c Cluster) -> anyhow::Result<Self> {
        cluster.without(NAME).await?;
        let (root, key) = ca()?;
        cluster.apply(MANIFEST).await?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": SECRET, "namespace": NAME},
            "stringData": {"tls.crt": root, "tls.key": key},
        });
        cluster.apply_object(secret).await?;
        let started = Self { cluster, root };
        started.is_ready().await?;
        Ok(started)
    }

    async fn is_ready(&self) -> anyhow::Result<()> {
        self.cluster.rolled_out(NAME, NAME).await?;
        eventually("the ClusterIssuer is ready", async || {
            let issuer = self.cluster.get("ClusterIssuer", "", ISSUER).await?;
            let conditions = issuer.data["status"]["conditions"].as_array();
            Ok(conditions
                .into_iter()
                .flatten()
                .any(|known| known["type"] == "Ready" && known["status"] == "True"))
        })
        .await
    }

    /// It is away.
    pub(super) async fn stop(&self) -> anyhow::Result<()> {
        let none = json!({"spec": {"replicas": 0}});
        self.cluster.merge("Deployment", NAME, NAME, &none).await?;
        self.cluster.rolled_out(NAME, NAME).await
    }

    /// It is back, and leaves it to others what is approved.
    pub(super) async fn start_without_approver(&self) -> anyhow::Result<()> {
        let containers = json!([{"name": NAME, "args": ["--approve=false"]}]);
        let patch = json!({"spec": {"replicas": 1, "template": {"spec": {"containers": containers}}}});
        self.cluster.strategic("Deployment", NAME, NAME, &patch).await?;
        self.is_ready().await
    }

    /// By what the issuer signs from now on.
    pub(super) async fn signs_by(&self, spec: Value) -> anyhow::Result<()> {
        self.cluster
            .merge("ClusterIssuer", "", ISSUER, &json!({"spec": spec}))
            .await
    }

    /// Signs by its CA.
    pub(super) fn ca() -> Value {
        json!({"ca": {"secretName": SECRET}, "selfSigned": null})
    }

    /// Signs with a key that a request has to name, which those of workloads do not.
    pub(super) fn self_signed() -> Value {
        json!({"ca": null, "selfSigned": {}})
    }

    /// Takes it away, and all that came with it; the definitions stay.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        let all = [
            ("ClusterIssuer", ISSUER),
            ("ClusterRoleBinding", NAME),
            ("ClusterRole", NAME),
        ];
        for (kind, name) in all {
            self.cluster.delete(kind, "", name).await?;
        }
        self.cluster.without(NAME).await
    }
}

/// A CA: its root and its key, as PEM.
fn ca() -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "a CA behind cert-manager");
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Requests of workloads.
pub(super) fn requests(client: Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest");
    Api::namespaced_with(client, SYSTEM, &ApiResource::from_gvk(&kind))
}

/// Somebody who approves requests for all workloads but one, by what Weft says whom they are for; ended when dropped.
pub(super) struct Approver(JoinHandle<()>);

impl Approver {
    pub(super) fn start(client: Client, denied: &str) -> Self {
        let (requests, denied) = (requests(client), denied.to_owned());
        Self(tokio::spawn(async move {
            loop {
                if let Err(error) = decide(&requests, &denied).await {
                    eprintln!("requests could not be decided on: {error:#}");
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }))
    }
}

impl Drop for Approver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Approves or denies what nobody has yet.
async fn decide(requests: &Api<DynamicObject>, denied: &str) -> anyhow::Result<()> {
    for request in requests.list(&ListParams::default()).await? {
        let mut conditions = request.data["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        if conditions
            .iter()
            .any(|known| known["type"] == "Approved" || known["type"] == "Denied")
        {
            continue;
        }
        let annotations = request.metadata.annotations.unwrap_or_default();
        let identity = annotations
            .get("weft.dev/identity")
            .context("a request does not say whom it is for")?;
        let (kind, message) = match identity == denied {
            true => ("Denied", "this workload is to have none"),
            false => ("Approved", "it is a workload"),
        };
        conditions.push(json!({"type": kind, "status": "True", "reason": "weft-e2e", "message": message}));
        let status = json!({
            "metadata": {"resourceVersion": request.metadata.resource_version},
            "status": {"conditions": conditions},
        });
        let name = request.metadata.name.unwrap_or_default();
        match requests
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
            .await
        {
            // It is gone, or somebody else was faster: the next look is soon.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            result => drop(result?),
        }
    }
    Ok(())
}
