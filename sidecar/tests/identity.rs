//! A sidecar's certificate comes from the operator, is renewed, and outlasts the operator.

mod common;

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use common::{
    Meshed, Network, Sidecar, WORLD, at, eventually, get, http,
    operator::{Ca, Operator},
};
use serde_json::Value;
use weft_model::{Revocations, Stage};

const FRONT: &str = "spiffe://cluster.local/ns/shop/sa/front";

/// A pod whose sidecar has a token, and the operator.
fn meshed(token: &str) -> (Meshed, Operator) {
    let network = Network::new();
    let output = network.intercept("");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let operator = Operator::start(&network.world, WORLD[0]);
    let args = format!("{} --namespace=shop --pod=front-1", operator.args(token));
    (Meshed::beside(network, &args), operator)
}

/// What the pod itself sees of who it is.
fn page(pod: &Meshed) -> Value {
    let mut stream = pod.network.pod.connect(at("127.0.0.1", 15021));
    write!(stream, "GET /identity HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it is open");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    let body = text.split_once("\r\n\r\n").expect("a body").1;
    serde_json::from_str(body).expect("JSON")
}

fn serial(pod: &Meshed) -> Option<String> {
    page(pod)["identity"]["serial"].as_str().map(str::to_owned)
}

#[test]
fn a_certificate_is_renewed_in_time_and_kept_while_the_operator_is_away() {
    if !common::possible() {
        return;
    }
    let (pod, operator) = meshed("shop/front");
    eventually("it has a certificate", || serial(&pod).is_some());
    let seen = page(&pod);
    assert_eq!(seen["identity"]["id"], FRONT);
    assert_eq!(seen["trust"]["trustDomain"], "cluster.local");
    assert!(!seen.to_string().contains("PRIVATE KEY"));
    let label = format!("identity=\"{FRONT}\"");
    let expiry = pod.metric("weft_certificate_expiry_timestamp_seconds", &[&label]);
    assert_eq!(seen["identity"]["notAfter"].as_f64(), Some(expiry));

    // Nothing waits for the operator, and it is found again by itself.
    operator.stop();
    pod.world.serve(at(WORLD[0], 80), http);
    get(&mut pod.network.pod.connect(at(WORLD[0], 80)), 200);
    assert_eq!(serial(&pod).as_deref(), Some("01"));
    operator.lifetime(Duration::from_secs(2));
    operator.serve();
    // One that nobody believes any more is no use, and the next one is good; short ones are renewed again and again.
    operator.revoke(&["01"]);
    eventually("it has another", || {
        serial(&pod).is_some_and(|serial| serial.as_str() > "01")
    });
    let other = serial(&pod).expect("it has one");
    eventually("it is renewed", || serial(&pod).is_some_and(|serial| serial > other));
}

#[test]
fn what_is_said_about_trust_holds_at_once() {
    if !common::possible() {
        return;
    }
    let (pod, operator) = meshed("shop/front");
    eventually("it has a certificate", || serial(&pod).is_some());
    assert_eq!(pod.metric("weft_trust_roots", &[]), 1.0);
    let (old, new) = (operator.ca(), Ca::new("second"));
    operator.trust(&[&old, &new], Revocations::default());
    eventually("the next root is known", || pod.metric("weft_trust_roots", &[]) == 2.0);
    operator.revoke_workloads(&["spiffe://cluster.local/ns/shop/sa/back"]);
    eventually("who is revoked is known", || {
        pod.metric("weft_trust_revocations", &[]) == 1.0
    });
    // It is another's: the own certificate stays.
    assert_eq!(serial(&pod).as_deref(), Some("01"));
}

#[test]
fn what_is_said_about_trust_is_heard_while_a_certificate_is_waited_for() {
    if !common::possible() {
        return;
    }
    let (pod, operator) = meshed("shop/front");
    eventually("it has a certificate", || serial(&pod).is_some());
    operator.hold(true);
    operator.revoke(&["01"]);
    eventually("it asks for another", || operator.is_waited_for());
    let (old, new) = (operator.ca(), Ca::new("second"));
    operator.trust(&[&old, &new], Revocations::default());
    eventually("the next root is known", || pod.metric("weft_trust_roots", &[]) == 2.0);
    assert!(operator.is_waited_for());
    assert_eq!(serial(&pod).as_deref(), Some("01"));
    operator.hold(false);
    eventually("it has another", || {
        serial(&pod).is_some_and(|serial| serial.as_str() > "01")
    });
}

#[test]
fn a_pod_that_has_to_prove_who_it_is_is_ready_once_it_can() {
    if !common::possible() {
        return;
    }
    for stage in [Stage::Observe, Stage::Strict] {
        let network = Network::new();
        let output = network.intercept("");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let operator = Operator::start(&network.world, WORLD[0]);
        operator.stage("shop", stage);
        operator.hold(true);
        let args = format!("{} --namespace=shop --pod=front-1", operator.args("shop/front"));
        let sidecar = Sidecar::launch(&network.pod, &args);
        if stage == Stage::Strict {
            eventually("it says what it waits for", || {
                sidecar.log().contains("has no certificate yet")
            });
            assert!(!sidecar.is_ready());
            operator.hold(false);
        }
        sidecar.wait();
    }
}

#[test]
fn without_a_good_token_connections_are_carried_all_the_same() {
    if !common::possible() {
        return;
    }
    let (pod, _operator) = meshed("stolen");
    eventually("it is told why", || {
        pod.log().contains("the token does not prove a workload")
    });
    pod.world.serve(at(WORLD[0], 80), http);
    get(&mut pod.network.pod.connect(at(WORLD[0], 80)), 200);
    assert_eq!(page(&pod)["identity"], Value::Null);
}
