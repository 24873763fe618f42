//! Retries and their budget, over real sockets: GEP-1731 with what Gateway API v1.7 adds to it, and GEP-3388.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Backend1, Fixture, ok, retry, route, service};
use weft_model::{
    Backend, BackendProtocol, BackendTarget, Filter, PathRewrite, Resource, RetryBudget, Rewrite, Route, ServiceKey,
};
use weft_proxy::Flag;

fn apply(fixture: &Fixture, backend: &Backend1, route: Route) {
    let mut resources = service("web", BackendProtocol::Undeclared, &[backend.address]);
    resources.push(Resource::Route(Arc::new(route)));
    let rejected = fixture.apply(resources);
    assert!(rejected.is_empty(), "{rejected:?}");
}

/// A backend that fails so many times, each time in the same way, and then answers.
fn failing(times: usize, fail: impl Fn() -> Option<Vec<u8>> + Send + Sync + 'static) -> (Backend1, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let backend = Backend1::new(move |_, number| {
        counted.store(number + 1, Ordering::SeqCst);
        if number < times { fail() } else { Some(ok(b"at last")) }
    });
    (backend, seen)
}

fn unavailable() -> Option<Vec<u8>> {
    Some(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec())
}

#[test]
fn a_connection_that_breaks_is_tried_again_as_often_as_the_rule_allows() {
    for (attempts, status, tries) in [(0, 503, 1), (1, 503, 2), (2, 200, 3)] {
        let fixture = Fixture::new();
        let (backend, seen) = failing(2, || None);
        let mut route = route("web", "/", "web");
        // No code is named: what breaks off is a failure anyway.
        route.retry = retry(attempts, &[]);
        apply(&fixture, &backend, route);
        assert_eq!(fixture.get("/").status, status, "{attempts}");
        assert_eq!(seen.load(Ordering::SeqCst), tries, "{attempts}");
    }
}

#[test]
fn the_requests_timeout_ends_all_tries() {
    let fixture = Fixture::new();
    let (backend, seen) = failing(1000, unavailable);
    let mut route = route("web", "/", "web");
    route.retry = retry(1000, &[503]);
    route.retry.as_mut().expect("it has one").backoff = Some(Duration::from_millis(50));
    route.timeouts.request = Some(Duration::from_millis(400));
    apply(&fixture, &backend, route);
    let start = Instant::now();
    let response = fixture.get("/");
    assert!(response.status >= 500, "{}", response.status);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!((1..12).contains(&seen.load(Ordering::SeqCst)), "{seen:?}");
}

#[test]
fn a_try_that_takes_too_long_is_one_that_failed() {
    let fixture = Fixture::new();
    let (backend, seen) = failing(1, || {
        thread::sleep(Duration::from_secs(3));
        Some(ok(b"too late"))
    });
    let mut route = route("web", "/", "web");
    route.retry = retry(1, &[]);
    route.timeouts.backend_request = Some(Duration::from_millis(300));
    apply(&fixture, &backend, route.clone());
    assert_eq!(fixture.get("/").text(), "at last");
    assert_eq!(seen.load(Ordering::SeqCst), 2);

    let (fixture, (slow, _)) = (
        Fixture::new(),
        failing(1000, || {
            thread::sleep(Duration::from_secs(3));
            Some(ok(b"too late"))
        }),
    );
    apply(&fixture, &slow, route);
    assert_eq!(fixture.get("/").status, 504);
}

#[test]
fn a_service_may_have_a_budget_of_its_own() {
    let fixture = Fixture::new();
    let (backend, seen) = failing(1000, unavailable);
    let mut policed = route("web", "/", "web");
    policed.retry = retry(1, &[503]);
    apply(&fixture, &backend, policed);
    let budget = |min_count| {
        let mut resources = service("web", BackendProtocol::Undeclared, &[]);
        if let Resource::Service(service) = &mut resources[0] {
            Arc::make_mut(service).retry_budget = Some(RetryBudget {
                percent: 0,
                interval: Duration::from_secs(1),
                min_count,
                min_interval: Duration::from_secs(3600),
            });
        }
        fixture.apply(resources);
    };
    budget(3);
    for (request, tries) in [2, 4, 6, 7, 8].into_iter().enumerate() {
        assert_eq!(fixture.get("/").status, 503);
        assert_eq!(seen.load(Ordering::SeqCst), tries, "after request {request}");
    }
    assert_eq!(fixture.flagged(Flag::RetryBudget), 2);
    // Another limit holds from the next request on.
    budget(5);
    fixture.get("/");
    assert_eq!(seen.load(Ordering::SeqCst), 10);
}

#[test]
fn without_retries_a_budget_does_nothing() {
    let fixture = Fixture::new();
    let (backend, _) = failing(1000, unavailable);
    apply(&fixture, &backend, route("web", "/", "web"));
    for _ in 0..20 {
        assert_eq!(fixture.get("/").status, 503);
    }
    assert_eq!(fixture.flagged(Flag::RetryBudget), 0);
}

#[test]
fn a_rule_that_comes_first_answers_though_its_backend_does_not_exist() {
    let fixture = Fixture::new();
    let (backend, _) = failing(0, || None);
    let mut first = route("web", "/", "web");
    first.backends[0].target = BackendTarget::Invalid("BackendNotFound".into());
    let mut second = route("web", "/", "web");
    second.key = "HTTPRoute/default/web/1".into();
    second.owner.rule = 1;
    apply(&fixture, &backend, second);
    assert_eq!(fixture.get("/").status, 200);
    fixture.apply(vec![Resource::Route(Arc::new(first))]);
    assert_eq!(fixture.get("/").status, 500);
}

#[test]
fn a_backend_may_have_its_requests_rewritten() {
    let (fixture, backend) = (Fixture::new(), Backend1::echo());
    let mut rewritten = route("web", "/a", "web");
    let rewrite = |host: &str, path: &str| {
        Filter::Rewrite(Rewrite {
            hostname: Some(host.into()),
            path: Some(PathRewrite::Prefix(path.into())),
        })
    };
    rewritten.backends = vec![Backend {
        weight: 1,
        target: BackendTarget::Service(ServiceKey::new("default", "web", 80)),
        filters: vec![rewrite("inner.example", "/b")],
    }];
    apply(&fixture, &backend, rewritten);
    let text = fixture.get("/a/c?d=e").text();
    assert!(text.starts_with("GET /b/c?d=e HTTP/1.1\r\n"), "{text}");
    assert_eq!(common::header(&text, "host").as_deref(), Some("inner.example"));
}
