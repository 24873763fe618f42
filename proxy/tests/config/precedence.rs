//! Which of several rules takes a request.

use weft_model::{Route, RouteKind};
use weft_proxy::config::{Asker, Reason, Step, explain};

use super::support::{RouteWith, With, named, request, route, snapshot, taker};

/// Each pair: both would take the request, the first does, by this step; whatever order they arrive in.
#[test]
fn each_step_of_precedence_decides() {
    let grpc = |route: Route| route.with(|route| route.owner.kind = RouteKind::Grpc);
    let fields = [("x-a", "1"), ("x-b", "2")];
    let line = "GET a.example.com/one/two?a=1&b=2";
    for (first, second, step) in [
        // Hostname, even against an exact path.
        (
            route("z").hosts(&["a.example.com"]),
            route("a").at(&["=/one/two"]),
            Step::Hostname,
        ),
        (
            route("z").hosts(&["a.example.com"]),
            route("a").hosts(&["*.example.com"]).at(&["=/one/two"]),
            Step::Hostname,
        ),
        (
            route("z").hosts(&["*.example.com"]),
            route("a").hosts(&["*.com"]).at(&["=/one/two"]),
            Step::Hostname,
        ),
        (
            route("z").hosts(&["*.com"]),
            route("a").at(&["=/one/two"]),
            Step::Hostname,
        ),
        // Path.
        (
            route("z").at(&["=/one/two"]),
            route("a").at(&["~/one/t.*"]).header("x-a", "1"),
            Step::PathKind,
        ),
        (
            route("z").at(&["=/one/two"]),
            route("a").at(&["/one/two"]).method("GET"),
            Step::PathKind,
        ),
        (
            route("z").at(&["~/.*"]),
            route("a").at(&["/one/two"]).method("GET"),
            Step::PathKind,
        ),
        (
            route("z").at(&["~/one/.*"]),
            route("a").at(&["~/.*"]).method("GET"),
            Step::PathLength,
        ),
        (
            route("z").at(&["/one/two"]),
            route("a").at(&["/one"]).method("GET"),
            Step::PathLength,
        ),
        (
            route("z").at(&["/one"]),
            route("a").at(&["/"]).method("GET"),
            Step::PathLength,
        ),
        // Method, headers, query, each against more of what follows.
        (
            route("z").method("GET"),
            route("a").header("x-a", "1").header("x-b", "2"),
            Step::Method,
        ),
        (
            route("z").header("x-a", "1").header("x-b", "2"),
            route("a").header("x-a", "1").query("a", "1"),
            Step::Headers,
        ),
        (
            route("z").header("x-a", "~.*"),
            route("a").query("a", "1").query("b", "2"),
            Step::Headers,
        ),
        (
            route("z").query("a", "1").query("b", "2"),
            route("a").query("a", "1").created(-1),
            Step::Query,
        ),
        // Age, name, place.
        (route("z").created(1), route("a").created(2), Step::Age),
        (named("a", "z", 1), named("b", "a", 0), Step::Name),
        (route("a").with(|route| route.owner.rule = 1), route("b"), Step::Name),
        (named("a-b", "x", 0), named("a", "x", 0), Step::Name),
        (
            route("a"),
            grpc(named("default", "a", 0).with(|r| r.key = "GRPCRoute/default/a/0".into())),
            Step::Name,
        ),
        (route("a"), named("default", "a", 1), Step::RuleOrder),
    ] {
        for routes in [[first.clone(), second.clone()], [second.clone(), first.clone()]] {
            let snapshot = snapshot(routes);
            let request = request(line, &fields);
            let explanation = explain(&snapshot, 80, None, &request.view(), &Asker::default());
            assert_eq!(
                explanation.taken.map(|taken| taken.route),
                Some(first.key.clone()),
                "{first:#?}\n{second:#?}"
            );
            let passed: Vec<_> = explanation
                .passed
                .into_iter()
                .map(|passed| (passed.route, passed.reason))
                .collect();
            assert_eq!(passed, [(second.key.clone(), Reason::Outranked(step))]);
        }
    }
}

#[test]
fn a_request_that_the_first_does_not_take_goes_to_the_next() {
    let routes = [
        route("exact").at(&["=/one"]).method("POST"),
        route("pattern").at(&["~/on."]).header("x-a", "1"),
        route("prefix").at(&["/one"]).query("a", "1"),
        route("rest"),
    ];
    let snapshot = snapshot(routes);
    assert_eq!(taker(&snapshot, "POST a.com/one?a=1", &[("x-a", "1")]), "exact");
    assert_eq!(taker(&snapshot, "GET a.com/one?a=1", &[("x-a", "1")]), "pattern");
    assert_eq!(taker(&snapshot, "GET a.com/one?a=1", &[]), "prefix");
    assert_eq!(taker(&snapshot, "GET a.com/one", &[]), "rest");
}

#[test]
fn a_less_specific_hostname_takes_what_the_more_specific_leaves() {
    let snapshot = snapshot([
        route("exact").hosts(&["a.example.com"]).at(&["/one"]),
        route("wildcard").hosts(&["*.example.com"]).at(&["/two"]),
        route("any").at(&["/three"]),
    ]);
    assert_eq!(taker(&snapshot, "a.example.com/one", &[]), "exact");
    assert_eq!(taker(&snapshot, "a.example.com/two", &[]), "wildcard");
    assert_eq!(taker(&snapshot, "a.example.com/three", &[]), "any");
    assert_eq!(taker(&snapshot, "a.example.com/four", &[]), "404");
    assert_eq!(
        taker(&snapshot, "example.com/two", &[]),
        "404",
        "a wildcard does not mean the apex"
    );
}

#[test]
fn paths_match_by_segment() {
    let snapshot = snapshot([
        route("exact").at(&["=/e"]),
        route("exact-slash").at(&["=/s/"]),
        route("prefix").at(&["/v2"]),
        route("slashed").at(&["/v3/"]),
        route("pattern").at(&["~/r/[0-9]+"]),
    ]);
    for (path, expected) in [
        ("/e", "exact"),
        ("/e/", "404"),
        ("/E", "404"),
        ("/s", "404"),
        ("/s/", "exact-slash"),
        ("/v2", "prefix"),
        ("/v2/", "prefix"),
        ("/v2/a/b", "prefix"),
        ("/v2example", "404"),
        ("/V2", "404"),
        ("/v3", "slashed"),
        ("/v3/", "slashed"),
        ("/v3/a", "slashed"),
        ("/v33", "404"),
        ("/r/12", "pattern"),
        ("/r/12a", "404"),
        ("/x/r/12", "404"),
    ] {
        assert_eq!(taker(&snapshot, &format!("a.com{path}"), &[]), expected, "{path}");
    }
}

#[test]
fn hosts_match_without_port_case_and_final_dot() {
    let snapshot = snapshot([
        route("one").hosts(&["very.specific.com"]),
        route("wild").hosts(&["*.wild.com"]),
    ]);
    for (host, expected) in [
        ("very.specific.com", "one"),
        ("very.specific.com:1234", "one"),
        ("Very.Specific.COM:80", "one"),
        ("very.specific.com.", "one"),
        ("a.wild.com", "wild"),
        ("a.b.WILD.com:8080", "wild"),
        ("wild.com", "404"),
        ("notwild.com", "404"),
        ("specific.com", "404"),
        ("", "404"),
    ] {
        assert_eq!(taker(&snapshot, &format!("{host}/"), &[]), expected, "{host}");
    }
}

#[test]
fn conditions_hold_together_and_matches_apart() {
    let both = route("both")
        .header("x-a", "1")
        .header("x-b", "~b.*")
        .query("q", "Q")
        .method("PUT");
    let either = route("either").at(&["=/a", "/b"]);
    let snapshot = snapshot([both, either]);
    let fields = [("X-A", "1"), ("x-B", "bee")];
    assert_eq!(taker(&snapshot, "PUT a.com/?q=Q", &fields), "both");
    assert_eq!(
        taker(&snapshot, "PUT a.com/?z=1&%71=%51", &fields),
        "both",
        "the query is decoded"
    );
    for (line, fields) in [
        ("GET a.com/?q=Q", &fields[..]),
        ("put a.com/?q=Q", &fields[..]),
        ("PUT a.com/?q=q", &fields[..]),
        ("PUT a.com/?Q=Q", &fields[..]),
        ("PUT a.com/", &fields[..]),
        ("PUT a.com/?q=Q", &fields[..1]),
        ("PUT a.com/?q=Q", &[("x-a", "1"), ("x-b", "xb")][..]),
        ("PUT a.com/?q=Q", &[("x-a", "2"), ("x-b", "b")][..]),
    ] {
        assert_eq!(taker(&snapshot, line, fields), "404", "{line} {fields:?}");
    }
    assert_eq!(taker(&snapshot, "a.com/a", &[]), "either");
    assert_eq!(taker(&snapshot, "a.com/b/c", &[]), "either");
}

#[test]
fn only_the_first_condition_on_a_name_counts() {
    let snapshot = snapshot([route("one")
        .header("x-a", "1")
        .header("X-A", "2")
        .query("q", "1")
        .query("q", "2")]);
    assert_eq!(taker(&snapshot, "a.com/?q=1", &[("x-a", "1")]), "one");
    assert_eq!(taker(&snapshot, "a.com/?q=2", &[("x-a", "1")]), "404");
}

#[test]
fn the_match_says_what_its_prefix_took() {
    let snapshot = snapshot([route("r").at(&["/", "/one/", "=/exact", "~/p.*"])]);
    let port = snapshot.port(80).expect("it is served");
    for (path, index, prefix) in [
        ("/x", 0, 0),
        ("/one", 1, 4),
        ("/one/two", 1, 4),
        ("/exact", 2, 6),
        ("/pp", 3, 3),
    ] {
        let request = request(&format!("a.com{path}"), &[]);
        match port.find(&request.view(), None) {
            weft_proxy::config::Found::Rule(found) => {
                assert_eq!((found.index, found.prefix), (index, prefix), "{path}")
            }
            other => panic!("{path}: {other:?}"),
        }
    }
}
