//! What the original does not ask: that the API server has objects converted by the operator, that old versions do what they
//! say, that requests are split by what they are, and that what is wrong is said by Events.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{Case, settled};
use crate::cluster::eventually;

pub(super) async fn play(case: &mut Case) -> anyhow::Result<()> {
    case.begin(json!({})).await?;
    case.apps().await?;
    let namespace = case.namespace.clone();

    versions(case).await?;
    case.step("a TrafficSplit and a TrafficTarget are the same in every version");

    // By an object of the first version and one of the third.
    let (a, b, c) = (
        case.find("app-a").await?,
        case.find("app-b").await?,
        case.find("app-c").await?,
    );
    case.service("app-svc", &json!({"app": "app-b"})).await?;
    case.apply(&format!(
        r"
apiVersion: specs.smi-spec.io/v1alpha2
kind: HTTPRouteGroup
metadata: {{name: testers, namespace: {namespace}}}
matches:
- {{name: by-header, headers: [{{x-group: test.*}}]}}
---
apiVersion: split.smi-spec.io/v1alpha3
kind: TrafficSplit
metadata: {{name: testers, namespace: {namespace}}}
spec:
  service: app-svc
  matches: [{{kind: HTTPRouteGroup, name: testers}}]
  backends:
  - {{service: app-c, weight: 1}}
"
    ))
    .await?;
    let url = case.url("app-svc", "/echo");
    settled("requests are split by a header", async || {
        b.forget().await?;
        c.forget().await?;
        a.call_with(&url, ("x-group", "testers")).await?;
        a.call_with(&url, ("x-group", "others")).await?;
        a.call("GET", &url).await?;
        let (of_b, of_c) = (b.seen().await?.received.len(), c.seen().await?.received.len());
        ensure!((of_b, of_c) == (2, 1), "b was called {of_b} times, c {of_c} times");
        Ok(())
    })
    .await?;
    case.step("requests with a header are split, and others go to the Service itself");

    case.apply(&format!(
        r"
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {{name: half, namespace: {namespace}}}
spec:
  service: app-b
  backends:
  - {{service: absent, weight: 1}}
  - {{service: app-c, weight: 1}}
"
    ))
    .await?;
    eventually("an Event tells of a backend that is not there", async || {
        let events = case.cluster.list("Event", &namespace, "").await?;
        Ok(events.iter().any(|event| {
            let of = |field: &str| {
                let regarding = event.data.get("regarding").or_else(|| event.data.get("involvedObject"));
                regarding.is_some_and(|of| of["name"] == "half") && event.data["reason"] == field
            };
            of("SplitBackend")
        }))
    })
    .await?;
    case.step("an Event tells of a backend that is not there");
    Ok(())
}

/// What is written in one version is read in others, and comes back as it was.
async fn versions(case: &Case) -> anyhow::Result<()> {
    let namespace = &case.namespace;
    case.apply(&format!(
        r#"
apiVersion: split.smi-spec.io/v1alpha1
kind: TrafficSplit
metadata: {{name: converted, namespace: {namespace}}}
spec:
  service: web
  backends:
  - {{service: web-v1, weight: "1"}}
  - {{service: web-v2, weight: 500m}}
---
apiVersion: access.smi-spec.io/v1alpha1
kind: TrafficTarget
metadata: {{name: converted, namespace: {namespace}}}
destination: {{kind: ServiceAccount, name: nobody, namespace: {namespace}, port: 8080}}
specs: [{{kind: HTTPRouteGroup, name: r, matches: [m]}}]
sources: [{{kind: ServiceAccount, name: nobody, namespace: {namespace}}}]
"#
    ))
    .await?;
    // The API server learns of the roots of the webhook a moment after the definitions.
    let read = async |version: &str, kind: &str| -> anyhow::Result<Value> {
        let api = case.smi(version, kind)?;
        eventually(format!("a {kind} is served as {version}"), async || {
            api.get("converted").await?;
            Ok(true)
        })
        .await?;
        Ok(api.get("converted").await?.data)
    };
    let weights = |split: &Value| -> Vec<Value> {
        let backends = split["spec"]["backends"].as_array().cloned().unwrap_or_default();
        backends.iter().map(|backend| backend["weight"].clone()).collect()
    };
    for (version, expected) in [
        ("v1alpha1", [json!("1"), json!("500m")]),
        ("v1alpha2", [json!(1000), json!(500)]),
        ("v1alpha3", [json!(1000), json!(500)]),
        ("v1alpha4", [json!(1000), json!(500)]),
    ] {
        let split = read(&format!("split.smi-spec.io/{version}"), "TrafficSplit").await?;
        ensure!(
            weights(&split) == expected,
            "as {version} its weights are {:?}",
            weights(&split)
        );
    }
    let first = read("access.smi-spec.io/v1alpha1", "TrafficTarget").await?;
    ensure!(
        first["destination"]["port"] == 8080 && first["specs"][0]["name"] == "r",
        "as v1alpha1: {first}"
    );
    let second = read("access.smi-spec.io/v1alpha2", "TrafficTarget").await?;
    ensure!(second["spec"]["destination"]["port"] == 8080, "as v1alpha2: {second}");
    for version in ["v1alpha3", "v1alpha4"] {
        let later = read(&format!("access.smi-spec.io/{version}"), "TrafficTarget").await?;
        let fits = later["spec"]["rules"][0]["name"] == "r" && later["spec"]["destination"]["port"].is_null();
        ensure!(fits, "as {version}: {later}");
    }
    Ok(())
}
