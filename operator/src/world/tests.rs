use serde_json::{Value, json};

use super::{lists::all, *};
use crate::{
    object,
    watch::{News, Watched},
};

fn world() -> World {
    World::new("ours", Myself::default(), Publisher::new(), Metrics::new())
}

fn put(kind: Kind, name: &str, more: Value) -> (Watched, News) {
    let mut value = json!({
        "apiVersion": "v1", "kind": kind.name(),
        "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1", "generation": 1},
    });
    if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
        value.extend(more);
    }
    let object = serde_json::from_value(value).expect("an object");
    let (seen, object) = object::read(kind, object).expect("readable");
    (Watched::Kind(kind), News::Put(Box::new(seen), object))
}

fn gateway(name: &str) -> (Watched, News) {
    let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
    put(
        Kind::Gateway,
        name,
        json!({"spec": {"gatewayClassName": "c", "listeners": listeners}}),
    )
}

fn class() -> (Watched, News) {
    put(Kind::GatewayClass, "c", json!({"spec": {"controllerName": "ours"}}))
}

/// A world in which these were listed.
fn listed(objects: Vec<(Watched, News)>) -> (World, Effects) {
    let mut world = world();
    let begin = all().map(|watched| (watched, News::Begin(None)));
    let complete = all().map(|watched| (watched, News::Complete));
    let effects = world.take(begin.chain(objects).chain(complete));
    (world, effects)
}

fn reference(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::Gateway, "n", name)
}

#[test]
fn nothing_is_translated_before_everything_was_listed() {
    let mut world = world();
    let watches: Vec<Watched> = all().collect();
    world.take(watches.iter().map(|watched| (*watched, News::Begin(None))));
    world.take([class(), gateway("edge")]);
    for watched in &watches[1..] {
        assert_eq!(world.take([(*watched, News::Complete)]), Effects::default());
        assert_eq!((world.epoch(), world.translator.size()), (0, 0));
    }
    let effects = world.take([(watches[0], News::Complete)]);
    assert!(effects.complete && effects.gateways.contains(&reference("edge")));
    assert_eq!((world.epoch(), world.translator.size()), (1, 1));
    assert_eq!(world.ports(&reference("edge")), BTreeSet::from([(80, Transport::Tcp)]));
}

#[test]
fn that_datagrams_are_not_for_the_mesh_to_let_in_is_said_by_an_event() {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "uid": "n", "labels": {"weft.dev/mesh": "secure"}},
    });
    let object = serde_json::from_value(namespace).expect("an object");
    let (seen, object) = object::read(Kind::Namespace, object).expect("readable");
    let namespace = (Watched::Kind(Kind::Namespace), News::Put(Box::new(seen), object));
    let route = put(Kind::SmiUdpRoute, "dns", json!({"spec": {"matches": {"ports": [53]}}}));
    let target = json!({
        "destination": {"kind": "ServiceAccount", "name": "dns", "namespace": "n"},
        "sources": [{"kind": "ServiceAccount", "name": "web", "namespace": "n"}],
        "rules": [{"kind": "UDPRoute", "name": "dns"}],
    });
    let target = put(Kind::TrafficTarget, "t", json!({"spec": target}));
    let (world, effects) = listed(vec![namespace, route, target]);
    let [(of, said)] = &effects.wrong[..] else {
        panic!("{:?}", effects.wrong);
    };
    assert_eq!(
        (of.to_string().as_str(), said.code.as_str(), said.level),
        ("TrafficTarget n/t", "W0603", Level::Warning)
    );
    assert!(said.message.contains("carries no UDP"), "{}", said.message);
    assert_eq!(world.all_wrong(), effects.wrong, "who leads later says it too");
}

#[test]
fn what_is_not_in_a_later_list_is_gone_and_what_cannot_be_read_stays() {
    let (mut world, _) = listed(vec![class(), gateway("a"), gateway("b"), gateway("c")]);
    assert_eq!(world.translator.size(), 3);
    let watched = Watched::Kind(Kind::Gateway);
    world.take([(watched, News::Begin(None)), gateway("a")]);
    assert_eq!(world.translator.size(), 3);
    world.take([(watched, News::Unreadable(reference("b"))), (watched, News::Complete)]);
    let left: BTreeSet<_> = world.translator.references(Kind::Gateway).cloned().collect();
    assert_eq!(left, BTreeSet::from([reference("a"), reference("b")]));
    assert!(world.seen(&reference("c")).is_none());
}

#[test]
fn what_is_gone_before_everything_was_listed_never_was() {
    let mut world = world();
    world.take(all().map(|watched| (watched, News::Begin(None))));
    let watched = Watched::Kind(Kind::Gateway);
    world.take([class(), gateway("a"), (watched, News::Complete)]);
    // The watch is lost and begun anew while others still list.
    world.take([(watched, News::Begin(None)), gateway("b")]);
    world.take(all().map(|watched| (watched, News::Complete)));
    let left: Vec<_> = world.translator.references(Kind::Gateway).cloned().collect();
    assert_eq!(left, [reference("b")]);
}

#[test]
fn a_status_that_was_written_is_not_undone_by_older_news() {
    let (mut world, _) = listed(vec![class(), gateway("a")]);
    let mut written = world.seen(&reference("a")).expect("seen").clone();
    written.resource_version = "9".to_owned();
    written.status = r#"{"conditions":[]}"#.into();
    world.written(written.clone());
    let epoch = world.epoch();
    world.take([gateway("a")]);
    assert_eq!(world.seen(&reference("a")), Some(&written));
    assert_eq!(world.epoch(), epoch);
}
