//! What SMI says.

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};
use weft_crds::{Kind, Object};

use super::{CREATED, NAMESPACES, object};

pub(super) fn traffic_splits() -> impl Strategy<Value = Object> {
    let service = || select(&["s1", "s2", "s2.a", "s1.b.svc", "s3"]);
    let backends = vec((service(), 0..3_u32), 1..3);
    let matches = vec(select(&["g1", "g2"]), 0..3);
    (
        select(&NAMESPACES),
        select(&["t1", "t2"]),
        select(&CREATED),
        service(),
        backends,
        matches,
    )
        .prop_map(|(namespace, name, created, service, backends, matches)| {
            let metadata = json!({"namespace": namespace, "name": name, "creationTimestamp": created});
            let backends = backends.into_iter();
            let backends: Vec<Value> = backends
                .map(|(service, weight)| json!({"service": service, "weight": weight}))
                .collect();
            let matches = matches.into_iter();
            let matches: Vec<Value> = matches
                .map(|name| json!({"kind": "HTTPRouteGroup", "name": name}))
                .collect();
            let spec = json!({"service": service, "backends": backends, "matches": matches});
            object(Kind::TrafficSplit, json!({"metadata": metadata, "spec": spec}))
        })
}

pub(super) fn traffic_specs() -> impl Strategy<Value = Object> {
    let one = select(vec![
        json!({"name": "m1", "pathRegex": "/a", "methods": ["GET"]}),
        json!({"name": "m1", "headers": {"x-a": "1"}}),
        json!({"name": "m2"}),
        json!({"name": "m2", "pathRegex": "("}),
    ]);
    let groups = (select(&NAMESPACES), select(&["g1", "g2"]), vec(one, 0..3)).prop_map(|(namespace, name, matches)| {
        let metadata = json!({"namespace": namespace, "name": name});
        object(
            Kind::HttpRouteGroup,
            json!({"metadata": metadata, "spec": {"matches": matches}}),
        )
    });
    let ports = select(vec![json!([]), json!([80]), json!([80, 81])]);
    let kinds = select(&[Kind::SmiTcpRoute, Kind::SmiUdpRoute]);
    let routes =
        (kinds, select(&NAMESPACES), select(&["g1", "g2"]), ports).prop_map(|(kind, namespace, name, ports)| {
            let metadata = json!({"namespace": namespace, "name": name});
            object(
                kind,
                json!({"metadata": metadata, "spec": {"matches": {"ports": ports}}}),
            )
        });
    let schemes = select(vec![
        json!({"serviceAccount": "a1"}),
        json!({"podLabelSelector": {"matchLabels": {"app": "a1"}}}),
        json!({"spiffeIdentities": ["cluster.local/ns/a/sa/a2", "unheard"]}),
        json!({}),
    ]);
    let bindings = (select(&NAMESPACES), select(&["i1", "i2"]), schemes).prop_map(|(namespace, name, schemes)| {
        let metadata = json!({"namespace": namespace, "name": name});
        object(
            Kind::IdentityBinding,
            json!({"metadata": metadata, "spec": {"schemes": schemes}}),
        )
    });
    prop_oneof![2 => groups, 1 => routes, 1 => bindings]
}

pub(super) fn traffic_targets() -> impl Strategy<Value = Object> {
    let subject = || {
        let kinds = select(&[
            ("ServiceAccount", "a1"),
            ("IdentityBinding", "i1"),
            ("IdentityBinding", "i2"),
        ]);
        (kinds, option::weighted(0.4, select(&NAMESPACES))).prop_map(|((kind, name), namespace)| {
            let mut subject = json!({"kind": kind, "name": name});
            if let Some(namespace) = namespace {
                subject["namespace"] = namespace.into();
            }
            subject
        })
    };
    let kinds = select(&["HTTPRouteGroup", "HTTPRouteGroup", "TCPRoute", "UDPRoute"]);
    let rule = (kinds, select(&["g1", "g2"]), vec(select(&["m1", "m2"]), 0..2))
        .prop_map(|(kind, name, matches)| json!({"kind": kind, "name": name, "matches": matches}));
    (
        select(&NAMESPACES),
        select(&["t1", "t2"]),
        subject(),
        vec(subject(), 0..3),
        vec(rule, 0..3),
    )
        .prop_map(|(namespace, name, destination, sources, rules)| {
            let metadata = json!({"namespace": namespace, "name": name});
            let spec = json!({"destination": destination, "sources": sources, "rules": rules});
            object(Kind::TrafficTarget, json!({"metadata": metadata, "spec": spec}))
        })
}
