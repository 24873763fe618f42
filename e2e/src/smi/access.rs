//! Traffic access: nobody may call unless a TrafficTarget lets him, and no longer than it is there.

use anyhow::ensure;
use serde_json::json;

use super::{Case, app::App, settled};

pub(super) async fn play(case: &mut Case) -> anyhow::Result<()> {
    case.definition("traffictargets.access.smi-spec.io", "TrafficTarget", "tt")
        .await?;
    case.step("there is the kind TrafficTarget");

    case.begin(json!({"weft.dev/smi-access": "deny-in-mesh"})).await?;
    case.apps().await?;
    case.step("three applications are ready, each with an account");
    let (a, b) = (case.find("app-a").await?, case.find("app-b").await?);
    let url = case.url("app-b", "/echo");

    settled("a may not call b", async || blocked(&a, &b, &url).await).await?;
    case.step("by default a may not call b");

    let namespace = &case.namespace;
    case.apply(&format!(
        r"
apiVersion: specs.smi-spec.io/v1alpha4
kind: TCPRoute
metadata: {{name: tcp-route, namespace: {namespace}}}
spec: {{matches: {{ports: []}}}}
---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {{name: service-targets, namespace: {namespace}}}
spec:
  destination: {{kind: ServiceAccount, name: service-b, namespace: {namespace}}}
  rules: [{{kind: TCPRoute, name: tcp-route}}]
  sources: [{{kind: ServiceAccount, name: service-a, namespace: {namespace}}}]
"
    ))
    .await?;
    case.step("a TrafficTarget lets a call b");

    settled("a may call b", async || allowed(&a, &b, &url).await).await?;
    case.step("a calls b, and b knows who it was");

    case.remove("access.smi-spec.io/v1alpha3", "TrafficTarget", "service-targets")
        .await?;
    case.remove("specs.smi-spec.io/v1alpha4", "TCPRoute", "tcp-route")
        .await?;
    case.step("the TrafficTarget and its TCPRoute are gone");

    settled("a may not call b again", async || blocked(&a, &b, &url).await).await?;
    case.step("a may not call b any more");
    Ok(())
}

async fn blocked(a: &App, b: &App, url: &str) -> anyhow::Result<()> {
    let (of_a, of_b) = called(a, b, url).await?;
    let made = vec![("GET".to_owned(), url.to_owned())];
    ensure!(
        of_a.failed == made && of_a.succeeded.is_empty(),
        "a says of its call: {of_a:?}"
    );
    ensure!(of_b.received.is_empty(), "b was called: {of_b:?}");
    Ok(())
}

async fn allowed(a: &App, b: &App, url: &str) -> anyhow::Result<()> {
    let (of_a, of_b) = called(a, b, url).await?;
    let made = vec![("GET".to_owned(), url.to_owned())];
    ensure!(
        of_a.succeeded == made && of_a.failed.is_empty(),
        "a says of its call: {of_a:?}"
    );
    ensure!(of_b.received == ["app-a"], "b was called by: {of_b:?}");
    Ok(())
}

async fn called(a: &App, b: &App, url: &str) -> anyhow::Result<(super::app::Seen, super::app::Seen)> {
    a.forget().await?;
    b.forget().await?;
    a.call("GET", url).await?;
    Ok((a.seen().await?, b.seen().await?))
}
