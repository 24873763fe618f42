//! A gateway as it runs in a cluster, against the stream of an operator: traffic, readiness, and what it does while there
//! is no operator.

#[path = "../../discovery/tests/support/certificate.rs"]
mod certificate;
mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use certificate::certificate;
use serde_json::{Value, json};
use support::{PATIENCE, ask, dns::Dns, free_port, get, proxy, until};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use weft_crds::{Kind, Object};
use weft_discovery::{Authenticate, DataPlane, Denied, Endpoint, Hear, Publisher, Server, Shown};
use weft_gateway::{
    cluster::{Cluster, ClusterOptions},
    names::NamesOptions,
};
use weft_model::{Change, Flow, GatewayKey, Remote, Report, Resource, Way};
use weft_translate::{CONTROLLER, Edit, Translator};

const NAME: &str = "operator.weft.dev";

struct Anyone;

impl Authenticate for Anyone {
    async fn authenticate(&self, _: Shown<'_>, _: &DataPlane) -> Result<(), Denied> {
        Ok(())
    }
}

/// What was reported.
#[derive(Default)]
struct Heard(Mutex<Vec<(DataPlane, Report)>>);

impl Hear for Heard {
    fn heard(&self, of: &DataPlane, report: Report) {
        self.0.lock().expect("nobody panics with it").push((of.clone(), report));
    }

    fn pace(&self) -> Duration {
        Duration::from_millis(50)
    }
}

/// An operator that serves what manifests come to.
struct Operator {
    publisher: Publisher,
    heard: Arc<Heard>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    address: SocketAddr,
}

impl Operator {
    async fn start(folder: &Path) -> Self {
        let (tls, roots) = certificate(NAME);
        std::fs::write(folder.join("ca.crt"), roots).expect("written");
        std::fs::write(folder.join("token"), "token").expect("written");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let publisher = Publisher::new();
        let (stop, stopped) = watch::channel(false);
        let heard = Arc::new(Heard::default());
        let server = Server::new(publisher.clone(), Anyone).with_reports(heard.clone());
        let serving = tokio::spawn(async move { server.listen(listener, tls, stopped).await.expect("served") });
        Self {
            publisher,
            heard,
            stop,
            serving,
            address,
        }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.serving.await.expect("ended");
    }
}

fn put(kind: Kind, name: &str, spec: Value) -> Edit {
    let value = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    Edit::Put(Object::from_value(kind, value).expect("an object"))
}

/// A ListenerSet that adds a port to that Gateway, where it is allowed to, and sends its requests elsewhere too.
fn listener_set(port: u16, more: u16) -> Vec<Edit> {
    let allowed = json!({"gatewayClassName": "weft", "allowedListeners": {"namespaces": {"from": "Same"}},
        "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}]});
    let set = json!({"parentRef": {"name": "edge"}, "listeners": [{"name": "http", "port": more, "protocol": "HTTP"}]});
    let redirect =
        json!({"type": "RequestRedirect", "requestRedirect": {"hostname": "elsewhere.example", "statusCode": 302}});
    let route = json!({"parentRefs": [{"kind": "ListenerSet", "name": "more"}], "rules": [{"filters": [redirect]}]});
    vec![
        put(Kind::Gateway, "edge", allowed),
        put(Kind::ListenerSet, "more", set),
        put(Kind::HttpRoute, "more", route),
    ]
}

/// A Gateway whose every request is sent elsewhere, which needs no backend.
fn gateway(port: u16) -> Vec<Edit> {
    let redirect =
        json!({"type": "RequestRedirect", "requestRedirect": {"hostname": "elsewhere.example", "statusCode": 302}});
    vec![
        put(Kind::GatewayClass, "weft", json!({"controllerName": CONTROLLER})),
        put(
            Kind::Gateway,
            "edge",
            json!({"gatewayClassName": "weft", "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}]}),
        ),
        put(
            Kind::HttpRoute,
            "all",
            json!({"parentRefs": [{"name": "edge"}], "rules": [{"filters": [redirect]}]}),
        ),
    ]
}

async fn start(folder: &Path, operator: SocketAddr) -> Cluster {
    start_with(folder, operator, NamesOptions::in_pod(None)).await
}

async fn start_with(folder: &Path, operator: SocketAddr, names: NamesOptions) -> Cluster {
    let options = ClusterOptions {
        gateway: "shop/edge".into(),
        replica: "edge-1".to_owned(),
        operator: Endpoint {
            address: operator.to_string(),
            server_name: NAME.to_owned(),
            roots: folder.join("ca.crt"),
            token: folder.join("token"),
        },
        state: Some(folder.to_owned()),
        proxy: proxy(),
        probes: (Ipv4Addr::LOCALHOST, 0).into(),
        admin: (Ipv4Addr::LOCALHOST, 0).into(),
        linger: Duration::ZERO,
        certificate_wait: Duration::ZERO,
        names,
    };
    Cluster::start(options).await.expect("started")
}

fn translator() -> Translator {
    Translator::new(weft_translate::Options {
        controller_name: CONTROLLER.to_owned(),
        standalone: false,
        mesh: false,
    })
}

async fn serves(port: u16) -> bool {
    get(port, "/").await.is_some_and(|line| line.contains("302"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves_what_it_is_told_and_goes_on_with_that_when_the_operator_is_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let operator = Operator::start(folder.path()).await;
    let address = operator.address;
    let port = free_port();
    let mut translator = translator();

    let cluster = start(folder.path(), address).await;
    let epoch = operator.publisher.publish(translator.apply(gateway(port)).changes);
    let mut replicas = operator.publisher.replicas();
    let taken = replicas.wait_for(|replicas| {
        let edge = replicas.get(&GatewayKey::from("shop/edge"));
        edge.is_some_and(|edge| edge.get("edge-1").is_some_and(|replica| replica.serves(epoch)))
    });
    tokio::time::timeout(PATIENCE, taken)
        .await
        .expect("taken")
        .expect("the publisher lives");
    // What was acknowledged is served.
    assert!(serves(port).await);
    assert_eq!(cluster.state().not_ready(), None);

    // Pages that others reach say nothing of the configuration.
    let probes = cluster.probes().port();
    assert!(get(probes, "/ready").await.is_some_and(|line| line.contains("200")));
    assert!(get(probes, "/metrics").await.is_some_and(|line| line.contains("200")));
    assert!(get(probes, "/config").await.is_some_and(|line| line.contains("404")));

    let kept = folder.path().join("configuration.json");
    until("the configuration is kept", async || {
        let text = std::fs::read_to_string(&kept).unwrap_or_default();
        text.contains("elsewhere.example") && text.contains(r#""kind":"listener""#)
    })
    .await;
    operator.end().await;
    assert!(serves(port).await);
    cluster.shutdown().await;
    assert!(!serves(port).await);

    // Nobody is there to tell it anything.
    let again = start(folder.path(), address).await;
    assert!(serves(port).await);
    assert_eq!(again.state().not_ready(), None);
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_knows_nothing_is_not_ready() {
    let folder = tempfile::tempdir().expect("a folder");
    let operator = Operator::start(folder.path()).await;
    let address = operator.address;
    operator.end().await;
    let cluster = start(folder.path(), address).await;
    assert!(cluster.state().not_ready().is_some());
    let probes = cluster.probes().port();
    assert!(get(probes, "/ready").await.is_some_and(|line| line.contains("503")));
    assert!(get(probes, "/live").await.is_some_and(|line| line.contains("200")));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_does_not_lead_to_the_node() {
    let folder = tempfile::tempdir().expect("a folder");
    let operator = Operator::start(folder.path()).await;
    let (dns, port) = (Dns::start(), free_port());
    let names = NamesOptions {
        servers: vec![dns.address],
        ttl: (Duration::from_millis(20), Duration::from_secs(300)),
        ..NamesOptions::in_pod(None)
    };
    let name = "api.elsewhere.example";
    // The port is one at which somebody would answer.
    let own = operator.address.port();
    let mut edits = gateway(port);
    edits.push(put(
        Kind::XBackend,
        "api",
        json!({"type": "ExternalHostname", "externalHostname": {"hostname": name}, "port": {"port": own}}),
    ));
    edits.push(put(
        Kind::HttpRoute,
        "all",
        json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [
            {"group": "gateway.networking.x-k8s.io", "kind": "XBackend", "name": "api"}]}]}),
    ));
    let mut translator = translator();
    dns.say(name, &["127.0.0.1"], 0);
    let cluster = start_with(folder.path(), operator.address, names).await;
    operator.publisher.publish(translator.apply(edits).changes);
    let ends = async |with: &str| ask(port, "/").await.is_some_and(|answer| answer.ends_with(with));
    until("its own machine is refused", async || ends("address_refused\n").await).await;
    let refused = || {
        let snapshot = cluster.state().proxy().snapshot();
        let found = snapshot
            .names()
            .find_map(|(_, resolution)| resolution.map(|known| known.refused.clone()));
        found.unwrap_or_default()
    };
    dns.say(name, &["169.254.169.254", "fe80::1"], 0);
    until("the link is refused", async || {
        refused() == [Ipv4Addr::new(169, 254, 169, 254)]
    })
    .await;
    assert!(ends("address_refused\n").await);
    // What else there is is used: nobody answers at this one.
    dns.say(name, &["127.0.0.1", "192.0.2.1"], 0);
    until("the rest is used", async || {
        let snapshot = cluster.state().proxy().snapshot();
        let mut services = snapshot.services();
        services.any(|entry| {
            entry
                .endpoints
                .iter()
                .any(|endpoint| endpoint.address.ip().to_string() == "192.0.2.1")
        })
    })
    .await;
    let snapshot = cluster.state().proxy().snapshot();
    assert!(snapshot.services().all(|entry| entry.endpoints.len() == 1));
    drop(snapshot);
    cluster.shutdown().await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tells_how_requests_to_services_went_and_by_which_routes() {
    let folder = tempfile::tempdir().expect("a folder");
    let operator = Operator::start(folder.path()).await;
    let (port, backend) = (
        free_port(),
        std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound"),
    );
    let at = backend.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        while let Ok((mut stream, _)) = backend.accept() {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    let key = "shop/web:80";
    let resources = [
        json!({"kind": "workload", "key": "shop/web-1", "address": "127.0.0.1", "services": {key: at}}),
        json!({"kind": "service", "key": key}),
        json!({"kind": "route", "key": "HTTPRoute/shop/web/0", "listeners": ["shop/edge/http"],
            "owner": {"kind": "HTTPRoute", "namespace": "shop", "name": "web", "rule": 0, "created": 0},
            "matches": [{"path": {"prefix": "/"}}], "backends": [{"weight": 1, "target": {"service": key}}]}),
        json!({"kind": "listener", "key": "shop/edge/http", "gateway": "shop/edge", "port": port, "protocol": "HTTP"}),
    ];
    let resources = resources.map(|value| serde_json::from_value::<Resource>(value).expect("a resource"));
    let cluster = start(folder.path(), operator.address).await;
    until("it has reported", async || {
        !operator.heard.0.lock().expect("nobody panics with it").is_empty()
    })
    .await;
    operator.publisher.publish(resources.map(Change::Upsert).into());
    until("it serves", async || {
        get(port, "/").await.is_some_and(|line| line.contains("200"))
    })
    .await;
    let told = || {
        let heard = operator.heard.0.lock().expect("nobody panics with it");
        let of = DataPlane::of_gateway("shop/edge".into(), "edge-1");
        assert!(heard.iter().all(|(from, _)| *from == of));
        let later = heard.iter().map(|(_, report)| report).filter(|report| !report.total);
        let (mut to, mut routes) = (Flow::default(), 0);
        for report in later {
            for told in &report.edges {
                let edge = &told.edge;
                assert_eq!(
                    (edge.way, &edge.remote, edge.secured),
                    (Way::Outbound, &Remote::Service, false)
                );
                assert_eq!(edge.service.as_ref().map(ToString::to_string).as_deref(), Some(key));
                to.add(&told.flow);
            }
            let by = report
                .routes
                .iter()
                .filter(|route| route.route.as_str() == "HTTPRoute/shop/web/0");
            routes += by.map(|route| route.requests.requests()).sum::<u64>();
        }
        (to.requests.classes[1], to.requests.latencies.count(), routes)
    };
    until("the request is told", async || told() == (1, 1, 1)).await;
    cluster.shutdown().await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_for_its_listeners_and_routes_reach_it_and_outlast_the_operator() {
    let folder = tempfile::tempdir().expect("a folder");
    let operator = Operator::start(folder.path()).await;
    let address = operator.address;
    let port = free_port();
    let mut translator = Translator::new(weft_translate::Options {
        controller_name: CONTROLLER.to_owned(),
        standalone: false,
        mesh: true,
    });
    let policy = |name: &str, kind: &str, target: &str, path: &str| {
        let target = json!({"group": "gateway.networking.k8s.io", "kind": kind, "name": target});
        let rules = json!([{"httpAttributes": {"paths": [{"value": path}]}}]);
        let spec = json!({"targetRefs": [target], "action": "DENY", "rules": rules});
        put(Kind::AuthorizationPolicy, name, spec)
    };
    let mut edits = gateway(port);
    edits.push(policy("all", "Gateway", "edge", "/secret"));
    edits.push(policy("one", "HTTPRoute", "all", "/admin"));
    // Another Gateway's is none of its business.
    edits.push(policy("other", "Gateway", "inner", "/"));
    let more = free_port();
    edits.extend(listener_set(port, more));
    edits.push(policy("set", "ListenerSet", "more", "/set"));
    let cluster = start(folder.path(), address).await;
    operator.publisher.publish(translator.apply(edits).changes);
    let status = async |path: &str, wanted: &str| get(port, path).await.is_some_and(|line| line.contains(wanted));
    until("it serves", async || status("/", "302").await).await;
    // Policies come before what they protect.
    assert!(status("/secret", "403").await && status("/admin", "403").await);
    let on_set = async |path: &str| get(more, path).await.unwrap_or_default();
    assert!(on_set("/set").await.contains("403") && on_set("/secret").await.contains("403"));
    assert!(on_set("/").await.contains("302") && status("/set", "302").await);
    let told = cluster.state().proxy().resources();
    let policies = told
        .iter()
        .filter(|resource| matches!(resource, Resource::Authorization(_)));
    assert_eq!(policies.count(), 3);

    let changes = translator
        .apply(vec![policy("all", "Gateway", "edge", "/other")])
        .changes;
    operator.publisher.publish(changes);
    until("the edit holds", async || status("/other", "403").await).await;
    assert!(status("/secret", "302").await);
    let kept = folder.path().join("configuration.json");
    until("it is kept", async || {
        let text = std::fs::read_to_string(&kept).unwrap_or_default();
        text.contains("\"/other\"")
    })
    .await;
    operator.end().await;
    cluster.shutdown().await;
    let again = start(folder.path(), address).await;
    assert!(status("/other", "403").await && status("/admin", "403").await && status("/", "302").await);
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_becomes_free_is_served_and_the_operator_hears_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let operator = Operator::start(folder.path()).await;
    let squatter = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let port = squatter.local_addr().expect("an address").port();
    let mut translator = translator();
    let cluster = start(folder.path(), operator.address).await;
    let epoch = operator.publisher.publish(translator.apply(gateway(port)).changes);
    let mut replicas = operator.publisher.replicas();
    let mut told = async |refused: bool| {
        let told = replicas.wait_for(|replicas| {
            let edge = replicas.get(&GatewayKey::from("shop/edge"));
            let replica = edge.and_then(|edge| edge.get("edge-1"));
            replica.is_some_and(|replica| replica.taken >= epoch && replica.refused.is_empty() != refused)
        });
        let told = tokio::time::timeout(PATIENCE, told).await.expect("it is told");
        drop(told.expect("the publisher lives"));
    };
    told(true).await;
    drop(squatter);
    told(false).await;
    assert!(serves(port).await);
    cluster.shutdown().await;
    operator.end().await;
}
