//! A proxy, a backend that says what it was asked, and a route that is guarded.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use weft_model::{AuthProtocol, BackendProtocol, ExternalAuth, Filter, Resource, Route, ServiceKey};
use weft_proxy::Flag;

use crate::common::{Backend1, Fixture, Response, route, service};

pub(crate) struct Scene {
    pub(crate) fixture: Fixture,
    _backend: Backend1,
}

impl Scene {
    /// With a route for everything, guarded by the server at this address, and changed.
    pub(crate) fn new(auth: Option<SocketAddr>, filter: ExternalAuth, change: impl FnOnce(&mut Route)) -> Self {
        Self::of(Fixture::new(), auth, filter, change)
    }

    pub(crate) fn of(
        fixture: Fixture,
        auth: Option<SocketAddr>,
        filter: ExternalAuth,
        change: impl FnOnce(&mut Route),
    ) -> Self {
        let backend = Backend1::echo();
        let mut guarded = route("web", "/", "web");
        guarded.filters = vec![Filter::ExternalAuth(filter)];
        change(&mut guarded);
        let mut resources = service("web", BackendProtocol::Undeclared, &[backend.address]);
        resources.extend(service("authz", BackendProtocol::Undeclared, auth.as_slice()));
        resources.push(Resource::Route(Arc::new(guarded)));
        let rejected = fixture.apply(resources);
        assert!(rejected.is_empty(), "{rejected:?}");
        Self {
            fixture,
            _backend: backend,
        }
    }

    /// Sends one request; the fields each end their line.
    pub(crate) fn send(&self, method: &str, target: &str, fields: &str, body: &[u8]) -> Response {
        let mut client = self.fixture.connect();
        client.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n"
        ));
        // One that is refused may be so before its body has been sent.
        let _ = client.try_send(body);
        client.response(method)
    }

    pub(crate) fn get(&self, target: &str, fields: &str) -> Response {
        self.send("GET", target, fields, b"")
    }

    /// How many requests reached the backend.
    pub(crate) fn reached(&self) -> u64 {
        let stats = self.fixture.stats();
        let mut services = stats.services.iter();
        let web = services.find(|service| service.key == ServiceKey::new("default", "web", 80));
        web.map_or(0, |web| web.traffic.requests())
    }

    pub(crate) fn flagged(&self, flag: Flag) -> u64 {
        self.fixture.flagged(flag)
    }
}

pub(crate) fn asking(protocol: AuthProtocol) -> ExternalAuth {
    ExternalAuth {
        service: ServiceKey::new("default", "authz", 80),
        protocol,
        max_body: 0,
    }
}

/// Lets a try take no longer than this.
pub(crate) fn patient(route: &mut Route, limit: Duration) {
    route.timeouts.backend_request = Some(limit);
}
