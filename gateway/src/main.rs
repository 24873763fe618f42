//! `weft-gateway`: a pod of a Gateway.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use weft_discovery::Endpoint;
use weft_gateway::{
    cluster::{Cluster, ClusterOptions},
    names::NamesOptions,
};
use weft_process::{
    listen::everywhere,
    log::{self, Lines},
};
use weft_proxy::{
    Limits, Options, SpanService,
    command::{Log, Spans, duration, log_format, share, spans},
    descriptors,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A pod of a Gateway: serves what Weft's operator tells it. The operator starts it; to serve a folder of manifests,
/// use `weft up`.
#[derive(Debug, Parser)]
#[command(name = "weft-gateway", version)]
struct Args {
    /// The Gateway whose traffic this is
    #[arg(long, env = "WEFT_GATEWAY", value_name = "NAMESPACE/NAME")]
    gateway: String,
    /// This pod's name
    #[arg(long, env = "POD_NAME")]
    pod: String,
    /// This pod's address
    #[arg(long, env = "POD_IP")]
    pod_ip: Option<IpAddr>,
    /// Where the operator is
    #[arg(long, env = "WEFT_OPERATOR", value_name = "HOST:PORT")]
    operator: String,
    /// The name its certificate must have
    #[arg(long, env = "WEFT_OPERATOR_NAME", default_value = "operator.weft.dev")]
    operator_name: String,
    /// PEM of the roots its certificate must come from; read anew at each attempt to connect
    #[arg(long, env = "WEFT_ROOTS", value_name = "FILE")]
    roots: PathBuf,
    /// This pod's service account token; read anew at each attempt to connect
    #[arg(long, env = "WEFT_TOKEN", value_name = "FILE")]
    token: PathBuf,
    /// Where the last configuration is kept, private keys included [default: nowhere]
    #[arg(long, env = "WEFT_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// The port of /ready, /live and /metrics, which others reach
    #[arg(long, default_value_t = 15020, value_name = "PORT")]
    probes_port: u16,
    /// Where all admin pages are
    #[arg(long, default_value = "127.0.0.1:15021", value_name = "ADDRESS")]
    admin: SocketAddr,
    /// Cores to use [default: all]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// How long connections are still taken after the pod was told to end
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    linger: Duration,
    /// How long requests in flight may take to end after that
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    drain: Duration,
    /// How long it waits for its certificate, if it leads to workloads that ask who it is, before it is ready without
    #[arg(long, default_value = "300s", value_parser = duration, value_name = "TIME")]
    certificate_wait: Duration,
    /// A line per request: off, json, or text in which {field} stands for a field of the JSON form
    #[arg(long, default_value = "off", value_parser = log_format, value_name = "FORMAT")]
    access_log: Log,
    /// The share of requests in the access log, from 0 to 1; requests that failed are always in it
    #[arg(long, default_value_t = 1.0, value_parser = share, value_name = "SHARE")]
    access_log_sample: f64,
    /// Where spans of requests go, by OTLP: off, or like http://collector.observability:4317
    #[arg(long, default_value = "off", value_parser = spans, value_name = "URL")]
    spans: Spans,
    /// The share of requests with which a trace is begun, from 0 to 1, where none comes with them
    #[arg(long, default_value_t = 0.01, value_parser = share, value_name = "SHARE")]
    spans_sample: f64,
}

impl Args {
    fn options(self) -> ClusterOptions {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let address = everywhere();
        let (namespace, name) = self.gateway.split_once('/').unwrap_or(("", &self.gateway));
        let service = SpanService {
            name: name.to_owned(),
            namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
            pod: Some(self.pod.clone()),
        };
        ClusterOptions {
            gateway: self.gateway.into(),
            replica: self.pod,
            operator: Endpoint {
                address: self.operator,
                server_name: self.operator_name,
                roots: self.roots,
                token: self.token,
            },
            state: self.state,
            proxy: Options {
                address,
                port_offset: 0,
                workers: self.workers.unwrap_or(cores),
                drain: self.drain,
                limits: Limits::default(),
                access_log: self.access_log.sampled(self.access_log_sample),
                spans: self.spans.of(service, self.spans_sample),
                priority: None,
            },
            probes: SocketAddr::new(address, self.probes_port),
            admin: self.admin,
            linger: self.linger,
            certificate_wait: self.certificate_wait,
            names: NamesOptions::in_pod(self.pod_ip),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    log::start(Lines::Json, &[]);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    descriptors::raise();
    // The data plane has threads of its own; this one is for the stream of the operator and the admin pages.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let result = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(serve(args.options())));
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

async fn serve(options: ClusterOptions) -> anyhow::Result<ExitCode> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cluster = Cluster::start(options).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("draining: what is in flight may end; a second signal ends it");
    tokio::select! {
        () = cluster.shutdown() => Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => Ok(ExitCode::FAILURE),
        _ = interrupt.recv() => Ok(ExitCode::FAILURE),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_it_takes_by_itself_is_understood() {
        let needed = ["--gateway=a/b", "--pod=p", "--operator=o:1", "--roots=r", "--token=t"];
        let args = std::iter::once("weft-gateway").chain(needed);
        let read = Args::try_parse_from(args).map(|args| args.certificate_wait);
        assert_eq!(read.expect("its defaults are valid"), Duration::from_secs(300));
    }
}
