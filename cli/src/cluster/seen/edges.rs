//! `weft edges`: who talks to whom, and whether both have proven who they are.

use std::process::ExitCode;

use clap::Parser;
use weft_model::{
    Counts,
    view::{EdgeView, pairs},
};

use super::{Pods, Scope, columns, golden, json, named};
use crate::{output::Output, print::print};

#[derive(Debug, Parser)]
pub(crate) struct Edges {
    #[command(flatten)]
    scope: Scope,
    /// Whoever was ever seen, as long as the operator remembers: a day at most, and no longer than it runs.
    #[arg(long)]
    ever: bool,
}

pub(crate) async fn run(args: Edges) -> anyhow::Result<ExitCode> {
    let seen = args.scope.connect().await?;
    let mut list = if args.ever {
        seen.callers().await?
    } else {
        seen.edges().await?
    };
    list.items = pairs(list.items);
    match args.scope.output {
        Output::Json => print(&json(&list)?)?,
        Output::Text if list.items.is_empty() => {
            eprintln!(
                "nobody was seen to talk to anybody; are there sidecars? weft stat says so; --ever shows what was longer ago"
            );
        }
        Output::Text => {
            let mut pods = Pods::default();
            pods.learn(&seen.client).await;
            let window = (!args.ever).then_some(list.window_seconds);
            print(&text(&list.items, &pods, window))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Rates, if it is of a window; else how many there were.
pub(super) fn text(edges: &[EdgeView], pods: &Pods, window: Option<f64>) -> String {
    let mut header = vec!["SOURCE", "DESTINATION", "SECURED", "IDENTITY"];
    header.extend(match window {
        Some(_) => ["SUCCESS", "RPS", "P95", "CONNECTIONS"],
        None => ["SUCCESS", "REQUESTS", "CONNECTIONS", "REFUSED"],
    });
    let each = edges.iter().map(|edge| {
        let [success, rps, _, p95, _] = golden(&edge.flow.requests, window.unwrap_or(1.0));
        let identity = edge.source.identity.as_deref().filter(|_| edge.secured);
        let mut cells = vec![
            named(&edge.source, pods),
            destination(edge, pods),
            if edge.secured { "yes" } else { "no" }.to_owned(),
            identity.unwrap_or("-").to_owned(),
            success,
        ];
        let flow = &edge.flow;
        match window {
            Some(_) => cells.extend([rps, p95, flow.connections.to_string()]),
            None => cells.extend([
                count(&flow.requests),
                flow.connections.to_string(),
                flow.refused.to_string(),
            ]),
        }
        cells
    });
    columns(&header, each)
}

fn count(counts: &Counts) -> String {
    counts.requests().to_string()
}

/// Who was asked; by which Service, where nobody says who answered.
pub(super) fn destination(edge: &EdgeView, pods: &Pods) -> String {
    let name = match &edge.service {
        Some(service) if edge.destination.workload.is_none() => return format!("Service {service}"),
        _ => named(&edge.destination, pods),
    };
    match edge.port {
        0 => name,
        port => format!("{name}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::stat::tests::edge, *};

    #[test]
    fn who_talks_to_whom_is_told_and_whether_that_is_secured() {
        let mut to_service = edge("front", "", "client", 3, 0);
        to_service.service = Some("bank/pay:443".to_owned());
        to_service.secured = false;
        let edges = [
            edge("front", "web", "server", 300, 3),
            edge("10.9.9.9", "web", "server", 0, 0),
            to_service,
        ];
        let expected = "\
 SOURCE             DESTINATION           SECURED  IDENTITY                               SUCCESS  RPS   P95    CONNECTIONS
 shop/deploy/front  shop/deploy/web:8080  yes      spiffe://cluster.local/ns/shop/sa/front  99.00%   10.0  4.1ms  0
 10.9.9.9           shop/deploy/web:8080  no       -                                        -        -     -      0
 shop/deploy/front  Service bank/pay:443  no       -                                        100.00%  0.1   4.1ms  0
";
        let words = |text: &str| -> Vec<Vec<String>> {
            let lines = text
                .lines()
                .map(|line| line.split_whitespace().map(str::to_owned).collect());
            lines.collect()
        };
        assert_eq!(words(&text(&edges, &Pods::default(), Some(30.0))), words(expected));
    }
}
