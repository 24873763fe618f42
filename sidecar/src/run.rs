//! The sidecar at work: connections that were turned to it are carried to where they were going, and observed; what goes to a
//! Service that has routes goes by these.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{interval, timeout},
};
use weft_proxy::{
    Intercept, Limits, Options, Proxy,
    admin::{self, Pages, State},
    command::{Log, Spans, duration, log_format, share, spans},
    descriptors,
};

use crate::{
    ports::{ADMIN, OWN, PROBES, Ports},
    told,
};

/// A sidecar needs few: it stands beside one application.
const WORKERS: usize = 2;

/// How long a request or its answer may stand still. Without a sidecar there would be no limit, and there are streams on which
/// nothing is said for long; this one is only for those whose other side is gone.
const STILL: Duration = Duration::from_secs(3600);

/// How connections are carried.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    ports: Ports,
    #[command(flatten)]
    operator: told::Operator,
    /// The port of /ready, /live and /metrics, which others reach
    #[arg(long, default_value_t = PROBES, value_name = "PORT")]
    probes_port: u16,
    /// Where all admin pages are
    #[arg(long, default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), ADMIN), value_name = "ADDRESS")]
    admin: SocketAddr,
    /// Cores to use [default: two, or one if there is only one]
    #[arg(long, env = "WEFT_WORKERS", value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// How long connections are still carried, and taken, after the pod was told to end
    #[arg(long, env = "WEFT_DRAIN", default_value = "30s", value_parser = duration, value_name = "TIME")]
    drain: Duration,
    /// A line per request or connection: off, json, or text in which {field} stands for a field of the JSON form
    #[arg(long, env = "WEFT_ACCESS_LOG", default_value = "off", value_parser = log_format, value_name = "FORMAT")]
    access_log: Log,
    /// The share of requests in the access log, from 0 to 1; what failed is always in it
    #[arg(long, env = "WEFT_ACCESS_LOG_SAMPLE", default_value_t = 1.0, value_parser = share, value_name = "SHARE")]
    access_log_sample: f64,
    /// Where spans of requests go, by OTLP: off, or like http://collector.observability:4317
    #[arg(long, env = "WEFT_SPANS", default_value = "off", value_parser = spans, value_name = "URL")]
    spans: Spans,
    /// The share of requests that leave the pod with which a trace is begun, from 0 to 1, where none comes with them
    #[arg(long, env = "WEFT_SPANS_SAMPLE", default_value_t = 0.01, value_parser = share, value_name = "SHARE")]
    spans_sample: f64,
}

impl Args {
    fn options(&self) -> Options {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = NonZeroUsize::new(cores.min(WORKERS)).unwrap_or(NonZeroUsize::MIN);
        Options {
            address: Ipv4Addr::UNSPECIFIED.into(),
            port_offset: 0,
            workers: self.workers.unwrap_or(workers),
            // The time to drain is over before the data plane is told to stop: see `drained`.
            drain: Duration::ZERO,
            limits: Limits {
                stream_idle_timeout: STILL,
                ..Limits::default()
            },
            access_log: self.access_log.sampled(self.access_log_sample),
            spans: self.spans.of(self.operator.service(), self.spans_sample),
            priority: Some(OWN),
        }
    }
}

/// Runs until the pod is told to end.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    descriptors::raise();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // The data plane has threads of its own; this one is for the admin pages and the stream of the operator.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let proxy = Arc::new(Proxy::start(args.options()).context("the data plane cannot start")?);
    let state = Arc::new(State::new(proxy.clone()));
    let told = args.operator.ask(&proxy).await?;
    probes(args.probes_port, &state).await?;
    let bound = admin::start(args.admin, Pages::All, state.clone()).await;
    bound.with_context(|| format!("the admin address {} cannot be bound", args.admin))?;
    proxy
        .intercept(Intercept {
            outbound: args.ports.outbound_port,
            inbound: args.ports.inbound_port,
        })
        .await?;
    if let Some(told) = &told {
        tokio::select! {
            () = told.settle(proxy.mesh()) => {}
            // The application has not even started.
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
    state.set_ready();
    tracing::info!(
        outbound = args.ports.outbound_port,
        inbound = args.ports.inbound_port,
        "connections are carried"
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    state.set_draining();
    tracing::info!("draining: connections are carried on until the last has ended; a second signal ends them");
    tokio::select! {
        () = drained(&proxy, args.drain) => {
            proxy.shutdown().await;
            Ok(ExitCode::SUCCESS)
        }
        _ = terminate.recv() => Ok(ExitCode::FAILURE),
        _ = interrupt.recv() => Ok(ExitCode::FAILURE),
    }
}

/// Binds the page that the kubelet and Prometheus read, for both families of addresses if there are both.
async fn probes(port: u16, state: &Arc<State>) -> anyhow::Result<()> {
    let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let bound = admin::start(address, Pages::Probes, state.clone()).await;
    bound.with_context(|| format!("the address {address} for health and metrics cannot be bound"))?;
    Ok(())
}

/// Waits until no connection is open, or the time is over. New ones are still taken: the kubelet tells a sidecar to end once
/// the application has ended, but other sidecars may not have, and they cannot do without a network.
async fn drained(proxy: &Proxy, limit: Duration) {
    let ended = async {
        let mut look = interval(Duration::from_millis(100));
        loop {
            look.tick().await;
            if proxy.stats().await.connections.open == 0 {
                return;
            }
        }
    };
    // What is left when the time is over is told of, and cut, by the data plane.
    let _ = timeout(limit, ended).await;
}
