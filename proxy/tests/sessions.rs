//! Session persistence, over real sockets.

mod common;

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{Backend1, Fixture, Response, eventually, free_port, route, service};
use weft_model::{
    Backend, BackendProtocol, BackendTarget, Change, CookiePath, Key, PathMatch, Resource, Route, ServiceKey,
    SessionCarrier, SessionPersistence, WorkloadKey,
};

/// A backend that answers with its name.
fn named(name: &'static str) -> Backend1 {
    Backend1::new(move |_, _| Some(common::ok(name.as_bytes())))
}

fn three() -> [Backend1; 3] {
    [named("a"), named("b"), named("c")]
}

fn addresses(backends: &[Backend1]) -> Vec<SocketAddr> {
    backends.iter().map(|backend| backend.address).collect()
}

fn by_cookie() -> SessionPersistence {
    SessionPersistence {
        carrier: SessionCarrier::Cookie {
            name: Some("cart".into()),
            path: CookiePath::Matched,
            permanent: false,
        },
        absolute_timeout: None,
        idle_timeout: None,
        seed: "5f0c6b1e-3c0a-4f0e-9d0c-0a2f6f2f0a11".into(),
    }
}

fn persistent(prefix: &str, session: SessionPersistence) -> Route {
    let mut route = route("web", prefix, "web");
    route.session = Some(Box::new(session));
    route
}

fn apply(fixture: &Fixture, backends: &[Backend1], route: Route) {
    let mut resources = service("web", BackendProtocol::Undeclared, &addresses(backends));
    resources.push(Resource::Route(Arc::new(route)));
    let rejected = fixture.apply(resources);
    assert!(rejected.is_empty(), "{rejected:?}");
}

fn get(fixture: &Fixture, path: &str, field: Option<&str>) -> Response {
    let mut client = fixture.connect();
    let field = field.map(|field| format!("{field}\r\n")).unwrap_or_default();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{field}\r\n"));
    let response = client.response("GET");
    assert_eq!(response.status, 200, "{}", response.head);
    response
}

/// The field by which a client says the cookie it was given.
fn cookie(response: &Response) -> Option<String> {
    let set = response.header("set-cookie")?;
    Some(format!("Cookie: {}", set.split(';').next().expect("it has a name")))
}

#[test]
fn a_client_stays_with_its_endpoint_and_others_spread() {
    let (fixture, backends) = (Fixture::new(), three());
    apply(&fixture, &backends, persistent("/", by_cookie()));
    let mut seen = HashSet::new();
    for _ in 0..30 {
        let first = get(&fixture, "/", None);
        seen.insert(first.text());
        let field = cookie(&first).expect("a session begins");
        for address in addresses(&backends) {
            assert!(!field.contains(&address.to_string()), "{field}");
        }
        for _ in 0..5 {
            let next = get(&fixture, "/", Some(&field));
            assert_eq!(next.text(), first.text());
            assert_eq!(next.header("set-cookie"), None, "the client knows it already");
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn the_cookie_is_for_the_path_of_the_match_and_not_for_scripts() {
    let (fixture, backends) = (Fixture::new(), three());
    let mut route = persistent("/shop", by_cookie());
    route.matches[0].path = PathMatch::Prefix("/shop".into());
    apply(&fixture, &backends, route.clone());
    let set = get(&fixture, "/shop/items", None)
        .header("set-cookie")
        .expect("a cookie");
    assert!(set.starts_with("cart="), "{set}");
    assert!(set.ends_with("; Path=/shop; HttpOnly; SameSite=Lax"), "{set}");

    // A permanent one lives as long as the session, and a path that is given is used.
    if let Some(session) = &mut route.session {
        session.absolute_timeout = Some(Duration::from_secs(3600));
        session.carrier = SessionCarrier::Cookie {
            name: None,
            path: CookiePath::Given("/other".into()),
            permanent: true,
        };
    }
    apply(&fixture, &backends, route);
    let set = get(&fixture, "/shop", None).header("set-cookie").expect("a cookie");
    assert!(
        set.starts_with("weft-") && set.ends_with("; Path=/other; Max-Age=3600; HttpOnly; SameSite=Lax"),
        "{set}"
    );
}

#[test]
fn a_session_by_header_is_carried_by_the_client_itself() {
    let (fixture, backends) = (Fixture::new(), three());
    let mut session = by_cookie();
    session.carrier = SessionCarrier::Header { name: "x-cart".into() };
    apply(&fixture, &backends, persistent("/", session));
    let first = get(&fixture, "/", None);
    assert_eq!(first.header("set-cookie"), None);
    let field = format!("X-Cart: {}", first.header("x-cart").expect("a token"));
    for _ in 0..10 {
        assert_eq!(get(&fixture, "/", Some(&field)).text(), first.text());
    }
}

#[test]
fn another_replica_knows_the_session_too() {
    let (one, other, backends) = (Fixture::new(), Fixture::new(), three());
    apply(&one, &backends, persistent("/", by_cookie()));
    apply(&other, &backends, persistent("/", by_cookie()));
    for _ in 0..10 {
        let first = get(&one, "/", None);
        let next = get(&other, "/", cookie(&first).as_deref());
        assert_eq!((next.text(), next.header("set-cookie")), (first.text(), None));
    }
}

#[test]
fn when_its_endpoint_is_gone_a_client_gets_another_and_is_told() {
    let (fixture, backends) = (Fixture::new(), three());
    apply(&fixture, &backends, persistent("/", by_cookie()));
    let first = get(&fixture, "/", None);
    let number = backends.iter().position(|backend| {
        let mut client = common::Client::to(backend.address);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.response("GET").text() == first.text()
    });
    let key = WorkloadKey::from(format!("default/web-{}", number.expect("it is one of them")));
    fixture.change(vec![Change::Remove(Key::Workload(key))]);
    let next = get(&fixture, "/", cookie(&first).as_deref());
    assert_ne!(next.text(), first.text());
    let field = cookie(&next).expect("a new session begins");
    for _ in 0..10 {
        assert_eq!(get(&fixture, "/", Some(&field)).text(), next.text());
    }
}

#[test]
fn when_its_endpoint_cannot_be_reached_a_client_gets_another_and_is_told() {
    let fixture = Fixture::new();
    let refused = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let dying = std::net::TcpListener::bind(refused).expect("the port is free");
    let answering = std::thread::spawn({
        let dying = dying.try_clone().expect("a socket can be shared");
        move || {
            use std::io::{Read as _, Write as _};
            let (mut stream, _) = dying.accept().expect("the proxy connects");
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\ndying");
        }
    });
    let alone = service("web", BackendProtocol::Undeclared, &[refused]);
    fixture.apply(alone);
    fixture.apply(vec![Resource::Route(Arc::new(persistent("/", by_cookie())))]);
    let first = get(&fixture, "/", None);
    assert_eq!(first.text(), "dying");
    answering.join().expect("it has answered");
    drop(dying);
    let stays = named("stays");
    fixture.apply(service("web", BackendProtocol::Undeclared, &[refused, stays.address]));
    let next = get(&fixture, "/", cookie(&first).as_deref());
    assert_eq!(next.text(), "stays");
    let field = cookie(&next).expect("a new session begins");
    assert_eq!(get(&fixture, "/", Some(&field)).header("set-cookie"), None);
}

#[test]
fn a_session_stays_with_its_backend_whatever_the_weights_become() {
    let (fixture, old, new) = (Fixture::new(), named("old"), named("new"));
    let split = |old: u32, new: u32| {
        let mut route = persistent("/", by_cookie());
        route.backends = [("old", old), ("new", new)]
            .map(|(name, weight)| Backend {
                weight,
                target: BackendTarget::Service(ServiceKey::new("default", name, 80)),
                filters: vec![],
            })
            .into();
        Resource::Route(Arc::new(route))
    };
    let mut resources = service("old", BackendProtocol::Undeclared, &[old.address]);
    resources.extend(service("new", BackendProtocol::Undeclared, &[new.address]));
    resources.push(split(1, 0));
    fixture.apply(resources);
    let first = get(&fixture, "/", None);
    assert_eq!(first.text(), "old");
    fixture.apply(vec![split(0, 1)]);
    for _ in 0..5 {
        assert_eq!(get(&fixture, "/", None).text(), "new");
        assert_eq!(get(&fixture, "/", cookie(&first).as_deref()).text(), "old");
    }
}

#[test]
fn a_session_ends_after_its_absolute_timeout() {
    let (fixture, backends) = (Fixture::new(), three());
    let mut session = by_cookie();
    session.absolute_timeout = Some(Duration::from_millis(300));
    apply(&fixture, &backends, persistent("/", session));
    let field = cookie(&get(&fixture, "/", None));
    eventually("the end of the session", || {
        get(&fixture, "/", field.as_deref()).header("set-cookie").is_some()
    });
}

#[test]
fn a_session_that_lies_idle_ends_and_one_that_does_not_goes_on() {
    let (fixture, backends) = (Fixture::new(), three());
    let mut session = by_cookie();
    session.idle_timeout = Some(Duration::from_secs(2));
    apply(&fixture, &backends, persistent("/", session));
    let first = get(&fixture, "/", None);
    let unused = cookie(&first);
    let mut field = cookie(&first);
    let start = std::time::Instant::now();
    // Each answer renews it, so it outlives its idle timeout.
    while start.elapsed() < Duration::from_secs(3) {
        let next = get(&fixture, "/", field.as_deref());
        assert_eq!(next.text(), first.text());
        field = cookie(&next);
        std::thread::sleep(Duration::from_millis(20));
    }
    // The token that was not renewed has ended: sooner or later it is another endpoint.
    eventually("another endpoint", || {
        get(&fixture, "/", unused.as_deref()).text() != first.text()
    });
}

#[test]
fn what_is_not_a_token_of_this_rule_begins_a_new_session() {
    let (fixture, backends) = (Fixture::new(), three());
    apply(&fixture, &backends, persistent("/", by_cookie()));
    let mut other = persistent("/other", by_cookie());
    other.key = "HTTPRoute/default/other/0".into();
    fixture.apply(vec![Resource::Route(Arc::new(other))]);
    let field = cookie(&get(&fixture, "/", None)).expect("a session");
    assert!(get(&fixture, "/other", Some(&field)).header("set-cookie").is_some());
    // By another letter than it ends with.
    let forged = format!(
        "{}{}",
        &field[..field.len() - 1],
        if field.ends_with('x') { 'y' } else { 'x' }
    );
    for wrong in ["Cookie: cart=", "Cookie: cart=10.0.0.1:80", &forged] {
        assert!(
            get(&fixture, "/", Some(wrong)).header("set-cookie").is_some(),
            "{wrong}"
        );
    }
    // Among other cookies, and after one of the same name, it is found.
    let token = field.strip_prefix("Cookie: ").expect("a cookie");
    let among = format!("Cookie: a=b; cart=stale;{token}; c=d");
    assert_eq!(get(&fixture, "/", Some(&among)).header("set-cookie"), None);
    let apart = format!("Cookie: cart=stale\r\nCookie: {token}");
    assert_eq!(get(&fixture, "/", Some(&apart)).header("set-cookie"), None);
}

#[test]
fn sessions_of_a_service_are_each_rules_own_and_give_way_to_the_rules() {
    let (fixture, backends) = (Fixture::new(), three());
    let mut session = by_cookie();
    session.carrier = SessionCarrier::Cookie {
        name: Some("cart".into()),
        path: CookiePath::Unset,
        permanent: false,
    };
    let mut resources = service("web", BackendProtocol::Undeclared, &addresses(&backends));
    if let Resource::Service(service) = &mut resources[0] {
        Arc::make_mut(service).session = Some(session);
    }
    for (name, prefix) in [("one", "/one"), ("two", "/two")] {
        resources.push(Resource::Route(Arc::new(route(name, prefix, "web"))));
    }
    let mut own = route("own", "/own", "web");
    own.session = Some(Box::new(SessionPersistence {
        carrier: SessionCarrier::Header { name: "x-own".into() },
        ..by_cookie()
    }));
    resources.push(Resource::Route(Arc::new(own)));
    fixture.apply(resources);

    let (one, two) = (get(&fixture, "/one", None), get(&fixture, "/two", None));
    let names = [&one, &two].map(|response| {
        let set = response.header("set-cookie").expect("a session");
        assert!(set.starts_with("cart-") && !set.contains("Path="), "{set}");
        set.split('=').next().expect("a name").to_owned()
    });
    assert_ne!(names[0], names[1]);
    for _ in 0..10 {
        assert_eq!(get(&fixture, "/one", cookie(&one).as_deref()).text(), one.text());
    }
    let own = get(&fixture, "/own", cookie(&one).as_deref());
    assert_eq!(own.header("set-cookie"), None);
    let field = format!("x-own: {}", own.header("x-own").expect("the rule's own session"));
    for _ in 0..10 {
        assert_eq!(get(&fixture, "/own", Some(&field)).text(), own.text());
    }
}

#[test]
fn without_sessions_nothing_is_added() {
    let (fixture, backend) = (Fixture::new(), Backend1::echo());
    let seen = Arc::new(Mutex::new(Vec::new()));
    apply(&fixture, &[backend], route("web", "/", "web"));
    for _ in 0..3 {
        let response = get(&fixture, "/", Some("Cookie: cart=x"));
        seen.lock()
            .expect("no test panics with it")
            .push(response.head.to_lowercase());
    }
    assert!(
        seen.lock()
            .expect("as before")
            .iter()
            .all(|head| !head.contains("set-cookie"))
    );
}
