//! Routes, and what lets them refer to other namespaces.

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};
use weft_crds::{Kind, Object};

use super::{CREATED, GATEWAYS, HOSTNAMES, LISTENERS, NAMESPACES, ROUTES, SERVICES, SETS, XBACKENDS, object};

fn parents() -> impl Strategy<Value = Value> {
    prop_oneof![2 => listener_parents(), 1 => service_parents()]
}

/// Services as clients in the mesh see them, with all their ports, with one that may not be there, or by its name.
fn service_parents() -> impl Strategy<Value = Value> {
    let port = select(vec![
        json!({}),
        json!({"port": 80}),
        json!({"port": 81}),
        json!({"sectionName": "admin"}),
    ]);
    (select(&NAMESPACES), select(&SERVICES), port).prop_map(|(namespace, name, mut parent)| {
        parent["group"] = "".into();
        parent["kind"] = "Service".into();
        parent["namespace"] = namespace.into();
        parent["name"] = name.into();
        parent
    })
}

fn listener_parents() -> impl Strategy<Value = Value> {
    (
        select(&NAMESPACES),
        prop_oneof![
            2 => select(&GATEWAYS).prop_map(|name| ("Gateway", name)),
            1 => select(&SETS).prop_map(|name| ("ListenerSet", name)),
        ],
        option::weighted(0.3, select(&LISTENERS)),
    )
        .prop_map(|(namespace, (kind, name), section)| {
            let mut parent = json!({"namespace": namespace, "kind": kind, "name": name});
            if let Some(section) = section {
                parent["sectionName"] = section.into();
            }
            parent
        })
}

fn backends() -> impl Strategy<Value = Value> {
    let services =
        (select(&SERVICES), select(&[80_u16, 80, 81])).prop_map(|(name, port)| json!({"name": name, "port": port}));
    let xbackends = select(&XBACKENDS)
        .prop_map(|name| json!({"group": "gateway.networking.x-k8s.io", "kind": "XBackend", "name": name}));
    (
        select(&NAMESPACES),
        prop_oneof![3 => services, 1 => xbackends],
        0..2_u32,
    )
        .prop_map(|(namespace, mut to, weight)| {
            to["namespace"] = namespace.into();
            to["weight"] = weight.into();
            to
        })
}

pub(super) fn http_rules() -> impl Strategy<Value = Value> {
    let matches = select(vec![
        json!({}),
        json!({"path": {"value": "/"}}),
        json!({"path": {"value": "/a"}}),
        json!({"path": {"type": "Exact", "value": "/a"}, "method": "GET"}),
        json!({"headers": [{"name": "x", "value": "1"}, {"name": "y", "value": "2"}]}),
        json!({"headers": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}),
        json!({"path": {"type": "RegularExpression", "value": "/a.*"}}),
        json!({"path": {"value": "no"}}),
    ]);
    let filters = prop_oneof![
        4 => Just(json!([])),
        2 => backends().prop_map(|mut to| {
            to.as_object_mut().expect("a map").remove("weight");
            json!([{"type": "RequestMirror", "requestMirror": {"backendRef": to}}])
        }),
        1 => Just(json!([{"type": "Unheard", "urlRewrite": {}}])),
        2 => (backends(), select(&["HTTP", "GRPC", "FTP"])).prop_map(|(mut to, protocol)| {
            to.as_object_mut().expect("a map").remove("weight");
            let mut auth = json!({"protocol": protocol, "backendRef": to});
            auth[protocol.to_lowercase()] = json!({});
            json!([{"type": "ExternalAuth", "externalAuth": auth}])
        }),
    ];
    let session =
        prop_oneof![4 => Just(Value::Null), 1 => Just(json!({"sessionName": "a"})), 1 => Just(json!({"type": "no"}))];
    (vec(matches, 0..3), filters, vec(backends(), 0..3), session).prop_map(|(matches, filters, backends, session)| {
        let mut rule = json!({"matches": matches, "filters": filters, "backendRefs": backends});
        if !session.is_null() {
            rule["sessionPersistence"] = session;
        }
        rule
    })
}

pub(super) fn grpc_rules() -> impl Strategy<Value = Value> {
    let matches = select(vec![
        json!({}),
        json!({"method": {"service": "a"}}),
        json!({"method": {}}),
    ]);
    (vec(matches, 0..2), vec(backends(), 0..2))
        .prop_map(|(matches, backends)| json!({"matches": matches, "backendRefs": backends}))
}

pub(super) fn l4_rules() -> impl Strategy<Value = Value> {
    vec(backends(), 0..3).prop_map(|backends| json!({"backendRefs": backends}))
}

pub(super) fn routes(kind: Kind, rules: impl Strategy<Value = Value>) -> impl Strategy<Value = Object> {
    (
        select(&NAMESPACES),
        select(&ROUTES),
        select(&CREATED),
        vec(parents(), 0..3),
        vec(select(&HOSTNAMES), 0..3),
        vec(rules, 1..3),
    )
        .prop_map(move |(namespace, name, created, parents, hostnames, rules)| {
            let metadata = json!({"namespace": namespace, "name": name, "creationTimestamp": created});
            let spec = json!({"parentRefs": parents, "hostnames": hostnames, "rules": rules});
            object(kind, json!({"metadata": metadata, "spec": spec}))
        })
}

pub(super) fn grants() -> impl Strategy<Value = Object> {
    (
        select(&NAMESPACES),
        select(&["w1", "w2"]),
        select(&[
            "HTTPRoute",
            "GRPCRoute",
            "TLSRoute",
            "UDPRoute",
            "Gateway",
            "ListenerSet",
            "XBackend",
        ]),
        select(&NAMESPACES),
        select(vec![
            json!({"group": "", "kind": "Service"}),
            json!({"group": "", "kind": "Service", "name": "s1"}),
            json!({"group": "", "kind": "Secret"}),
            json!({"group": "", "kind": "ConfigMap"}),
            json!({"group": "gateway.networking.x-k8s.io", "kind": "XBackend"}),
        ]),
    )
        .prop_map(|(namespace, name, kind, from, to)| {
            let group = match kind {
                "XBackend" => "gateway.networking.x-k8s.io",
                _ => "gateway.networking.k8s.io",
            };
            let from = json!({"group": group, "kind": kind, "namespace": from});
            let spec = json!({"from": [from], "to": [to]});
            object(
                Kind::ReferenceGrant,
                json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec}),
            )
        })
}
