//! GatewayClasses and meshes, Gateways and ListenerSets.

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};
use weft_crds::{Kind, Object};

use super::{CREATED, GATEWAYS, HOSTNAMES, ISSUERS, LISTENERS, NAMESPACES, SETS, object};

pub(super) fn classes() -> impl Strategy<Value = Object> {
    prop::bool::weighted(0.8).prop_map(|ours| {
        let controller = if ours {
            weft_translate::CONTROLLER
        } else {
            "example.com/other"
        };
        let spec = json!({"controllerName": controller});
        object(Kind::GatewayClass, json!({"metadata": {"name": "weft"}, "spec": spec}))
    })
}

fn listeners() -> impl Strategy<Value = Value> {
    let allowed = select(vec![
        json!({}),
        json!({"namespaces": {"from": "All"}}),
        json!({"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "web"}}}}),
        json!({"namespaces": {"from": "All"}, "kinds": [{"kind": "HTTPRoute"}]}),
        json!({"namespaces": {"from": "All"}, "kinds": [{"kind": "TCPRoute"}]}),
        json!({"namespaces": {"from": "All"}}),
    ]);
    (
        select(&LISTENERS),
        select(&[80_u16, 81]),
        option::weighted(0.5, select(&HOSTNAMES)),
        select(&["HTTP", "HTTP", "HTTPS", "TLS", "TCP", "UDP", "SCTP"]),
        select(&["Terminate", "Passthrough"]),
        select(&NAMESPACES),
        allowed,
    )
        .prop_map(|(name, port, hostname, protocol, mode, of, allowed)| {
            let mut listener = json!({"name": name, "port": port, "protocol": protocol, "allowedRoutes": allowed});
            if let Some(hostname) = hostname {
                listener["hostname"] = hostname.into();
            }
            if matches!(protocol, "TCP" | "UDP") {
                listener["hostname"] = Value::Null;
            }
            if protocol == "TLS" {
                listener["tls"] = json!({"mode": mode, "certificateRefs": [{"name": "t", "namespace": of}]});
            }
            if protocol == "HTTPS" {
                listener["tls"] = json!({"certificateRefs": [{"name": "t", "namespace": of}]});
            }
            listener
        })
}

pub(super) fn gateways() -> impl Strategy<Value = Object> {
    (
        select(&NAMESPACES),
        select(&GATEWAYS),
        select(&CREATED),
        vec(listeners(), 1..4),
        select(vec![
            json!({}),
            json!({"namespaces": {"from": "Same"}}),
            json!({"namespaces": {"from": "All"}}),
            json!({"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "web"}}}}),
        ]),
        gateway_tls(),
        option::weighted(0.5, select(&ISSUERS)),
    )
        .prop_map(|(namespace, name, created, listeners, allowed, tls, issuer)| {
            let mut metadata = json!({"namespace": namespace, "name": name, "creationTimestamp": created});
            if let Some(issuer) = issuer {
                metadata["annotations"] = json!({"weft.dev/acme-issuer": issuer});
            }
            let mut spec = json!({"gatewayClassName": "weft", "listeners": listeners, "allowedListeners": allowed});
            if let Some(tls) = tls {
                spec["tls"] = tls;
            }
            object(Kind::Gateway, json!({"metadata": metadata, "spec": spec}))
        })
}

fn gateway_tls() -> impl Strategy<Value = Option<Value>> {
    let roots = (select(&NAMESPACES), select(&["c1", "c2"]))
        .prop_map(|(namespace, name)| json!({"group": "", "kind": "ConfigMap", "namespace": namespace, "name": name}));
    let mode = select(&["AllowValidOnly", "AllowInsecureFallback"]);
    let validation = (roots, mode).prop_map(|(roots, mode)| {
        json!({"default": {"validation": {"caCertificateRefs": [roots], "mode": mode}}, "perPort": [{"port": 80, "tls": {}}]})
    });
    let backend = select(&NAMESPACES)
        .prop_map(|namespace| json!({"clientCertificateRef": {"namespace": namespace, "name": "t"}}));
    option::weighted(
        0.3,
        (validation, backend).prop_map(|(frontend, backend)| json!({"frontend": frontend, "backend": backend})),
    )
}

pub(super) fn listener_sets() -> impl Strategy<Value = Object> {
    (
        select(&NAMESPACES),
        select(&SETS),
        select(&CREATED),
        (select(&NAMESPACES), select(&GATEWAYS)),
        vec(listeners(), 1..3),
    )
        .prop_map(|(namespace, name, created, (of, gateway), listeners)| {
            let metadata = json!({"namespace": namespace, "name": name, "creationTimestamp": created});
            let spec = json!({"parentRef": {"namespace": of, "name": gateway}, "listeners": listeners});
            object(Kind::ListenerSet, json!({"metadata": metadata, "spec": spec}))
        })
}

pub(super) fn xmeshes() -> impl Strategy<Value = Object> {
    let specs = select(vec![
        json!({"controllerName": weft_translate::CONTROLLER}),
        json!({"controllerName": "example.com/other"}),
        json!({"controllerName": weft_translate::CONTROLLER, "parametersRef": {"group": "", "kind": "ConfigMap", "name": "c1"}}),
    ]);
    specs.prop_map(|spec| object(Kind::XMesh, json!({"metadata": {"name": "weft"}, "spec": spec})))
}
