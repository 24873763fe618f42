//! Towards clients.

use std::sync::Arc;

use weft_model::{BackendProtocol, ClientValidationMode, Resource, Route};

use crate::{
    common::{Backend1, Fixture, free_port, route, service},
    scene::{Authority, Client, bundle, client_config, get, listener, validation},
};

const STRICT: ClientValidationMode = ClientValidationMode::AllowValidOnly;
const FALLBACK: ClientValidationMode = ClientValidationMode::AllowInsecureFallback;
const ROOTS: &str = "ConfigMap/default/clients";
const OTHER: &str = "ConfigMap/default/others";

/// A proxy with these listeners, whose certificates are of `edge`.
fn fixture(edge: &Authority, listeners: Vec<Resource>) -> Fixture {
    let fixture = Fixture::new();
    let backend = Backend1::echo();
    let mut resources = vec![edge.server(&["a.example", "b.example"]).resource("default/edge")];
    resources.extend(service("web", BackendProtocol::Undeclared, &[backend.address]));
    let keys = listeners.iter().filter_map(|listener| match listener {
        Resource::Listener(listener) => Some(listener.key.clone()),
        _ => None,
    });
    resources.push(Resource::Route(Arc::new(Route {
        listeners: keys.collect(),
        ..route("web", "/", "web")
    })));
    resources.extend(listeners);
    let rejected = fixture.apply(resources);
    assert!(rejected.is_empty(), "{rejected:?}");
    fixture
}

#[test]
fn each_port_lets_in_whom_its_roots_trust() {
    let (edge, ours, theirs) = (Authority::new(), Authority::new(), Authority::new());
    let (default, own) = (free_port(), free_port());
    let _fixture = fixture(
        &edge,
        vec![
            bundle(ROOTS, &[&ours]),
            bundle(OTHER, &[&theirs]),
            listener("default", default, None, validation(ROOTS, STRICT)),
            listener("own", own, None, validation(OTHER, STRICT)),
        ],
    );
    let (of_ours, of_theirs) = (ours.client("spiffe://example/a"), theirs.client("spiffe://example/b"));
    let of_ours = client_config(&edge, Some(&of_ours));
    let of_theirs = client_config(&edge, Some(&of_theirs));
    let of_none = client_config(&edge, None);
    let ask = |port, config| get(port, "a.example", "a.example", config).ok();
    assert_eq!(ask(default, &of_ours), Some(200));
    assert_eq!(ask(default, &of_theirs), None);
    assert_eq!(ask(default, &of_none), None);
    assert_eq!(ask(own, &of_theirs), Some(200));
    assert_eq!(ask(own, &of_ours), None);
}

#[test]
fn insecure_fallback_lets_everybody_in() {
    let (edge, ours, theirs) = (Authority::new(), Authority::new(), Authority::new());
    let port = free_port();
    let _fixture = fixture(
        &edge,
        vec![
            bundle(ROOTS, &[&ours]),
            listener("https", port, None, validation(ROOTS, FALLBACK)),
        ],
    );
    let (of_ours, of_theirs) = (ours.client("spiffe://example/a"), theirs.client("spiffe://example/b"));
    for shown in [Some(&of_ours), Some(&of_theirs), None] {
        let answer = get(port, "a.example", "a.example", &client_config(&edge, shown));
        assert_eq!(answer.ok(), Some(200));
    }
}

#[test]
fn nobody_is_let_in_by_roots_that_are_not_there() {
    let (edge, ours) = (Authority::new(), Authority::new());
    let port = free_port();
    let listeners = vec![listener("https", port, None, validation(ROOTS, STRICT))];
    let fixture = fixture(&edge, listeners);
    let config = client_config(&edge, Some(&ours.client("spiffe://example/a")));
    assert!(get(port, "a.example", "a.example", &config).is_err());
    assert!(get(port, "a.example", "a.example", &client_config(&edge, None)).is_err());
    fixture.apply(vec![bundle(ROOTS, &[&ours])]);
    assert_eq!(get(port, "a.example", "a.example", &config).ok(), Some(200));
}

#[test]
fn no_other_name_leads_past_what_is_asked() {
    let (edge, ours) = (Authority::new(), Authority::new());
    let port = free_port();
    let _fixture = fixture(
        &edge,
        vec![
            bundle(ROOTS, &[&ours]),
            listener("open", port, Some("a.example"), None),
            listener("closed", port, Some("b.example"), validation(ROOTS, STRICT)),
        ],
    );
    let config = client_config(&edge, None);
    assert_eq!(get(port, "a.example", "a.example", &config).ok(), Some(200));
    assert!(get(port, "b.example", "b.example", &config).is_err());
    assert_eq!(get(port, "a.example", "b.example", &config).ok(), Some(421));
    let config = client_config(&edge, Some(&ours.client("spiffe://example/a")));
    assert_eq!(get(port, "b.example", "b.example", &config).ok(), Some(200));
}

#[test]
fn a_change_of_roots_reaches_connections_that_are_open() {
    let (edge, old, new) = (Authority::new(), Authority::new(), Authority::new());
    let port = free_port();
    let fixture = fixture(
        &edge,
        vec![
            bundle(ROOTS, &[&old]),
            listener("https", port, None, validation(ROOTS, STRICT)),
        ],
    );
    let of_old = client_config(&edge, Some(&old.client("spiffe://example/a")));
    let mut open = Client::connect(port, "a.example", &of_old).expect("it is let in");
    assert_eq!(open.get("a.example").ok(), Some(200));
    fixture.apply(vec![bundle(ROOTS, &[&old, &new])]);
    assert_eq!(open.get("a.example").ok(), Some(200), "it is trusted as before");
    fixture.apply(vec![bundle(ROOTS, &[&new])]);
    assert_eq!(open.get("a.example").ok(), Some(421));
    assert!(open.get("a.example").is_err(), "the connection has ended");
    // Nor does a session that it could resume let it in.
    assert!(get(port, "a.example", "a.example", &of_old).is_err());
    let of_new = client_config(&edge, Some(&new.client("spiffe://example/b")));
    assert_eq!(get(port, "a.example", "a.example", &of_new).ok(), Some(200));
    let mut again = Client::connect(port, "a.example", &of_new).expect("it is let in");
    assert_eq!(again.get("a.example").ok(), Some(200));
    assert!(again.resumed(), "while nothing changes, sessions are resumed");
}

#[test]
fn a_listener_that_begins_to_ask_asks_connections_that_are_open() {
    let (edge, ours) = (Authority::new(), Authority::new());
    let port = free_port();
    let fixture = fixture(&edge, vec![listener("https", port, None, None)]);
    let config = client_config(&edge, None);
    let mut open = Client::connect(port, "a.example", &config).expect("it is let in");
    assert_eq!(open.get("a.example").ok(), Some(200));
    fixture.apply(vec![
        bundle(ROOTS, &[&ours]),
        listener("https", port, None, validation(ROOTS, STRICT)),
    ]);
    assert_eq!(open.get("a.example").ok(), Some(421));
    assert!(get(port, "a.example", "a.example", &config).is_err());
    fixture.apply(vec![listener("https", port, None, None)]);
    assert_eq!(get(port, "a.example", "a.example", &config).ok(), Some(200));
}
