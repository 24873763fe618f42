//! What the conformance suite of Gateway API asks of gRPC and of TLS from v1.7 on, by manifests and real sockets. Each test
//! has the name of the suite's.

mod support;

use std::{fmt::Write as _, net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use h2::{client, server};
use http::{HeaderMap, Request, Response};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use support::free_port;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What a field says that a test looks at.
const SEEN: &str = "x-seen";

/// Who vouches for backends, and for the Gateway where it ends TLS.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
struct Certified {
    pem: String,
    key_pem: String,
    der: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a root"))
    }

    fn certify(&self, name: &str) -> Certified {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let made = params.signed_by(&key, &self.0).expect("a certificate");
        Certified {
            pem: made.pem(),
            key_pem: key.serialize_pem(),
            der: made.der().clone(),
            key: PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
        }
    }

    fn connector(&self, alpn: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a root");
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

impl Certified {
    fn acceptor(self) -> TlsAcceptor {
        let config = ServerConfig::builder().with_no_client_auth();
        let mut config = config
            .with_single_cert(vec![self.der], self.key)
            .expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A backend of gRPC, which says who it is, what it was asked and what a field said; by TLS if it has a certificate. Returns
/// its port.
async fn backend(name: &'static str, certified: Option<Certified>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    let acceptor = certified.map(Certified::acceptor);
    // It ends with the runtime of its test.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor {
                    None => serve(name, stream).await,
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => serve(name, stream).await,
                        // Who does not believe it goes away.
                        Err(_) => None,
                    },
                }
            });
        }
    });
    port
}

async fn serve(name: &str, stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
    let mut connection = server::handshake(stream).await.ok()?;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let mut seen = format!("{name} {}", request.uri().path());
        for (field, value) in request.headers() {
            if field.as_str().starts_with("x-") {
                write!(seen, " {field}={}", value.to_str().ok()?).ok()?;
            }
        }
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header(SEEN, seen);
        let mut body = respond.send_response(response.body(()).ok()?, false).ok()?;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().ok()?);
        body.send_trailers(trailers).ok()?;
    }
    Some(())
}

/// Calls by a connection; returns the status, and what the backend has seen.
async fn call(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, host: &str, path: &str) -> (u16, String) {
    let (client, connection) = client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    let request = Request::post(format!("http://{host}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-set", "by the client")
        .header("x-remove", "by the client");
    let request = request.body(()).expect("a request");
    let (response, mut body) = client.send_request(request, false).expect("sent");
    body.send_data(Bytes::new(), true).expect("sent");
    let response = response.await.expect("an answer");
    let seen = response.headers().get(SEEN);
    let seen = seen.and_then(|seen| seen.to_str().ok()).unwrap_or_default().to_owned();
    connection.abort();
    (response.status().as_u16(), seen)
}

async fn plain(port: u16) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .expect("connected")
}

/// A Gateway with one listener.
fn gateway(name: &str, listener: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}}}
spec: {{gatewayClassName: weft, listeners: [{listener}]}}
---
"
    )
}

/// A Service of gRPC with one endpoint on loopback.
fn service(name: &str, port: u16) -> String {
    support::service(name, port, "kubernetes.io/h2c")
}

/// A BackendTLSPolicy of a Service, and the root that it names.
fn policy(service: &str, hostname: &str, authority: &Authority) -> String {
    let root = authority.0.pem().replace('\n', "\n    ");
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: root-{service}}}
data:
  ca.crt: |
    {root}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {service}}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]
  validation: {{hostname: {hostname}, caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: root-{service}}}]}}
---
"
    )
}

/// A GRPCRoute with one rule.
fn grpc_route(name: &str, parents: &str, hostname: &str, rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{parents}]
  hostnames: [{hostname:?}]
  rules: [{{{rule}}}]
---
"
    )
}

fn tls_route(name: &str, made: &str, hostname: &str, to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {{name: {name}, creationTimestamp: {made:?}}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [{hostname:?}]
  rules: [{{backendRefs: [{{name: {to}, port: 80}}]}}]
---
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_route_request_header_modifier() {
    let port = free_port();
    let rule = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: set}], add: [{name: x-add, value: added}], remove: [x-remove]}}], backendRefs: [{name: one, port: 80}]";
    let text = gateway("edge", &format!("{{name: http, protocol: HTTP, port: {port}}}"))
        + &service("one", backend("one", None).await)
        + &grpc_route("a", "{name: edge}", "grpc.example", rule);
    let (standalone, _folder) = support::standalone(&text).await;
    let (status, seen) = call(plain(port).await, "grpc.example", "/pkg.Service/Call").await;
    assert_eq!(status, 200);
    assert!(seen.contains(" x-set=set") && seen.contains(" x-add=added"), "{seen}");
    assert!(!seen.contains("by the client"), "{seen}");
    standalone.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_route_multiple_gateways() {
    let ports = [free_port(), free_port()];
    let listener = |port: u16| format!("{{name: http, protocol: HTTP, port: {port}}}");
    let text = gateway("edge", &listener(ports[0]))
        + &gateway("other", &listener(ports[1]))
        + &service("one", backend("one", None).await)
        + &grpc_route(
            "a",
            "{name: edge}, {name: other}",
            "grpc.example",
            "backendRefs: [{name: one, port: 80}]",
        );
    let (standalone, _folder) = support::standalone(&text).await;
    for port in ports {
        let (status, seen) = call(plain(port).await, "grpc.example", "/pkg.Service/Call").await;
        assert!(
            status == 200 && seen.starts_with("one /pkg.Service/Call"),
            "{status} {seen}"
        );
    }
    standalone.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_route_multiple_routes_attachment_same_hostname_intersection() {
    let port = free_port();
    let rule = |method: &str, to: &str| {
        format!(
            "matches: [{{method: {{service: pkg.Service, method: {method}}}}}], backendRefs: [{{name: {to}, port: 80}}]"
        )
    };
    // What both are for at the listener is the same host, though they name it differently.
    let text = gateway(
        "edge",
        &format!("{{name: http, protocol: HTTP, port: {port}, hostname: grpc.example}}"),
    ) + &service("one", backend("one", None).await)
        + &service("two", backend("two", None).await)
        + &grpc_route("a", "{name: edge}", "grpc.example", &rule("One", "one"))
        + &grpc_route("b", "{name: edge}", "*.example", &rule("Two", "two"));
    let (standalone, _folder) = support::standalone(&text).await;
    for (path, answers) in [("/pkg.Service/One", "one "), ("/pkg.Service/Two", "two ")] {
        let (status, seen) = call(plain(port).await, "grpc.example", path).await;
        assert!(status == 200 && seen.starts_with(answers), "{path}: {status} {seen}");
    }
    standalone.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_tls_policy_grpc_route() {
    let (port, authority) = (free_port(), Authority::new());
    let rule = |to: &str| format!("backendRefs: [{{name: {to}, port: 80}}]");
    let text = gateway("edge", &format!("{{name: http, protocol: HTTP, port: {port}}}"))
        + &service("one", backend("one", Some(authority.certify("one.example"))).await)
        + &service("two", backend("two", Some(authority.certify("two.example"))).await)
        + &policy("one", "one.example", &authority)
        + &policy("two", "another.example", &authority)
        + &grpc_route("a", "{name: edge}", "grpc.example", &rule("one"))
        + &grpc_route("b", "{name: edge}", "wrong.example", &rule("two"));
    let (standalone, _folder) = support::standalone(&text).await;
    let (status, seen) = call(plain(port).await, "grpc.example", "/pkg.Service/Call").await;
    assert!(status == 200 && seen.starts_with("one "), "{status} {seen}");
    // Its certificate is for another name than the policy has: whatever is answered, it is not the backend who does.
    let (_, seen) = call(plain(port).await, "wrong.example", "/pkg.Service/Call").await;
    assert_eq!(seen, "");
    standalone.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_tls_policy_tls_route_terminate() {
    let (port, authority) = (free_port(), Authority::new());
    let shown = authority.certify("edge.example");
    let indent = |pem: &str| pem.replace('\n', "\n    ");
    let secret = format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: shown}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
    {}
  tls.key: |
    {}
---
",
        indent(&shown.pem),
        indent(&shown.key_pem)
    );
    let listener = format!(
        "{{name: tls, protocol: TLS, port: {port}, tls: {{mode: Terminate, certificateRefs: [{{name: shown}}]}}}}"
    );
    let text = gateway("edge", &listener)
        + &secret
        + &service("one", backend("one", Some(authority.certify("one.example"))).await)
        + &policy("one", "one.example", &authority)
        + &tls_route("a", "2026-01-01T00:00:00Z", "edge.example", "one");
    let (standalone, _folder) = support::standalone(&text).await;
    // It speaks TLS with the Gateway, and the Gateway with the backend.
    let name = ServerName::try_from("edge.example").expect("a name");
    let connector = authority.connector(&[]);
    let stream = connector
        .connect(name, plain(port).await)
        .await
        .expect("TLS with the Gateway");
    let (status, seen) = call(stream, "edge.example", "/pkg.Service/Call").await;
    assert!(status == 200 && seen.starts_with("one "), "{status} {seen}");
    standalone.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_route_multiple_routes_attachment_same_hostname_intersection() {
    let (port, authority) = (free_port(), Authority::new());
    let listener =
        format!("{{name: tls, protocol: TLS, port: {port}, hostname: edge.example, tls: {{mode: Passthrough}}}}");
    let text = gateway("edge", &listener)
        + &service("one", backend("one", Some(authority.certify("edge.example"))).await)
        + &service("two", backend("two", Some(authority.certify("edge.example"))).await)
        + &tls_route("younger", "2026-02-01T00:00:00Z", "edge.example", "two")
        + &tls_route("older", "2026-01-01T00:00:00Z", "edge.example", "one");
    let (standalone, _folder) = support::standalone(&text).await;
    for _ in 0..3 {
        let name = ServerName::try_from("edge.example").expect("a name");
        let connector = authority.connector(&["h2"]);
        let stream = connector
            .connect(name, plain(port).await)
            .await
            .expect("TLS with the backend");
        let (_, seen) = call(stream, "edge.example", "/").await;
        assert!(
            seen.starts_with("one "),
            "the older route is the one that counts: {seen}"
        );
    }
    standalone.shutdown().await;
}
