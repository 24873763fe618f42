//! Policies of Services, Gateways and routes.

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::json;
use weft_crds::{Kind, Object};

use super::{CREATED, NAMESPACES, SERVICES, object};

pub(super) fn backend_tls_policies() -> impl Strategy<Value = Object> {
    let target = (select(&SERVICES), option::weighted(0.4, select(&["http", "admin"]))).prop_map(|(name, section)| {
        let mut target = json!({"group": "", "kind": "Service", "name": name});
        if let Some(section) = section {
            target["sectionName"] = section.into();
        }
        target
    });
    let roots = select(vec![
        json!({"hostname": "a.example", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "c1"}]}),
        json!({"hostname": "b.example", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "c2"}, {"group": "", "kind": "Service", "name": "s1"}]}),
        json!({"hostname": "c.example", "wellKnownCACertificates": "System"}),
        json!({"hostname": "no host", "wellKnownCACertificates": "System"}),
    ]);
    (
        select(&NAMESPACES),
        select(&["p1", "p2", "p3"]),
        select(&CREATED),
        vec(target, 1..3),
        roots,
    )
        .prop_map(|(namespace, name, created, targets, validation)| {
            let metadata = json!({"namespace": namespace, "name": name, "creationTimestamp": created});
            let spec = json!({"targetRefs": targets, "validation": validation});
            object(Kind::BackendTlsPolicy, json!({"metadata": metadata, "spec": spec}))
        })
}

/// Policies that hold, conflict, are refused, or are for what is not there.
pub(super) fn traffic_policies() -> impl Strategy<Value = Object> {
    let parts = vec![
        json!({"retryConstraint": {"budget": {"percent": 1}}}),
        json!({"retryConstraint": {"minRetryRate": {"count": 3, "interval": "1m"}}, "sessionPersistence": {}}),
        json!({"sessionPersistence": {"type": "Header", "absoluteTimeout": "1h"}}),
        json!({"retryConstraint": {"budget": {"percent": 101}}}),
    ];
    let target = (
        select(&["Service", "Service", "Deployment", "XBackend"]),
        select(&["s1", "s2", "s3", "x1"]),
    );
    (
        select(&NAMESPACES),
        select(&["w1", "w2"]),
        select(&CREATED),
        vec(target, 0..3),
        select(parts),
    )
        .prop_map(|(namespace, name, created, targets, mut spec)| {
            let target = |(kind, name): (&str, &str)| {
                let group = if kind == "XBackend" {
                    "gateway.networking.x-k8s.io"
                } else {
                    ""
                };
                json!({"group": group, "kind": kind, "name": name})
            };
            spec["targetRefs"] = targets.into_iter().map(target).collect();
            let metadata = json!({"namespace": namespace, "name": name, "creationTimestamp": created});
            object(Kind::XBackendTrafficPolicy, json!({"metadata": metadata, "spec": spec}))
        })
}

/// Policies that hold, are not understood, or are for what is not there.
pub(super) fn authorization_policies() -> impl Strategy<Value = Object> {
    let target = select(vec![
        json!({"group": "", "kind": "Pod", "selector": {}}),
        json!({"group": "", "kind": "Pod", "selector": {"matchLabels": {"app": "s"}}}),
        json!({"group": "", "kind": "ServiceAccount", "name": "s1"}),
        json!({"group": "", "kind": "Service", "name": "s1"}),
        json!({"group": "", "kind": "Service", "name": "s2", "sectionName": "admin"}),
        json!({"group": "", "kind": "Service", "name": "s2", "sectionName": "http"}),
        json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g1"}),
        json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g2", "sectionName": "http"}),
        json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "r1"}),
        json!({"group": "gateway.networking.k8s.io", "kind": "GRPCRoute", "name": "r1", "sectionName": "a"}),
        json!({"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "q1"}),
        json!({"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "q2", "sectionName": "l1"}),
        json!({"group": "gateway.networking.k8s.io", "kind": "TCPRoute", "name": "r1"}),
        json!({"group": "gateway.networking.k8s.io", "kind": "TLSRoute", "name": "r1"}),
    ]);
    let rule = select(vec![
        json!({}),
        json!({"sources": [{"type": "Authenticated"}]}),
        json!({"sources": [{"type": "SPIFFE", "spiffe": "nobody"}]}),
        json!({"httpAttributes": {"paths": [{"value": "/a"}]}}),
    ]);
    (
        select(&NAMESPACES),
        select(&["w1", "w2"]),
        select(&["ALLOW", "DENY", "AUDIT", "LIMIT"]),
        vec(target, 0..3),
        vec(rule, 0..3),
    )
        .prop_map(|(namespace, name, action, targets, rules)| {
            let metadata = json!({"namespace": namespace, "name": name});
            let spec = json!({"targetRefs": targets, "action": action, "rules": rules});
            object(Kind::AuthorizationPolicy, json!({"metadata": metadata, "spec": spec}))
        })
}
