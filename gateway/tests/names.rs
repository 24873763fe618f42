//! XBackends by the names of DNS, with a real DNS and real upstreams on loopback.

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, StreamOwned, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use support::{ask, body, dns::Dns, free_port, proxy, until};
use weft_gateway::{Standalone, StandaloneOptions, files::Sources, names::NamesOptions};

const API: &str = "api.elsewhere.example";

/// An authority that issues certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

struct Issued {
    pem: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let made = params.self_signed(&key).expect("a certificate");
        Self {
            pem: made.pem(),
            certificate: made.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![usage];
        let made = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued {
            pem: made.pem(),
            der: made.der().clone(),
            key,
        }
    }
}

/// Upstreams on one port of several addresses of loopback. Each speaks TLS, wants a certificate of its clients, and says
/// which it is, by which name it was asked for, and for which host.
fn upstreams(authority: &Authority, name: &str, lasts: &[u8]) -> u16 {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).expect("a root");
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let shown = authority.issue(name, ExtendedKeyUsagePurpose::ServerAuth);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(shown.key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(clients.expect("a verifier"))
        .with_single_cert(vec![shown.der], key);
    let config = Arc::new(config.expect("a certificate"));
    let mut port = 0;
    for last in lasts {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, *last), port)).expect("the port is free");
        port = listener.local_addr().expect("it is bound").port();
        let (config, last) = (config.clone(), *last);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let Ok(connection) = rustls::ServerConnection::new(config.clone()) else {
                    return;
                };
                thread::spawn(move || answer(BufReader::new(StreamOwned::new(connection, stream)), last));
            }
        });
    }
    port
}

fn answer(mut stream: BufReader<StreamOwned<rustls::ServerConnection, std::net::TcpStream>>, last: u8) -> Option<()> {
    loop {
        let mut host = String::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("host:") {
                host = value.trim().to_owned();
            }
            if line == "\r\n" {
                break;
            }
        }
        let sni = stream.get_ref().conn.server_name().unwrap_or_default().to_owned();
        let body = format!("{last} sni={sni} host={host}");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.get_mut().write_all(answer.as_bytes()).ok()?;
        stream.get_mut().flush().ok()?;
    }
}

fn indented(pem: &str) -> String {
    pem.lines().map(|line| format!("    {line}\n")).collect()
}

fn options(folder: &Path, dns: &Dns) -> StandaloneOptions {
    StandaloneOptions {
        sources: Sources::new(&[folder.to_owned()]),
        proxy: proxy(),
        echo: false,
        admin: Some((Ipv4Addr::LOCALHOST, 0).into()),
        names: NamesOptions {
            servers: vec![dns.address],
            ttl: (Duration::from_millis(20), Duration::from_secs(300)),
            retry: (Duration::from_millis(20), Duration::from_millis(100)),
            ..NamesOptions::standalone()
        },
    }
}

fn gateway(port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  gatewayClassName: weft
  listeners: [{{name: http, protocol: HTTP, port: {port}}}]
"
    )
}

/// An XBackend and a route to it.
fn xbackend(name: &str, hostname: &str, port: u16, tls: &str) -> String {
    format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackend
metadata: {{name: {name}}}
spec:
  type: ExternalHostname
  port: {{port: {port}}}
  externalHostname: {{hostname: {hostname}}}
{tls}---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: edge}}]
  rules:
    - matches: [{{path: {{value: /{name}}}}}]
      backendRefs: [{{group: gateway.networking.x-k8s.io, kind: XBackend, name: {name}}}]
"
    )
}

/// What the admin page says of a name.
async fn known(standalone: &Standalone, name: &str) -> Option<Value> {
    let admin = standalone.admin().expect("there are admin pages");
    let page: Value = serde_json::from_str(&body(admin.port(), "/names").await?).ok()?;
    page.get(name).cloned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_is_followed_wherever_dns_says_it_is() {
    let (folder, dns, authority) = (tempfile::tempdir().expect("a folder"), Dns::start(), Authority::new());
    let upstream = upstreams(&authority, API, &[2, 3]);
    let client = authority.issue("edge.shop.example", ExtendedKeyUsagePurpose::ClientAuth);
    let port = free_port();
    let tls = "  tls:
    mode: ClientAndServer
    clientCertificateRef: {name: edge}
    validation:
      hostname: api.elsewhere.example
      caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]
";
    let trust = format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: roots}}
data:
  ca.crt: |
{}---
apiVersion: v1
kind: Secret
metadata: {{name: edge}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}",
        indented(&authority.pem),
        indented(&client.pem),
        indented(&client.key.serialize_pem())
    );
    let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).expect("written");
    write("gateway.yaml", &gateway(port));
    write("trust.yaml", &trust);
    write("api.yaml", &xbackend("api", API, upstream, tls));
    let other = "other.elsewhere.example";
    write("other.yaml", &xbackend("other", other, upstream, ""));
    dns.say(other, &["127.0.0.2"], 0);
    let standalone = Standalone::start(options(folder.path(), &dns)).await.expect("started");
    let says = async |wanted: &str| {
        let answer = ask(port, "/api").await;
        answer.is_some_and(|answer| answer.ends_with(wanted))
    };

    until("it is said that there is no such name", async || {
        let known = known(&standalone, API).await.unwrap_or_default();
        known["failure"].as_str().is_some_and(|why| why.contains("NXDOMAIN"))
    })
    .await;
    assert!(says("unresolved\n").await);

    dns.say(API, &["127.0.0.2"], 0);
    let at = |last: u8| format!("{last} sni={API} host=shop.example");
    until("it is served where DNS says", async || says(&at(2)).await).await;

    // Whoever asks all the time notices nothing.
    let (stop, failed, asked) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
    let asking = {
        let (stop, failed, asked): (_, Arc<AtomicUsize>, Arc<AtomicUsize>) =
            (stop.clone(), Arc::clone(&failed), Arc::clone(&asked));
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let answer = ask(port, "/api").await.unwrap_or_default();
                if !answer.starts_with("HTTP/1.1 200") {
                    failed.fetch_add(1, Ordering::SeqCst);
                }
                asked.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    for last in [3, 2, 3] {
        dns.say(API, &[&format!("127.0.0.{last}")], 0);
        until("it is served at the new address", async || says(&at(last)).await).await;
    }
    // The last answer is good as long as there is no other.
    dns.fail(API);
    until("it is said that there is no answer", async || {
        let known = known(&standalone, API).await.unwrap_or_default();
        known["failure"].is_string() && known["addresses"] == serde_json::json!(["127.0.0.3"])
    })
    .await;
    let before = asked.load(Ordering::SeqCst);
    until("it goes on being served", async || {
        asked.load(Ordering::SeqCst) > before + 10
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    asking.await.expect("asked");
    assert_eq!(failed.load(Ordering::SeqCst), 0);

    dns.say(API, &["127.0.0.9"], 0);
    until("nobody answers there", async || says("connect_failed\n").await).await;
    dns.say(API, &["127.0.0.2"], 0);
    until("it is served again", async || says(&at(2)).await).await;

    // Of what is not in use any more nobody asks.
    fs::remove_file(folder.path().join("api.yaml")).expect("removed");
    until("the name is forgotten", async || {
        known(&standalone, API).await.is_none()
    })
    .await;
    let (of_api, of_other) = (dns.asked(API), dns.asked(other));
    until("the other is still asked for", async || {
        dns.asked(other) > of_other + 10
    })
    .await;
    assert!(
        dns.asked(API) <= of_api + 1,
        "at most by a question that was on its way"
    );
    assert_eq!(dns.names(), [API, other], "no search domain is tried");
    standalone.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_kept_for_its_time_and_the_other_family_is_better_than_none() {
    let (folder, dns, port) = (tempfile::tempdir().expect("a folder"), Dns::start(), free_port());
    let (long, short) = ("long.elsewhere.example", "short.elsewhere.example");
    dns.say(long, &["127.0.0.1", "::1"], 3600);
    dns.say(short, &["::1"], 0);
    let manifests = [
        gateway(port),
        xbackend("long", long, 80, ""),
        xbackend("short", short, 80, ""),
    ];
    fs::write(folder.path().join("all.yaml"), manifests.join("---\n")).expect("written");
    let standalone = Standalone::start(options(folder.path(), &dns)).await.expect("started");
    until("both are resolved", async || {
        let (long, short) = (known(&standalone, long).await, known(&standalone, short).await);
        let addresses = |known: Option<Value>| known.unwrap_or_default()["addresses"].clone();
        addresses(long) == serde_json::json!(["127.0.0.1"]) && addresses(short) == serde_json::json!(["::1"])
    })
    .await;
    let of_long = dns.asked(long);
    until("the short one is asked for again and again", async || {
        dns.asked(short) > 20
    })
    .await;
    assert_eq!(dns.asked(long), of_long);
    standalone.shutdown().await;
}
