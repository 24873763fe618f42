//! Two properties of incremental translation: whatever was edited, and in whatever order, the outcome is that of the
//! objects there are now; and an edit costs the same however many objects it has nothing to do with.

mod support;

use std::{collections::BTreeMap, sync::Arc};

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};
use support::{apply, manifests, translator};
use weft_crds::{Kind, Object, ObjectRef};
use weft_model::{Change, Key, Resource};
use weft_translate::{Diagnostic, Edit, Output, Status, Translator};

const NAMESPACES: [&str; 2] = ["a", "b"];
const GATEWAYS: [&str; 2] = ["g1", "g2"];
const SETS: [&str; 2] = ["q1", "q2"];
const LISTENERS: [&str; 2] = ["l1", "l2"];
const HOSTNAMES: [&str; 4] = ["x.com", "*.x.com", "*.com", "y.org"];
const ROUTES: [&str; 3] = ["r1", "r2", "r3"];
const ISSUERS: [&str; 2] = ["i1", "i2"];
const SERVICES: [&str; 2] = ["s1", "s2"];
const XBACKENDS: [&str; 2] = ["x1", "x2"];
const PODS: [&str; 3] = ["p1", "p2", "p3"];
const CREATED: [&str; 2] = ["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"];

fn object(kind: Kind, value: Value) -> Object {
    Object::from_value(kind, value).expect("an object of its kind")
}

fn namespaces() -> impl Strategy<Value = Object> {
    let stages = select(&["observe", "observe", "strict", "unheard", ""]);
    let access = option::weighted(0.3, select(&["deny-in-mesh", "deny-in-mesh", "unheard"]));
    (select(&NAMESPACES), select(&["web", "data"]), stages, access).prop_map(|(name, team, stage, access)| {
        let annotations = access.map_or(json!({}), |access| json!({"weft.dev/smi-access": access}));
        let mut labels = json!({"team": team});
        if !stage.is_empty() {
            labels["weft.dev/mesh"] = stage.into();
        }
        object(
            Kind::Namespace,
            json!({"metadata": {"name": name, "labels": labels, "annotations": annotations}}),
        )
    })
}

fn classes() -> impl Strategy<Value = Object> {
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

fn gateways() -> impl Strategy<Value = Object> {
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

fn listener_sets() -> impl Strategy<Value = Object> {
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

fn backend_tls_policies() -> impl Strategy<Value = Object> {
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

/// Roots, the same with another text, or none.
fn config_maps() -> impl Strategy<Value = Object> {
    let defaults = manifests(include_str!("goldens/defaults.yaml"));
    let Some(Object::ConfigMap(known)) = defaults.get(&ObjectRef::new(Kind::ConfigMap, "default", "roots")) else {
        panic!("defaults.yaml has roots")
    };
    let roots = known.data["ca.crt"].clone();
    let datas = vec![
        json!({"ca.crt": roots}),
        json!({"ca.crt": format!("{roots}\n")}),
        json!({}),
    ];
    (select(&NAMESPACES), select(&["c1", "c2"]), select(datas)).prop_map(|(namespace, name, data)| {
        let metadata = json!({"namespace": namespace, "name": name});
        object(Kind::ConfigMap, json!({"metadata": metadata, "data": data}))
    })
}

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

fn xmeshes() -> impl Strategy<Value = Object> {
    let specs = select(vec![
        json!({"controllerName": weft_translate::CONTROLLER}),
        json!({"controllerName": "example.com/other"}),
        json!({"controllerName": weft_translate::CONTROLLER, "parametersRef": {"group": "", "kind": "ConfigMap", "name": "c1"}}),
    ]);
    specs.prop_map(|spec| object(Kind::XMesh, json!({"metadata": {"name": "weft"}, "spec": spec})))
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

/// XBackends that are served, that lack what they refer to, and that are refused.
fn xbackends() -> impl Strategy<Value = Object> {
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

fn http_rules() -> impl Strategy<Value = Value> {
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

fn grpc_rules() -> impl Strategy<Value = Value> {
    let matches = select(vec![
        json!({}),
        json!({"method": {"service": "a"}}),
        json!({"method": {}}),
    ]);
    (vec(matches, 0..2), vec(backends(), 0..2))
        .prop_map(|(matches, backends)| json!({"matches": matches, "backendRefs": backends}))
}

fn l4_rules() -> impl Strategy<Value = Value> {
    vec(backends(), 0..3).prop_map(|backends| json!({"backendRefs": backends}))
}

fn routes(kind: Kind, rules: impl Strategy<Value = Value>) -> impl Strategy<Value = Object> {
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

fn grants() -> impl Strategy<Value = Object> {
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

fn services() -> impl Strategy<Value = Object> {
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

/// Policies that hold, conflict, are refused, or are for what is not there.
fn traffic_policies() -> impl Strategy<Value = Object> {
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
fn authorization_policies() -> impl Strategy<Value = Object> {
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

fn slices() -> impl Strategy<Value = Object> {
    let conditions = select(vec![
        json!({}),
        json!({"ready": false}),
        json!({"ready": false, "serving": true, "terminating": true}),
    ]);
    let endpoints = (select(&PODS), 1..4_u8, conditions).prop_map(|(pod, last, conditions)| {
        let target = json!({"kind": "Pod", "name": pod});
        json!({"addresses": [format!("10.0.0.{last}")], "conditions": conditions, "targetRef": target})
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

/// A certificate, the same one with another text, or none.
fn secrets() -> impl Strategy<Value = Object> {
    let defaults = manifests(include_str!("goldens/defaults.yaml"));
    let Some(Object::Secret(known)) = defaults.get(&ObjectRef::new(Kind::Secret, "default", "site-tls")) else {
        panic!("defaults.yaml has a certificate")
    };
    let good = json!(known.data);
    let mut folded = good.clone();
    folded["tls.crt"] = format!(
        "{}Cg==",
        good["tls.crt"].as_str().expect("base64").trim_end_matches('=')
    )
    .into();
    let datas = vec![good, folded, json!({"tls.crt": "", "tls.key": ""})];
    (select(&NAMESPACES), select(datas)).prop_map(|(namespace, data)| {
        let metadata = json!({"namespace": namespace, "name": "t"});
        object(Kind::Secret, json!({"metadata": metadata, "data": data}))
    })
}

fn issuers() -> impl Strategy<Value = Object> {
    let specs = select(vec![
        json!({"challenge": "TLS-ALPN-01"}),
        json!({"challenge": "HTTP-01"}),
        json!({"server": "http://not.secure"}),
        json!({"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "c1"}]}),
    ]);
    (select(&NAMESPACES), select(&ISSUERS), specs).prop_map(|(namespace, name, spec)| {
        let metadata = json!({"namespace": namespace, "name": name});
        object(Kind::AcmeIssuer, json!({"metadata": metadata, "spec": spec}))
    })
}

/// What the operator writes down of the certificate `t`, and of the account of `i1`.
fn acme_secrets() -> impl Strategy<Value = Object> {
    let proof = json!({"type": "http", "token": "t", "keyAuthorization": "t.k"});
    let placed = json!({"url": "u", "server": "s", "hosts": ["y.org"], "privateKey": "k", "proofs": {"y.org": proof}});
    let failure = json!({"reason": "R", "message": "m", "count": 1, "again": "2026-01-01T00:00:00Z", "of": "x"});
    let states = select(vec![
        ("t-acme-order", "weft.dev/acme-order", json!({"placed": placed})),
        ("t-acme-order", "weft.dev/acme-order", json!({"failure": failure})),
        ("t-acme-order", "Opaque", json!({"placed": placed})),
        (
            "i1-acme-account",
            "weft.dev/acme-account",
            json!({"server": "s", "failure": failure}),
        ),
    ]);
    (select(&NAMESPACES), states).prop_map(|(namespace, (name, kind, state))| {
        let metadata = json!({"namespace": namespace, "name": name});
        let data = json!({"state.json": state.to_string()});
        object(
            Kind::Secret,
            json!({"metadata": metadata, "type": kind, "stringData": data}),
        )
    })
}

fn traffic_splits() -> impl Strategy<Value = Object> {
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

fn traffic_specs() -> impl Strategy<Value = Object> {
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

fn traffic_targets() -> impl Strategy<Value = Object> {
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

fn objects() -> impl Strategy<Value = Object> {
    prop_oneof![
        2 => namespaces(),
        1 => classes(),
        1 => xmeshes(),
        4 => gateways(),
        3 => listener_sets(),
        2 => backend_tls_policies(),
        1 => config_maps(),
        5 => routes(Kind::HttpRoute, http_rules()),
        2 => routes(Kind::GrpcRoute, grpc_rules()),
        2 => routes(Kind::TlsRoute, l4_rules()),
        2 => routes(Kind::TcpRoute, l4_rules()),
        2 => routes(Kind::UdpRoute, l4_rules()),
        2 => grants(),
        3 => services(),
        3 => xbackends(),
        3 => slices(),
        3 => traffic_policies(),
        3 => authorization_policies(),
        1 => secrets(),
        1 => issuers(),
        1 => acme_secrets(),
        3 => traffic_splits(),
        2 => traffic_specs(),
        2 => traffic_targets(),
    ]
}

/// Mostly of what is new or changed; what is taken away was put before, most of the time.
fn edits() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => objects().prop_map(Edit::Put),
        1 => objects().prop_map(|object| Edit::Delete(object.reference())),
    ]
}

/// What someone knows who only ever saw what changed.
#[derive(Default)]
struct Follower {
    resources: BTreeMap<Key, Resource>,
    statuses: BTreeMap<ObjectRef, Status>,
    diagnostics: BTreeMap<ObjectRef, Vec<Diagnostic>>,
}

impl Follower {
    /// Takes over what changed, and says what did not change after all.
    fn follow(&mut self, output: Output) -> Vec<String> {
        let mut needless = Vec::new();
        for change in output.changes {
            let (key, now) = match change {
                Change::Upsert(resource) => (resource.key(), Some(resource)),
                Change::Remove(key) => (key, None),
            };
            let before = match now.clone() {
                Some(resource) => self.resources.insert(key.clone(), resource),
                None => self.resources.remove(&key),
            };
            if before == now {
                needless.push(key.to_string());
            }
        }
        let statuses = output.statuses.into_iter();
        self.statuses
            .extend(statuses.map(|(reference, status)| (reference, Status::clone(&status))));
        for (reference, list) in output.diagnostics {
            let list = list.to_vec();
            let before = if list.is_empty() {
                self.diagnostics.remove(&reference).unwrap_or_default()
            } else {
                self.diagnostics
                    .insert(reference.clone(), list.clone())
                    .unwrap_or_default()
            };
            if before == list {
                needless.push(format!("the diagnostics of {reference}"));
            }
        }
        needless
    }
}

fn resources(translator: &Translator) -> BTreeMap<Key, Resource> {
    translator
        .resources()
        .map(|resource| (resource.key(), resource.clone()))
        .collect()
}

fn statuses(translator: &Translator) -> BTreeMap<ObjectRef, Status> {
    let all = translator.statuses();
    all.map(|(reference, status)| (reference.clone(), status.clone()))
        .collect()
}

fn diagnostics(translator: &Translator) -> BTreeMap<ObjectRef, Vec<Diagnostic>> {
    let mut all: BTreeMap<ObjectRef, Vec<Diagnostic>> = BTreeMap::new();
    for (reference, diagnostic) in translator.diagnostics() {
        all.entry(reference.clone()).or_default().push(diagnostic.clone());
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn edits_lead_to_what_their_outcome_alone_would(
        standalone in any::<bool>(),
        first in vec(edits(), 0..60),
        batches in vec(vec(edits(), 1..4), 1..16),
    ) {
        let mut translator = translator(standalone);
        let mut world: BTreeMap<ObjectRef, Object> = BTreeMap::new();
        let mut follower = Follower::default();
        let mut wanted = BTreeMap::new();
        for batch in std::iter::once(first).chain(batches) {
            for edit in &batch {
                match edit {
                    Edit::Put(object) => world.insert(object.reference(), object.clone()),
                    Edit::Delete(reference) => world.remove(reference),
                };
            }
            let output = translator.apply(batch);
            if output.acme {
                wanted = translator.wanted();
            }
            let needless = follower.follow(output);
            prop_assert_eq!(needless, Vec::<String>::new());

            let mut fresh = support::translator(standalone);
            apply(&mut fresh, world.values().cloned());
            prop_assert_eq!(resources(&translator), resources(&fresh));
            prop_assert_eq!(statuses(&translator), statuses(&fresh));
            prop_assert_eq!(diagnostics(&translator), diagnostics(&fresh));
            prop_assert_eq!(&wanted, &fresh.wanted());

            prop_assert_eq!(&follower.resources, &resources(&fresh));
            prop_assert_eq!(&follower.diagnostics, &diagnostics(&fresh));
            // Of objects that are gone or no longer ours nothing is said.
            follower.statuses.retain(|reference, _| statuses(&fresh).contains_key(reference));
            prop_assert_eq!(&follower.statuses, &statuses(&fresh));
        }
    }
}

/// A route of its own hostname and path to a Service of its own, and the Service with its endpoint. In the mesh all are for
/// one Service.
fn tenant(at: usize, backend_weight: u32) -> [Object; 3] {
    let name = format!("t{at}");
    let backend = json!({"name": name, "port": 80, "weight": backend_weight});
    [
        object(
            Kind::HttpRoute,
            json!({
                "metadata": {"name": name},
                "spec": {
                    "parentRefs": [{"name": "edge"}, {"group": "", "kind": "Service", "name": "hub"}],
                    "hostnames": [format!("{name}.example.com"), "shared.example.com"],
                    "rules": [{"matches": [{"path": {"value": format!("/{name}")}}], "backendRefs": [backend]}],
                },
            }),
        ),
        object(
            Kind::Service,
            json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}),
        ),
        object(
            Kind::EndpointSlice,
            json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "ports": [{"port": 8080}],
                "endpoints": [{"addresses": [format!("10.{}.{}.1", at / 256, at % 256)]}],
            }),
        ),
    ]
}

/// What each of some edits costs among so many routes.
fn costs(routes: usize) -> Vec<(&'static str, usize, usize)> {
    let mut translator = translator(false);
    let defaults = manifests(include_str!("goldens/defaults.yaml"));
    apply(&mut translator, defaults.into_values());
    let hub = json!({"metadata": {"name": "hub"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}});
    let meshed = json!({"metadata": {"name": "default", "labels": {"weft.dev/mesh": "observe"}}});
    let mesh = [object(Kind::Service, hub), object(Kind::Namespace, meshed)];
    apply(&mut translator, mesh);
    apply(&mut translator, (0..routes).flat_map(|at| tenant(at, 1)));
    assert_eq!(translator.diagnostics().count(), 0);

    let [route, _, slice] = tenant(7, 2);
    let mut copy = route.clone();
    if let Object::HttpRoute(copy) = &mut copy {
        Arc::make_mut(copy).metadata.name = "t7-copy".into();
    }
    let mut other_port = slice.clone();
    let Object::EndpointSlice(ports) = &mut other_port else {
        panic!("a slice")
    };
    Arc::make_mut(ports).ports[0].port = Some(9090);
    let steps: [(&str, Vec<Edit>); 9] = [
        ("another weight in a route", vec![Edit::Put(route.clone())]),
        ("another port of an endpoint", vec![Edit::Put(other_port)]),
        ("the last endpoint goes", vec![Edit::Delete(slice.reference())]),
        ("a route comes that another hides", vec![Edit::Put(copy)]),
        ("a route goes that hid another", vec![Edit::Delete(route.reference())]),
        ("a route comes that hides another", vec![Edit::Put(route.clone())]),
        ("a route goes", vec![Edit::Delete(route.reference())]),
        ("a route comes back", vec![Edit::Put(route)]),
        (
            "a route comes with its Service",
            tenant(routes, 1).map(Edit::Put).to_vec(),
        ),
    ];
    steps
        .into_iter()
        .map(|(what, edits)| {
            let output = translator.apply(edits);
            (what, output.derived, output.changes.len())
        })
        .collect()
}

#[test]
fn an_edit_costs_the_same_among_few_and_among_many_routes() {
    let few = costs(50);
    assert_eq!(few, costs(5000));
    for (what, derived, changes) in few {
        assert!((1..=8).contains(&derived), "{what}: {derived} derivations");
        assert!((1..=4).contains(&changes), "{what}: {changes} changes");
    }
}
