//! cert-manager signs.

use super::*;

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
