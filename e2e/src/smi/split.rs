//! Traffic split: what is sent to one Service goes to others, by weight.

use anyhow::ensure;
use serde_json::json;

use super::{Case, app::App, settled};

/// How many calls are made each time.
const CALLS: usize = 50;

pub(super) async fn play(case: &mut Case) -> anyhow::Result<()> {
    case.definition("trafficsplits.split.smi-spec.io", "TrafficSplit", "ts")
        .await?;
    case.step("there is the kind TrafficSplit");

    case.begin(json!({})).await?;
    let of = |version: &str| json!({"app": "app", "version": version});
    case.app("a", &json!({"app": "app-a"})).await?;
    case.service("app-a", &json!({"app": "app-a"})).await?;
    for letter in ["b", "c"] {
        case.app(letter, &of(letter)).await?;
        case.service(&format!("app-{letter}"), &of(letter)).await?;
    }
    case.service("app-svc", &json!({"app": "app"})).await?;
    case.ready().await?;
    case.step("three applications are ready, and a Service in front of two");
    let apps = Apps {
        a: case.find("app-a").await?,
        b: case.find("app-b").await?,
        c: case.find("app-c").await?,
        url: case.url("app-svc", "/echo"),
    };

    // What is sent to a Service without routes goes where its connection does, as without a mesh; so each call has its own here.
    settled("both are called", async || {
        let (b, c) = apps.shares(Some(("Connection", "close"))).await?;
        ensure!(b > 0 && c > 0 && b + c == CALLS, "b was called {b} times, c {c} times");
        Ok(())
    })
    .await?;
    case.step("by default both are called");

    for (weights, what) in [
        ((1, 0), "everything goes to b"),
        ((0, 1), "everything goes to c"),
        ((75, 25), "more goes to b"),
        ((25, 75), "more goes to c"),
    ] {
        case.apply(&split(&case.namespace, weights)).await?;
        case.step(&format!("a TrafficSplit of {} and {}", weights.0, weights.1));
        settled(what, async || {
            let (b, c) = apps.shares(None).await?;
            let fits = match weights {
                (1, 0) => c == 0,
                (0, 1) => b == 0,
                (75, _) => b > c,
                _ => c > b,
            };
            ensure!(fits && b + c == CALLS, "b was called {b} times, c {c} times");
            Ok(())
        })
        .await?;
        case.step(what);
    }
    Ok(())
}

struct Apps {
    a: App,
    b: App,
    c: App,
    url: String,
}

impl Apps {
    /// How many calls of `a` to the Service, with a header, come to each.
    async fn shares(&self, header: Option<(&str, &str)>) -> anyhow::Result<(usize, usize)> {
        for app in [&self.a, &self.b, &self.c] {
            app.forget().await?;
        }
        for _ in 0..CALLS {
            match header {
                Some(header) => self.a.call_with(&self.url, header).await?,
                None => self.a.call("GET", &self.url).await?,
            }
        }
        let [b, c] = [self.b.seen().await?, self.c.seen().await?];
        Ok((b.received.len(), c.received.len()))
    }
}

fn split(namespace: &str, (b, c): (u32, u32)) -> String {
    format!(
        r"
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {{name: trafficsplit, namespace: {namespace}}}
spec:
  service: app-svc
  backends:
  - {{service: app-b, weight: {b}}}
  - {{service: app-c, weight: {c}}}
"
    )
}
