//! The API as an API server meets it, and as replicas of the operator meet each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use kube::Client;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use weft_discovery::{DataPlane, Hear as _};
use weft_model::{
    Change, Counts, Edge, EdgeReport, Flow, Latencies, Owner, Peer, Remote, Report, Resource, RouteReport, ServiceKey,
    TrustDomain, Way,
};

use super::View;
use crate::{
    certificates::{Certificates, SERVER_NAME},
    mock::{answering, found},
    seen::{Gather, Sightings, Workloads},
};

const PATIENCE: Duration = Duration::from_secs(30);
const HOST: &str = "weft-operator.weft-system.svc";

/// An API server that keeps a Secret, says by what it is known, and lets `ada` see the namespace shop, `meter` metrics alone, and `root` all.
fn api(front: String) -> Client {
    let mut secret: Option<Value> = None;
    answering(move |request, body| {
        let query = request.uri.query().unwrap_or_default();
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"namespace": "kube-system", "name": "extension-apiserver-authentication", "resourceVersion": "1"},
            "data": {
                "requestheader-client-ca-file": front,
                "requestheader-allowed-names": "[\"front-proxy-client\"]",
                "requestheader-username-headers": "[\"X-Remote-User\"]",
                "requestheader-group-headers": "[\"X-Remote-Group\"]",
                "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            },
        });
        Some(found(match (request.method.as_str(), request.uri.path()) {
            ("POST", path) if path.ends_with("/secrets") => {
                secret = Some(body);
                secret.clone()
            }
            ("GET", path) if path.contains("/secrets/") => secret.clone(),
            // Nothing changes.
            ("GET", "/api/v1/namespaces/kube-system/configmaps") if query.contains("watch=") => return None,
            ("GET", "/api/v1/namespaces/kube-system/configmaps") => Some(json!({
                "apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "1"}, "items": [map],
            })),
            ("POST", path) if path.ends_with("/subjectaccessreviews") => {
                let mut review = body;
                let spec = &review["spec"];
                let namespace = spec["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
                let allowed = match spec["user"].as_str() {
                    Some("root") => spec["groups"][0] == "system:masters",
                    Some("ada") => namespace == "shop",
                    Some("meter") => spec["resourceAttributes"]["group"] == "metrics.smi-spec.io",
                    _ => false,
                };
                review["metadata"] = json!({});
                review["status"] =
                    json!({"allowed": allowed, "reason": if allowed { "" } else { "no RBAC policy matched" }});
                Some(review)
            }
            ("GET", path) => objects(path, query),
            _ => None,
        }))
    })
}

/// Objects with labels, and a TrafficSplit, of which the API server has no version before the third.
fn objects(path: &str, query: &str) -> Option<Value> {
    let list = |items: Value| Some(json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}));
    let split = json!({
        "apiVersion": "split.smi-spec.io/v1alpha3", "kind": "TrafficSplit",
        "metadata": {"namespace": "shop", "name": "canary"},
        "spec": {"service": "web", "backends": [{"service": "web-v1", "weight": 90}, {"service": "web-v2", "weight": 10}]},
    });
    let named = |name: &str| json!({"metadata": {"namespace": "shop", "name": name}});
    match path {
        "/apis/split.smi-spec.io/v1alpha3" => Some(json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "split.smi-spec.io/v1alpha3",
            "resources": [{"name": "trafficsplits", "singularName": "trafficsplit", "namespaced": true, "kind": "TrafficSplit", "verbs": ["list"]}],
        })),
        "/apis/split.smi-spec.io/v1alpha3/namespaces/shop/trafficsplits" => list(json!([split])),
        "/apis/split.smi-spec.io/v1alpha3/namespaces/shop/trafficsplits/canary" => Some(split),
        // Of two pages.
        "/api/v1/namespaces/shop/pods" if query.contains("labelSelector=app+in+%28web%2Capi%29") => {
            if query.contains("continue=more") {
                return list(json!([named("web-2")]));
            }
            let mut page = list(json!([named("other")]))?;
            page["metadata"]["continue"] = "more".into();
            Some(page)
        }
        "/apis/apps/v1/namespaces/shop/deployments" if query.contains("labelSelector=tier%3Dfront") => {
            list(json!([named("front")]))
        }
        "/apis/apps/v1/namespaces/shop/deployments" => list(json!([])),
        _ => None,
    }
}

/// A CA, by which the API server is known or somebody else is.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("made").pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn client(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        // It may call itself what it wants beside.
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        (vec![certificate.der().clone()], key)
    }
}

struct Scene {
    front: Ca,
    roots: watch::Receiver<String>,
    address: SocketAddr,
    /// Those of two replicas.
    sightings: [Arc<Sightings>; 2],
    stop: watch::Sender<bool>,
}

impl Scene {
    /// Two replicas, which find each other by their addresses.
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let front = Ca::new();
        let client = api(front.pem.clone());
        let claim = watch::channel(None).1;
        let (certificates, shown, mut roots) = Certificates::new(client.clone(), "weft-system", HOST, claim);
        tokio::spawn(certificates.run());
        timeout(PATIENCE, roots.wait_for(|roots| !roots.is_empty()))
            .await
            .expect("in time")
            .expect("it lives");
        let (stop, stopped) = watch::channel(false);
        let addresses = [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)].map(IpAddr::V4);
        let first = TcpListener::bind((addresses[0], 0)).await.expect("bound");
        let address = first.local_addr().expect("an address");
        let second = TcpListener::bind((addresses[1], address.port())).await.expect("bound");
        let workloads = Workloads::default();
        let pods = [peer("web-1", "web"), peer("web-2", "web"), peer("front-1", "front")];
        // One of them is on another node.
        workloads.take(&pods, |pod| {
            Some(
                if pod.as_str() == "shop/web-2" {
                    "node-b"
                } else {
                    "node-a"
                }
                .into(),
            )
        });
        let sightings = [(); 2].map(|()| Sightings::new(workloads.clone()));
        for (at, listener) in [first, second].into_iter().enumerate() {
            let others = BTreeSet::from([addresses[1 - at]]);
            let view = View {
                gather: Gather {
                    sightings: sightings[at].clone(),
                    others: watch::channel(others).1,
                    port: address.port(),
                    shown: shown.clone(),
                    roots: roots.clone(),
                },
                client: client.clone(),
                trust_domain: TrustDomain::parse("cluster.local").expect("a trust domain"),
                shown: shown.clone(),
            };
            tokio::spawn(view.listen(listener, stopped.clone()));
        }
        Self {
            front,
            roots,
            address,
            sightings,
            stop,
        }
    }

    /// Connects as somebody.
    async fn connect(
        &self,
        shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<(SendRequest<Empty<Bytes>>, AbortOnDrop), String> {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.roots.borrow().as_bytes()) {
            store.add(root.expect("a certificate")).expect("a root");
        }
        let config = ClientConfig::builder().with_root_certificates(store);
        let config = match shown {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).expect("a certificate"),
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await.expect("connected");
        let name = HOST.try_into().expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok((sender, AbortOnDrop(connection)))
    }

    /// Asks as somebody for a user.
    async fn ask_as(
        &self,
        shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
        user: &str,
        path: &str,
    ) -> Result<(StatusCode, Value), String> {
        let (mut sender, _connection) = self.connect(shown).await?;
        let response = timeout(PATIENCE, sender.send_request(request(user, path)))
            .await
            .expect("in time");
        let response = response.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        Ok((status, serde_json::from_slice(&body).expect("JSON")))
    }

    /// The API server asks for a user, once the operator knows it.
    async fn ask(&self, user: &str, path: &str) -> (StatusCode, Value) {
        let asking = async {
            loop {
                let shown = self.front.client("front-proxy-client");
                match self.ask_as(Some(shown), user, path).await {
                    Ok(answer) => return answer,
                    // It has not yet said by what it is known.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        timeout(PATIENCE, asking).await.expect("in time")
    }
}

/// A connection, for as long as it is of use.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What an API server asks for a user.
fn request(user: &str, path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(path)
        .header("host", HOST)
        .header("x-remote-user", user)
        .header("x-remote-group", "system:masters");
    request.body(Empty::new()).expect("a request")
}

fn peer(name: &str, deployment: &str) -> Change {
    Change::Upsert(Resource::Peer(Arc::new(Peer {
        key: format!("shop/{name}").into(),
        addresses: vec![],
        namespace: "shop".into(),
        account: deployment.to_owned(),
        owner: Some(Owner::new("Deployment", deployment)),
        direct_ports: vec![],
        probe_ports: vec![],
        asks_only: false,
    })))
}

fn report(way: Way, deployment: &str, service: Option<ServiceKey>, requests: u64) -> Report {
    let counts = Counts {
        classes: [0, requests - 1, 0, 0, 1],
        failures: 1,
        latencies: Latencies {
            buckets: vec![(Latencies::bucket(3000) as u16, requests)],
            sum_micros: 3000 * requests,
        },
    };
    Report {
        total: false,
        edges: vec![EdgeReport {
            edge: Edge {
                way,
                remote: Remote::Workload {
                    namespace: "shop".into(),
                    owner: Owner::new("Deployment", deployment),
                    account: deployment.to_owned(),
                },
                port: if service.is_some() { 0 } else { 8080 },
                service,
                secured: true,
            },
            flow: Flow {
                requests: counts.clone(),
                ..Flow::default()
            },
            age_s: 0,
            would_deny: BTreeMap::new(),
        }],
        routes: vec![
            RouteReport {
                route: "HTTPRoute/shop/web/0".into(),
                requests: counts.clone(),
                backends: BTreeMap::new(),
            },
            RouteReport {
                route: "TrafficSplit/shop/canary/80".into(),
                requests: counts.clone(),
                backends: BTreeMap::from([(ServiceKey::new("shop", "web-v1", 80), counts)]),
            },
        ],
    }
}

const EDGES: &str = "/apis/view.weft.dev/v1alpha1/edges";

#[tokio::test]
async fn only_the_api_server_may_ask_and_only_for_those_that_may_see() {
    let scene = Scene::new().await;
    let (status, list) = scene.ask("root", EDGES).await;
    assert_eq!((status, &list["kind"]), (StatusCode::OK, &json!("EdgeList")));
    let (status, refused) = scene.ask("ada", EDGES).await;
    assert_eq!(
        (status, &refused["reason"]),
        (StatusCode::FORBIDDEN, &json!("Forbidden"))
    );
    let message = refused["message"].as_str().expect("a message");
    assert!(
        message.contains("\"ada\"") && message.contains("no RBAC policy matched"),
        "{message}"
    );
    let path = "/apis/view.weft.dev/v1alpha1/namespaces/shop/edges";
    assert_eq!(scene.ask("ada", path).await.0, StatusCode::OK);
    assert_eq!(scene.ask("", EDGES).await.0, StatusCode::UNAUTHORIZED);
    // Nobody else, whatever it says.
    let (status, _) = scene.ask_as(None, "root", EDGES).await.expect("an answer");
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let other = scene.front.client("somebody");
    scene
        .ask_as(Some(other), "root", EDGES)
        .await
        .expect_err("it has another name");
    let other = Ca::new().client("front-proxy-client");
    scene
        .ask_as(Some(other), "root", EDGES)
        .await
        .expect_err("it is of another CA");
    // And the API server is no replica, whatever its certificate says beside.
    assert_eq!(scene.ask("root", crate::seen::PATH).await.0, StatusCode::NOT_FOUND);
    scene.stop.send_replace(true);
}

#[tokio::test]
async fn what_all_replicas_know_is_told_as_one() {
    let scene = Scene::new().await;
    let [first, second] = &scene.sightings;
    first.heard(
        &DataPlane::sidecar("shop", "web-1"),
        report(Way::Inbound, "front", None, 10),
    );
    second.heard(
        &DataPlane::sidecar("shop", "web-2"),
        report(Way::Inbound, "front", None, 20),
    );
    let service = ServiceKey::new("shop", "web", 80);
    second.heard(
        &DataPlane::sidecar("shop", "front-1"),
        report(Way::Outbound, "web", Some(service), 30),
    );
    let (_, list) = scene.ask("root", &format!("{EDGES}?window=60s")).await;
    assert_eq!(
        (&list["missingReplicas"], &list["windowSeconds"]),
        (&json!(0), &json!(60.0))
    );
    let items = list["items"].as_array().expect("items");
    let server = items
        .iter()
        .find(|item| item["side"] == "server")
        .expect("who was asked tells");
    assert_eq!(server["flow"]["requests"]["classes"], json!([0, 28, 0, 0, 2]));
    assert_eq!(
        server["source"]["workload"],
        json!({"kind": "Deployment", "name": "front"})
    );
    assert_eq!(
        server["destination"]["identity"],
        "spiffe://cluster.local/ns/shop/sa/web"
    );
    assert_eq!(server["latency"]["p99Ms"], 3.072);
    assert_eq!((items.len(), &server["secured"]), (2, &json!(true)));
    let (_, callers) = scene.ask("root", "/apis/view.weft.dev/v1alpha1/callers").await;
    assert_eq!(callers["items"].as_array().map(Vec::len), Some(2));
    let (_, routes) = scene
        .ask("root", "/apis/view.weft.dev/v1alpha1/namespaces/shop/routes")
        .await;
    assert_eq!(routes["items"][0]["requests"]["classes"], json!([0, 57, 0, 0, 3]));

    let smi = |path: &str| format!("/apis/metrics.smi-spec.io/v1alpha1/{path}");
    let (_, kinds) = scene.ask("ada", &smi("")).await;
    assert_eq!(
        (&kinds["kind"], &kinds["groupVersion"]),
        (&json!("APIResourceList"), &json!("metrics.smi-spec.io/v1alpha1"))
    );
    let (status, web) = scene.ask("ada", &smi("namespaces/shop/deployments/web")).await;
    assert_eq!((status, &web["kind"]), (StatusCode::OK, &json!("TrafficMetrics")));
    assert_eq!(
        web["resource"],
        json!({"kind": "Deployment", "namespace": "shop", "name": "web"})
    );
    let metric = |of: &Value, name: &str| {
        let metrics = of["metrics"].as_array().expect("metrics");
        let metric = metrics
            .iter()
            .find(|metric| metric["name"] == name)
            .expect("it is there");
        metric["value"].clone()
    };
    assert_eq!(
        (metric(&web, "success_count"), metric(&web, "failure_count")),
        (json!("28"), json!("2"))
    );
    assert_eq!(metric(&web, "p99_response_latency"), "3072m");
    let (_, pods) = scene.ask("ada", &smi("namespaces/shop/pods?t=1m")).await;
    let names: Vec<&Value> = pods["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|pod| &pod["metadata"]["name"])
        .collect();
    assert_eq!(names, ["web-1", "web-2"]);
    let (_, edges) = scene.ask("ada", &smi("namespaces/shop/deployments/front/edges")).await;
    assert_eq!(
        edges["items"][0]["edge"],
        json!({
            "direction": "to", "side": "server", "resource": {"kind": "Deployment", "namespace": "shop", "name": "web"},
        })
    );
    // Of all that is on a node.
    let (_, nodes) = scene.ask("root", &smi("nodes")).await;
    let told = |list: &Value| -> Vec<(Value, Value)> {
        let items = list["items"].as_array().expect("items").iter();
        let told = items.map(|item| (item["metadata"]["name"].clone(), metric(item, "success_count")));
        told.collect()
    };
    assert_eq!(
        told(&nodes),
        [(json!("node-a"), json!("9")), (json!("node-b"), json!("19"))]
    );
    assert_eq!(nodes["items"][0]["resource"], json!({"kind": "Node", "name": "node-a"}));
    let (_, service) = scene.ask("ada", &smi("namespaces/shop/services/web")).await;
    assert_eq!(metric(&service, "success_count"), "29");
    let (status, _) = scene.ask("ada", &smi("namespaces/shop/deployments/other")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    scene.stop.send_replace(true);
}

#[tokio::test]
async fn metrics_of_smi_are_of_backends_of_splits_and_of_objects_with_labels() {
    let scene = Scene::new().await;
    let [first, second] = &scene.sightings;
    let heard = |of: &Sightings, pod: &str, way, other: &str, requests| {
        of.heard(&DataPlane::sidecar("shop", pod), report(way, other, None, requests));
    };
    heard(first, "web-1", Way::Inbound, "front", 10);
    heard(second, "web-2", Way::Inbound, "front", 20);
    heard(second, "front-1", Way::Outbound, "web", 30);
    let smi = |path: &str| format!("/apis/metrics.smi-spec.io/v1alpha1/namespaces/shop/{path}");
    let (status, splits) = scene.ask("ada", &smi("trafficsplits")).await;
    assert_eq!(
        (status, &splits["kind"]),
        (StatusCode::OK, &json!("TrafficMetricsList")),
        "{splits}"
    );
    let items = splits["items"].as_array().expect("items");
    assert_eq!(items.len(), 2);
    assert_eq!(
        items[0]["backend"],
        json!({"apex": "web", "name": "web-v1", "weight": 90})
    );
    // All replicas together, and of a backend to which nothing goes too.
    assert_eq!(items[0]["metrics"][3], json!({"name": "success_count", "value": "57"}));
    assert_eq!(items[1]["metrics"][3], json!({"name": "success_count", "value": "0"}));
    assert_eq!(
        items[1]["resource"],
        json!({"kind": "TrafficSplit", "namespace": "shop", "name": "canary"})
    );
    let (_, one) = scene.ask("ada", &smi("trafficsplits/canary")).await;
    let backends = |list: &Value| -> Vec<Value> {
        let items = list["items"].as_array().expect("items").iter();
        items.map(|item| item["backend"].clone()).collect()
    };
    assert_eq!(backends(&one), backends(&splits));
    let (_, edges) = scene.ask("ada", &smi("trafficsplits/canary/edges")).await;
    let clients: Vec<&Value> = edges["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| &item["edge"]["resource"]["name"])
        .collect();
    assert_eq!(clients, ["front", "web"]);
    assert_eq!(
        scene.ask("ada", &smi("trafficsplits/other")).await.0,
        StatusCode::NOT_FOUND
    );

    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().expect("items").iter();
        items
            .map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let (_, pods) = scene
        .ask("ada", &smi("pods?labelSelector=app+in+%28web%2Capi%29"))
        .await;
    assert_eq!(names(&pods), ["web-2"]);
    assert_eq!(
        pods["selector"],
        json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "api"]}]})
    );
    let (_, none) = scene.ask("ada", &smi("deployments?labelSelector=tier%3Dback")).await;
    assert_eq!(
        (names(&none).len(), &none["selector"]),
        (0, &json!({"matchLabels": {"tier": "back"}}))
    );
    // Of edges, those at the other end have them.
    let others = |list: &Value| list["items"].as_array().expect("items").len();
    let path = "deployments/web/edges?labelSelector=tier%3D";
    assert_eq!(others(&scene.ask("ada", &smi(&format!("{path}front"))).await.1), 1);
    assert_eq!(others(&scene.ask("ada", &smi(&format!("{path}back"))).await.1), 0);
    let (status, wrong) = scene.ask("ada", &smi("pods?labelSelector=a+b")).await;
    assert_eq!(
        (status, &wrong["reason"]),
        (StatusCode::BAD_REQUEST, &json!("BadRequest"))
    );
    // Who may see metrics of pods, but not pods, learns nothing of their labels.
    let (status, refused) = scene.ask("meter", &smi("pods?labelSelector=app")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let message = refused["message"].as_str().expect("a message");
    assert!(message.contains("must be allowed to list: pods"), "{message}");
    assert_eq!(scene.ask("meter", &smi("pods")).await.0, StatusCode::OK);
    scene.stop.send_replace(true);
}

#[tokio::test]
async fn who_looks_on_is_told_what_comes_to_all_replicas() {
    let scene = Scene::new().await;
    let path = "/apis/view.weft.dev/v1alpha1/namespaces/shop/taps?watch=true&workload=web";
    let (status, _) = scene.ask("eve", path).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (mut sender, _connection) = scene
        .connect(Some(scene.front.client("front-proxy-client")))
        .await
        .expect("known by now");
    let response = sender.send_request(request("ada", path)).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let tapped = ["web-1", "web-2"].map(|pod| DataPlane::sidecar("shop", pod));
    let wanted = async {
        while !scene
            .sightings
            .iter()
            .zip(&tapped)
            .all(|(sightings, of)| sightings.is_tapped(of))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wanted).await.expect("both replicas want it");
    assert!(!scene.sightings[0].is_tapped(&DataPlane::sidecar("shop", "front-1")));
    for (sightings, of) in scene.sightings.iter().zip(&tapped) {
        sightings.tapped(
            of,
            vec![json!({"method": "GET", "path": "/", "status": 200}).to_string()],
        );
    }
    let mut text = String::new();
    while text.lines().count() < 2 {
        let frame = timeout(PATIENCE, body.frame())
            .await
            .expect("in time")
            .expect("more")
            .expect("a frame");
        text.push_str(&String::from_utf8_lossy(&frame.into_data().expect("data")));
    }
    let mut pods: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["pod"].clone())
        .collect();
    pods.sort_by_key(Value::to_string);
    assert_eq!(pods, ["web-1", "web-2"]);
    // Once nobody looks on, nobody tells.
    drop((body, sender));
    let unwanted = async {
        while scene
            .sightings
            .iter()
            .zip(&tapped)
            .any(|(sightings, of)| sightings.is_tapped(of))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, unwanted).await.expect("it has ended at both");
    scene.stop.send_replace(true);
}

#[tokio::test]
async fn a_replica_that_is_away_is_missed() {
    let scene = Scene::new().await;
    let (_, list) = scene.ask("root", EDGES).await;
    assert_eq!(list["missingReplicas"], 0);
    // Nobody listens where this one looks for another.
    let gather = Gather {
        sightings: scene.sightings[0].clone(),
        others: watch::channel(BTreeSet::from([IpAddr::from([127, 0, 0, 3])])).1,
        port: scene.address.port(),
        shown: Arc::default(),
        roots: scene.roots.clone(),
    };
    let period = crate::seen::Period::Ever;
    assert_eq!(gather.gather(period, None).await.missing, 1);
    // Who is there, but has not been proven to be a replica, is not told.
    let gather = Gather {
        others: watch::channel(BTreeSet::from([IpAddr::from([127, 0, 0, 1])])).1,
        ..gather
    };
    assert_eq!(gather.gather(period, None).await.missing, 1);
    scene.stop.send_replace(true);
}
