//! Traffic specs: a TrafficTarget lets in the requests of an HTTPRouteGroup, by path and by method, and no others.

use anyhow::ensure;
use serde_json::json;

use super::{Case, app::App, settled};

pub(super) async fn play(case: &mut Case) -> anyhow::Result<()> {
    case.definition("httproutegroups.specs.smi-spec.io", "HTTPRouteGroup", "htr")
        .await?;
    case.step("there is the kind HTTPRouteGroup");

    case.begin(json!({"weft.dev/smi-access": "deny-in-mesh"})).await?;
    case.apps().await?;
    case.step("three applications are ready, each with an account");
    let (a, b) = (case.find("app-a").await?, case.find("app-b").await?);
    let (echo, metrics) = (case.url("app-b", "/echo"), case.url("app-b", "/metrics"));

    case.apply(&group(&case.namespace, "/metrics", "*")).await?;
    case.apply(&format!(
        r"
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {{name: service-targets, namespace: {namespace}}}
spec:
  destination: {{kind: ServiceAccount, name: service-b, namespace: {namespace}}}
  rules: [{{kind: HTTPRouteGroup, name: http-rg, matches: [testMatch]}}]
  sources: [{{kind: ServiceAccount, name: service-a, namespace: {namespace}}}]
",
        namespace = case.namespace
    ))
    .await?;
    case.step("a TrafficTarget lets a ask b for /metrics");

    settled("a may ask b for /metrics alone", async || {
        one_of(&a, &b, ("GET", &metrics), ("GET", &echo)).await
    })
    .await?;
    case.step("a asks b for /metrics, and not for /echo");

    case.apply(&group(&case.namespace, ".*", "GET")).await?;
    case.step("the HTTPRouteGroup takes every path, and GET alone");

    settled("a may GET and not POST", async || {
        one_of(&a, &b, ("GET", &echo), ("POST", &echo)).await
    })
    .await?;
    case.step("a asks b for /echo by GET, and not by POST");
    Ok(())
}

fn group(namespace: &str, path: &str, method: &str) -> String {
    format!(
        r#"
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {{name: http-rg, namespace: {namespace}}}
spec:
  matches:
  - {{name: testMatch, pathRegex: "{path}", methods: ["{method}"]}}
"#
    )
}

/// Of two requests of a to b, the first is let in and the second is not.
async fn one_of(a: &App, b: &App, first: (&str, &str), second: (&str, &str)) -> anyhow::Result<()> {
    a.forget().await?;
    b.forget().await?;
    a.call(first.0, first.1).await?;
    a.call(second.0, second.1).await?;
    let seen = a.seen().await?;
    let made = |(method, url): (&str, &str)| vec![(method.to_owned(), url.to_owned())];
    ensure!(
        seen.succeeded == made(first) && seen.failed == made(second),
        "a says of its two calls: {seen:?}"
    );
    Ok(())
}
