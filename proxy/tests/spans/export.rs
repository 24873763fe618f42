//! What becomes of spans that the collector does not take.

use std::net::TcpListener;

use tonic::Code;
use weft_model::BackendProtocol;

use crate::{
    collector::{Answer, Collector},
    common::{Backend1, eventually},
    scene::{Scene, telling},
};

/// More than a worker holds.
const MANY: u64 = 200;

fn ask(scene: &Scene, count: u64) {
    let mut client = scene.fixture.connect();
    for _ in 0..count {
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(client.response("GET").status, 200);
    }
}

#[test]
fn all_spans_come_over_and_are_told_apart() {
    let (scene, backend) = (Scene::new(1.0), Backend1::echo());
    scene.route(BackendProtocol::Http1, &[backend.address]);
    ask(&scene, MANY);
    let told = scene.spans(2 * MANY as usize);
    let mut ids: Vec<String> = told.iter().map(crate::collector::Told::id).collect();
    let mut traces: Vec<String> = told.iter().map(crate::collector::Told::trace).collect();
    for list in [&mut ids, &mut traces] {
        list.sort();
        list.dedup();
    }
    assert_eq!((ids.len(), traces.len()), (2 * MANY as usize, MANY as usize));
    eventually("they are counted", || scene.stats().exported == 2 * MANY);
    assert_eq!((scene.stats().overflowed, scene.stats().failed), (0, 0));
}

#[test]
fn a_share_of_requests_is_told_of() {
    let (scene, backend) = (Scene::new(0.5), Backend1::echo());
    scene.route(BackendProtocol::Http1, &[backend.address]);
    ask(&scene, 400);
    // The chance that it is not within these is one in a thousand million.
    eventually("the spans are told of", || scene.collector.told().len() >= 2 * 140);
    assert!(scene.collector.told().len() <= 2 * 260);
}

#[test]
fn what_is_not_taken_is_dropped_and_counted_and_nobody_waits_for_it() {
    let (scene, backend) = (Scene::new(1.0), Backend1::echo());
    scene.route(BackendProtocol::Http1, &[backend.address]);
    scene.collector.answers(Answer::Refuses(Code::InvalidArgument));
    ask(&scene, 10);
    eventually("they are dropped", || scene.stats().failed == 20);
    scene.collector.answers(Answer::TakesAllBut(3));
    ask(&scene, 2);
    eventually("they are counted", || scene.stats().exported > 0);
    eventually("those that were rejected are counted", || {
        let stats = scene.stats();
        stats.exported + stats.failed == 24 && stats.failed > 20
    });
    let metrics = scene
        .fixture
        .runtime
        .block_on(scene.fixture.proxy.as_ref().expect("it runs").metrics());
    let failed = format!(
        "weft_spans_dropped_total{{reason=\"collector\"}} {}\n",
        scene.stats().failed
    );
    assert!(metrics.contains(&failed), "{metrics}");
    assert!(metrics.contains("weft_spans_dropped_total{reason=\"overflow\"} 0\n"));
}

#[test]
fn while_the_collector_is_away_what_is_too_much_is_dropped_and_afterwards_all_is_well() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("it is bound");
    let backend = Backend1::echo();
    let scene = Scene {
        // Nobody tells it anything.
        collector: Collector::new(),
        fixture: telling(address, 1.0),
    };
    scene.route(BackendProtocol::Http1, &[backend.address]);
    // Nobody reads what is sent, and nobody waits for that.
    while scene.stats().overflowed == 0 {
        ask(&scene, MANY);
    }
    assert_eq!(scene.stats().exported, 0);
    let Scene { fixture, .. } = scene;
    let collector = Collector::on(silent);
    let scene = Scene { collector, fixture };
    eventually("spans are taken", || scene.stats().exported > 0);
    ask(&scene, 1);
    eventually("they still are", || {
        let told = scene.collector.told();
        told.len() as u64 == scene.stats().exported
    });
}

#[test]
fn what_is_held_goes_out_before_all_ends() {
    let (scene, backend) = (Scene::new(1.0), Backend1::echo());
    scene.route(BackendProtocol::Http1, &[backend.address]);
    ask(&scene, 3);
    let Scene { collector, fixture } = scene;
    drop(fixture);
    assert_eq!(collector.told().len(), 6);
}
