//! By what is signed, and who is not to be believed any more.

use super::*;

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
