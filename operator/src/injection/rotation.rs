//! The webhook goes on while its certificate, and the root that this is signed by, are replaced: an API server that trusts what it was
//! told yesterday is answered at every moment of more than a year.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, time_provider::TimeProvider};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{Meshed, Webhook, server::PATH, tests::settings};
use crate::{certificates::Certificates, metrics::Metrics, mock::Api};

const HOST: &str = "weft-operator.weft-system.svc";
const PATIENCE: Duration = Duration::from_secs(60);
const DAY: u64 = 24 * 3600;
/// Roots last for a year, and signing goes over to the next one after 245 days: two of them are met.
const DAYS: u64 = 500;
const CALLERS: usize = 3;

/// What time it is for callers, in seconds since 1970.
#[derive(Debug)]
struct Clock(AtomicU64);

impl Clock {
    fn now(&self) -> OffsetDateTime {
        let seconds = i64::try_from(self.0.load(Ordering::SeqCst)).expect("a time");
        OffsetDateTime::from_unix_timestamp(seconds).expect("a time")
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(
            self.0.load(Ordering::SeqCst),
        )))
    }
}

/// What callers have met.
#[derive(Default)]
struct Met {
    /// Connections of each caller, each of which was answered.
    connections: [u64; CALLERS],
    leaves: BTreeSet<Vec<u8>>,
}

/// An API server that believes whom it was told to.
#[derive(Clone)]
struct Caller {
    address: SocketAddr,
    clock: Arc<Clock>,
    told: watch::Receiver<String>,
    met: Arc<Mutex<Met>>,
}

impl Caller {
    /// A new connection, and the certificate that was shown.
    async fn connect(&self) -> (SendRequest<Full<Bytes>>, Vec<u8>) {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.told.borrow().as_bytes()) {
            store.add(root.expect("a certificate")).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_details(provider, self.clock.clone());
        let config = config.with_safe_default_protocol_versions().expect("TLS 1.3");
        let config = config.with_root_certificates(store).with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.expect("it listens");
        let name = HOST.try_into().expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let stream = stream.expect("it is believed");
        let shown = stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/1.1");
        tokio::spawn(connection);
        (sender, shown)
    }

    /// Connects and asks, again and again.
    async fn call(self, number: usize, stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let (mut sender, shown) = self.connect().await;
            ask(&mut sender).await;
            let mut met = self.met.lock().expect("nobody panics with it");
            met.connections[number] += 1;
            met.leaves.insert(shown);
        }
    }
}

/// Has a pod injected.
async fn ask(sender: &mut SendRequest<Full<Bytes>>) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": [{"name": "app", "image": "app"}]}});
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "u1", "operation": "CREATE", "namespace": "shop", "object": pod},
    });
    let request = Request::post(PATH).header("host", HOST);
    let request = request.body(Full::new(review.to_string().into())).expect("a request");
    let answer = timeout(PATIENCE, sender.send_request(request)).await.expect("in time");
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(answer["response"]["auditAnnotations"]["sidecar"], "injected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_fails_while_the_certificate_and_its_root_are_replaced() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let api = Api::default();
    let claim = watch::channel(Some(Instant::now() + 100 * PATIENCE)).1;
    let (mut certificates, shown, roots) = Certificates::new(api.client(), "weft-system", HOST, claim);
    let clock = Arc::new(Clock(AtomicU64::new(1_800_000_000)));
    certificates.look(clock.now()).await.expect("a CA is made");
    let first = roots.borrow().clone();

    let shop = weft_injection::Namespace {
        labels: [("weft.dev/mesh".to_owned(), "secure".to_owned())].into(),
        ..weft_injection::Namespace::default()
    };
    let (_kept, meshed) = watch::channel(Meshed::from([("shop".to_owned(), Arc::new(shop))]));
    let webhook = Webhook {
        settings: Arc::new(settings()),
        meshed,
        client: api.client(),
        metrics: Metrics::new(),
    };
    let tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(shown);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(webhook.listen(listener, Arc::new(tls), stopped.clone()));

    let (tell, told) = watch::channel(first.clone());
    let caller = Caller {
        address,
        clock: clock.clone(),
        told,
        met: Arc::default(),
    };
    let (mut long, _) = caller.connect().await;
    let (calls_end, end) = watch::channel(false);
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| tokio::spawn(caller.clone().call(number, end.clone())))
        .collect();
    let count = || caller.met.lock().expect("nobody panics with it").connections;
    for _ in 0..DAYS {
        // What it was told yesterday is what an API server goes by today.
        tell.send_replace(roots.borrow().clone());
        clock.0.fetch_add(DAY, Ordering::SeqCst);
        let looked = certificates.look(clock.now()).await;
        looked.expect("the API server answers");
        // More than are under way, so that each certificate is met; and some of each, so that no call takes days.
        let before = count();
        let enough = || {
            let counts = count();
            let each = counts.iter().zip(before).all(|(count, before)| *count > before);
            each && counts.iter().sum::<u64>() > before.iter().sum::<u64>() + CALLERS as u64
        };
        let met = async {
            while !enough() {
                assert!(callers.iter().all(|caller| !caller.is_finished()), "a call has failed");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, met).await.expect("they call");
        ask(&mut long).await;
    }
    calls_end.send_replace(true);
    for caller in callers {
        caller.await.expect("no call has failed");
    }
    let leaves = caller.met.lock().expect("nobody panics with it").leaves.len();
    // A new one each day.
    assert!(leaves as u64 >= DAYS, "{leaves} certificates were met");
    let last = roots.borrow().clone();
    assert!(!last.contains(first.trim()), "the first root is forgotten");
    stop.send_replace(true);
    drop(long);
    timeout(PATIENCE, serving)
        .await
        .expect("in time")
        .expect("it ends well");
}
