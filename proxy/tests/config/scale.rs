//! What 5,000 routes cost. The limits are wide, because tests run unoptimised and beside others; run with
//! `--nocapture` to see the figures.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use http::HeaderMap;
use serde_json::json;
use weft_model::{Change, Route};
use weft_proxy::{
    config::{Configuration, Found},
    fields::RequestView,
};

use super::support::{HTTP, Put, RouteWith, listener, policy, route, service, workload};

const ROUTES: usize = 5000;

fn on_hosts(count: usize) -> Vec<Route> {
    (0..count)
        .map(|n| route(&format!("r{n}")).hosts(&[format!("host-{n}.example.com").as_str()]))
        .collect()
}

fn on_paths(count: usize) -> Vec<Route> {
    (0..count)
        .map(|n| {
            route(&format!("r{n}"))
                .hosts(&["www.example.com"])
                .at(&[format!("/api/v1/resource-{n}").as_str()])
        })
        .collect()
}

fn load(routes: Vec<Route>) -> (Configuration, Duration) {
    let mut configuration = Configuration::new();
    let changes: Vec<Change> = std::iter::once(listener(HTTP, 80, None).put())
        .chain(routes.into_iter().map(Put::put))
        .collect();
    let start = Instant::now();
    let applied = configuration.apply(changes);
    let took = start.elapsed();
    assert_eq!(applied.rejected, []);
    (configuration, took)
}

/// The median time of an edit of one route and of its being served.
fn edit(configuration: &mut Configuration, make: impl Fn(usize) -> Vec<Change>) -> Duration {
    let mut times: Vec<_> = (0..201)
        .map(|turn| {
            let changes = make(turn);
            let start = Instant::now();
            black_box(configuration.apply(changes).snapshot.generation);
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

#[test]
fn an_edit_among_thousands_costs_what_it_does_among_dozens() {
    for (shape, make) in [("hosts", on_hosts as fn(usize) -> Vec<Route>), ("paths", on_paths)] {
        let cost = |count: usize| {
            let (mut configuration, took) = load(make(count));
            let routes = make(count);
            let changed = |turn: usize| routes[(turn * 37) % count].clone().method(&format!("METHOD-{turn}"));
            let edited = edit(&mut configuration, |turn| vec![changed(turn).put()]);
            (took, edited)
        };
        let (_, few) = cost(50);
        let (loaded, many) = cost(ROUTES);
        println!("{shape}: {ROUTES} routes loaded in {loaded:?}; an edit takes {many:?}, among 50 {few:?}");
        assert!(loaded < Duration::from_secs(5), "loading took {loaded:?}");
        assert!(
            many < few * 20 + Duration::from_millis(1),
            "{many:?} among {ROUTES}, {few:?} among 50"
        );
    }
}

#[test]
fn an_endpoint_change_touches_no_rule() {
    let (mut configuration, _) = load(on_paths(ROUTES));
    let before = configuration
        .apply((0..ROUTES).map(|n| service(&format!("r{n}")).put()).collect())
        .snapshot;
    let took = edit(&mut configuration, |turn| {
        vec![workload("default/pod", ["10.0.0.1", "10.0.0.2"][turn % 2], &[("r7", 80)]).put()]
    });
    let after = configuration.apply(vec![]).snapshot;
    println!("an endpoint change takes {took:?}");
    assert!(std::sync::Arc::ptr_eq(
        before.port(80).expect("served"),
        after.port(80).expect("served")
    ));
    assert_eq!(
        after.service(&service("r7").key).map(|entry| entry.endpoints.len()),
        Some(1)
    );
}

#[test]
fn a_policy_touches_what_it_is_for_and_nothing_else() {
    let cost = |count: usize| {
        let (mut configuration, _) = load(on_paths(count));
        // Each route has one already.
        let of_route =
            |n: usize| json!({"route": {"kind": "HTTPRoute", "namespace": "default", "name": format!("r{n}")}});
        let policies = (0..count).map(|n| policy(&format!("p{n}"), &[of_route(n)], "allow", &json!([{}])));
        let before = configuration.apply(policies.collect()).snapshot;
        let took = edit(&mut configuration, |turn| {
            let n = (turn * 37) % count;
            let rules = json!([{"to": [{"ports": [turn + 1]}]}]);
            vec![policy(&format!("p{n}"), &[of_route(n)], "allow", &rules)]
        });
        let after = configuration.apply(vec![]).snapshot;
        assert!(std::sync::Arc::ptr_eq(
            before.port(80).expect("served"),
            after.port(80).expect("served")
        ));
        took
    };
    let (few, many) = (cost(50), cost(ROUTES));
    println!("an edit of a policy among {ROUTES} takes {many:?}, among 50 {few:?}");
    assert!(
        many < few * 20 + Duration::from_millis(1),
        "{many:?} among {ROUTES}, {few:?} among 50"
    );
}

#[test]
fn a_request_is_found_at_once_among_thousands() {
    let fields = HeaderMap::new();
    for (shape, routes) in [("hosts", on_hosts(ROUTES)), ("paths", on_paths(ROUTES))] {
        let requests: Vec<_> = routes
            .iter()
            .map(|route| {
                let weft_model::PathMatch::Prefix(path) = &route.matches[0].path else {
                    panic!("a prefix")
                };
                (
                    route.hostnames[0].to_string(),
                    format!("{}/x", path.trim_end_matches('/')),
                    route.key.clone(),
                )
            })
            .collect();
        let (mut configuration, _) = load(routes);
        let snapshot = configuration.apply(vec![]).snapshot;
        let port = snapshot.port(80).expect("it is served");
        let turn = || {
            let start = Instant::now();
            for (host, path, key) in &requests {
                let request = RequestView {
                    method: "GET",
                    host,
                    path,
                    query: None,
                    fields: &fields,
                };
                match black_box(port.find(&request, None)) {
                    Found::Rule(found) => assert_eq!(found.rule.route.key, *key),
                    other => panic!("{host}{path}: {other:?}"),
                }
            }
            start.elapsed() / ROUTES as u32
        };
        let best = (0..20).map(|_| turn()).min().expect("there are turns");
        println!("{shape}: found in {best:?}");
        assert!(
            best < Duration::from_micros(20),
            "finding one of {ROUTES} took {best:?}"
        );
    }
}
