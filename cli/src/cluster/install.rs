//! `weft install`.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Parser;
use kube::api::DynamicObject;

use super::{
    Cluster, GATEWAY_API, Where,
    connection::name_of,
    manifests::{self, Changes},
};
use crate::print::print;

/// How long the operator may take to be there.
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Debug, Parser)]
pub(crate) struct Install {
    #[command(flatten)]
    place: Where,
    /// Apply it and wait until it works, instead of printing it for `kubectl apply --server-side -f -`.
    #[arg(long)]
    apply: bool,
    /// How many operators run.
    #[arg(long, value_name = "N")]
    replicas: Option<u32>,
    /// The operator's image.
    #[arg(long, value_name = "IMAGE")]
    operator_image: Option<String>,
    /// The image of gateways.
    #[arg(long, value_name = "IMAGE")]
    gateway_image: Option<String>,
    /// The image of sidecars.
    #[arg(long, value_name = "IMAGE")]
    sidecar_image: Option<String>,
    /// When images are pulled.
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: Option<String>,
    /// Leave out the kinds that Weft owns, which somebody else has installed.
    #[arg(long)]
    skip_crds: bool,
}

pub(crate) async fn run(args: Install) -> anyhow::Result<ExitCode> {
    let crds = if args.skip_crds { Vec::new() } else { manifests::crds()? };
    let changes = Changes {
        namespace: args.place.namespace.clone(),
        replicas: args.replicas,
        operator_image: args.operator_image,
        gateway_image: args.gateway_image,
        sidecar_image: args.sidecar_image,
        pull_policy: args.image_pull_policy,
        mesh: false,
    };
    if !args.apply {
        let installation = manifests::installation(&changes)?;
        let all: Vec<_> = crds.into_iter().chain(installation).collect();
        print(&manifests::yaml(&all)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut cluster = Cluster::connect(args.place.context.as_deref()).await?;
    if cluster.api("gateway.networking.k8s.io", "v1", "GatewayClass").is_none() {
        bail!("the cluster does not know the Gateway API; install it first: {GATEWAY_API}");
    }
    let mesh = cluster
        .api("gateway.networking.x-k8s.io", "v1alpha1", "XMesh")
        .is_some();
    let installation = manifests::installation(&Changes { mesh, ..changes })?;
    apply(&cluster, &crds).await?;
    if !crds.is_empty() {
        // What was just defined may be used by what follows.
        cluster.discover().await?;
    }
    apply(&cluster, &installation).await?;
    ready(&cluster, &args.place.namespace).await?;
    eprintln!("\nWeft is installed. See that all is well with: weft check");
    Ok(ExitCode::SUCCESS)
}

async fn apply(cluster: &Cluster, objects: &[DynamicObject]) -> anyhow::Result<()> {
    for object in objects {
        cluster.apply(object).await?;
        eprintln!("applied {}", name_of(object));
    }
    Ok(())
}

/// Waits until every operator is ready.
async fn ready(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut said = String::new();
    loop {
        let deployment = cluster
            .operator(namespace)
            .await?
            .context("the operator has been removed")?;
        let number = |path: &str| {
            deployment
                .data
                .pointer(path)
                .and_then(serde_json::Value::as_i64)
                .unwrap_or(0)
        };
        let (wanted, updated) = (number("/spec/replicas"), number("/status/updatedReplicas"));
        let (ready, all) = (number("/status/readyReplicas"), number("/status/replicas"));
        let current = number("/status/observedGeneration") >= deployment.metadata.generation.unwrap_or(0);
        let progress = format!("{ready} of {wanted} operators are ready");
        if progress != said {
            eprintln!("{progress}");
            said = progress;
        }
        if current && updated == wanted && ready == wanted && all == wanted {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            bail!(
                "{said} after {} s; look why: kubectl describe pods -n {namespace}",
                PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
