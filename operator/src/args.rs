//! The command line.

use std::net::SocketAddr;

use clap::Parser;

/// The control plane of Weft: watches Gateway API, serves data planes, writes statuses, runs the pods of Gateways.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-operator", version)]
pub(crate) struct Args {
    /// The namespace of its Lease and of its CA's Secret [default: that of its service account, else weft-system]
    #[arg(long, env = "POD_NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Its name in the Lease and in Events; one per replica [default: the host's name]
    #[arg(long, env = "POD_NAME")]
    pub(crate) identity: Option<String>,
    /// Where data planes connect
    #[arg(long, env = "WEFT_DISCOVERY", default_value = "0.0.0.0:15010")]
    pub(crate) discovery: SocketAddr,
    /// The same, as gateways are told to reach it (HOST:PORT) [default: weft-operator.NAMESPACE.svc:15010]
    #[arg(long, env = "WEFT_ADVERTISE")]
    pub(crate) advertise: Option<String>,
    /// Where /metrics, /ready and /live are
    #[arg(long, env = "WEFT_ADMIN", default_value = "0.0.0.0:15020")]
    pub(crate) admin: SocketAddr,
    /// The image of gateway pods; its entrypoint is weft-gateway
    #[arg(long, env = "WEFT_GATEWAY_IMAGE", default_value = concat!("weft.dev/gateway:", env!("CARGO_PKG_VERSION")))]
    pub(crate) gateway_image: String,
    /// When that image is pulled
    #[arg(long, env = "WEFT_GATEWAY_PULL_POLICY", default_value = "IfNotPresent")]
    pub(crate) gateway_pull_policy: String,
    /// The controller that the GatewayClasses to serve name
    #[arg(long, env = "WEFT_CONTROLLER_NAME", default_value = weft_translate::CONTROLLER)]
    pub(crate) controller_name: String,
}

impl Args {
    /// The namespace it runs in.
    pub(crate) fn namespace(&self) -> String {
        const OWN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
        let own = || std::fs::read_to_string(OWN).ok().map(|name| name.trim().to_owned());
        self.namespace
            .clone()
            .or_else(own)
            .unwrap_or_else(|| "weft-system".to_owned())
    }

    /// Its own name.
    pub(crate) fn identity(&self) -> String {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let name = self.identity.clone().or_else(host);
        name.map_or_else(
            || format!("weft-operator-{}", std::process::id()),
            |name| name.trim().to_owned(),
        )
    }

    /// The Service by which it is reached.
    pub(crate) fn service(&self) -> String {
        let advertised = self.advertised();
        advertised.split(['.', ':']).next().unwrap_or_default().to_owned()
    }

    /// Where gateways are told to connect.
    pub(crate) fn advertised(&self) -> String {
        let service = || format!("weft-operator.{}.svc:15010", self.namespace());
        self.advertise.clone().unwrap_or_else(service)
    }
}
