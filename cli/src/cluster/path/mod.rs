//! The path of a namespace into the mesh: `weft path` says how far each is and whom its next stage would cut off or have denied,
//! `weft advance` takes the step, and `weft retreat` takes it back.

mod denied;
mod preview;
mod stage;
mod step;
mod watch;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::Parser;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, api::ListParams};
use serde_json::json;
use weft_model::view::EdgeView;

use self::{
    preview::{Preview, preview},
    stage::Stage,
    step::Step,
    watch::{Verdict, Watch},
};
use super::{
    Cluster, OPERATOR, OPERATOR_NAME,
    seen::{Pods, Seen, columns, is_forbidden},
};
use crate::{output::Output, print::print};

/// How often it is looked at how requests go.
const LOOK: Duration = Duration::from_secs(5);
/// The time before the step that is compared with.
const BEFORE: Duration = Duration::from_secs(120);

#[derive(Debug, Parser)]
pub(crate) struct Path {
    /// Only of this namespace, with all that is known.
    namespace: Option<String>,
    /// A context of the kubeconfig [default: the current one].
    #[arg(long)]
    context: Option<String>,
    /// The form of the report.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Parser)]
pub(crate) struct Advance {
    /// The namespace.
    namespace: String,
    /// The stage to take it to, if not the next one.
    #[arg(long, value_enum)]
    to: Option<Stage>,
    /// Even if that cuts somebody off, policies would deny something, or nobody knows whether it does.
    #[arg(long)]
    force: bool,
    /// How long it is watched how requests go; 0s for not at all.
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    watch: Duration,
    /// By how many of a hundred fewer requests may succeed than before.
    #[arg(long, default_value_t = 1.0, value_name = "PERCENT")]
    tolerance: f64,
    /// A context of the kubeconfig [default: the current one].
    #[arg(long)]
    context: Option<String>,
}

#[derive(Debug, Parser)]
pub(crate) struct Retreat {
    /// The namespace.
    namespace: String,
    /// The stage to take it back to, if not the one before.
    #[arg(long, value_enum)]
    to: Option<Stage>,
    /// A context of the kubeconfig [default: the current one].
    #[arg(long)]
    context: Option<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = text.parse::<SignedDuration>();
    let duration = duration.map_err(|error| format!("{error}: write it like 60s or 5m"))?;
    Duration::try_from(duration).map_err(|error| error.to_string())
}

/// `weft path`.
pub(crate) async fn show(args: Path) -> anyhow::Result<ExitCode> {
    let client = Cluster::connect(args.context.as_deref()).await?.client;
    let api: Api<Namespace> = Api::all(client.clone());
    let namespaces = match &args.namespace {
        Some(name) => vec![get(&api, name).await?],
        None => {
            let list = api.list(&ListParams::default()).await;
            list.context("namespaces cannot be listed: name one, like weft path shop")?
                .items
        }
    };
    let mut pods = Pods::list(&client, args.namespace.as_deref())
        .await
        .context("pods cannot be listed: you need the role view")?;
    pods.learn(&client).await;
    let seen = Seen {
        client: client.clone(),
        namespace: args.namespace.clone(),
        window: BEFORE,
    };
    // Without it the stages can be told, though not what the next would do.
    let callers = match seen.callers().await {
        Ok(list) => Some(list),
        Err(error) if args.namespace.is_none() => {
            let why = if is_forbidden(&error) {
                "you may not see it"
            } else {
                "the operator does not tell"
            };
            eprintln!("note: whom the next stage would cut off is not known, for {why}: {error:#}");
            None
        }
        Err(error) => return Err(error),
    };
    let mut previews = Vec::new();
    for namespace in &namespaces {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let stage = match Stage::of(namespace) {
            Ok(stage) => stage,
            Err(error) => {
                eprintln!("note: {error}");
                continue;
            }
        };
        if stage == Stage::None && args.namespace.is_none() && !may_enter(&name, &pods) {
            continue;
        }
        let known = callers.as_ref().map(|list| (&list.items[..], list.since));
        previews.push(preview(&name, stage, stage.next(), &pods, known));
    }
    match args.output {
        Output::Json => print(&(serde_json::to_string_pretty(&json!({"namespaces": previews}))? + "\n"))?,
        Output::Text => print(&text(&previews, args.namespace.is_some()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether somebody is in a namespace who could be on the path: neither Kubernetes itself nor Weft.
fn may_enter(namespace: &str, pods: &Pods) -> bool {
    let mut own = pods.all.iter().filter(|pod| pod.namespace == namespace).peekable();
    let system = namespace.starts_with("kube-");
    let is_operator = |name: &String| name == OPERATOR;
    !system && own.peek().is_some() && !own.any(|pod| pod.labels.get(OPERATOR_NAME).is_some_and(is_operator))
}

/// A line for each namespace; below, for those that are on the path or were asked for, what stands in the way.
fn text(previews: &[Preview], asked: bool) -> String {
    let rows = previews.iter().map(|preview| {
        let next = preview.next.map_or("-", Stage::as_str);
        vec![
            preview.namespace.clone(),
            preview.stage.as_str().to_owned(),
            format!("{}/{}", preview.meshed, preview.pods),
            next.to_owned(),
            preview.summary(),
        ]
    });
    let mut text = columns(&["NAMESPACE", "STAGE", "MESHED", "NEXT", "IT WOULD"], rows);
    for preview in previews.iter().filter(|preview| asked || preview.stage != Stage::None) {
        text.push_str(&preview.details());
    }
    text
}

async fn get(api: &Api<Namespace>, name: &str) -> anyhow::Result<Namespace> {
    let found = api
        .get_opt(name)
        .await
        .with_context(|| format!("the namespace {name} cannot be read"))?;
    found.with_context(|| format!("there is no namespace {name}: kubectl get namespaces"))
}

/// `weft advance`.
pub(crate) async fn advance(args: Advance) -> anyhow::Result<ExitCode> {
    let client = Cluster::connect(args.context.as_deref()).await?.client;
    let api: Api<Namespace> = Api::all(client.clone());
    let name = &args.namespace;
    let namespace = get(&api, name).await?;
    let stage = Stage::of(&namespace)?;
    let Some(to) = args.to.or(stage.next()) else {
        println!("{name} is at the end of the path: {}", stage.as_str());
        return Ok(ExitCode::SUCCESS);
    };
    if to <= stage {
        bail!(
            "{name} is at {} already; weft retreat {name} --to {} goes back",
            stage.as_str(),
            to.as_str()
        );
    }
    let mut pods = Pods::list(&client, Some(name)).await?;
    pods.learn(&client).await;
    let seen = Seen {
        client: client.clone(),
        namespace: Some(name.clone()),
        window: BEFORE,
    };
    let callers = match seen.callers().await {
        Ok(list) => Some(list),
        // Before there are sidecars nobody has seen anything.
        Err(_) if to == Stage::Observe => None,
        Err(error) if args.force => {
            eprintln!("note: whom it cuts off is not known: {error:#}");
            None
        }
        Err(error) => {
            return Err(error.context("whom it would cut off is not known; --force takes the step all the same"));
        }
    };
    let known = callers.as_ref().map(|list| (&list.items[..], list.since));
    let preview = preview(name, stage, Some(to), &pods, known);
    print(&preview.details())?;
    if !preview.is_clean() && !args.force {
        bail!(
            "{name} stays at {}: {}; mend that, or say --force",
            stage.as_str(),
            preview.summary()
        );
    }
    let before = seen.edges().await.map(|list| list.items);
    let step = Step {
        api,
        namespace,
        from: stage,
        to,
    };
    let written = step.take().await?;
    println!("{name}: {} → {}", stage.as_str(), to.as_str());
    if stage == Stage::None {
        println!("pods get their sidecar when they are made anew: kubectl rollout restart deployment -n {name}");
        return Ok(ExitCode::SUCCESS);
    }
    if args.watch.is_zero() {
        return Ok(ExitCode::SUCCESS);
    }
    let before = match before {
        Ok(before) => before,
        Err(error) => {
            println!("how requests go cannot be watched: {error:#}");
            return Ok(ExitCode::SUCCESS);
        }
    };
    watched(
        &args,
        &seen,
        &step,
        &written,
        Watch::new(&before, args.tolerance, !args.force),
    )
    .await
}

/// Watches how requests go, and steps back where they fail.
async fn watched(
    args: &Advance,
    seen: &Seen,
    step: &Step,
    written: &Namespace,
    watch: Watch,
) -> anyhow::Result<ExitCode> {
    println!(
        "watching for {} s: it is taken back if fewer than {:.1} of a hundred requests succeed{}",
        args.watch.as_secs(),
        watch.least(),
        if args.force { "" } else { ", or if somebody is refused" }
    );
    let begun = tokio::time::Instant::now();
    let mut edges: Vec<EdgeView> = Vec::new();
    loop {
        let left = args.watch.saturating_sub(begun.elapsed());
        let stopped = tokio::select! {
            () = tokio::time::sleep(LOOK.min(left.max(Duration::from_millis(100)))) => false,
            _ = tokio::signal::ctrl_c() => true,
        };
        if stopped {
            println!("no longer watched; weft retreat {} takes it back", args.namespace);
            return Ok(ExitCode::SUCCESS);
        }
        let since = Seen {
            client: seen.client.clone(),
            namespace: seen.namespace.clone(),
            // What was reported before the step is not of it.
            window: begun.elapsed().clamp(Duration::from_secs(1), Duration::from_secs(300)),
        };
        match since.edges().await {
            Ok(list) => edges = list.items,
            // An operator that is away for a moment is no reason to go back.
            Err(error) => eprintln!("note: {error:#}"),
        }
        match watch.judge(&edges) {
            Verdict::Falls(why) => {
                let back = step.undo(written).await;
                back.with_context(|| format!("{why}; and it cannot be taken back: weft retreat {}", args.namespace))?;
                println!("{}: {} → {}", args.namespace, step.to.as_str(), step.from.as_str());
                bail!("it was taken back, for {why}");
            }
            Verdict::Holds(how) if begun.elapsed() >= args.watch => {
                println!("{} is at {}: {how}", args.namespace, step.to.as_str());
                return Ok(ExitCode::SUCCESS);
            }
            Verdict::Holds(_) => {}
        }
    }
}

/// `weft retreat`.
pub(crate) async fn retreat(args: Retreat) -> anyhow::Result<ExitCode> {
    let client: Client = Cluster::connect(args.context.as_deref()).await?.client;
    let api: Api<Namespace> = Api::all(client);
    let name = &args.namespace;
    let namespace = get(&api, name).await?;
    let stage = Stage::of(&namespace)?;
    let Some(to) = args.to.or(stage.before()) else {
        println!("{name} is not in the mesh");
        return Ok(ExitCode::SUCCESS);
    };
    if to >= stage {
        bail!("{name} is at {}; weft advance {name} goes on", stage.as_str());
    }
    let step = Step {
        api,
        namespace,
        from: stage,
        to,
    };
    step.take().await?;
    println!("{name}: {} → {}", stage.as_str(), to.as_str());
    if to == Stage::None {
        println!("pods keep their sidecar until they are made anew: kubectl rollout restart deployment -n {name}");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::{super::seen::stat::tests::pods, *};

    #[test]
    fn the_path_is_told_for_each_namespace() {
        let pods = pods(&[("web", true), ("web", false)]);
        let previews = [
            preview("shop", Stage::Secure, Some(Stage::Strict), &pods, Some((&[], 0))),
            preview("other", Stage::None, Some(Stage::Observe), &pods, None),
        ];
        let text = text(&previews, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1],
            "shop       secure  1/2     strict   leave out 1 pod without a sidecar"
        );
        assert_eq!(lines[2], "other      none    0/0     observe  cut nobody off");
        assert!(text.contains("shop: without a sidecar\n  shop/web-1\n"), "{text}");
    }
}
