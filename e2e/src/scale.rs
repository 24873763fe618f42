//! Many routes and Services on the real API server: how soon an edit reaches traffic, and what the operator and a gateway
//! need for that.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{ListParams, WatchEvent, WatchParams};
use serde_json::json;

use crate::{
    cluster::{Cluster, eventually},
    failures::churn::live_edits,
    load::{Load, Report, Target, status},
    scene::{OPERATOR, SYSTEM, Scene, pods_of, route},
};

/// How much, and how often.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// HTTPRoutes.
    #[arg(long, default_value_t = 5000)]
    routes: usize,
    /// Services.
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Edits that are timed, once in quiet and once under churn.
    #[arg(long, default_value_t = 200)]
    edits: usize,
}

/// What is asked for (milliseconds, MB, cores).
const P50_MS: f64 = 15.0;
const P99_MS: f64 = 50.0;
const OPERATOR_MB: f64 = 150.0;
const OPERATOR_CORES: f64 = 0.1;
const GATEWAY_MB: f64 = 40.0;
/// The pods behind all of the Services.
const MANY: &str = "many";
/// Objects that are made at a time.
const AT_ONCE: usize = 16;
/// Edits under load, beside those that are timed.
const LIVE_EDITS: usize = 1000;
/// How long the operator is watched at rest.
const REST: Duration = Duration::from_secs(20);

/// Times of edits, in milliseconds.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted
            .get(((sorted.len() as f64 * share) as usize).min(last))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect().await?;
    let scene = Scene::new(&cluster, "scale", 1, 2).await?;
    let start = Instant::now();
    fill(&scene, options).await?;
    let last = options.routes - 1;
    let target = scene.target(&format!("r{last}.example"), "/");
    eventually("the last route is served", async || Ok(status(&target).await? == 200)).await?;
    let filled = start.elapsed();
    let accepted = Instant::now();
    for number in [0, options.routes / 2, last] {
        eventually(format!("route r{number} is accepted"), async || {
            scene
                .cluster
                .holds("HTTPRoute", &scene.namespace, &format!("r{number}"), "Accepted")
                .await
        })
        .await?;
    }
    let statuses = accepted.elapsed();

    let quiet = edits(&scene, "quiet", options.edits).await?;
    let cpu = operator_cpu()?;
    tokio::time::sleep(REST).await;
    let cores = (operator_cpu()? - cpu).as_secs_f64() / REST.as_secs_f64();

    let load = Load::start(scene.target("web.example", "/"), 8);
    let churn = tokio::spawn(churn(scene.cluster.clone(), scene.namespace.clone(), options.routes));
    let busy = edits(&scene, "busy", options.edits).await?;
    churn.abort();
    let mut traffic = vec![("while routes were edited", load.stop().await)];

    let operator = memory(&processes("weft-operator")?)?;
    let gateway = memory(&processes("weft-gateway")?)?;
    traffic.extend(disturb(&scene).await?);
    println!(
        "\n| what | figure | wanted |\n|---|---|---|\n\
         | {} HTTPRoutes and {} Services from `apply` to traffic | {:.1} s | - |\n\
         | statuses of the last of them after that | {:.1} s | - |\n\
         | an edit from the API server to traffic, p50 | {:.1} ms | {P50_MS} |\n\
         | the same, p99 | {:.1} ms | {P99_MS} |\n\
         | the same under churn, p50 | {:.1} ms | {P50_MS} |\n\
         | the same under churn, p99 | {:.1} ms | {P99_MS} |\n\
         | operator at rest, cores | {cores:.3} | {OPERATOR_CORES} |\n\
         | operator, MB | {operator:.1} | {OPERATOR_MB} |\n\
         | gateway, MB | {gateway:.1} | {GATEWAY_MB} |",
        options.routes,
        options.services,
        filled.as_secs_f64(),
        statuses.as_secs_f64(),
        quiet.at(0.5),
        quiet.at(0.99),
        busy.at(0.5),
        busy.at(0.99),
    );
    for (when, report) in &traffic {
        println!(
            "| requests that failed {when} | {} of {} | 0 |",
            report.failures, report.requests
        );
    }
    for (when, report) in &traffic {
        for example in &report.examples {
            println!("failed {when}: {example}");
        }
    }
    scene.end().await?;
    let met = [
        quiet.at(0.5) <= P50_MS,
        quiet.at(0.99) <= P99_MS,
        busy.at(0.5) <= P50_MS,
        busy.at(0.99) <= P99_MS,
        cores <= OPERATOR_CORES,
        operator <= OPERATOR_MB,
        gateway <= GATEWAY_MB,
        traffic.iter().all(|(_, report)| report.nothing_failed().is_ok()),
    ];
    Ok(if met.iter().all(|met| *met) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What operators of a cluster do to it, each under load and with all routes there.
async fn disturb(scene: &Scene) -> anyhow::Result<Vec<(&'static str, Report)>> {
    let target = scene.target("web.example", "/");
    let mut traffic = Vec::new();
    let load = Load::start(target.clone(), 8);
    live_edits(scene, LIVE_EDITS).await?;
    traffic.push(("in 1,000 live edits", load.stop().await));
    for (when, namespace, deployment) in [
        ("while backends were restarted", &*scene.namespace, "web".to_owned()),
        (
            "while gateways were restarted",
            &scene.namespace,
            scene.deployment().await?,
        ),
        ("while operators were restarted", SYSTEM, OPERATOR.to_owned()),
    ] {
        let load = Load::start(target.clone(), 8);
        scene.cluster.restart(namespace, &deployment).await?;
        load.more(200).await?;
        traffic.push((when, load.stop().await));
    }
    Ok(traffic)
}

/// Makes the Services and the routes to them. Their pods are not those that are restarted: a Deployment behind a thousand
/// Services is none that anybody has, and Kubernetes takes minutes to write that many slices anew.
async fn fill(scene: &Scene, options: &Options) -> anyhow::Result<()> {
    scene.cluster.apply(&pods_of(MANY, &scene.namespace, 2)).await?;
    scene.cluster.rolled_out(&scene.namespace, MANY).await?;
    let services = (0..options.services).map(|number| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("s{number}"), "namespace": scene.namespace},
            "spec": {"selector": {"app": MANY}, "ports": [{"port": 80, "targetPort": 3000}]},
        })
    });
    stream::iter(services.map(anyhow::Ok))
        .try_for_each_concurrent(AT_ONCE, |service| scene.cluster.apply_object(service))
        .await?;
    println!("{} Services", options.services);
    let routes = (0..options.routes).map(|number| {
        let service = format!("s{}", number % options.services.max(1));
        route(
            &scene.namespace,
            &format!("r{number}"),
            &format!("r{number}.example"),
            &service,
        )
    });
    stream::iter(routes.map(anyhow::Ok))
        .try_for_each_concurrent(AT_ONCE, async |text| scene.cluster.apply(&text).await)
        .await?;
    println!("{} HTTPRoutes", options.routes);
    Ok(())
}

/// Adds a route and waits for its first answer; timed from when the API server tells of it.
async fn edits(scene: &Scene, kind: &str, count: usize) -> anyhow::Result<Times> {
    let mut times = Times::default();
    let api = scene.cluster.api("HTTPRoute", &scene.namespace)?;
    for number in 0..count {
        let edit = format!("{kind}-{number}");
        let target = scene.target(&format!("{edit}.example"), "/");
        let params = WatchParams::default().fields(&format!("metadata.name={edit}"));
        let before = api
            .list(&ListParams::default().limit(1))
            .await?
            .metadata
            .resource_version;
        let mut watch = std::pin::pin!(api.watch(&params, &before.unwrap_or_default()).await?);
        let text = route(&scene.namespace, &edit, &format!("{edit}.example"), "web");
        let applied = tokio::spawn({
            let cluster = scene.cluster.clone();
            async move { cluster.apply(&text).await }
        });
        // The API server ends watches now and then: what it did not tell of is not timed.
        let told = loop {
            match watch.next().await.transpose()? {
                Some(WatchEvent::Added(_)) => break Some(Instant::now()),
                Some(_) => {}
                None => break None,
            }
        };
        until_served(&target).await?;
        times.0.extend(told.map(|told| told.elapsed().as_secs_f64() * 1000.0));
        applied.await??;
        scene.cluster.delete("HTTPRoute", &scene.namespace, &edit).await?;
    }
    ensure!(
        times.0.len() * 10 > count * 9,
        "the API server has told of {} of {count} edits",
        times.0.len()
    );
    Ok(times)
}

async fn until_served(target: &Target) -> anyhow::Result<()> {
    let start = Instant::now();
    while status(target).await? != 200 {
        ensure!(
            start.elapsed() < Duration::from_secs(30),
            "{} is not served",
            target.host
        );
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    Ok(())
}

/// Edits other routes, some fifty times a second.
async fn churn(cluster: Cluster, namespace: String, routes: usize) -> anyhow::Result<()> {
    for number in 0.. {
        let patch = json!({"spec": {"hostnames": [format!("r{}.example", number % routes), format!("churn-{number}.example")]}});
        cluster
            .merge("HTTPRoute", &namespace, &format!("r{}", number % routes), &patch)
            .await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The processes of a program, by number: all pods run on this machine.
fn processes(program: &str) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(number) = entry?.file_name().to_string_lossy().parse() else {
            continue;
        };
        // One may end meanwhile.
        let command = std::fs::read_to_string(format!("/proc/{number}/cmdline")).unwrap_or_default();
        if command.split('\0').next().is_some_and(|path| path.ends_with(program)) {
            found.push(number);
        }
    }
    ensure!(!found.is_empty(), "no {program} runs");
    Ok(found)
}

/// The most that one of some processes holds, in MB.
fn memory(processes: &[u32]) -> anyhow::Result<f64> {
    let mut most: f64 = 0.0;
    for process in processes {
        let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib: f64 = line
            .and_then(|line| line.split_whitespace().next())
            .context("no Pss")?
            .parse()?;
        most = most.max(kib * 1024.0 / 1e6);
    }
    Ok(most)
}

/// The CPU time that the busiest operator has used so far.
fn operator_cpu() -> anyhow::Result<Duration> {
    let mut most = Duration::ZERO;
    for process in processes("weft-operator")? {
        let mut sum = 0;
        for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            sum += text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0);
        }
        most = most.max(Duration::from_nanos(sum));
    }
    Ok(most)
}
