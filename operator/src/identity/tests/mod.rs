//! Workloads ask a whole identity service, by sockets, of which only the API server is not real.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use weft_crds::Kind;
use weft_discovery::{
    Authenticate as _, DataPlane, Endpoint, IdentityClient, IdentityError, Publisher, Server, Shown, Signed, Trust,
    Trusts,
};
use weft_model::{Serial, SpiffeId, TrustDomain};

mod cert_manager;
mod roots;
mod tokens;

use super::{IssuerKind, IssuerReference, Settings, TERMS, start};
use crate::{
    authority::pem,
    lease::Claim,
    metrics::Metrics,
    mock::{Api, certificate},
    tokens::Tokens,
};

const PATIENCE: Duration = Duration::from_secs(30);
const NAMESPACE: &str = "weft-system";
/// Where all that ask are.
const HERE: &str = "127.0.0.1";
const NAME: &str = "operator.weft.dev";
const FRONT: &str = "spiffe://cluster.local/ns/shop/sa/front";
const REQUESTS: &str = "/apis/cert-manager.io/v1/namespaces/weft-system/certificaterequests";

/// A request as PEM.
pub(super) fn csr_pem(der: &[u8]) -> String {
    let lines: Vec<String> = STANDARD
        .encode(der)
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        lines.join("\n")
    )
}

fn request(key: &KeyPair, identity: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.try_into().expect("ASCII"))];
    let request = params.serialize_request(key).expect("made");
    csr_pem(request.der())
}

fn status(account: &str, pod: Option<&str>) -> Value {
    let mut status = json!({
        "authenticated": true,
        "audiences": ["weft.dev"],
        "user": {"username": format!("system:serviceaccount:{account}")},
    });
    if let Some(pod) = pod {
        status["user"]["extra"] = json!({"authentication.kubernetes.io/pod-name": [pod]});
    }
    status
}

/// Puts a pod that has an address.
fn put_pod(api: &Api, namespace: &str, name: &str, address: &str) {
    let pod = json!({
        "metadata": {"name": name}, "spec": {},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    });
    api.set(&format!("/api/v1/namespaces/{namespace}/pods"), name, pod);
}

/// Makes a pod and its token, which it shows from here.
fn bound(api: &Api, token: &str, account: &str, pod: &str) {
    let (namespace, _) = account.split_once(':').expect("a namespace");
    put_pod(api, namespace, pod, HERE);
    api.token(token, status(account, Some(pod)));
}

/// One replica of an operator, as far as identity goes.
struct Replica {
    address: std::net::SocketAddr,
    tasks: Vec<JoinHandle<()>>,
    folder: tempfile::TempDir,
    metrics: Metrics,
    _stop: watch::Sender<bool>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn settings(issuer: IssuerKind) -> Settings {
    Settings {
        trust_domain: TrustDomain::parse("cluster.local").expect("a trust domain"),
        lifetime: Duration::from_secs(3600),
        issuer,
        reference: IssuerReference {
            name: "vault".to_owned(),
            kind: "ClusterIssuer".to_owned(),
            group: "cert-manager.io".to_owned(),
        },
        owner: Some(OwnerReference {
            name: "weft-operator-1".to_owned(),
            ..OwnerReference::default()
        }),
        roots: "weft-identity-roots".to_owned(),
        look: Duration::from_millis(20),
        patience: Duration::from_secs(1),
    }
}

impl Replica {
    async fn start(api: &Api, issuer: IssuerKind) -> Self {
        Self::listening(api, issuer, "127.0.0.1:0").await
    }

    async fn listening(api: &Api, issuer: IssuerKind, at: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = api.client();
        let claim: Claim = Some(std::time::Instant::now() + 100 * PATIENCE);
        let (_, claim) = watch::channel(claim);
        let metrics = Metrics::new();
        let tokens = Arc::new(Tokens::new(client.clone(), metrics.clone()));
        let (identities, keep) = start(&client, NAMESPACE, settings(issuer), tokens.clone(), claim, &metrics);
        let (tls, roots) = certificate(NAME);
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.crt"), roots).expect("written");
        let listener = TcpListener::bind(at).await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let (stop, stopped) = watch::channel(false);
        let server = Server::new(Publisher::new(), tokens).with_identities(Arc::new(identities));
        let serving = tokio::spawn(async move {
            server.listen(listener, tls, stopped).await.expect("served");
        });
        Self {
            address,
            tasks: vec![tokio::spawn(keep), serving],
            folder,
            metrics,
            _stop: stop,
        }
    }

    async fn connect(&self, token: &str) -> IdentityClient {
        let file = self.folder.path().join(format!("token-{}", token.len()));
        std::fs::write(&file, token).expect("written");
        let endpoint = Endpoint {
            address: self.address.to_string(),
            server_name: NAME.to_owned(),
            roots: self.folder.path().join("ca.crt"),
            token: file,
        };
        IdentityClient::connect(&endpoint).await.expect("it listens")
    }

    async fn trust(&self, token: &str) -> (Trusts, Trust) {
        let mut client = self.connect(token).await;
        let mut trusts = client.trust().await.expect("the token is good");
        let trust = timeout(PATIENCE, trusts.next()).await.expect("it is told");
        (trusts, trust.expect("it is told"))
    }

    async fn sign(&self, token: &str, identity: &str) -> Result<Signed, IdentityError> {
        let key = KeyPair::generate().expect("a key");
        self.connect(token).await.sign(request(&key, identity)).await
    }

    /// Signs once the operator has what it signs by.
    async fn signed(&self, token: &str) -> Signed {
        self.trust(token).await;
        let key = KeyPair::generate().expect("a key");
        let signed = self.connect(token).await.sign(request(&key, FRONT)).await;
        signed.expect("signed")
    }
}

#[track_caller]
fn assert_refused(refused: Result<Signed, IdentityError>, code: &str, why: &str) {
    let Err(IdentityError::Refused(status)) = refused else {
        panic!("it was not refused: {refused:?}");
    };
    assert_eq!(format!("{:?}", status.code()), code, "{}", status.message());
    assert!(status.message().contains(why), "{}", status.message());
}

/// Whether a peer that knows these roots takes a chain, both as a client's and as a server's.
fn trusts(roots: &str, chain: &str) -> bool {
    let mut store = rustls::RootCertStore::empty();
    for root in pem::read(roots).expect("PEM") {
        store.add(root).expect("a root");
    }
    let store = Arc::new(store);
    let chain = pem::read(chain).expect("PEM");
    let now = UnixTime::now();
    let verifier = rustls::server::WebPkiClientVerifier::builder(store.clone())
        .build()
        .expect("there are roots");
    let as_client =
        rustls::server::danger::ClientCertVerifier::verify_client_cert(&*verifier, &chain[0], &chain[1..], now);
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let parsed = rustls::server::ParsedCertificate::try_from(&chain[0]).expect("a certificate");
    let as_server =
        rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &store, &chain[1..], now, algorithms.all);
    as_client.is_ok() && as_server.is_ok()
}

fn serial(chain: &str) -> Serial {
    let chain = pem::read(chain).expect("PEM");
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).expect("a certificate");
    Serial::of(leaf.raw_serial())
}

fn shop() -> Api {
    let api = Api::default();
    bound(&api, "front", "shop:front", "front-1");
    api
}

/// A CA as a user would make one: with what it is signed by, if that is another.
fn ca(name: &str, above: Option<(&str, &KeyPair)>, below: Option<u8>) -> (String, KeyPair) {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let below = below.map_or(
        rcgen::BasicConstraints::Unconstrained,
        rcgen::BasicConstraints::Constrained,
    );
    params.is_ca = rcgen::IsCa::Ca(below);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let made = match above {
        None => params.self_signed(&key),
        Some((pem, by)) => {
            let first = pem::read(pem).expect("PEM");
            let issuer = rcgen::Issuer::from_ca_cert_der(&first[0], by).expect("a CA");
            params.signed_by(&key, &issuer)
        }
    };
    (made.expect("made").pem(), key)
}
