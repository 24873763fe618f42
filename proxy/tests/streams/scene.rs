//! What the tests have in common.

use std::{net::SocketAddr, sync::Arc};

use weft_model::{BackendProtocol, Resource, Route};

use crate::common::{Fixture, log::Lines, route, service};

/// The protocols that a backend may speak.
pub const PROTOCOLS: [BackendProtocol; 2] = [BackendProtocol::Http1, BackendProtocol::H2c];

/// A proxy, and what it writes down: status, flag, reason, method and host of each request.
pub fn logging() -> (Fixture, Lines) {
    let mut lines = None;
    let fixture = Fixture::with(|options| {
        lines = Some(Lines::of(options, "{status} {flag} {reason} {method} {host}"));
    });
    (fixture, lines.expect("it was made with the options"))
}

/// Lets a route for everything lead to a backend.
pub fn lead(fixture: &Fixture, protocol: BackendProtocol, backend: SocketAddr) {
    lead_by(fixture, protocol, backend, route("web", "/", "web"));
}

/// The same by a route that leads to the Service `web`.
pub fn lead_by(fixture: &Fixture, protocol: BackendProtocol, backend: SocketAddr, route: Route) {
    let mut resources = service("web", protocol, &[backend]);
    resources.push(Resource::Route(Arc::new(route)));
    let rejected = fixture.apply(resources);
    assert!(rejected.is_empty(), "{rejected:?}");
}
