//! The webhook as an API server meets it: over TLS, by the name of the Service, trusting what it was told to trust.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use kube::Client;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use weft_injection::{LogLevel, Namespace, Outcome, Resources, Settings, Spans, inject};

use super::{Meshed, Webhook, review::patched, server::PATH};
use crate::{
    certificates::Certificates,
    metrics::Metrics,
    mock::{answering, found},
};

const HOST: &str = "weft-operator.weft-system.svc";
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn settings() -> Settings {
    Settings {
        image: "weft.dev/sidecar:1".to_owned(),
        pull_policy: "Never".to_owned(),
        operator: "weft-operator.weft-system.svc:15010".to_owned(),
        server_name: "operator.weft.dev".to_owned(),
        resources: Resources::default(),
        log_level: LogLevel::Info,
        spans: Spans::default(),
    }
}

/// An API server that keeps one Secret and knows one namespace, which watches have not told of.
fn api() -> Client {
    let mut secret: Option<Value> = None;
    answering(move |request, body| {
        Some(found(match (request.method.as_str(), request.uri.path()) {
            ("POST", path) if path.ends_with("/secrets") => {
                secret = Some(body);
                secret.clone()
            }
            ("GET", path) if path.contains("/secrets/") => secret.clone(),
            ("GET", "/api/v1/namespaces/young") => Some(json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": "young", "annotations": {"weft.dev/sidecar-log-level": "debug"}},
            })),
            _ => None,
        }))
    })
}

struct Scene {
    sender: SendRequest<BoxBody<Bytes, Infallible>>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    connection: JoinHandle<()>,
    metrics: Metrics,
    _meshed: watch::Sender<Meshed>,
}

impl Scene {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (client, metrics) = (api(), Metrics::new());
        let claim = watch::channel(None).1;
        let (certificates, shown, mut roots) = Certificates::new(client.clone(), "weft-system", HOST, claim);
        tokio::spawn(certificates.run());
        let roots = tokio::time::timeout(PATIENCE, roots.wait_for(|roots| !roots.is_empty()))
            .await
            .expect("in time")
            .expect("it lives")
            .clone();
        let shop = Namespace {
            labels: [("weft.dev/mesh".to_owned(), "observe".to_owned())].into(),
            annotations: [("weft.dev/skip-uids".to_owned(), "0".to_owned())].into(),
        };
        let (told, meshed) = watch::channel(Meshed::from([("shop".to_owned(), Arc::new(shop))]));
        let webhook = Webhook {
            settings: Arc::new(settings()),
            meshed,
            client,
            metrics: metrics.clone(),
        };
        let mut tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(shown);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(webhook.listen(listener, Arc::new(tls), stopped));

        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store.add(root.expect("a certificate")).expect("a root");
        }
        let mut config = ClientConfig::builder()
            .with_root_certificates(store)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(address).await.expect("connected");
        let name = HOST.try_into().expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let stream = stream.expect("the certificate is of the Service, and signed by a root that was told");
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/1.1");
        Self {
            sender,
            connection: tokio::spawn(async move { drop(connection.await) }),
            stop,
            serving,
            metrics,
            _meshed: told,
        }
    }

    async fn send(&mut self, request: http::request::Builder, body: Bytes) -> (StatusCode, Bytes) {
        let request = request
            .header("host", HOST)
            .body(Full::new(body).boxed())
            .expect("a request");
        let response = tokio::time::timeout(PATIENCE, self.sender.send_request(request))
            .await
            .expect("in time")
            .expect("an answer");
        let status = response.status();
        (status, response.into_body().collect().await.expect("a body").to_bytes())
    }

    async fn ask(&mut self, namespace: &str, pod: &Value) -> Value {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "u1", "operation": "CREATE", "namespace": namespace, "object": pod},
        });
        let request = Request::post(format!("{PATH}?timeout=3s")).header("content-type", "application/json");
        let (status, body) = self.send(request, review.to_string().into()).await;
        assert_eq!(status, StatusCode::OK);
        let answer: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&review["apiVersion"], &review["kind"])
        );
        assert_eq!(answer["response"]["uid"], "u1");
        answer
    }
}

fn pod(metadata: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "app", "image": "app"}]}})
}

/// What a container has of a list of arguments or variables.
fn container<'v>(pod: &'v Value, name: &str) -> &'v Value {
    let mut containers = pod["spec"]["initContainers"]
        .as_array()
        .expect("init containers")
        .iter();
    containers.find(|container| container["name"] == name).expect(name)
}

#[tokio::test]
async fn a_pod_gets_what_its_namespace_and_the_settings_say_and_nothing_when_it_is_asked_again() {
    let mut scene = Scene::new().await;
    let before = pod(json!({"name": "web", "labels": {"app": "web"}}));
    let answer = scene.ask("shop", &before).await;
    assert_eq!(answer["response"]["allowed"], true);
    assert_eq!(answer["response"]["auditAnnotations"]["sidecar"], "injected");
    let after = patched(&before, &answer);
    let namespace = Namespace {
        annotations: [("weft.dev/skip-uids".to_owned(), "0".to_owned())].into(),
        ..Namespace::default()
    };
    let Ok(Outcome::Injected(expected)) = inject(&before, &namespace, &settings()) else {
        panic!("it can be injected")
    };
    assert_eq!(after, expected.pod);
    assert_eq!(
        container(&after, "weft-intercept")["args"],
        json!(["intercept", "--skip-uids=0"])
    );
    // On the same connection; by then the API server has filled in what has defaults.
    let mut defaulted = after;
    defaulted["spec"]["initContainers"][1]["startupProbe"]["successThreshold"] = 1.into();
    let again = scene.ask("shop", &defaulted).await;
    assert_eq!(
        (&again["response"]["allowed"], &again["response"]["patch"]),
        (&json!(true), &Value::Null)
    );
    assert!(
        scene
            .metrics
            .render()
            .contains("injections_total{result=\"injected\"} 2")
    );
}

#[tokio::test]
async fn a_namespace_that_no_watch_has_told_of_is_looked_at() {
    let mut scene = Scene::new().await;
    let before = pod(json!({"name": "web"}));
    let after = patched(&before, &scene.ask("young", &before).await);
    let env = &container(&after, "weft-sidecar")["env"];
    assert!(
        env.as_array()
            .expect("variables")
            .contains(&json!({"name": "RUST_LOG", "value": "debug"}))
    );
    // One that cannot be read keeps no pod from its sidecar.
    let after = patched(&before, &scene.ask("unreadable", &before).await);
    container(&after, "weft-sidecar");
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_by_its_name_and_what_is_left_alone_is_said() {
    let mut scene = Scene::new().await;
    let wrong = pod(json!({"annotations": {"weft.dev/skip-inbound-ports": "http"}}));
    let answer = scene.ask("shop", &wrong).await;
    let response = &answer["response"];
    assert_eq!(
        (&response["allowed"], &response["patch"]),
        (&json!(false), &Value::Null)
    );
    let message = response["status"]["message"].as_str().expect("a message");
    assert!(
        message.contains("weft.dev/skip-inbound-ports") && message.contains("\"http\""),
        "{message}"
    );

    let mut agent = pod(json!({"name": "agent"}));
    agent["spec"]["hostNetwork"] = true.into();
    let answer = scene.ask("shop", &agent).await;
    assert_eq!(patched(&agent, &answer), agent);
    assert!(
        answer["response"]["warnings"][0]
            .as_str()
            .expect("a warning")
            .contains("hostNetwork")
    );
    let out = pod(json!({"annotations": {"weft.dev/inject": "disabled"}}));
    let answer = scene.ask("shop", &out).await;
    assert_eq!(
        (patched(&out, &answer), &answer["response"]["warnings"]),
        (out, &Value::Null)
    );
}

#[tokio::test]
async fn what_is_no_question_is_no_harm() {
    let mut scene = Scene::new().await;
    let other = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "u"}});
    for (request, body, expected) in [
        (Request::post("/other"), Bytes::new(), StatusCode::NOT_FOUND),
        (Request::get(PATH), Bytes::new(), StatusCode::METHOD_NOT_ALLOWED),
        (Request::post(PATH), Bytes::from_static(b"{"), StatusCode::BAD_REQUEST),
        (
            Request::post(PATH),
            Bytes::from(other.to_string()),
            StatusCode::BAD_REQUEST,
        ),
    ] {
        assert_eq!(scene.send(request, body).await.0, expected);
    }
    let huge = Request::post(PATH).header("content-length", 3 * 1024 * 1024);
    let never = StreamBody::new(futures::stream::pending::<Result<hyper::body::Frame<Bytes>, Infallible>>());
    let request = huge.header("host", HOST).body(never.boxed()).expect("a request");
    let response = scene.sender.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn connections_end_when_the_process_does() {
    let mut scene = Scene::new().await;
    scene.ask("shop", &pod(json!({"name": "web"}))).await;
    scene.stop.send_replace(true);
    tokio::time::timeout(PATIENCE, scene.serving)
        .await
        .expect("in time")
        .expect("it ends well");
    tokio::time::timeout(PATIENCE, scene.connection)
        .await
        .expect("the other side sees it too")
        .expect("it ends well");
}
