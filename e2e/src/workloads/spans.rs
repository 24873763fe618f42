//! A collector in the cluster is told of requests by both sides of each, whatever they go by: spans that are children of the right
//! ones, and say what `docs/tracing.md` says.

use std::cell::RefCell;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{Answer, NAMESPACE, Workloads, manifests::GRPC};
use crate::{
    cluster::{address, eventually, name},
    scene::{GATEWAY, OF_GATEWAY},
};

/// The traces of what is only carried, of a call of gRPC, of what goes by a route, and by a Gateway.
const CARRIED: &str = "0af7651916cd43dd8448eb211c803101";
const ROUTED: &str = "0af7651916cd43dd8448eb211c803102";
const EDGE: &str = "0af7651916cd43dd8448eb211c803103";
const CALL: &str = "0af7651916cd43dd8448eb211c803104";
/// The span of who asks.
const SPAN: &str = "b7ad6b7169203331";

const CLIENT: &str = "SPAN_KIND_CLIENT";
const SERVER: &str = "SPAN_KIND_SERVER";

pub(super) async fn all(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    carried(workloads).await.context("what is only carried")?;
    grpc(workloads).await.context("a call of gRPC")?;
    routed(workloads).await.context("what goes by a route")?;
    edge(workloads).await.context("what goes by a Gateway")?;
    // Nothing was told of twice, and nothing else.
    let all = told(workloads).await?;
    for (trace, count) in [(CARRIED, 2), (CALL, 2), (ROUTED, 2), (EDGE, 4)] {
        ensure!(
            all.iter().filter(|span| span["trace"] == trace).count() == count,
            "{trace}: {all:#?}"
        );
    }
    ensure!(all.len() == 10, "somebody has begun a trace unasked: {all:#?}");
    Ok(())
}

/// Both sides are children of the application's own span, and not a byte is changed.
async fn carried(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    let url = "http://web:8080/cart?card=1234";
    workloads.call("client", url).await?;
    call(workloads, url, &format!("00-{CARRIED}-{SPAN}-00"), &[]).await?;
    let parent = format!("00-{CARRIED}-{SPAN}-01");
    let answer = call(workloads, url, &parent, &["-H", "tracestate: a=b"]).await?;
    let told = format!("Traceparent:{parent}");
    ensure!(
        answer.fields("RequestHeader").any(|field| field == told),
        "no {told}: {}",
        answer.0
    );

    let spans = of(workloads, CARRIED, 2).await?;
    let (client, server) = (find(&spans, CLIENT, "client")?, find(&spans, SERVER, "web")?);
    for (span, app) in [(client, "client"), (server, "web")] {
        says(
            span,
            &[
                ("/parent", SPAN),
                ("/state", "a=b"),
                ("/resource/service.namespace", NAMESPACE),
                ("/resource/k8s.namespace.name", NAMESPACE),
                ("/resource/k8s.pod.name", name(&workloads.pod(app).await?)),
                ("/attributes/http.request.method", "GET"),
                ("/attributes/http.response.status_code", "200"),
                ("/attributes/url.path", "/cart"),
                ("/attributes/url.scheme", "http"),
                ("/attributes/server.address", "web"),
                ("/attributes/server.port", "8080"),
                ("/attributes/network.protocol.name", "http"),
                ("/attributes/network.protocol.version", "1.1"),
            ],
        )?;
        ensure!(span["error"] == false, "it is an error: {span:#}");
        ensure!(!span.to_string().contains("1234"), "it tells of the query: {span:#}");
    }
    ensure!(client["id"] != server["id"], "both are one: {client:#}");
    let from = workloads.address("client").await?.to_string();
    let to = workloads.service("web").await?.to_string();
    says(
        client,
        &[
            ("/attributes/network.peer.address", &to),
            ("/attributes/network.peer.port", "8080"),
        ],
    )?;
    says(
        server,
        &[
            ("/attributes/client.address", &from),
            ("/attributes/weft.peer.identity", &identity("client")),
        ],
    )
}

/// A call of gRPC is told of by its code.
async fn grpc(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    let url = format!("grpc://web:{GRPC}");
    call(workloads, &url, &format!("00-{CALL}-{SPAN}-01"), &[]).await?;
    let spans = of(workloads, CALL, 2).await?;
    for (kind, app) in [(CLIENT, "client"), (SERVER, "web")] {
        says(
            find(&spans, kind, app)?,
            &[
                ("/parent", SPAN),
                ("/attributes/rpc.system", "grpc"),
                ("/attributes/rpc.grpc.status_code", "0"),
                ("/attributes/http.request.method", "POST"),
                ("/attributes/url.path", "/proto.EchoTestService/Echo"),
                ("/attributes/network.protocol.version", "2"),
            ],
        )?;
    }
    Ok(())
}

/// The application that is asked is told of the client's side, whose child the server's is.
async fn routed(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    let cluster = workloads.cluster;
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "routed", "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 8080}],
            "rules": [{"backendRefs": [{"name": "v1", "port": 8080}]}],
        },
    });
    cluster.apply_object(route).await?;
    eventually("it goes by the route", async || {
        Ok(workloads.call("client", "http://web:8080/").await?.is_by("v1"))
    })
    .await?;
    let parent = format!("00-{ROUTED}-{SPAN}-01");
    let answer = call(workloads, "http://web:8080/cart", &parent, &[]).await?;

    let spans = of(workloads, ROUTED, 2).await?;
    let (client, server) = (find(&spans, CLIENT, "client")?, find(&spans, SERVER, "v1")?);
    let id = client["id"].as_str().unwrap_or_default();
    let told = format!("Traceparent:00-{ROUTED}-{id}-01");
    ensure!(
        answer.fields("RequestHeader").any(|field| field == told),
        "no {told}: {}",
        answer.0
    );
    let route = format!("HTTPRoute/{NAMESPACE}/routed/0");
    let service = format!("{NAMESPACE}/v1:8080");
    let to = workloads.address("v1").await?.to_string();
    says(
        client,
        &[
            ("/parent", SPAN),
            ("/attributes/weft.route", &route),
            ("/attributes/weft.service", &service),
            ("/attributes/network.peer.address", &to),
        ],
    )?;
    says(
        server,
        &[("/parent", id), ("/attributes/weft.peer.identity", &identity("client"))],
    )?;
    cluster.delete("HTTPRoute", NAMESPACE, "routed").await
}

/// A pod asks a Gateway, which asks a workload: each side of each is told of, and the workload's is a child of the Gateway's try.
async fn edge(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    let cluster = workloads.cluster;
    let url = format!("http://{}/cart", cluster.gateway_address(NAMESPACE, GATEWAY).await?);
    let host = ["-H", "Host: web.example"];
    eventually("the Gateway leads to the workload", async || {
        Ok(workloads.call_with("client", &url, &host).await?.is_by("web"))
    })
    .await?;
    call(workloads, &url, &format!("00-{EDGE}-{SPAN}-01"), &host).await?;

    let spans = of(workloads, EDGE, 4).await?;
    let (asking, inside) = (find(&spans, CLIENT, "client")?, find(&spans, SERVER, "web")?);
    let (server, tried) = (find(&spans, SERVER, GATEWAY)?, find(&spans, CLIENT, GATEWAY)?);
    let id = |span: &Value| span["id"].as_str().unwrap_or_default().to_owned();
    for (span, parent) in [
        (asking, SPAN),
        (server, SPAN),
        (tried, &id(server)),
        (inside, &id(tried)),
    ] {
        says(
            span,
            &[
                ("/parent", parent),
                ("/resource/k8s.namespace.name", NAMESPACE),
                ("/attributes/http.response.status_code", "200"),
                ("/attributes/url.path", "/cart"),
                ("/attributes/server.address", "web.example"),
            ],
        )?;
    }
    let pods = cluster.list("Pod", NAMESPACE, OF_GATEWAY).await?;
    let pod = pods.first().context("the Gateway has no pod")?;
    let (route, service) = (format!("HTTPRoute/{NAMESPACE}/web/0"), format!("{NAMESPACE}/web:8080"));
    let (front, to) = (
        workloads.address("client").await?.to_string(),
        workloads.address("web").await?.to_string(),
    );
    says(
        server,
        &[
            ("/resource/k8s.pod.name", name(pod)),
            ("/attributes/client.address", &front),
            ("/attributes/weft.route", &route),
        ],
    )?;
    says(
        tried,
        &[
            ("/attributes/weft.route", &route),
            ("/attributes/weft.service", &service),
            ("/attributes/network.peer.address", &to),
        ],
    )?;
    let from = address(pod)?.to_string();
    let proven = identity(&format!("{GATEWAY}-weft"));
    says(
        inside,
        &[
            ("/attributes/client.address", &from),
            ("/attributes/weft.peer.identity", &proven),
        ],
    )
}

fn identity(account: &str) -> String {
    format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/{account}")
}

/// Has `client` ask, once, as part of a trace.
async fn call(workloads: &Workloads<'_>, url: &str, parent: &str, more: &[&str]) -> anyhow::Result<Answer> {
    let parent = format!("traceparent: {parent}");
    workloads
        .call_with("client", url, &[&["-H", &parent], more].concat())
        .await
}

/// All that the collector was told of so far.
async fn told(workloads: &Workloads<'_>) -> anyhow::Result<Vec<Value>> {
    Ok(serde_json::from_str(
        &workloads.asked_from_outside("collector", 8080).await?,
    )?)
}

/// The spans of a trace, once there are so many.
async fn of(workloads: &Workloads<'_>, trace: &str, count: usize) -> anyhow::Result<Vec<Value>> {
    let spans = RefCell::new(Vec::new());
    eventually(format!("there are {count} spans"), async || {
        let told = told(workloads).await?;
        let known: Vec<_> = told.into_iter().filter(|span| span["trace"] == trace).collect();
        ensure!(known.len() >= count, "there are {}: {known:#?}", known.len());
        spans.replace(known);
        Ok(true)
    })
    .await?;
    Ok(spans.take())
}

/// The one of a kind that a service has told of.
fn find<'s>(spans: &'s [Value], kind: &str, service: &str) -> anyhow::Result<&'s Value> {
    let mut known = spans
        .iter()
        .filter(|span| span["kind"] == kind && span["resource"]["service.name"] == service);
    let found = known
        .next()
        .with_context(|| format!("{service} has told of no {kind}: {spans:#?}"))?;
    ensure!(
        known.next().is_none(),
        "{service} has told of a {kind} twice: {spans:#?}"
    );
    Ok(found)
}

/// Holds that a span says some things, each by where it stands.
fn says(span: &Value, what: &[(&str, &str)]) -> anyhow::Result<()> {
    for (place, expected) in what {
        let said = span.pointer(place).and_then(Value::as_str);
        ensure!(
            said == Some(expected),
            "{place} is {said:?} and not {expected:?}: {span:#}"
        );
    }
    Ok(())
}
