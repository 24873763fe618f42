//! `weft` and a cluster: what is installed, whether all is well with it, and how it goes again.

pub(crate) mod check;
mod connection;
pub(crate) mod install;
mod manifests;
pub(crate) mod path;
pub(crate) mod seen;
pub(crate) mod uninstall;
mod words;

use std::{future::Future, process::ExitCode};

use clap::Args;
pub(crate) use connection::Cluster;

/// The kinds of Weft carry this as `app.kubernetes.io/part-of`.
const PART: &str = "app.kubernetes.io/part-of=weft";
/// What the operator makes for Gateways carries this.
const CHILDREN: &str = "app.kubernetes.io/managed-by=weft-operator";
/// The operator's own objects carry this, whatever a chart was told to name them.
const OPERATOR_NAME: &str = "app.kubernetes.io/name";
/// The value of [`OPERATOR_NAME`], and the name of the operator's Lease.
const OPERATOR: &str = "weft-operator";
/// The Secret with the operator's certificate authority.
const AUTHORITY: &str = "weft-discovery-ca";
/// The group of the kinds that Weft owns.
const GROUP: &str = "weft.dev";
/// Where the Gateway API's own kinds come from, in the version Weft is tested with.
const GATEWAY_API: &str = "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.6.3/experimental-install.yaml";

/// Which cluster, and where in it.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// The namespace that Weft is, or is to be, installed in.
    #[arg(long, short, default_value = "weft-system")]
    pub(crate) namespace: String,
    /// A context of the kubeconfig [default: the current one].
    #[arg(long)]
    pub(crate) context: Option<String>,
}

/// Runs a command that talks to an API server.
pub(crate) fn run(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}
