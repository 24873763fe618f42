//! The operator and a real gateway against Pebble: certificates ordered, proven, served and renewed.

mod pebble;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use instant_acme::{AccountCredentials, CertificateIdentifier, Identifier, NewOrder};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;
use weft_crds::Kind;
use weft_translate::acme::{Account, Order, account_secret, order_secret};

use self::pebble::{Pebble, free_offset};
use super::{http::Http, patience::Patience};
use crate::{
    mock::Api,
    scene::{Operator, PATIENCE, gateway, until},
};

const NAMESPACE: &str = "shop";
const SECRET: &str = "edge-tls";
const HOST: &str = "shop.example";

/// Pebble, an API server with an issuer for it, and the ports that Pebble comes to.
struct Scene {
    api: Api,
    pebble: Pebble,
    folder: tempfile::TempDir,
    offset: u16,
}

/// What a failed test would be asked for.
impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.pebble.said();
            let last = &said[said.len().saturating_sub(60)..];
            eprintln!("the order: {:#?}\nPebble:\n{}", self.order(), last.join("\n"));
        }
    }
}

impl Scene {
    fn new(challenge: &str) -> Self {
        if let Some(level) = std::env::var("RUST_LOG")
            .ok()
            .and_then(|told| told.parse::<LevelFilter>().ok())
        {
            let log = tracing_subscriber::fmt().with_max_level(level).with_test_writer();
            // Another test may have begun.
            let _ = log.try_init();
        }
        let offset = free_offset();
        let pebble = Pebble::start(offset);
        let api = Api::default();
        let class = json!({"spec": {"controllerName": weft_translate::CONTROLLER}});
        api.put(Kind::GatewayClass, "", "weft", class);
        let roots = json!({"type": "Opaque", "data": {"ca.crt": STANDARD.encode(&pebble.roots_pem)}});
        api.put(Kind::Secret, NAMESPACE, "pebble", roots);
        let issuer = json!({"spec": {
            "server": pebble.directory, "challenge": challenge, "email": "admin@shop.example",
            "caCertificateRefs": [{"group": "", "kind": "Secret", "name": "pebble"}],
        }});
        api.put(Kind::AcmeIssuer, NAMESPACE, "pebble", issuer);
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            api,
            pebble,
            folder,
            offset,
        }
    }

    /// A Gateway with HTTP and HTTPS, or HTTPS alone, for a host.
    fn put_gateway(&self, http: bool, host: &str) {
        let mut listeners = vec![json!({
            "name": "https", "port": 443, "protocol": "HTTPS", "hostname": host,
            "tls": {"certificateRefs": [{"name": SECRET}]},
        })];
        if http {
            listeners.push(json!({"name": "http", "port": 80, "protocol": "HTTP"}));
        }
        let gateway = json!({
            "metadata": {"annotations": {"weft.dev/acme-issuer": "pebble"}},
            "spec": {"gatewayClassName": "weft", "listeners": listeners},
        });
        self.api.put(Kind::Gateway, NAMESPACE, "edge", gateway);
        // Everything is sent to HTTPS, which must not concern the CA.
        let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}});
        let route = json!({"spec": {"parentRefs": [{"name": "edge"}], "rules": [{"filters": [redirect]}]}});
        self.api.put(Kind::HttpRoute, NAMESPACE, "all", route);
    }

    fn secret(&self, name: &str) -> Option<Value> {
        self.api.get(Kind::Secret, NAMESPACE, name)
    }

    fn entry(&self, secret: &str, name: &str) -> Option<String> {
        let secret = self.secret(secret)?;
        let bytes = STANDARD.decode(secret["data"][name].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    }

    fn chain(&self) -> Option<String> {
        self.entry(SECRET, "tls.crt")
    }

    fn order(&self) -> Option<Order> {
        serde_json::from_str(&self.entry(&order_secret(SECRET), "state.json")?).ok()
    }

    /// The certificate, once it is served to clients that trust the CA.
    async fn served(&self) -> CertificateDer<'static> {
        let root = self.pebble.issuing_root().await;
        until("the certificate is served", async || self.handshake(&root).await).await
    }

    async fn handshake(&self, root: &str) -> Option<CertificateDer<'static>> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(root.as_bytes()).flatten());
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let port = 443 + self.offset;
        let connect = move || {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            let connection = ClientConnection::new(Arc::new(config), HOST.try_into().expect("a name")).ok()?;
            let mut stream = StreamOwned::new(connection, stream);
            let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).ok()?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).ok()?;
            assert_eq!(&answer, b"HTTP/1.1 301");
            stream
                .conn
                .peer_certificates()
                .map(|chain| chain[0].clone().into_owned())
        };
        tokio::task::spawn_blocking(connect).await.expect("asked")
    }

    fn condition(&self, kind: Kind, name: &str, listener: Option<&str>, condition: &str) -> Option<Value> {
        let status = self.api.get(kind, NAMESPACE, name)?["status"].clone();
        let of = match listener {
            None => status,
            Some(listener) => {
                let mut listeners = status["listeners"].as_array()?.iter();
                listeners.find(|found| found["name"] == listener)?.clone()
            }
        };
        let mut conditions = of["conditions"].as_array()?.iter();
        conditions.find(|found| found["type"] == condition).cloned()
    }

    async fn listener_says(&self, condition: &str, status: &str) -> Value {
        let what = format!("{condition} is {status}");
        until(&what, async || {
            let found = self.condition(Kind::Gateway, "edge", Some("https"), condition)?;
            (found["status"] == status).then_some(found)
        })
        .await
    }

    /// How many orders Pebble has taken.
    fn orders(&self) -> usize {
        let said = self.pebble.said();
        said.iter().filter(|line| line.contains("Added order")).count()
    }
}

fn leaf(chain: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(chain.as_bytes()).expect("a certificate")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Pebble: cargo xtask pebble"]
async fn a_certificate_is_ordered_by_http_01_and_renewed_when_the_ca_says() {
    let scene = Scene::new("HTTP-01");
    scene.put_gateway(true, HOST);
    let operator = Operator::start(&scene.api, true, scene.folder.path()).await;
    let gateway = gateway(&operator, scene.folder.path(), scene.offset).await;
    let first = scene.served().await;
    scene.listener_says("ResolvedRefs", "True").await;
    let ready = until("the issuer is ready", async || {
        let ready = scene.condition(Kind::AcmeIssuer, "pebble", None, "Ready")?;
        (ready["status"] == "True").then_some(ready)
    })
    .await;
    assert_eq!(ready["reason"], "AccountRegistered");
    assert_eq!(first, leaf(&scene.chain().expect("a chain")));
    let secret = scene.secret(SECRET).expect("a Secret");
    assert_eq!(secret["type"], "kubernetes.io/tls");
    assert_eq!(
        secret["metadata"]["annotations"]["weft.dev/acme-server"],
        scene.pebble.directory
    );
    let renewal = until("the CA was asked when to renew", async || scene.order()?.renewal).await;
    assert!(renewal.window.is_some() && renewal.at > jiff::Timestamp::now());
    until("no challenge is left", async || {
        let left = gateway.state().proxy().snapshot().resources();
        (!left
            .iter()
            .any(|resource| matches!(resource, weft_model::Resource::Challenge(_))))
        .then_some(())
    })
    .await;
    assert_eq!(scene.orders(), 1);

    // Its renewal is suggested for a time that is over. It is asked for that when nothing is known of it.
    let old = scene.chain().expect("a chain");
    let past = ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z");
    scene.pebble.suggest(&old, past.0, past.1).await;
    scene.api.delete(Kind::Secret, NAMESPACE, &order_secret(SECRET));
    let new = until("it is renewed", async || scene.chain().filter(|chain| *chain != old)).await;
    until("the new one is served", async || {
        (scene.served().await == leaf(&new)).then_some(())
    })
    .await;
    // The CA was told which one it replaces, and lets no other do so.
    let account: Account = serde_json::from_str(
        &scene
            .entry(&account_secret("pebble"), "state.json")
            .expect("an account"),
    )
    .expect("readable");
    let credentials: AccountCredentials =
        serde_json::from_value(account.credentials.expect("credentials")).expect("readable");
    let http = Http::new(Some(&scene.pebble.roots_pem), Patience::default()).expect("roots");
    let account = instant_acme::Account::builder_with_http(Box::new(http))
        .from_credentials(credentials)
        .await
        .expect("the account");
    let hosts = [Identifier::Dns(HOST.to_owned())];
    let old = leaf(&old);
    let again = NewOrder::new(&hosts).replaces(CertificateIdentifier::try_from(&old).expect("an identifier"));
    let refused = account.new_order(&again).await.err().expect("refused");
    assert_eq!(super::error::name(&refused), Some("alreadyReplaced"), "{refused}");
    until("Events say so", async || {
        let events = scene.api.events();
        let said = |reason: &str| events.iter().any(|event| event.starts_with(reason));
        (said("CertificateIssued") && said("CertificateRenewed")).then_some(())
    })
    .await;
    gateway.shutdown().await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Pebble: cargo xtask pebble"]
async fn an_order_by_tls_alpn_01_goes_on_after_a_restart_and_waits_for_data_planes() {
    let scene = Scene::new("TLS-ALPN-01");
    // There is no port but the one that has no certificate yet.
    scene.put_gateway(false, HOST);
    let operator = Operator::start(&scene.api, true, scene.folder.path()).await;
    let placed = until("the order is placed", async || {
        scene.order()?.placed.filter(|placed| !placed.proofs.is_empty())
    })
    .await;
    let said = scene.listener_says("ResolvedRefs", "False").await;
    assert_eq!(said["reason"], "InvalidCertificateRef");
    assert!(
        said["message"]
            .as_str()
            .is_some_and(|message| message.contains("being ordered by AcmeIssuer pebble")),
        "{said}"
    );
    assert_eq!(scene.listener_says("Programmed", "False").await["reason"], "Pending");
    // Nobody can answer, so the CA is not asked to come.
    operator.end().await;
    assert!(scene.chain().is_none());

    let operator = Operator::start(&scene.api, true, scene.folder.path()).await;
    let gateway = gateway(&operator, scene.folder.path(), scene.offset).await;
    scene.served().await;
    assert_eq!(scene.orders(), 1, "the order was placed once");
    scene.listener_says("Programmed", "True").await;
    let key = scene.entry(SECRET, "tls.key").expect("a key");
    assert_eq!(key, placed.private_key.expose());
    gateway.shutdown().await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Pebble: cargo xtask pebble"]
async fn data_planes_of_another_replica_answer_too() {
    let scene = Scene::new("HTTP-01");
    scene.put_gateway(true, HOST);
    let theirs = tempfile::tempdir().expect("a folder");
    let follower = Operator::start(&scene.api, false, theirs.path()).await;
    let gateway = gateway(&follower, theirs.path(), scene.offset).await;
    let leader = Operator::start(&scene.api, true, scene.folder.path()).await;
    let hearing = leader.listen_to(&follower);
    scene.served().await;
    assert!(
        leader.publisher.replicas().borrow().is_empty(),
        "nobody is connected to the one that orders"
    );
    hearing.abort();
    gateway.shutdown().await;
    leader.end().await;
    follower.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Pebble: cargo xtask pebble"]
async fn what_the_ca_refuses_is_said_where_it_is_asked_for() {
    let scene = Scene::new("HTTP-01");
    scene.put_gateway(true, "blocked.example");
    let operator = Operator::start(&scene.api, true, scene.folder.path()).await;
    let failure = until("the refusal is written down", async || scene.order()?.failure).await;
    assert_eq!((failure.reason.as_str(), failure.count), ("RejectedHost", 1));
    let said = until("the listener says so", async || {
        let said = scene.condition(Kind::Gateway, "edge", Some("https"), "ResolvedRefs")?;
        said["message"]
            .as_str()?
            .contains("it is tried again at")
            .then_some(said)
    })
    .await;
    assert!(
        said["message"]
            .as_str()
            .is_some_and(|message| message.contains("blocked")),
        "{said}"
    );
    until("an Event says so", async || {
        let events = scene.api.events();
        events
            .iter()
            .any(|event| event.starts_with("CertificateFailed"))
            .then_some(())
    })
    .await;
    // A host that is not refused is ordered at once.
    let gateway = gateway(&operator, scene.folder.path(), scene.offset).await;
    scene.put_gateway(true, HOST);
    scene.served().await;
    gateway.shutdown().await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Pebble: cargo xtask pebble"]
async fn a_secret_that_somebody_else_made_is_left_alone() {
    let scene = Scene::new("HTTP-01");
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).expect("a certificate");
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let theirs = json!({
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": STANDARD.encode(&chain), "tls.key": STANDARD.encode(&key)},
    });
    scene.api.put(Kind::Secret, NAMESPACE, SECRET, theirs);
    scene.put_gateway(true, HOST);
    let operator = Operator::start(&scene.api, true, scene.folder.path()).await;
    // The account is registered, and nothing is ordered by it.
    until("the issuer is ready", async || {
        let ready = scene.condition(Kind::AcmeIssuer, "pebble", None, "Ready")?;
        (ready["status"] == "True").then_some(())
    })
    .await;
    scene.listener_says("ResolvedRefs", "True").await;
    assert_eq!(scene.orders(), 0);
    assert_eq!(scene.chain(), Some(chain));
    assert!(scene.secret(&order_secret(SECRET)).is_none());
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Pebble: cargo xtask pebble"]
async fn where_the_operator_may_not_write_the_ca_is_asked_for_nothing() {
    let scene = Scene::new("HTTP-01");
    scene.api.guard();
    scene.put_gateway(true, HOST);
    let operator = Operator::start(&scene.api, true, scene.folder.path()).await;
    let ready = until("the issuer says so", async || {
        let ready = scene.condition(Kind::AcmeIssuer, "pebble", None, "Ready")?;
        (ready["reason"] == "Forbidden").then_some(ready)
    })
    .await;
    assert!(
        ready["message"]
            .as_str()
            .is_some_and(|message| message.contains("acme.namespaces")),
        "{ready}"
    );
    operator.end().await;
    let said = scene.pebble.said();
    assert!(!said.iter().any(|line| line.contains("/sign-me-up")), "{said:?}");
}
