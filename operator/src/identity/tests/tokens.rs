//! Who asks, and by what token.

use super::*;

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
