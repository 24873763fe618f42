//! Objects of every kind, and edits of them: of few names, so that they have to do with each other.

mod certificates;
mod gateways;
mod policies;
mod routes;
mod services;
mod smi;

use proptest::{option, prelude::*, sample::select};
use serde_json::{Value, json};
use weft_crds::{Kind, Object};
use weft_translate::Edit;

use self::{
    certificates::{acme_secrets, config_maps, issuers, secrets},
    gateways::{classes, gateways, listener_sets, xmeshes},
    policies::{authorization_policies, backend_tls_policies, traffic_policies},
    routes::{grants, grpc_rules, http_rules, l4_rules, routes},
    services::{nodes, services, slices, xbackends},
    smi::{traffic_specs, traffic_splits, traffic_targets},
};

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
const NODES: [&str; 2] = ["n1", "n2"];
const CREATED: [&str; 2] = ["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"];

pub(crate) fn object(kind: Kind, value: Value) -> Object {
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
        2 => nodes(),
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
pub(crate) fn edits() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => objects().prop_map(Edit::Put),
        1 => objects().prop_map(|object| Edit::Delete(object.reference())),
    ]
}
