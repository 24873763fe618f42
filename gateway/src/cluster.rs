//! A gateway in a cluster: it serves what the operator tells it, and goes on with the last it was told when the operator
//! is away, across restarts of its container too. To workloads of the mesh it proves who it is.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use weft_agent::{Agent, AgentOptions};
use weft_discovery::{DataPlane, Endpoint};
use weft_model::GatewayKey;
use weft_proxy::{
    Options, Proxy,
    admin::{self, Pages, State},
};

use crate::{
    names::{self, NamesOptions},
    readiness::Readiness,
};

/// How to run.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The Gateway whose traffic this is.
    pub gateway: GatewayKey,
    /// This pod's name.
    pub replica: String,
    /// Where the operator is.
    pub operator: Endpoint,
    /// Where the last configuration and the certificate are kept; nowhere when absent.
    pub state: Option<PathBuf>,
    /// How the data plane runs.
    pub proxy: Options,
    /// Where health and metrics are, which others reach.
    pub probes: SocketAddr,
    /// Where all admin pages are.
    pub admin: SocketAddr,
    /// How long connections are still taken after the pod was told to end.
    pub linger: Duration,
    /// How long it waits for its certificate, if it leads to workloads that ask who it is, before it is ready without.
    pub certificate_wait: Duration,
    /// How names of destinations are resolved.
    pub names: NamesOptions,
}

/// Why it cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data plane cannot start.
    #[error("the data plane cannot start: {0}")]
    Proxy(#[source] io::Error),
    /// An admin address cannot be bound.
    #[error("the admin address {0} cannot be bound: {1}")]
    Admin(SocketAddr, #[source] io::Error),
}

/// A gateway that the operator tells what to serve.
pub struct Cluster {
    state: Arc<State>,
    linger: Duration,
    agent: Agent,
    names: JoinHandle<()>,
    probes: SocketAddr,
}

impl Cluster {
    /// Serves what it was told last, if that was kept, and asks the operator for what has changed since.
    ///
    /// # Errors
    /// A thread could not be made, or an address of our own cannot be bound. That the operator is away is no error.
    pub async fn start(options: ClusterOptions) -> Result<Self, StartError> {
        let proxy = Arc::new(Proxy::start(options.proxy).map_err(StartError::Proxy)?);
        let state = Arc::new(State::new(proxy.clone()));
        let bind = |address, pages| {
            let state = state.clone();
            async move {
                let bound = admin::start(address, pages, state).await;
                bound.map_err(|error| StartError::Admin(address, error))
            }
        };
        let probes = bind(options.probes, Pages::Probes).await?;
        bind(options.admin, Pages::All).await?;
        let names = names::start(proxy.clone(), options.names);
        let agent = AgentOptions {
            data_plane: DataPlane::of_gateway(options.gateway, options.replica),
            operator: options.operator,
            state: options.state,
        };
        let readiness = Arc::new(Readiness::new(state.clone(), options.certificate_wait));
        let told = readiness.clone();
        let agent = Agent::start(&proxy, agent, move || {
            if told.served() {
                tracing::info!("everything the operator had to tell is served");
            }
        })
        .await;
        if agent.has_resumed() {
            readiness.served();
        }
        Ok(Self {
            state,
            linger: options.linger,
            agent,
            names,
            probes,
        })
    }

    /// What the outside may see.
    pub fn state(&self) -> Arc<State> {
        self.state.clone()
    }

    /// Where health and metrics are.
    pub fn probes(&self) -> SocketAddr {
        self.probes
    }

    /// Stops: is not ready any more, takes what still comes until everybody has heard of that, and lets what is in flight
    /// end, for as long as the options allow.
    pub async fn shutdown(self) {
        self.state.set_draining();
        tokio::time::sleep(self.linger).await;
        drop(self.agent);
        self.names.abort();
        self.state.proxy().shutdown().await;
    }
}
