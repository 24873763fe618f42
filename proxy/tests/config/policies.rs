//! What filters do, as the runtime asks for it.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use weft_model::{Cors, Filter, Mirror, PathRewrite, Redirect, Rewrite, ServiceKey};
use weft_proxy::config::{Answer, Found, Rule, Snapshot, Target};

use super::support::{HTTP, Put, RouteWith, listener, request, route, service, serving, snapshot, workload};

/// The only rule of a snapshot, and what its prefix takes of a request.
fn find<'s>(snapshot: &'s Snapshot, line: &str) -> (&'s Arc<Rule>, usize) {
    match snapshot
        .port(80)
        .expect("it is served")
        .find(&request(line, &[]).view(), None)
    {
        Found::Rule(found) => (found.rule, found.prefix),
        other => panic!("{line}: {other:?}"),
    }
}

fn list(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// As in the conformance suite.
fn cors() -> Cors {
    Cors {
        allow_origins: list(&["https://www.foo.com", "https://*.bar.com"]),
        allow_methods: list(&["GET", "OPTIONS"]),
        allow_headers: list(&["x-header-1", "x-header-2"]),
        expose_headers: list(&["x-header-3", "x-header-4"]),
        allow_credentials: true,
        max_age: 3600,
    }
}

fn preflight(cors: &Cors, fields: &[(&str, &str)]) -> Option<Answer> {
    let snapshot = snapshot([route("r").filter(Filter::Cors(cors.clone()))]);
    let request = request("OPTIONS a.com/", fields);
    find(&snapshot, "a.com/")
        .0
        .filters
        .answer(&request.view(), 0, "http", 80)
}

/// The fields of the response to a plain request from an origin, when the backend sent these.
fn response(cors: &Cors, origin: Option<&str>, fields: &[(&str, &str)]) -> HeaderMap {
    let snapshot = snapshot([route("r").filter(Filter::Cors(cors.clone()))]);
    let rule = find(&snapshot, "a.com/").0;
    let request = request("a.com/", &[("origin", origin.unwrap_or_default())]);
    assert_eq!(
        rule.filters.answer(&request.view(), 0, "http", 80),
        None,
        "it goes to the backend"
    );
    let mut response = super::support::request("a.com/", fields).fields;
    rule.filters.edit_response(&mut response, origin.map(str::as_bytes));
    response
}

fn text<'m>(map: &'m HeaderMap, name: &str) -> Option<&'m str> {
    assert!(map.get_all(name).iter().count() < 2, "{name} is there twice");
    map.get(name).map(|value| value.to_str().expect("it is text"))
}

#[test]
fn a_preflight_is_answered() {
    for origin in [
        "https://www.foo.com",
        "https://www.bar.com",
        "https://xpto.www.bar.com",
        "https://www.foo.com:443",
    ] {
        let fields = [("Origin", origin), ("access-control-request-method", "GET")];
        let Answer { status, headers } = preflight(&cors(), &fields).expect("it is answered");
        assert_eq!(status, 200);
        for (name, value) in [
            ("access-control-allow-origin", origin),
            ("access-control-allow-methods", "GET, OPTIONS"),
            ("access-control-allow-headers", "x-header-1, x-header-2"),
            ("access-control-expose-headers", "x-header-3, x-header-4"),
            ("access-control-max-age", "3600"),
            ("access-control-allow-credentials", "true"),
            ("vary", "Origin"),
        ] {
            assert_eq!(text(&headers, name), Some(value), "{name} for {origin}");
        }
    }
}

#[test]
fn a_preflight_from_elsewhere_is_refused() {
    for origin in [
        "https://foobar.com",
        "http://www.foo.com",
        "https://www.foo.com:8443",
        "https://bar.com",
        "https://evilbar.com",
        "https://www.bar.com.evil.com",
        "https://.bar.com",
        "null",
        "",
    ] {
        let answer = preflight(&cors(), &[("origin", origin), ("access-control-request-method", "GET")]);
        let Answer { status, headers } = answer.expect("it is answered");
        assert_eq!(
            (status, headers.keys().map(|name| name.as_str()).collect::<Vec<_>>()),
            (403, vec!["vary"]),
            "{origin}"
        );
    }
}

#[test]
fn only_a_preflight_is_answered() {
    assert_eq!(preflight(&cors(), &[("origin", "https://www.foo.com")]), None);
    assert_eq!(preflight(&cors(), &[("access-control-request-method", "GET")]), None);
}

#[test]
fn origins_match_by_scheme_host_and_port() {
    for (allowed, origin, expected) in [
        ("*", "https://a.com:12345", true),
        ("*", "null", true),
        ("https://*", "https://a.com", true),
        ("https://*", "https://a.com:12345", true),
        ("https://*", "http://a.com", false),
        ("https://*:8443", "https://a.com:8443", true),
        ("https://*:8443", "https://a.com", false),
        ("https://*.a.com:8443", "https://b.a.com:8443", true),
        ("https://*.a.com:8443", "https://b.a.com", false),
        ("http://a.com", "http://a.com:80", true),
        ("http://a.com:8080", "http://a.com:8080", true),
        ("http://a.com:8080", "http://a.com", false),
        ("http://A.com", "http://a.COM", true),
    ] {
        let cors = Cors {
            allow_origins: list(&[allowed]),
            max_age: 5,
            ..Cors::default()
        };
        let sent = response(&cors, Some(origin), &[]);
        assert_eq!(
            text(&sent, "access-control-allow-origin"),
            expected.then_some(origin),
            "{allowed}, {origin}"
        );
        assert_eq!(text(&sent, "access-control-allow-credentials"), None);
    }
}

#[test]
fn a_star_is_never_sent_to_requests_with_credentials() {
    let everything = |allow_credentials| Cors {
        allow_origins: list(&["*"]),
        allow_methods: list(&["*"]),
        allow_headers: list(&["*"]),
        expose_headers: list(&["*"]),
        allow_credentials,
        max_age: 5,
    };
    let fields = [
        ("origin", "https://other.foo.com"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-header-1, x-header-2"),
    ];
    for credentials in [false, true] {
        let headers = preflight(&everything(credentials), &fields)
            .expect("it is answered")
            .headers;
        assert_eq!(
            text(&headers, "access-control-allow-origin"),
            Some("https://other.foo.com")
        );
        assert_eq!(text(&headers, "access-control-allow-methods"), Some("PUT"));
        assert_eq!(
            text(&headers, "access-control-allow-headers"),
            Some("x-header-1, x-header-2")
        );
        assert_eq!(
            text(&headers, "access-control-allow-credentials"),
            credentials.then_some("true")
        );
        assert_eq!(
            text(&headers, "access-control-expose-headers"),
            (!credentials).then_some("*")
        );
        let headers = preflight(&everything(credentials), &fields[..2])
            .expect("it is answered")
            .headers;
        assert_eq!(
            text(&headers, "access-control-allow-headers"),
            None,
            "none were asked for"
        );
    }
    let sent = response(&everything(false), Some("https://a.com"), &[("x-one", "1")]);
    assert_eq!(text(&sent, "access-control-expose-headers"), Some("*"));
    let sent = response(&everything(true), Some("https://a.com"), &[("x-one", "1")]);
    let exposed = text(&sent, "access-control-expose-headers").expect("names");
    assert!(
        exposed.split(", ").any(|name| name == "x-one") && !exposed.contains('*'),
        "{exposed}"
    );
}

#[test]
fn what_a_backend_says_about_origins_does_not_pass() {
    let said = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x-secret"),
        ("vary", "Accept"),
    ];
    for origin in [None, Some("https://foobar.com"), Some("https://www.foo.com")] {
        let allowed = origin == Some("https://www.foo.com");
        let sent = response(&cors(), origin, &said);
        assert_eq!(text(&sent, "access-control-allow-origin"), origin.filter(|_| allowed));
        assert_eq!(
            text(&sent, "access-control-allow-credentials"),
            allowed.then_some("true")
        );
        assert_eq!(
            text(&sent, "access-control-expose-headers"),
            allowed.then_some("x-header-3, x-header-4")
        );
        assert_eq!(sent.get_all("vary").iter().collect::<Vec<_>>(), ["Accept", "Origin"]);
    }
    let sent = response(&cors(), None, &[("vary", "Accept, origin")]);
    assert_eq!(text(&sent, "vary"), Some("Accept, origin"), "it is not said twice");
}

#[test]
fn a_preflight_comes_before_a_redirect() {
    let redirect = Redirect {
        scheme: Some("https".into()),
        hostname: None,
        path: None,
        port: None,
        status: 301,
    };
    let filters = [Filter::Redirect(redirect), Filter::Cors(cors())];
    let snapshot = snapshot([filters.into_iter().fold(route("r"), RouteWith::filter)]);
    let (rule, _) = find(&snapshot, "a.com/");
    let fields = [
        ("origin", "https://www.foo.com"),
        ("access-control-request-method", "GET"),
    ];
    let answer = |line| {
        rule.filters
            .answer(&request(line, &fields).view(), 0, "http", 80)
            .expect("it is answered")
    };
    assert_eq!(answer("OPTIONS a.com/").status, 200);
    let redirect = answer("GET a.com/");
    assert_eq!(
        (redirect.status, text(&redirect.headers, "location")),
        (301, Some("https://a.com/"))
    );
    assert_eq!(
        text(&redirect.headers, "access-control-allow-origin"),
        Some("https://www.foo.com")
    );
}

#[test]
fn a_rewrite_changes_host_and_path_and_keeps_the_query() {
    let rewrite = |hostname: Option<&str>, path| {
        Filter::Rewrite(Rewrite {
            hostname: hostname.map(Into::into),
            path,
        })
    };
    let prefix = |text: &str| Some(PathRewrite::Prefix(text.into()));
    let full = |text: &str| Some(PathRewrite::Full(text.into()));
    for (filter, line, host, target) in [
        (rewrite(Some("one.org"), None), "a.com/p/x?q=1", Some("one.org"), None),
        (rewrite(None, full("/one")), "a.com/p/x?q=1", None, Some("/one?q=1")),
        (rewrite(None, full("/one")), "a.com/p", None, Some("/one")),
        (rewrite(None, prefix("/one")), "a.com/p/x?q=1", None, Some("/one/x?q=1")),
        (rewrite(None, prefix("/one")), "a.com/p", None, Some("/one")),
        (rewrite(None, prefix("/one")), "a.com/p/", None, Some("/one/")),
        (rewrite(None, prefix("/")), "a.com/p", None, Some("/")),
        (rewrite(None, prefix("/")), "a.com/p/", None, Some("/")),
        (rewrite(None, prefix("/")), "a.com/p/x", None, Some("/x")),
        (rewrite(None, prefix("/")), "a.com/p?", None, Some("/?")),
        (
            rewrite(Some("one.org"), prefix("")),
            "a.com/p/x",
            Some("one.org"),
            Some("/x"),
        ),
    ] {
        let snapshot = snapshot([route("r").at(&["/p"]).filter(filter.clone())]);
        let (rule, prefix) = find(&snapshot, line);
        let request = request(line, &[]);
        let view = request.view();
        assert_eq!(rule.filters.host(), host);
        assert_eq!(
            rule.filters.target(view.path, view.query, prefix).as_deref(),
            target,
            "{filter:?}, {line}"
        );
    }
}

#[test]
fn a_rule_without_filters_does_nothing() {
    let snapshot = snapshot([route("r")]);
    let filters = &find(&snapshot, "a.com/").0.filters;
    assert!(filters.is_empty() && filters.mirrors().is_empty() && filters.host().is_none());
    assert_eq!(filters.target("/", None, 0), None);
    let mut fields = HeaderMap::new();
    fields.insert("access-control-allow-origin", HeaderValue::from_static("*"));
    let before = fields.clone();
    filters.edit_request(&mut fields);
    filters.edit_response(&mut fields, Some(b"https://a.com"));
    assert_eq!(fields, before);
}

#[test]
fn backends_and_mirrors_lead_to_services() {
    let copy = Mirror {
        service: Some(ServiceKey::new("default", "copy", 80)),
        numerator: 1,
        denominator: 2,
    };
    let mut configuration = weft_proxy::config::Configuration::new();
    let applied = configuration.apply(vec![
        listener(HTTP, 80, None).put(),
        route("r").filter(Filter::Mirror(copy)).put(),
        service("copy").put(),
        workload("default/pod-b", "10.0.0.2", &[("r", 8080)]).put(),
        workload("default/pod-a", "10.0.0.1", &[("r", 8080), ("copy", 9090)]).put(),
    ]);
    assert_eq!(applied.rejected, []);
    let (rule, _) = find(&applied.snapshot, "a.com/");
    let Target::Service(backend) = rule.backends[0].target else {
        panic!("{:?}", rule.backends)
    };
    assert!(
        applied.snapshot.resolve(backend).is_none(),
        "the service has not come yet"
    );
    let mirror = rule.filters.mirrors()[0];
    let copies = applied.snapshot.resolve(mirror.service).expect("it is there");
    assert_eq!(
        copies
            .endpoints
            .iter()
            .map(|e| e.address.to_string())
            .collect::<Vec<_>>(),
        ["10.0.0.1:9090"]
    );

    let rule = Arc::clone(rule);
    let later = configuration.apply(vec![service("r").put()]).snapshot;
    let entry = later.resolve(backend).expect("it has come");
    assert_eq!(
        entry
            .endpoints
            .iter()
            .map(|e| e.address.to_string())
            .collect::<Vec<_>>(),
        ["10.0.0.1:8080", "10.0.0.2:8080"]
    );
    assert!(
        Arc::ptr_eq(find(&later, "a.com/").0, &rule),
        "a service does not touch the rules that name it"
    );
    assert_eq!(
        later
            .service(&ServiceKey::new("default", "r", 80))
            .map(|entry| entry.id),
        Some(backend)
    );
}

#[test]
fn every_listener_of_a_hostname_serves_its_rules_once() {
    let snapshot = serving(
        [listener("a/a/a", 80, None), listener("b/b/b", 80, None)],
        [route("r").on(&["a/a/a", "b/b/b", "a/a/a"])],
    );
    assert_eq!(snapshot.rules().count(), 1);
    assert_eq!(find(&snapshot, "a.com/").0.route.owner.name, "r");
}
