//! Certificates and roots, and who issues them.

use proptest::{prelude::*, sample::select};
use serde_json::json;
use weft_crds::{Kind, Object, ObjectRef};

use super::{ISSUERS, NAMESPACES, object};
use crate::support::manifests;

/// Roots, the same with another text, or none.
pub(super) fn config_maps() -> impl Strategy<Value = Object> {
    let defaults = manifests(include_str!("../../goldens/defaults.yaml"));
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

/// A certificate, the same one with another text, or none.
pub(super) fn secrets() -> impl Strategy<Value = Object> {
    let defaults = manifests(include_str!("../../goldens/defaults.yaml"));
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

pub(super) fn issuers() -> impl Strategy<Value = Object> {
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
pub(super) fn acme_secrets() -> impl Strategy<Value = Object> {
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
