//! What is seen of the traffic in a cluster, as the operator tells it by the API server.

pub(crate) mod edges;
mod pods;
pub(crate) mod routes;
pub(crate) mod stat;
pub(crate) mod tap;
pub(crate) mod top;

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use comfy_table::{Table, presets::NOTHING};
use jiff::SignedDuration;
use kube::Client;
use serde::de::DeserializeOwned;
use weft_model::{
    Counts, Owner,
    view::{self, EdgeView, End, List, Quantiles, RouteView},
};

pub(crate) use self::pods::Pods;
use super::Cluster;
use crate::output::Output;

/// Which cluster, and which of its namespaces.
#[derive(Clone, Debug, Args)]
pub(crate) struct Scope {
    /// The namespace whose traffic it is [default: that of the context].
    #[arg(long, short)]
    namespace: Option<String>,
    /// All namespaces.
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
    /// A context of the kubeconfig [default: the current one].
    #[arg(long)]
    context: Option<String>,
    /// The time that is looked back on, from 1s to 5m.
    #[arg(long, default_value = "30s", value_parser = window, value_name = "TIME")]
    window: Duration,
    /// The form of the report.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// A cluster, and the namespace that is looked at; all of them, if none.
pub(crate) struct Seen {
    pub(crate) client: Client,
    pub(crate) namespace: Option<String>,
    pub(crate) window: Duration,
}

fn window(text: &str) -> Result<Duration, String> {
    let window = text.parse::<SignedDuration>();
    let window = window.map_err(|error| format!("{error}: write it like 30s or 2m"))?;
    let window = Duration::try_from(window).map_err(|error| error.to_string())?;
    if !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&window) {
        return Err("it is not from 1s to 5m: the operator remembers no more".to_owned());
    }
    Ok(window)
}

impl Scope {
    /// Whether a namespace was named.
    fn is_named(&self) -> bool {
        self.namespace.is_some()
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<Seen> {
        let cluster = Cluster::connect(self.context.as_deref()).await?;
        let client = cluster.client;
        let namespace = self
            .namespace
            .clone()
            .unwrap_or_else(|| client.default_namespace().to_owned());
        Ok(Seen {
            namespace: (!self.all_namespaces).then_some(namespace),
            client,
            window: self.window,
        })
    }
}

impl Seen {
    /// Who has talked to whom within the window.
    pub(crate) async fn edges(&self) -> anyhow::Result<List<EdgeView>> {
        self.list("edges", self.namespace.as_deref()).await
    }

    /// The same in all namespaces, as far as that may be seen; says where not.
    pub(crate) async fn all_edges(&self) -> anyhow::Result<List<EdgeView>> {
        match self.list("edges", None).await {
            Err(error) if is_forbidden(&error) && self.namespace.is_some() => {
                eprintln!(
                    "note: only what is asked from within the namespace is counted, for you may not see the others: {}",
                    error.root_cause()
                );
                self.edges().await
            }
            other => other,
        }
    }

    /// Who has ever talked to whom, as far as is remembered.
    pub(crate) async fn callers(&self) -> anyhow::Result<List<EdgeView>> {
        self.list("callers", self.namespace.as_deref()).await
    }

    /// How requests went by the rules of routes.
    pub(crate) async fn routes(&self) -> anyhow::Result<List<RouteView>> {
        self.list("routes", self.namespace.as_deref()).await
    }

    async fn list<T: DeserializeOwned>(&self, resource: &str, namespace: Option<&str>) -> anyhow::Result<List<T>> {
        let place = namespace
            .map(|namespace| format!("namespaces/{namespace}/"))
            .unwrap_or_default();
        let path = format!(
            "/apis/{}/{}/{place}{resource}?window={}s",
            view::GROUP,
            view::VERSION,
            self.window.as_secs()
        );
        let request = http::Request::get(path).body(Vec::new())?;
        let list: List<T> = self.client.request(request).await.map_err(explained)?;
        if list.missing_replicas > 0 {
            eprintln!(
                "note: {} of the operator's replicas could not be asked, and what their data planes saw is missing: weft check",
                list.missing_replicas
            );
        }
        Ok(list)
    }
}

/// What to do about it.
fn explained(error: kube::Error) -> anyhow::Error {
    let remedy = match &error {
        kube::Error::Api(status) => match status.code {
            404 => "the operator's API is not there: helm upgrade with view.enabled=true, or weft install --apply",
            403 => {
                "somebody who may has to give you the role: kubectl create clusterrolebinding NAME --clusterrole=weft-operator-view --user=YOU"
            }
            500..=599 => {
                "the API server does not reach the operator: weft check; kubectl get apiservice v1alpha1.view.weft.dev"
            }
            _ => "it should not be so; weft check may say more",
        },
        _ => "see that kubectl get nodes works",
    };
    anyhow!(error).context(remedy)
}

pub(crate) fn is_forbidden(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<kube::Error>();
    let status = status.or_else(|| error.chain().find_map(|cause| cause.downcast_ref()));
    matches!(status, Some(kube::Error::Api(status)) if status.code == 403)
}

/// What went well of it, as columns: SUCCESS, RPS, P50, P95, P99.
fn golden(counts: &Counts, window: f64) -> [String; 5] {
    let requests = counts.requests();
    if requests == 0 {
        return std::array::from_fn(|_| "-".to_owned());
    }
    let success = 100.0 * (requests - counts.failures.min(requests)) as f64 / requests as f64;
    let [p50, p95, p99] = match Quantiles::of(&counts.latencies) {
        Some(quantiles) => [quantiles.p50_ms, quantiles.p95_ms, quantiles.p99_ms].map(milliseconds),
        None => ["-"; 3].map(str::to_owned),
    };
    // What is not all is never called all.
    let success = if success < 100.0 { success.min(99.99) } else { success };
    [
        format!("{success:.2}%"),
        format!("{:.1}", requests as f64 / window),
        p50,
        p95,
        p99,
    ]
}

const GOLDEN: [&str; 5] = ["SUCCESS", "RPS", "P50", "P95", "P99"];

fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1}ms"),
        ms if ms < 1000.0 => format!("{ms:.0}ms"),
        ms => format!("{:.1}s", ms / 1000.0),
    }
}

/// An end, as it is called for short: `deploy/web`.
pub(crate) fn workload(owner: &Owner) -> String {
    let kind = match owner.kind.as_str() {
        "Deployment" => "deploy",
        "StatefulSet" => "sts",
        "DaemonSet" => "ds",
        "ReplicaSet" => "rs",
        "Gateway" => "gateway",
        "Pod" => "pod",
        "Job" => "job",
        other => return format!("{}/{}", other.to_lowercase(), owner.name),
    };
    format!("{kind}/{}", owner.name)
}

/// An end with its namespace. An address is named after the pod or node that has it, where that is known.
pub(crate) fn named(end: &End, pods: &Pods) -> String {
    match end {
        End {
            namespace: Some(namespace),
            workload: Some(owner),
            ..
        } => format!("{namespace}/{}", workload(owner)),
        End {
            identity: Some(identity),
            ..
        } => identity.clone(),
        End {
            address: Some(address), ..
        } => match pods.at(*address) {
            Some(name) => format!("{address} ({name})"),
            None => address.to_string(),
        },
        _ => "others".to_owned(),
    }
}

/// Columns as kubectl prints them.
pub(crate) fn columns(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    let text = table.to_string();
    let lines = text
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end());
    let lines: Vec<&str> = lines.collect();
    lines.join("\n") + "\n"
}

/// As JSON for programs.
fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value).context("it cannot be written as JSON")? + "\n")
}
