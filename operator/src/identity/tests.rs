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

#[tokio::test]
async fn a_pod_gets_a_certificate_of_its_service_account_and_of_nothing_else() {
    let api = shop();
    let replica = Replica::start(&api, IssuerKind::BuiltIn).await;
    let (_, trust) = replica.trust("front").await;
    assert_eq!(trust.identity, SpiffeId::parse(FRONT).expect("an identity"));
    let signed = replica.signed("front").await;
    assert!(trusts(&trust.trust.roots_pem, &signed.chain_pem));
    let chain = pem::read(&signed.chain_pem).expect("PEM");
    // A leaf and an intermediate; the root is known.
    assert_eq!(chain.len(), 2);
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).expect("a certificate");
    assert_eq!(leaf.subject().iter().count(), 0);
    assert!(!leaf.is_ca());
    assert_eq!(
        signed.not_after - signed.not_before,
        3600 + crate::authority::SKEW.as_secs()
    );
    assert_ne!(
        serial(&signed.chain_pem),
        serial(&replica.signed("front").await.chain_pem)
    );

    let other = replica.sign("front", "spiffe://cluster.local/ns/shop/sa/back").await;
    assert_refused(other, "PermissionDenied", "asks for a name other than");
    let mut client = replica.connect("front").await;
    assert_refused(client.sign("nonsense".to_owned()).await, "InvalidArgument", "PKCS #10");
    let long = client.sign("x".repeat(9000)).await;
    assert!(matches!(long, Err(IdentityError::Refused(_))), "{long:?}");
}

#[tokio::test]
async fn only_the_token_of_a_pod_that_is_there_gets_anything() {
    let api = shop();
    api.token("unbound", status("shop:front", None));
    api.token("elsewhere", {
        let mut status = status("shop:front", Some("front-1"));
        status["audiences"] = json!(["https://kubernetes.default.svc"]);
        status
    });
    api.token(
        "person",
        json!({"authenticated": true, "audiences": ["weft.dev"], "user": {"username": "admin"}}),
    );
    let replica = Replica::start(&api, IssuerKind::BuiltIn).await;
    for (token, why) in [
        ("unknown", "does not prove a workload"),
        ("unbound", "bound to no pod"),
        ("elsewhere", "audience"),
        ("person", "not a service account"),
    ] {
        assert_refused(replica.sign(token, FRONT).await, "Unauthenticated", why);
        let told = replica.connect(token).await.trust().await;
        assert!(matches!(told, Err(IdentityError::Refused(_))));
    }
    // What was good a moment ago is asked about again.
    replica.signed("front").await;
    api.token("front", json!({"authenticated": false, "error": "token has expired"}));
    assert_refused(
        replica.sign("front", FRONT).await,
        "Unauthenticated",
        "token has expired",
    );
}

#[tokio::test]
async fn a_token_that_another_pod_shows_is_refused_and_counted() {
    let api = shop();
    // A socket of both families says that addresses of IPv4 are of IPv6.
    for at in ["127.0.0.1:0", "[::]:0"] {
        put_pod(&api, "shop", "front-1", HERE);
        let replica = Replica::listening(&api, IssuerKind::BuiltIn, at).await;
        replica.signed("front").await;
        put_pod(&api, "shop", "front-1", "10.244.0.7");
        // The address is nobody's: say, of a node that puts its own in the place of a pod's.
        replica.signed("front").await;
        put_pod(&api, "other", "thief", HERE);
        let refused = replica.sign("front", FRONT).await;
        assert_refused(refused, "PermissionDenied", "the address of the pod other/thief");
        let counted = replica.metrics.render();
        assert!(counted.contains("weft_operator_stolen_tokens_total 1\n"), "{counted}");
        assert!(counted.contains(r#"result="forbidden"} 1"#), "{counted}");
        api.remove("/api/v1/namespaces/other/pods", "thief");
        replica.signed("front").await;
    }
}

#[tokio::test]
async fn a_token_that_another_pod_shows_reads_nothing() {
    let api = shop();
    put_pod(&api, "shop", "front-1", "10.244.0.7");
    put_pod(&api, "other", "thief", HERE);
    let replica = Replica::start(&api, IssuerKind::BuiltIn).await;
    let told = replica.connect("front").await.trust().await;
    assert!(matches!(told, Err(IdentityError::Refused(_))));
    let tokens = Tokens::new(api.client(), Metrics::new());
    let front = DataPlane::sidecar("shop", "front-1");
    let from = |from: &str| Shown {
        token: "front",
        from: from.parse().expect("an address"),
    };
    let denied = tokens
        .authenticate(from(HERE), &front)
        .await
        .expect_err("it was stolen");
    assert!(denied.to_string().contains("other/thief"), "{denied}");
    // What was found out of one address is not believed of another.
    assert!(tokens.authenticate(from("10.244.0.7"), &front).await.is_ok());
    assert!(tokens.authenticate(from(HERE), &front).await.is_err());
}

#[tokio::test]
async fn a_token_ends_with_its_pod_at_once() {
    let api = shop();
    let replica = Replica::start(&api, IssuerKind::BuiltIn).await;
    replica.signed("front").await;
    // The API server may remember for a while that it was good.
    api.remove("/api/v1/namespaces/shop/pods", "front-1");
    assert_refused(replica.sign("front", FRONT).await, "Unauthenticated", "its pod is gone");
}

#[tokio::test]
async fn the_token_by_which_a_gateway_is_told_what_to_serve_says_who_it_is_too() {
    let api = Api::default();
    bound(&api, "gateway", "shop:edge-weft", "edge-weft-1");
    let replica = Replica::start(&api, IssuerKind::BuiltIn).await;
    let gateway = |replica| DataPlane::of_gateway("shop/edge".into(), replica);
    let tokens = Tokens::new(api.client(), Metrics::new());
    let shown = Shown {
        token: "gateway",
        from: HERE.parse().expect("an address"),
    };
    assert!(tokens.authenticate(shown, &gateway("edge-weft-1")).await.is_ok());
    assert!(tokens.authenticate(shown, &gateway("edge-weft-2")).await.is_err());
    let (_, trust) = replica.trust("gateway").await;
    let edge = "spiffe://cluster.local/ns/shop/sa/edge-weft";
    assert_eq!(trust.identity.as_str(), edge);
    let signed = replica.sign("gateway", edge).await.expect("signed");
    assert!(trusts(&trust.trust.roots_pem, &signed.chain_pem));
    let other = replica
        .sign("gateway", "spiffe://cluster.local/ns/shop/sa/other-weft")
        .await;
    assert_refused(other, "PermissionDenied", "asks for a name other than");
}

#[tokio::test]
async fn a_pod_that_asks_again_and_again_is_told_to_wait() {
    let replica = Replica::start(&shop(), IssuerKind::BuiltIn).await;
    replica.trust("front").await;
    let refused = loop {
        if let Err(refused) = replica.sign("front", FRONT).await {
            break refused;
        }
    };
    assert_refused(Err(refused), "ResourceExhausted", "shop/front-1");
}

#[tokio::test]
async fn replicas_sign_by_the_same_root_and_any_of_them_answers() {
    let api = shop();
    let (one, two) = (
        Replica::start(&api, IssuerKind::BuiltIn).await,
        Replica::start(&api, IssuerKind::BuiltIn).await,
    );
    let (_, trust) = one.trust("front").await;
    assert_eq!(trust, two.trust("front").await.1);
    for replica in [&one, &two] {
        assert!(trusts(&trust.trust.roots_pem, &replica.signed("front").await.chain_pem));
    }
}

fn secret(api: &Api, type_: &str, entries: &[(&str, String)]) {
    let data: serde_json::Map<String, Value> = entries
        .iter()
        .map(|(name, text)| ((*name).to_owned(), STANDARD.encode(text).into()))
        .collect();
    api.put(
        Kind::Secret,
        NAMESPACE,
        TERMS.secret,
        json!({"type": type_, "data": data}),
    );
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

#[tokio::test]
async fn a_ca_that_was_brought_signs_with_what_is_above_it() {
    let (root, root_key) = ca("root", None, None);
    for (below, length) in [(None, 3), (Some(0), 2)] {
        let (middle, key) = ca("middle", Some((&root, &root_key)), below);
        let api = shop();
        let certificates = format!("{middle}{root}");
        secret(
            &api,
            "Opaque",
            &[("ca.crt", certificates), ("ca.key", key.serialize_pem())],
        );
        let replica = Replica::start(&api, IssuerKind::BuiltIn).await;
        let (_, trust) = replica.trust("front").await;
        let told = pem::read(&trust.trust.roots_pem).expect("PEM");
        assert_eq!(told, pem::read(&root).expect("PEM"));
        let signed = replica.signed("front").await;
        assert_eq!(pem::read(&signed.chain_pem).expect("PEM").len(), length);
        assert!(trusts(&root, &signed.chain_pem), "{below:?}");
    }
}

#[tokio::test]
async fn a_new_root_is_told_before_it_signs_and_certificates_of_the_old_one_hold_on() {
    let (first, first_key) = ca("first", None, None);
    let (second, second_key) = ca("second", None, None);
    let api = shop();
    let current = [("ca.crt", first.clone()), ("ca.key", first_key.serialize_pem())];
    secret(&api, "Opaque", &current);
    let replica = Replica::start(&api, IssuerKind::BuiltIn).await;
    let (mut told, trust) = replica.trust("front").await;
    let before = replica.signed("front").await;
    assert!(trusts(&trust.trust.roots_pem, &before.chain_pem));

    // The next one is put beside it: it is told, and does not sign yet.
    let next = [("next.crt", second.clone()), ("next.key", second_key.serialize_pem())];
    secret(&api, "Opaque", &[&current[..], &next].concat());
    let both = told.next().await.expect("told");
    assert_eq!(pem::read(&both.trust.roots_pem).expect("PEM").len(), 2);
    let meanwhile = replica.signed("front").await;
    assert!(trusts(&first, &meanwhile.chain_pem) && !trusts(&second, &meanwhile.chain_pem));

    // It has been told for long enough.
    let kept = api.get(Kind::Secret, NAMESPACE, TERMS.secret).expect("it is there");
    assert!(kept["data"]["next.since"].is_string(), "{kept}");
    let since = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(49);
    let since = [("next.since", since.to_string())];
    secret(&api, "Opaque", &[&current[..], &next, &since].concat());
    let moved = timeout(PATIENCE, async {
        // Each time another pod, since one may not ask so often.
        for pod in 2.. {
            bound(&api, "front", "shop:front", &format!("front-{pod}"));
            let signed = replica.signed("front").await;
            if trusts(&second, &signed.chain_pem) {
                return signed;
            }
        }
        unreachable!("there is always another pod")
    });
    let moved = moved.await.expect("the next root signs");
    // Whoever was told of both takes certificates of both.
    for chain in [&before, &meanwhile, &moved] {
        assert!(trusts(&both.trust.roots_pem, &chain.chain_pem));
    }
    let (_, after) = replica.trust("front").await;
    assert!(trusts(&after.trust.roots_pem, &before.chain_pem));
}

#[tokio::test]
async fn who_is_revoked_is_told_to_all_and_gets_no_certificate_any_more() {
    let api = shop();
    bound(&api, "back", "shop:back", "back-1");
    let replica = Replica::start(&api, IssuerKind::BuiltIn).await;
    let (mut told, trust) = replica.trust("back").await;
    assert!(trust.trust.revoked.is_empty());
    let signed = replica.signed("front").await;
    let serial = serial(&signed.chain_pem);
    let data = json!({"data": {"identities": format!("{FRONT}\nnonsense\n"), "serials": serial.as_str()}});
    api.put(Kind::ConfigMap, NAMESPACE, "weft-revocations", data);
    let trust = told.next().await.expect("told").trust;
    assert!(
        trust
            .revoked
            .identities
            .contains(&SpiffeId::parse(FRONT).expect("an identity"))
    );
    assert!(trust.revoked.serials.contains(&serial));
    assert_refused(
        replica.sign("front", FRONT).await,
        "PermissionDenied",
        "weft-revocations",
    );
    let back = replica.sign("back", "spiffe://cluster.local/ns/shop/sa/back").await;
    assert!(back.is_ok(), "{back:?}");
}

/// What cert-manager does, by a CA that is its own; `answer` says what comes of a request.
fn cert_manager(api: &Api, answer: impl Fn(&Value) -> Value + Send + 'static) -> JoinHandle<()> {
    let api = api.clone();
    tokio::spawn(async move {
        loop {
            for (name, mut request) in api.all(REQUESTS) {
                if request["status"].is_null() {
                    request["status"] = answer(&request);
                    api.set(REQUESTS, &name, request);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

/// Signs what it is asked to, as cert-manager's CA issuer does: by what the request says, not by what the operator meant.
fn issue(request: &Value, root: &str, key: &KeyPair, other: Option<&str>) -> Value {
    let csr = STANDARD
        .decode(request["spec"]["request"].as_str().expect("text"))
        .expect("base64");
    let csr = String::from_utf8(csr).expect("text");
    let mut csr = rcgen::CertificateSigningRequestParams::from_pem(&csr).expect("a request");
    csr.params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    if let Some(other) = other {
        csr.params.subject_alt_names = vec![SanType::URI(other.try_into().expect("ASCII"))];
    }
    let root = pem::read(root).expect("PEM");
    let issuer = rcgen::Issuer::from_ca_cert_der(&root[0], key).expect("a CA");
    let signed: CertificateDer<'static> = csr.signed_by(&issuer).expect("signed").der().clone();
    json!({
        "certificate": STANDARD.encode(pem::write([&signed])),
        "conditions": [{"type": "Ready", "status": "True", "reason": "Issued"}],
    })
}

/// Says whom to believe beside, or instead of, the issuer that is built in.
fn roots(api: &Api, pem: &str) {
    let data = json!({"data": {"ca.crt": pem}});
    api.put(Kind::ConfigMap, NAMESPACE, "weft-identity-roots", data);
}

#[tokio::test]
async fn cert_manager_signs_and_nothing_is_left_behind() {
    let (root, key) = ca("vault", None, None);
    let api = shop();
    roots(&api, &root);
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (seen, by) = (asked.clone(), root.clone());
    let signing = cert_manager(&api, move |request| {
        seen.lock().expect("nobody panics with it").push(request.clone());
        issue(request, &by, &key, None)
    });
    let replica = Replica::start(&api, IssuerKind::CertManager).await;
    let signed = replica.signed("front").await;
    assert!(trusts(&root, &signed.chain_pem));
    let asked = asked.lock().expect("nobody panics with it").clone();
    let spec = &asked[0]["spec"];
    assert_eq!(
        spec["issuerRef"],
        json!({"name": "vault", "kind": "ClusterIssuer", "group": "cert-manager.io"})
    );
    assert_eq!(spec["duration"], "3600s");
    assert_eq!(asked[0]["metadata"]["annotations"]["weft.dev/identity"], FRONT);
    // Were the operator killed now, Kubernetes would take the request away with its pod.
    assert_eq!(asked[0]["metadata"]["ownerReferences"][0]["name"], "weft-operator-1");
    assert!(api.all(REQUESTS).is_empty());
    // The root of the issuer that is built in was never made.
    assert!(api.get(Kind::Secret, NAMESPACE, TERMS.secret).is_none());
    signing.abort();
}

#[tokio::test]
async fn what_cert_manager_denies_or_makes_of_something_else_reaches_nobody() {
    let (root, key) = ca("vault", None, None);
    for (identity, code, why) in [
        (None, "PermissionDenied", "policy says no"),
        (
            Some("spiffe://cluster.local/ns/shop/sa/back"),
            "PermissionDenied",
            "something else",
        ),
    ] {
        let api = shop();
        roots(&api, &root);
        let (by, key) = (root.clone(), KeyPair::from_pem(&key.serialize_pem()).expect("a key"));
        let signing = cert_manager(&api, move |request| match identity {
            None => json!({"conditions": [
                {"type": "Denied", "status": "True", "reason": "Policy", "message": "policy says no"},
            ]}),
            other => issue(request, &by, &key, other),
        });
        let replica = Replica::start(&api, IssuerKind::CertManager).await;
        replica.trust("front").await;
        assert_refused(replica.sign("front", FRONT).await, code, why);
        assert!(api.all(REQUESTS).is_empty());
        signing.abort();
    }
}

#[tokio::test]
async fn cert_manager_that_does_not_answer_is_not_waited_for_for_ever() {
    let (root, _) = ca("vault", None, None);
    let api = shop();
    roots(&api, &root);
    let replica = Replica::start(&api, IssuerKind::CertManager).await;
    replica.trust("front").await;
    let refused = replica.sign("front", FRONT).await;
    assert_refused(refused, "Unavailable", "ClusterIssuer vault");
    assert!(api.all(REQUESTS).is_empty());
    // Where it says what it waits for, so does the operator.
    let waiting = cert_manager(
        &api,
        |_| json!({"conditions": [{"type": "Ready", "status": "False", "reason": "Pending", "message": "the vault is sealed"}]}),
    );
    let refused = replica.sign("front", FRONT).await;
    assert_refused(refused, "Unavailable", "the vault is sealed");
    waiting.abort();
}

#[tokio::test]
async fn who_does_not_wait_for_cert_manager_leaves_nothing_behind() {
    let (root, _) = ca("vault", None, None);
    let api = shop();
    roots(&api, &root);
    let replica = Replica::start(&api, IssuerKind::CertManager).await;
    replica.trust("front").await;
    let made = async {
        while api.all(REQUESTS).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let gone = tokio::select! {
        refused = replica.sign("front", FRONT) => Some(refused),
        () = made => None,
    };
    assert!(gone.is_none(), "{gone:?}");
    let left = async {
        while !api.all(REQUESTS).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, left).await.expect("it is taken away all the same");
}

#[tokio::test]
async fn what_nobody_would_believe_is_not_passed_on() {
    let ((root, _), (other, key)) = (ca("vault", None, None), ca("another", None, None));
    let api = shop();
    roots(&api, &root);
    let by = other.clone();
    let signing = cert_manager(&api, move |request| issue(request, &by, &key, None));
    let replica = Replica::start(&api, IssuerKind::CertManager).await;
    let (mut told, _) = replica.trust("front").await;
    let refused = replica.sign("front", FRONT).await;
    assert_refused(refused, "Unavailable", "add the root");
    roots(&api, &format!("{root}{other}"));
    told.next().await.expect("told");
    assert!(trusts(&other, &replica.signed("front").await.chain_pem));
    signing.abort();
}

#[tokio::test]
async fn roots_of_another_issuer_are_believed_beside_the_built_in_one_before_and_after_it() {
    let (other, _) = ca("vault", None, None);
    let api = shop();
    let replica = Replica::start(&api, IssuerKind::BuiltIn).await;
    let (mut told, trust) = replica.trust("front").await;
    let own = trust.trust.roots_pem;
    roots(&api, &format!("{other}{own}"));
    let both = told.next().await.expect("told").trust.roots_pem;
    assert_eq!(both, format!("{own}{}", pem::write(&pem::read(&other).expect("PEM"))));
    // Nonsense takes nothing away, and stops nobody.
    roots(&api, "nonsense");
    let signed = replica.signed("front").await;
    assert!(trusts(&own, &signed.chain_pem));
    assert_eq!(replica.trust("front").await.1.trust.roots_pem, both);
    let new = Replica::start(&api, IssuerKind::BuiltIn).await;
    assert_eq!(new.trust("front").await.1.trust.roots_pem, own);
    roots(&api, &own);
    assert_eq!(told.next().await.expect("told").trust.roots_pem, own);
}
