//! An edit costs the same however many objects it has nothing to do with.

use std::sync::Arc;

use serde_json::json;
use weft_crds::{Kind, Object};
use weft_translate::Edit;

use crate::{
    support::{apply, manifests, translator},
    world::object,
};

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
    let defaults = manifests(include_str!("../goldens/defaults.yaml"));
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
