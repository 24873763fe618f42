//! The stream over real sockets and real TLS: what arrives, in which order, what a reconnect costs, what a refusal does.

mod support;

use std::{collections::BTreeSet, sync::Arc};

use support::{Operator, Proxy, listener, route, service, workload};
use weft_model::{
    AuthProtocol, BackendTls, Certificate, Challenge, Change, ClientIdentity, ClientValidation, ClientValidationMode,
    ExternalAuth, Filter, Key, ListenerTls, PrivateKeyPem, Proof, Rejected, Resource, TrustBundle, TrustRoots,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_gets_what_it_uses_and_nothing_else() {
    let operator = Operator::start().await;
    operator.publish([
        route("ns/r/0", "ns/gw/http", "ns/a:80"),
        listener("ns/gw/http", "ns/gw"),
        service("ns/a:80"),
        workload("ns/a-1", "ns/a:80"),
        listener("ns/other/http", "ns/other"),
        route("ns/o/0", "ns/other/http", "ns/b:80"),
        service("ns/b:80"),
        workload("ns/b-1", "ns/b:80"),
    ]);
    let proxy = Proxy::connect(&operator, "ns/gw", "gw-1").await;
    proxy.synced().await;
    let names: Vec<String> = proxy.log().iter().map(support::name).collect();
    assert_eq!(
        names,
        [
            "+workload ns/a-1",
            "+service ns/a:80",
            "+route ns/r/0",
            "+listener ns/gw/http"
        ],
        "each before what names it"
    );
}

/// The same listener with a certificate for backends, and roots for clients.
fn secured(mut resource: Resource, certificate: &str, bundle: &str) -> Resource {
    if let Resource::Listener(listener) = &mut resource {
        let listener = Arc::make_mut(listener);
        listener.backend_certificate = Some(certificate.into());
        listener.tls = Some(ListenerTls {
            certificates: vec![],
            client: Some(ClientValidation {
                trust_bundles: vec![bundle.into()],
                mode: ClientValidationMode::AllowValidOnly,
            }),
        });
    }
    resource
}

/// The same service, spoken to by TLS, with a certificate of its own.
fn trusted(mut resource: Resource, bundle: &str, certificate: &str) -> Resource {
    if let Resource::Service(service) = &mut resource {
        Arc::make_mut(service).tls = Some(BackendTls {
            hostname: "a.internal".into(),
            subject_alt_names: vec![],
            roots: TrustRoots::Bundles(vec![bundle.into()]),
            identity: ClientIdentity::Certificate(certificate.into()),
        });
    }
    resource
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_roots_go_to_whom_they_are_for() {
    let operator = Operator::start().await;
    let certificate = |key: &str| {
        Resource::Certificate(Arc::new(Certificate {
            key: key.into(),
            chain_pem: String::new(),
            private_key: PrivateKeyPem::new(""),
        }))
    };
    let bundle = |key: &str| {
        Resource::TrustBundle(Arc::new(TrustBundle {
            key: key.into(),
            roots_pem: String::new(),
        }))
    };
    operator.publish([
        secured(listener("ns/gw/http", "ns/gw"), "ns/gw", "ConfigMap/ns/clients"),
        secured(listener("ns/other/http", "ns/other"), "ns/other", "ConfigMap/ns/others"),
        certificate("ns/gw"),
        certificate("ns/other"),
        certificate("ns/shown"),
        certificate("ns/unused"),
        bundle("ConfigMap/ns/clients"),
        bundle("ConfigMap/ns/others"),
        bundle("ConfigMap/ns/roots"),
        bundle("ConfigMap/ns/unused"),
        route("ns/r/0", "ns/gw/http", "ns/a:80"),
        trusted(service("ns/a:80"), "ConfigMap/ns/roots", "ns/shown"),
    ]);
    let proxy = Proxy::connect(&operator, "ns/gw", "gw-1").await;
    proxy.synced().await;
    let names: Vec<String> = proxy.log().iter().map(support::name).collect();
    assert_eq!(
        names,
        [
            "+certificate ns/gw",
            "+certificate ns/shown",
            "+trust bundle ConfigMap/ns/clients",
            "+trust bundle ConfigMap/ns/roots",
            "+service ns/a:80",
            "+route ns/r/0",
            "+listener ns/gw/http"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_gets_the_server_that_a_filter_asks() {
    let operator = Operator::start().await;
    let mut guarded = route("ns/r/0", "ns/gw/http", "ns/a:80");
    if let Resource::Route(route) = &mut guarded {
        Arc::make_mut(route).filters = vec![Filter::ExternalAuth(ExternalAuth {
            service: "ns/authz:80".into(),
            protocol: AuthProtocol::Grpc {
                allowed_headers: vec![],
            },
            max_body: 0,
        })];
    }
    operator.publish([
        guarded,
        listener("ns/gw/http", "ns/gw"),
        service("ns/a:80"),
        service("ns/authz:80"),
        workload("ns/authz-1", "ns/authz:80"),
    ]);
    let proxy = Proxy::connect(&operator, "ns/gw", "gw-1").await;
    proxy.synced().await;
    let names: Vec<String> = proxy.log().iter().map(support::name).collect();
    assert!(names.contains(&"+service ns/authz:80".to_owned()), "{names:?}");
    assert!(names.contains(&"+workload ns/authz-1".to_owned()), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_moves_to_another_service_never_names_one_that_is_not_there() {
    let operator = Operator::start().await;
    operator.publish([
        listener("ns/gw/http", "ns/gw"),
        route("ns/r/0", "ns/gw/http", "ns/a:80"),
        service("ns/a:80"),
        workload("ns/a-1", "ns/a:80"),
        service("ns/b:80"),
        workload("ns/b-1", "ns/b:80"),
    ]);
    let proxy = Proxy::connect(&operator, "ns/gw", "gw-1").await;
    proxy.synced().await;
    proxy.clear();
    let epoch = operator.publish([route("ns/r/0", "ns/gw/http", "ns/b:80")]);
    operator.taken("ns/gw", "gw-1", epoch).await;
    let names: Vec<String> = proxy.log().iter().map(support::name).collect();
    assert_eq!(
        names,
        [
            "+workload ns/b-1",
            "+service ns/b:80",
            "+route ns/r/0",
            "-service ns/a:80",
            "-workload ns/a-1"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_sends_what_it_changed_and_an_edit_for_others_nothing() {
    let operator = Operator::start().await;
    operator.publish([listener("ns/gw/http", "ns/gw"), listener("ns/other/http", "ns/other")]);
    operator.publish((0..100).map(|n| route(&format!("ns/r{n}/0"), "ns/gw/http", "ns/a:80")));
    let proxy = Proxy::connect(&operator, "ns/gw", "gw-1").await;
    proxy.synced().await;
    assert_eq!(proxy.log().len(), 101);
    proxy.clear();

    let epoch = operator.publish([route("ns/r7/0", "ns/gw/http", "ns/b:80")]);
    operator.taken("ns/gw", "gw-1", epoch).await;
    assert_eq!(proxy.log().len(), 1);

    let epoch = operator.publish([route("ns/elsewhere/0", "ns/other/http", "ns/b:80")]);
    operator.taken("ns/gw", "gw-1", epoch).await;
    assert_eq!(proxy.log().len(), 1, "taken at once, without a message");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reconnect_only_what_has_changed_meanwhile_is_sent() {
    let mut operator = Operator::start().await;
    let world = || {
        vec![
            listener("ns/gw/http", "ns/gw"),
            route("ns/kept/0", "ns/gw/http", "ns/a:80"),
            service("ns/a:80"),
        ]
    };
    operator.publish(world());
    operator.publish([
        route("ns/changed/0", "ns/gw/http", "ns/a:80"),
        route("ns/gone/0", "ns/gw/http", "ns/a:80"),
    ]);
    let proxy = Proxy::connect(&operator, "ns/gw", "gw-1").await;
    proxy.synced().await;
    assert_eq!(proxy.log().len(), 5);
    proxy.clear();

    // Another replica of the operator, which has never heard of this data plane.
    operator.replace_by_another().await;
    operator.publish(world());
    let epoch = operator.publish([
        route("ns/changed/0", "ns/gw/http", "ns/b:80"),
        route("ns/new/0", "ns/gw/http", "ns/a:80"),
    ]);
    operator.serve().await;
    operator.taken("ns/gw", "gw-1", epoch).await;
    let names: BTreeSet<String> = proxy.log().iter().map(support::name).collect();
    let expected = ["+route ns/changed/0", "+route ns/new/0", "-route ns/gone/0"];
    assert_eq!(names, expected.map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_told_in_the_data_planes_words_and_stops_nothing() {
    let operator = Operator::start().await;
    let proxy = Proxy::connect(&operator, "ns/gw", "gw-1").await;
    let bad = Key::Route("ns/bad/0".into());
    proxy.refuse(Rejected {
        key: bad.clone(),
        reason: "the regular expression is too large".to_owned(),
    });
    let epoch = operator.publish([
        listener("ns/gw/http", "ns/gw"),
        route("ns/bad/0", "ns/gw/http", "ns/a:80"),
        route("ns/good/0", "ns/gw/http", "ns/a:80"),
    ]);
    let replica = operator.taken("ns/gw", "gw-1", epoch).await;
    assert_eq!(replica.refused.len(), 1);
    assert_eq!(replica.refused[&bad], "the regular expression is too large");
    assert!(!replica.serves(epoch));
    assert_eq!(proxy.log().len(), 3, "the others are applied, with it");

    proxy.refuse_nothing();
    let epoch = operator.publish([route("ns/bad/0", "ns/gw/http", "ns/b:80")]);
    let replica = operator.taken("ns/gw", "gw-1", epoch).await;
    assert!(replica.serves(epoch), "{replica:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_resource_that_goes_away_is_not_refused_any_more() {
    let operator = Operator::start().await;
    let proxy = Proxy::connect(&operator, "ns/gw", "gw-1").await;
    proxy.refuse(Rejected {
        key: Key::Route("ns/bad/0".into()),
        reason: "no".to_owned(),
    });
    let epoch = operator.publish([
        listener("ns/gw/http", "ns/gw"),
        route("ns/bad/0", "ns/gw/http", "ns/a:80"),
    ]);
    assert!(!operator.taken("ns/gw", "gw-1", epoch).await.refused.is_empty());
    proxy.refuse_nothing();
    let epoch = operator.remove([Key::Route("ns/bad/0".into())]);
    assert!(operator.taken("ns/gw", "gw-1", epoch).await.serves(epoch));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_data_plane_gets_the_last_version_only() {
    let operator = Operator::start().await;
    operator.publish([listener("ns/gw/http", "ns/gw")]);
    let proxy = Proxy::connect(&operator, "ns/gw", "gw-1").await;
    proxy.synced().await;
    proxy.clear();
    let slow = proxy.pause().await;
    let mut epoch = 0;
    for number in 0..1000 {
        epoch = operator.publish([route("ns/r/0", "ns/gw/http", &format!("ns/s{number}:80"))]);
    }
    drop(slow);
    operator.taken("ns/gw", "gw-1", epoch).await;
    let log = proxy.log();
    assert!(log.len() <= 20, "{} versions of one route were sent", log.len());
    let Some(Change::Upsert(last)) = log.last() else {
        panic!("{log:?}")
    };
    assert_eq!(*last, route("ns/r/0", "ns/gw/http", "ns/s999:80"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_larger_than_a_message_arrives_whole() {
    let operator = Operator::start().await;
    operator.publish([listener("ns/gw/http", "ns/gw")]);
    operator.publish((0..20_000).map(|n| route(&format!("ns/route-with-a-long-name-{n}/0"), "ns/gw/http", "ns/a:80")));
    let proxy = Proxy::connect(&operator, "ns/gw", "gw-1").await;
    proxy.synced().await;
    assert_eq!(proxy.log().len(), 20_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_token_nothing_is_told() {
    let operator = Operator::start().await;
    operator.publish([listener("ns/gw/http", "ns/gw")]);
    let thief = Proxy::connect_with(&operator, "ns/gw", "gw-1", "another token").await;
    operator.turned_away(1).await;
    // The token of one Gateway is not good for another.
    let other = Proxy::connect_with(&operator, "ns/gw", "gw-2", "token of ns/other").await;
    operator.turned_away(3).await;
    assert!(thief.log().is_empty() && other.log().is_empty());
    assert!(operator.replicas().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_plane_that_leaves_is_forgotten() {
    let operator = Operator::start().await;
    let epoch = operator.publish([listener("ns/gw/http", "ns/gw")]);
    let first = Proxy::connect(&operator, "ns/gw", "gw-1").await;
    let _second = Proxy::connect(&operator, "ns/gw", "gw-2").await;
    operator.taken("ns/gw", "gw-1", epoch).await;
    operator.taken("ns/gw", "gw-2", epoch).await;
    drop(first);
    operator
        .until(|replicas| replicas.get(&"ns/gw".into()).is_some_and(|known| known.len() == 1))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_goes_to_the_gateway_by_which_the_ca_comes() {
    let operator = Operator::start().await;
    let challenge = |gateway: &str| {
        Resource::Challenge(Arc::new(Challenge {
            key: format!("{gateway}/https/tls").into(),
            gateway: gateway.into(),
            host: "a.example".to_owned(),
            proof: Proof::Http {
                token: "t".to_owned(),
                key_authorization: "t.k".to_owned(),
            },
        }))
    };
    let epoch = operator.publish([
        challenge("ns/gw"),
        challenge("ns/other"),
        listener("ns/gw/https", "ns/gw"),
        listener("ns/other/https", "ns/other"),
    ]);
    let proxy = Proxy::connect(&operator, "ns/gw", "gw-1").await;
    proxy.synced().await;
    operator.taken("ns/gw", "gw-1", epoch).await;
    let names: Vec<String> = proxy.log().iter().map(support::name).collect();
    assert_eq!(names, ["+challenge ns/gw/https/tls", "+listener ns/gw/https"]);
    proxy.clear();
    let epoch = operator.remove(["ns/gw", "ns/other"].map(|gateway| challenge(gateway).key()));
    operator.taken("ns/gw", "gw-1", epoch).await;
    let names: Vec<String> = proxy.log().iter().map(support::name).collect();
    assert_eq!(names, ["-challenge ns/gw/https/tls"]);
}
