//! What can be said on the command line.

use std::{net::IpAddr, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use weft_proxy::{
    AccessLog, LogFormat, SpanOptions, SpanService,
    command::{Log, Spans, duration, log_format, share, spans},
};

use crate::{
    cluster::{
        check::Check,
        install::Install,
        path::{Advance, Path, Retreat},
        seen::{edges::Edges, routes::Routes, stat::Stat, tap::Tap, top::Top},
        uninstall::Uninstall,
    },
    inject::{Inject, Uninject},
    output::Output,
};

/// A gateway for Gateway API manifests, with a cluster or without.
#[derive(Debug, Parser)]
#[command(name = "weft", version, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a folder of manifests on this machine.
    Up(Up),
    /// Report everything that is wrong with manifests.
    Analyze(Analyze),
    /// Print what the data plane would be told, and the statuses.
    Translate(Translate),
    /// Say where a request would go, and why nowhere else.
    Explain(Explain),
    /// Put the sidecar into the pods of manifests, and print these.
    Inject(Box<Inject>),
    /// Take the sidecar out of the pods of manifests, and print these.
    Uninject(Uninject),
    /// Print what makes Weft part of a cluster, or apply it.
    Install(Install),
    /// Say whether all is well with Weft in a cluster, and what to do where it is not.
    Check(Check),
    /// Say how requests went: by workload, namespace, Service or route.
    Stat(Stat),
    /// Say who talks to whom, and whether both have proven who they are.
    Edges(Edges),
    /// Show the busiest of them, again and again.
    Top(Top),
    /// Show requests as they come.
    Tap(Tap),
    /// Say how requests went by each rule of routes.
    Routes(Routes),
    /// Say how far namespaces are on the way into the mesh, and whom the next stage would cut off.
    Path(Path),
    /// Take a namespace to its next stage; watches how requests go, and steps back where they fail.
    Advance(Advance),
    /// Take a namespace back to the stage before.
    Retreat(Retreat),
    /// Remove Weft from a cluster.
    Uninstall(Uninstall),
}

#[derive(Debug, Parser)]
pub(crate) struct Up {
    /// Files or folders of manifests, or - for standard input.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Added to each listener's port: with 8000, a listener on port 80 is served on 8080.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) port_offset: u16,
    /// Where listeners bind.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) address: IpAddr,
    /// Cores to use [default: all].
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<NonZeroUsize>,
    /// Answer for every Service without endpoints, saying what was asked.
    #[arg(long)]
    pub(crate) echo: bool,
    /// Where metrics, health and the configuration in use are shown.
    #[arg(long, default_value = "127.0.0.1:15020", value_name = "ADDRESS")]
    pub(crate) admin: SocketAddr,
    /// How long requests in flight may take to end when stopped, like 30s or 500ms.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub(crate) drain: Duration,
    /// A line per request: off, json, or text in which {field} stands for a field of the JSON form
    /// [default: off on a terminal, json elsewhere].
    #[arg(long, value_parser = log_format, value_name = "FORMAT")]
    pub(crate) access_log: Option<Log>,
    /// The share of requests in the access log, from 0 to 1; requests that failed are always in it.
    #[arg(long, default_value_t = 1.0, value_parser = share, value_name = "SHARE")]
    pub(crate) access_log_sample: f64,
    /// Where spans of requests go, by OTLP: off, or like http://localhost:4317.
    #[arg(long, default_value = "off", value_parser = spans, value_name = "URL")]
    pub(crate) spans: Spans,
    /// The share of requests with which a trace is begun, from 0 to 1, where none comes with them.
    #[arg(long, default_value_t = 1.0, value_parser = share, value_name = "SHARE")]
    pub(crate) spans_sample: f64,
    /// No live view, even on a terminal.
    #[arg(long)]
    pub(crate) no_view: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct Analyze {
    /// Files or folders of manifests, or - for standard input.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// The form of the report.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

#[derive(Debug, Parser)]
pub(crate) struct Translate {
    /// Files or folders of manifests, or - for standard input.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
}

#[derive(Debug, Parser)]
pub(crate) struct Explain {
    /// Like http://shop.example:8080/cart?id=1 or udp://names.example:53; the port is that of the manifests.
    pub(crate) url: String,
    /// Files or folders of manifests, or - for standard input.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// A header field, as 'name: value'.
    #[arg(long = "header", short = 'H', value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// The method.
    #[arg(long, default_value = "GET")]
    pub(crate) method: String,
    /// A pod in the mesh asks, in this namespace: the URL's host is a Service, like http://reviews.shop/.
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) from: Option<String>,
    /// The address that the client comes from, as policies see it.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) client: IpAddr,
    /// A file with the certificate that it shows, taken for one that the listener trusts.
    #[arg(long, value_name = "FILE")]
    pub(crate) client_certificate: Option<PathBuf>,
    /// The form of the answer.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

impl Up {
    /// What the access log is to be, given whether there is a live view.
    pub(crate) fn log(&self, view: bool) -> AccessLog {
        let log = self.access_log.clone().unwrap_or(Log(Some(LogFormat::Json)));
        // The view has standard output to itself.
        Log(log.0.filter(|_| !view)).sampled(self.access_log_sample)
    }

    /// Where spans go.
    pub(crate) fn spans(&self) -> Option<SpanOptions> {
        let service = SpanService {
            name: "weft".to_owned(),
            ..SpanService::default()
        };
        self.spans.of(service, self.spans_sample)
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
}
