//! The command line.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use weft_injection::{LogLevel, Quantity, Resources, Settings, Spans};
use weft_model::{Collector, DefaultAction, TrustDomain};

use crate::{
    certificates::SERVER_NAME,
    identity::{self, IssuerKind, IssuerReference, LONGEST, SHORTEST},
};

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
    #[arg(long, env = "WEFT_DISCOVERY", default_value = "[::]:15010", value_parser = socket)]
    pub(crate) discovery: SocketAddr,
    /// The same, as gateways are told to reach it (HOST:PORT) [default: weft-operator.NAMESPACE.svc:15010]
    #[arg(long, env = "WEFT_ADVERTISE")]
    pub(crate) advertise: Option<String>,
    /// Where /metrics, /ready and /live are
    #[arg(long, env = "WEFT_ADMIN", default_value = "[::]:15020")]
    pub(crate) admin: SocketAddr,
    /// The image of gateway pods; its entrypoint is weft-gateway
    #[arg(long, env = "WEFT_GATEWAY_IMAGE", default_value = concat!("weft.dev/gateway:", env!("CARGO_PKG_VERSION")))]
    pub(crate) gateway_image: String,
    /// When that image is pulled
    #[arg(long, env = "WEFT_GATEWAY_PULL_POLICY", default_value = "IfNotPresent")]
    pub(crate) gateway_pull_policy: String,
    /// Where the API server asks what to do with pods of the mesh
    #[arg(long, env = "WEFT_WEBHOOK", default_value = "[::]:9443")]
    pub(crate) webhook: SocketAddr,
    /// The MutatingWebhookConfiguration by which it does; without one no pod gets a sidecar
    #[arg(long, env = "WEFT_WEBHOOK_CONFIGURATION", value_name = "NAME")]
    pub(crate) webhook_configuration: Option<String>,
    /// Where the API server asks what is seen of the traffic
    #[arg(long, env = "WEFT_VIEW", default_value = "[::]:9444")]
    pub(crate) view: SocketAddr,
    /// Whether the definitions of SMI's kinds are those of the chart weft-crds, by which the API server asks there for other
    /// versions of their objects
    #[arg(long, env = "WEFT_CONVERT_SMI")]
    pub(crate) convert_smi: bool,
    #[command(flatten)]
    pub(crate) sidecar: Sidecar,
    /// Where gateways and sidecars tell of requests, by OTLP: off, or like http://collector.observability:4317
    #[arg(long, env = "WEFT_SPANS", default_value = "off", value_parser = Collecting::read, value_name = "URL")]
    spans: Collecting,
    /// The share of requests with which they begin a trace, from 0 to 1, where none comes with them
    #[arg(long, env = "WEFT_SPANS_SAMPLE", default_value_t = Spans::SAMPLE, value_parser = Spans::share, value_name = "SHARE")]
    spans_sample: f64,
    /// The controller that the GatewayClasses to serve name
    #[arg(long, env = "WEFT_CONTROLLER_NAME", default_value = weft_translate::CONTROLLER)]
    pub(crate) controller_name: String,
    /// Within what identities of workloads are told apart
    #[arg(long, env = "WEFT_TRUST_DOMAIN", default_value = "cluster.local")]
    pub(crate) trust_domain: TrustDomain,
    /// What becomes of what comes to workloads and no authorization policy decides, unless their namespace says otherwise: allow,
    /// authenticated or deny
    #[arg(long, env = "WEFT_DEFAULT_ACTION", default_value = "allow", value_parser = default_action, value_name = "ACTION")]
    pub(crate) default_action: DefaultAction,
    /// How long certificates of workloads last: 2m to 168h
    #[arg(long, env = "WEFT_CERTIFICATE_LIFETIME", default_value = "24h", value_parser = lifetime)]
    pub(crate) certificate_lifetime: Duration,
    /// Who signs certificates of workloads
    #[arg(long, env = "WEFT_CERTIFICATE_ISSUER", value_enum, default_value = "built-in")]
    pub(crate) certificate_issuer: IssuerKind,
    /// The issuer of cert-manager that signs them, if it does
    #[arg(
        long,
        env = "WEFT_CERT_MANAGER_ISSUER",
        required_if_eq("certificate_issuer", "cert-manager")
    )]
    pub(crate) cert_manager_issuer: Option<String>,
    /// Its kind
    #[arg(long, env = "WEFT_CERT_MANAGER_KIND", default_value = "ClusterIssuer")]
    pub(crate) cert_manager_kind: String,
    /// Its group
    #[arg(long, env = "WEFT_CERT_MANAGER_GROUP", default_value = "cert-manager.io")]
    pub(crate) cert_manager_group: String,
    /// The ConfigMap whose ca.crt holds the roots of what it signs; whichever issuer there is, the mesh trusts these
    #[arg(long, env = "WEFT_IDENTITY_ROOTS", default_value = "weft-identity-roots")]
    pub(crate) identity_roots: String,
    /// The uid of its pod, which then owns the requests to cert-manager
    #[arg(long, env = "POD_UID")]
    pub(crate) pod_uid: Option<String>,
}

/// Where spans go: a type of its own, since an `Option` would be an argument that may be left out.
#[derive(Clone, Debug)]
struct Collecting(Option<Collector>);

impl Collecting {
    fn read(text: &str) -> Result<Self, String> {
        Spans::read(text).map(Self)
    }
}

fn default_action(text: &str) -> Result<DefaultAction, String> {
    DefaultAction::parse(text).ok_or_else(|| "use allow, authenticated or deny".to_owned())
}

/// How long certificates last.
fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = text.parse::<SignedDuration>();
    let lifetime = lifetime.map_err(|error| format!("{error}: write it like 24h or 90m"))?;
    let lifetime = Duration::try_from(lifetime).map_err(|error| error.to_string())?;
    if !(SHORTEST..=LONGEST).contains(&lifetime) {
        return Err("it is not from 2m to 168h".to_owned());
    }
    Ok(lifetime)
}

/// What sidecars are like where neither their pods nor the namespaces of these say otherwise.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Sidecar {
    /// The image of sidecars; its entrypoint is weft-sidecar
    #[arg(long, env = "WEFT_SIDECAR_IMAGE", default_value = concat!("weft.dev/sidecar:", env!("CARGO_PKG_VERSION")))]
    sidecar_image: String,
    /// When that image is pulled
    #[arg(long, env = "WEFT_SIDECAR_PULL_POLICY", default_value = "IfNotPresent")]
    sidecar_pull_policy: String,
    /// How much they log: off, error, warn, info, debug, trace
    #[arg(long, env = "WEFT_SIDECAR_LOG_LEVEL", default_value_t = LogLevel::Info)]
    sidecar_log_level: LogLevel,
    /// Cores that each has in any case, like 10m
    #[arg(long, env = "WEFT_SIDECAR_CPU_REQUEST")]
    sidecar_cpu_request: Option<Quantity>,
    /// Memory that each has in any case, like 32Mi
    #[arg(long, env = "WEFT_SIDECAR_MEMORY_REQUEST")]
    sidecar_memory_request: Option<Quantity>,
    /// Cores that each has at most
    #[arg(long, env = "WEFT_SIDECAR_CPU_LIMIT")]
    sidecar_cpu_limit: Option<Quantity>,
    /// Memory that each has at most
    #[arg(long, env = "WEFT_SIDECAR_MEMORY_LIMIT")]
    sidecar_memory_limit: Option<Quantity>,
}

/// Reads an address and a port, where one of IPv6 may be without brackets: so Kubernetes tells a pod its own.
fn socket(text: &str) -> Result<SocketAddr, String> {
    let plain = || {
        let (address, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
    };
    let read = text.parse().ok().or_else(plain);
    read.ok_or_else(|| "it is not ADDRESS:PORT, as in 10.0.0.7:15010".to_owned())
}

impl Args {
    /// What is put into pods.
    ///
    /// # Errors
    /// The resources contradict each other.
    pub(crate) fn injection(&self) -> anyhow::Result<Settings> {
        let sidecar = &self.sidecar;
        let resources = Resources {
            cpu_request: sidecar.sidecar_cpu_request.clone(),
            memory_request: sidecar.sidecar_memory_request.clone(),
            cpu_limit: sidecar.sidecar_cpu_limit.clone(),
            memory_limit: sidecar.sidecar_memory_limit.clone(),
        };
        if let Some(problem) = resources.problem() {
            anyhow::bail!("the resources of sidecars: {problem}");
        }
        Ok(Settings {
            image: sidecar.sidecar_image.clone(),
            pull_policy: sidecar.sidecar_pull_policy.clone(),
            operator: self.advertised(),
            server_name: SERVER_NAME.to_owned(),
            resources,
            log_level: sidecar.sidecar_log_level,
            spans: self.spans(),
        })
    }

    /// What data planes tell of requests, where nobody says otherwise.
    pub(crate) fn spans(&self) -> Spans {
        Spans {
            collector: self.spans.0.clone(),
            sample: self.spans_sample,
        }
    }

    /// The name by which the API server knows its Service.
    pub(crate) fn host(&self) -> String {
        format!("{}.{}.svc", self.service(), self.namespace())
    }

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

    /// How workloads come by their certificates.
    pub(crate) fn identity_settings(&self) -> identity::Settings {
        identity::Settings {
            trust_domain: self.trust_domain.clone(),
            lifetime: self.certificate_lifetime,
            issuer: self.certificate_issuer,
            reference: IssuerReference {
                name: self.cert_manager_issuer.clone().unwrap_or_default(),
                kind: self.cert_manager_kind.clone(),
                group: self.cert_manager_group.clone(),
            },
            owner: self.pod_uid.clone().map(|uid| OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: self.identity(),
                uid,
                ..OwnerReference::default()
            }),
            roots: self.identity_roots.clone(),
            look: identity::LOOK,
            patience: identity::PATIENCE,
        }
    }

    /// Where gateways are told to connect.
    pub(crate) fn advertised(&self) -> String {
        let service = || format!("weft-operator.{}.svc:15010", self.namespace());
        self.advertise.clone().unwrap_or_else(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_last_neither_too_short_nor_too_long() {
        assert_eq!(lifetime("24h"), Ok(Duration::from_secs(24 * 3600)));
        assert_eq!(lifetime("2m"), Ok(SHORTEST));
        for text in ["1m", "169h", "-24h", "a day", "24"] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_of_ipv6_needs_no_brackets() {
        for (text, is) in [
            ("10.0.0.7:15010", "10.0.0.7:15010"),
            ("fd00::7:15010", "[fd00::7]:15010"),
            ("[fd00::7]:15010", "[fd00::7]:15010"),
        ] {
            assert_eq!(socket(text), Ok(is.parse().expect("an address")));
        }
        for text in ["15010", "fd00::7", ":15010", "10.0.0.7:", "operator:15010"] {
            assert!(socket(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cert_manager_needs_to_know_by_which_issuer() {
        let parse = |args: &[&str]| Args::try_parse_from([&["weft-operator"][..], args].concat());
        assert!(parse(&[]).is_ok());
        assert!(parse(&["--certificate-issuer=cert-manager"]).is_err());
        assert!(parse(&["--certificate-issuer=cert-manager", "--cert-manager-issuer=vault"]).is_ok());
        assert!(parse(&["--trust-domain=Shop/A"]).is_err());
    }
}
