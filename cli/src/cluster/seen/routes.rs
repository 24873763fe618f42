//! `weft routes`: how requests went by each rule of routes, at gateways and in the mesh.

use std::process::ExitCode;

use clap::Parser;
use weft_model::view::RouteView;

use super::{GOLDEN, Scope, Seen, columns, golden, json};
use crate::{output::Output, print::print};

#[derive(Debug, Parser)]
pub(crate) struct Routes {
    /// Only of that name.
    name: Option<String>,
    #[command(flatten)]
    scope: Scope,
}

pub(crate) async fn run(args: Routes) -> anyhow::Result<ExitCode> {
    let seen = args.scope.connect().await?;
    print_all(&seen, args.name.as_deref(), args.scope.output).await
}

pub(super) async fn print_all(seen: &Seen, name: Option<&str>, output: Output) -> anyhow::Result<ExitCode> {
    let mut list = seen.routes().await?;
    list.items.retain(|route| name.is_none_or(|name| name == route.route));
    match output {
        Output::Json => print(&json(&list)?)?,
        Output::Text if list.items.is_empty() => {
            eprintln!(
                "no request went by a route within {} s; a longer --window may show some",
                list.window_seconds
            );
        }
        Output::Text => print(&text(&list.items, seen.namespace.is_none(), list.window_seconds))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(routes: &[RouteView], all: bool, window: f64) -> String {
    let mut header = vec!["KIND", "ROUTE", "RULE"];
    header.extend(GOLDEN);
    if all {
        header.insert(0, "NAMESPACE");
    }
    let each = routes.iter().map(|route| {
        let mut cells = vec![route.kind.clone(), route.route.clone(), route.rule.to_string()];
        cells.extend(golden(&route.requests, window));
        if all {
            cells.insert(0, route.metadata.namespace.clone());
        }
        cells
    });
    columns(&header, each)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_are_told_apart() {
        let route = json!({
            "metadata": {"name": "httproute.web.1", "namespace": "shop"}, "kind": "RouteTraffic", "routeKind": "HTTPRoute", "route": "web", "rule": 1,
            "requests": {"classes": [0, 10, 0, 0, 0], "latencies": {"buckets": [[100, 10]], "sumMicros": 1}},
        });
        let routes = [serde_json::from_value(route).expect("a route")];
        let expected = "\
NAMESPACE  KIND       ROUTE  RULE  SUCCESS  RPS  P50    P95    P99
shop       HTTPRoute  web    1     100.00%  1.0  106ms  106ms  106ms
";
        assert_eq!(text(&routes, true, 10.0), expected);
    }
}
