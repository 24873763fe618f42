//! A gateway as it runs in a cluster, against the stream of an operator: traffic, readiness, and what it does while there
//! is no operator.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener, TcpStream},
    num::NonZeroUsize,
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use weft_crds::{Kind, Object};
use weft_discovery::{Authenticate, Denied, Endpoint, Publisher, Server};
use weft_gateway::cluster::{Cluster, ClusterOptions};
use weft_model::GatewayKey;
use weft_proxy::{AccessLog, Limits, Options};
use weft_translate::{CONTROLLER, Edit, Translator};

const PATIENCE: Duration = Duration::from_secs(30);
const NAME: &str = "operator.weft.dev";

struct Anyone;

impl Authenticate for Anyone {
    async fn authenticate(&self, _: &str, _: &GatewayKey, _: &str) -> Result<(), Denied> {
        Ok(())
    }
}

/// An operator that serves what manifests come to.
struct Operator {
    publisher: Publisher,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    address: SocketAddr,
}

impl Operator {
    async fn start(folder: &Path) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).expect("a certificate");
        std::fs::write(folder.join("ca.crt"), made.cert.pem()).expect("written");
        std::fs::write(folder.join("token"), "token").expect("written");
        let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let mut tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a configuration");
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let publisher = Publisher::new();
        let (stop, stopped) = watch::channel(false);
        let server = Server::new(publisher.clone(), Anyone);
        let serving =
            tokio::spawn(async move { server.listen(listener, Arc::new(tls), stopped).await.expect("served") });
        Self {
            publisher,
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

fn free_port() -> u16 {
    let probe = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    probe.local_addr().expect("it is bound").port()
}

fn put(kind: Kind, name: &str, spec: Value) -> Edit {
    let value = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    Edit::Put(Object::from_value(kind, value).expect("an object"))
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
        proxy: Options {
            address: Ipv4Addr::LOCALHOST.into(),
            port_offset: 0,
            workers: NonZeroUsize::MIN,
            drain: Duration::from_secs(2),
            limits: Limits::default(),
            access_log: AccessLog::default(),
        },
        probes: (Ipv4Addr::LOCALHOST, 0).into(),
        admin: (Ipv4Addr::LOCALHOST, 0).into(),
        linger: Duration::ZERO,
    };
    Cluster::start(options).await.expect("started")
}

/// The first line of what is answered; none if nobody answers.
async fn get(port: u16, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
    let ask = move || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.lines().next().map(str::to_owned)
    };
    tokio::task::spawn_blocking(ask).await.expect("asked")
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
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
    let mut translator = Translator::new(weft_translate::Options {
        controller_name: CONTROLLER.to_owned(),
        standalone: false,
    });

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
