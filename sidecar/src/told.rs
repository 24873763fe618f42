//! What the operator tells: the Service ports that have routes, for the clients in this pod, and all that these routes need.
//! While there is no operator, what was told last stays in use, across restarts of the container too; while it has told nothing,
//! there is nothing to route.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use weft_agent::{Agent, AgentOptions};
use weft_discovery::{DataPlane, Endpoint};
use weft_proxy::{
    Proxy, SpanService,
    mesh::Mesh,
    names::{self, NamesOptions},
};

/// So long an application waits for its sidecar to have been told everything, so that its first connections find the routes
/// that there are. A pod must start without an operator too.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the operator is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Operator {
    /// Where the operator is; without one, everything is carried as it is
    #[arg(long = "operator", env = "WEFT_OPERATOR", value_name = "HOST:PORT")]
    address: Option<String>,
    /// The name its certificate must have
    #[arg(
        long,
        env = "WEFT_SERVER_NAME",
        default_value = "operator.weft.dev",
        value_name = "NAME"
    )]
    operator_name: String,
    /// PEM of the roots its certificate must come from; read anew at each attempt to connect
    #[arg(
        long,
        env = "WEFT_ROOTS",
        default_value = "/var/run/weft/roots/ca.crt",
        value_name = "FILE"
    )]
    roots: PathBuf,
    /// This pod's service account token for the operator; read anew at each attempt to connect
    #[arg(
        long,
        env = "WEFT_TOKEN",
        default_value = "/var/run/weft/token/token",
        value_name = "FILE"
    )]
    token: PathBuf,
    /// Where what it tells is kept for a container that starts anew, private key included [default: nowhere]
    #[arg(long, env = "WEFT_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// This pod's name
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod: Option<String>,
    /// This pod's namespace
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    /// This pod's address
    #[arg(long, env = "POD_IP", value_name = "ADDRESS")]
    pod_ip: Option<IpAddr>,
}

/// The streams of the operator.
pub(crate) struct Told {
    agent: Agent,
    names: JoinHandle<()>,
    all: watch::Receiver<bool>,
}

impl Operator {
    /// Where it is, if there is one.
    fn endpoint(&self) -> Option<Endpoint> {
        Some(Endpoint {
            address: self.address.clone().filter(|address| !address.is_empty())?,
            server_name: self.operator_name.clone(),
            roots: self.roots.clone(),
            token: self.token.clone(),
        })
    }

    /// Of what spans tell: what the pod is made for, which the operator says, or the pod itself where there is none.
    pub(crate) fn service(&self) -> SpanService {
        let known = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        let pod = known(&self.pod);
        let own = || pod.clone().unwrap_or_else(|| "weft-sidecar".to_owned());
        SpanService {
            name: self.endpoint().map_or_else(own, |_| String::new()),
            namespace: known(&self.namespace),
            pod,
        }
    }

    /// Asks the operator, if there is one, again and again until it is there.
    pub(crate) async fn ask(&self, proxy: &Arc<Proxy>) -> anyhow::Result<Option<Told>> {
        let Some(endpoint) = self.endpoint() else {
            return Ok(None);
        };
        let needed = |value: &Option<String>, name: &str| {
            let value = value.clone().filter(|value| !value.is_empty());
            value
                .with_context(|| format!("with WEFT_OPERATOR, {name} must be set, so that the operator knows who asks"))
        };
        let (namespace, pod) = (
            needed(&self.namespace, "POD_NAMESPACE")?,
            needed(&self.pod, "POD_NAME")?,
        );
        proxy.mesh().set_pod(&namespace, &pod);
        let (told, all) = watch::channel(false);
        let names = names::start(proxy.clone(), NamesOptions::in_pod(self.pod_ip));
        let agent = AgentOptions {
            data_plane: DataPlane::sidecar(namespace, pod),
            operator: endpoint,
            state: self.state.clone().filter(|folder| !folder.as_os_str().is_empty()),
        };
        let agent = Agent::start(proxy, agent, move || {
            if !told.send_replace(true) {
                tracing::info!("everything the operator had to tell is in use");
            }
        })
        .await;
        Ok(Some(Told { agent, names, all }))
    }
}

impl Told {
    /// Waits until everything was told, but not for long, and not where it is known from before. Where that says that others ask
    /// the pod to prove who it is, it waits until it can: else a rollout would put pods that nobody can call in the place of good
    /// ones while whoever signs is away.
    pub(crate) async fn settle(&self, mesh: &Mesh) {
        let mut all = self.all.clone();
        if !self.agent.has_resumed() && timeout(PATIENCE, all.wait_for(|all| *all)).await.is_err() {
            tracing::warn!(
                "the operator has not told everything yet: until then, what it has not told of is carried as it is"
            );
        }
        if timeout(PATIENCE, mesh.proves()).await.is_err() {
            tracing::warn!(
                "the pod is to prove who it is and has no certificate yet: it is ready, and its application starts, once it has one"
            );
            mesh.proves().await;
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.names.abort();
    }
}
