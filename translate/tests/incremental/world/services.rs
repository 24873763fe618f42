//! Services with their endpoints, and XBackends.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::json;
use weft_crds::{Kind, Object};

use super::{NAMESPACES, NODES, PODS, SERVICES, XBACKENDS, object};

pub(super) fn services() -> impl Strategy<Value = Object> {
    let specs = vec![
        json!({"ports": [{"name": "http", "port": 80}]}),
        json!({"selector": {"app": "s"}, "ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]}),
        json!({"selector": {"app": "s"}, "ports": [{"name": "http", "port": 80}]}),
        json!({"ports": [{"name": "admin", "port": 80, "appProtocol": "kubernetes.io/h2c"}]}),
        json!({"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 80, "protocol": "UDP"}]}),
        json!({"ports": [{"name": "http", "port": 80, "protocol": "UDP"}]}),
        json!({"ports": [{"name": "http", "port": 80, "appProtocol": "unknown"}]}),
        json!({"ports": [{"name": "http", "port": 80, "appProtocol": "HTTPS"}]}),
        json!({"type": "ExternalName", "ports": [{"name": "http", "port": 80}]}),
    ];
    let addresses = select(&["10.96.0.1", "10.96.0.2", "None", ""]);
    (select(&NAMESPACES), select(&SERVICES), select(specs), addresses).prop_map(
        |(namespace, name, mut spec, address)| {
            if !address.is_empty() {
                spec["clusterIP"] = address.into();
            }
            let metadata = json!({"namespace": namespace, "name": name});
            object(Kind::Service, json!({"metadata": metadata, "spec": spec}))
        },
    )
}

pub(super) fn slices() -> impl Strategy<Value = Object> {
    let conditions = select(vec![
        json!({}),
        json!({"ready": false}),
        json!({"ready": false, "serving": false, "terminating": true}),
        json!({"ready": false, "serving": true, "terminating": true}),
    ]);
    let endpoints = (select(&PODS), 1..4_u8, conditions, select(&NODES)).prop_map(|(pod, last, conditions, node)| {
        let target = json!({"kind": "Pod", "name": pod});
        json!({"addresses": [format!("10.0.0.{last}")], "conditions": conditions, "targetRef": target, "nodeName": node})
    });
    (
        select(&NAMESPACES),
        select(&["e1", "e2"]),
        select(&SERVICES),
        select(&["http", "admin"]),
        vec(endpoints, 0..3),
    )
        .prop_map(|(namespace, name, service, port, endpoints)| {
            let labels = json!({"kubernetes.io/service-name": service});
            object(
                Kind::EndpointSlice,
                json!({
                    "metadata": {"namespace": namespace, "name": name, "labels": labels},
                    "addressType": "IPv4",
                    "ports": [{"name": port, "port": 8080}],
                    "endpoints": endpoints,
                }),
            )
        })
}

pub(super) fn nodes() -> impl Strategy<Value = Object> {
    (select(&NODES), select(&["True", "False", "Unknown"])).prop_map(|(name, ready)| {
        let conditions = json!([{"type": "Ready", "status": ready}]);
        let node = json!({"metadata": {"name": name}, "status": {"conditions": conditions}});
        object(Kind::Node, node)
    })
}

/// XBackends that are served, that lack what they refer to, and that are refused.
pub(super) fn xbackends() -> impl Strategy<Value = Object> {
    let validation =
        json!({"hostname": "a.example", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "c1"}]});
    let tls = select(vec![
        json!({"mode": "None"}),
        json!({"mode": "ServerOnly"}),
        json!({"mode": "ServerOnly", "validation": validation}),
        json!({"mode": "ClientAndServer", "clientCertificateRef": {"name": "t"}}),
        json!({"mode": "ClientAndServer", "clientCertificateRef": {"name": "t", "namespace": "a"}, "validation": validation}),
    ]);
    (
        select(&NAMESPACES),
        select(&XBACKENDS),
        select(&["one.example", "two.example", "10.0.0.1"]),
        select(&[443_u16, 8443]),
        select(&["HTTP", "HTTP11", "TCP", "MCP"]),
        tls,
    )
        .prop_map(|(namespace, name, hostname, port, protocol, tls)| {
            let metadata = json!({"namespace": namespace, "name": name});
            let spec = json!({"type": "ExternalHostname", "externalHostname": {"hostname": hostname},
                "port": {"port": port}, "protocol": protocol, "tls": tls});
            object(Kind::XBackend, json!({"metadata": metadata, "spec": spec}))
        })
}
