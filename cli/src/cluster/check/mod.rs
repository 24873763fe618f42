//! `weft check`: is all well with Weft in a cluster, and if not, why, and what is to be done?

mod gateways;
mod kubernetes;
mod mesh;
mod operator;
mod sidecars;
mod view;

use std::{fmt::Write as _, process::ExitCode};

use clap::Parser;
use serde::Serialize;

use super::{Cluster, Where};
use crate::{output::Output, print::print};

#[derive(Debug, Parser)]
pub(crate) struct Check {
    #[command(flatten)]
    place: Where,
    /// Only whether the cluster is ready for an installation.
    #[arg(long)]
    pre: bool,
    /// Only whether sidecars do what they are there for: those of a namespace, or all.
    #[arg(long, value_name = "NAMESPACE", num_args = 0..=1, conflicts_with = "pre")]
    proxy: Option<Option<String>>,
    /// The form of the report.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    /// Works, but somebody should look.
    Warning,
    Failed,
}

/// One check.
#[derive(Debug, Serialize)]
struct Item {
    /// Stays the same over versions, so that it can be looked up in docs/check.md.
    code: &'static str,
    /// What was looked at, as what is to hold.
    what: String,
    outcome: Outcome,
    /// Why it does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// Checks that belong together.
#[derive(Debug, Serialize)]
struct Group {
    name: &'static str,
    items: Vec<Item>,
}

impl Group {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            items: Vec::new(),
        }
    }

    fn ok(&mut self, code: &'static str, what: impl Into<String>) {
        self.items.push(Item {
            code,
            what: what.into(),
            outcome: Outcome::Ok,
            cause: None,
            remedy: None,
        });
    }

    fn warn(
        &mut self,
        code: &'static str,
        what: impl Into<String>,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.not(Outcome::Warning, code, what.into(), cause.into(), remedy.into());
    }

    fn fail(
        &mut self,
        code: &'static str,
        what: impl Into<String>,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.not(Outcome::Failed, code, what.into(), cause.into(), remedy.into());
    }

    fn not(&mut self, outcome: Outcome, code: &'static str, what: String, cause: String, remedy: String) {
        self.items.push(Item {
            code,
            what,
            outcome,
            cause: Some(cause),
            remedy: Some(remedy),
        });
    }

    /// Something that holds, or does not for a reason.
    fn holds(&mut self, code: &'static str, what: impl Into<String>, wrong: Option<String>, remedy: impl Into<String>) {
        match wrong {
            None => self.ok(code, what),
            Some(cause) => self.fail(code, what, cause, remedy),
        }
    }
}

pub(crate) async fn run(args: Check) -> anyhow::Result<ExitCode> {
    let groups = match Cluster::connect(args.place.context.as_deref()).await {
        Err(error) => {
            let mut group = Group::new("kubernetes");
            let remedy = "see that kubectl get nodes works; choose a cluster with KUBECONFIG or --context";
            group.fail("K001", "the API server can be reached", format!("{error:#}"), remedy);
            vec![group]
        }
        Ok(cluster) => {
            let mut groups = vec![kubernetes::server(&cluster).await?];
            if let Some(of) = &args.proxy {
                groups.push(sidecars::sidecars(&cluster, &args.place.namespace, of.as_deref()).await?);
            } else if args.pre {
                groups.push(kubernetes::gateway_api(&cluster).await?);
                groups.push(kubernetes::permissions(&cluster).await?);
            } else {
                groups.push(kubernetes::gateway_api(&cluster).await?);
                groups.push(operator::definitions(&cluster).await?);
                groups.push(operator::operator(&cluster, &args.place.namespace).await?);
                groups.push(gateways::gateways(&cluster, &args.place.namespace).await?);
                groups.push(mesh::mesh(&cluster, &args.place.namespace).await?);
                groups.push(view::view(&cluster, &args.place.namespace).await?);
            }
            groups
        }
    };
    let worst = groups
        .iter()
        .flat_map(|group| &group.items)
        .map(|item| item.outcome)
        .max();
    let failed = worst == Some(Outcome::Failed);
    match args.output {
        Output::Json => {
            let report = serde_json::json!({"ok": !failed, "groups": groups});
            print(&(serde_json::to_string_pretty(&report)? + "\n"))?;
        }
        Output::Text => print(&text(&groups))?,
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is named where something does not hold of some.
const NAMED: usize = 5;

/// The first of many, and how many more there are.
fn named(all: &[String]) -> String {
    let named = all.iter().take(NAMED).map(String::as_str);
    let named = named.collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Ticks, and where there is none the cause and the remedy.
fn text(groups: &[Group]) -> String {
    let mut text = String::new();
    let (mut wrong, mut doubtful) = (0, 0);
    for group in groups {
        let _ = writeln!(text, "{}", group.name);
        for item in &group.items {
            let mark = match item.outcome {
                Outcome::Ok => "✓",
                Outcome::Warning => "!",
                Outcome::Failed => "✗",
            };
            let _ = writeln!(text, "  {mark} {}", item.what);
            if item.outcome != Outcome::Ok {
                let _ = writeln!(
                    text,
                    "      {} {}",
                    item.code,
                    item.cause.as_deref().unwrap_or_default()
                );
                let _ = writeln!(text, "      → {}", item.remedy.as_deref().unwrap_or_default());
            }
            wrong += usize::from(item.outcome == Outcome::Failed);
            doubtful += usize::from(item.outcome == Outcome::Warning);
        }
        text.push('\n');
    }
    let _ = match (wrong, doubtful) {
        (0, 0) => writeln!(text, "all is well"),
        (0, doubtful) => writeln!(text, "it works; {doubtful} to look at"),
        (wrong, _) => writeln!(text, "{wrong} of the checks failed"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_said_with_cause_and_remedy() {
        let mut group = Group::new("kubernetes");
        group.ok("K001", "the API server can be reached");
        group.warn("K002", "it is new enough", "it is 1.30", "upgrade it");
        group.holds("K003", "it is there", Some("it is not".into()), "make it");
        let expected = "kubernetes\n  ✓ the API server can be reached\n  ! it is new enough\n      K002 it is 1.30\n      → upgrade it\n  ✗ it is there\n      K003 it is not\n      → make it\n\n1 of the checks failed\n";
        assert_eq!(text(&[group]), expected);
    }
}
