//! What the tests have in common: a proxy with short limits, its access log, and a backend.

use std::{net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use weft_model::{BackendProtocol, Resource};
use weft_proxy::{Flag, Limits};

use crate::common::{Backend1, Fixture, eventually, log::Lines, ok, route, service};

/// Long enough for a busy machine, short enough for a test. Watchdogs look twice a second.
pub const SHORT: Duration = Duration::from_millis(400);
/// For limits that are not to be reached.
pub const LONG: Duration = Duration::from_secs(60);
/// Bytes that no socket takes without a reader.
pub const LARGE: usize = 32 * 1024 * 1024;

/// A running proxy, with what it writes down.
pub struct Scene {
    fixture: Fixture,
    log: Lines,
}

impl Deref for Scene {
    type Target = Fixture;

    fn deref(&self) -> &Fixture {
        &self.fixture
    }
}

impl Scene {
    /// With limits that are long but for what `change` makes of them, and a backend for `/`.
    pub fn new(backend: SocketAddr, change: impl FnOnce(&mut Limits)) -> Self {
        let mut log = None;
        let fixture = Fixture::with(|options| {
            log = Some(Lines::of(options, "{status} {flag} {reason} {path}"));
            let limits = &mut options.limits;
            (limits.head_timeout, limits.idle_timeout, limits.stream_idle_timeout) = (LONG, LONG, LONG);
            change(limits);
        });
        let mut resources = service("web", BackendProtocol::Undeclared, &[backend]);
        let mut web = route("web", "/", "web");
        web.listeners.push("default/gateway/https".into());
        resources.push(Resource::Route(Arc::new(web)));
        let rejected = fixture.apply(resources);
        assert!(rejected.is_empty(), "{rejected:?}");
        Self {
            fixture,
            log: log.expect("it was made with the options"),
        }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Somebody who means no harm is served.
    pub fn serves_others(&self) {
        let response = self.get("/good");
        assert_eq!((response.status, response.text().as_str()), (200, "good"));
    }

    /// Waits until the log has a line that begins so.
    pub fn logged(&self, start: &str) {
        self.log.wait(start);
    }

    /// Waits until a flag has been counted so often.
    pub fn flagged(&self, flag: Flag, count: u64) {
        eventually(&format!("{count} of {flag:?}"), || self.flag(flag) == count);
    }

    pub fn flag(&self, flag: Flag) -> u64 {
        let flags = self.stats().flags;
        flags
            .iter()
            .find(|(known, _)| *known == flag)
            .map_or(0, |(_, count)| *count)
    }

    /// Waits until no connection is open.
    pub fn all_closed(&self) {
        eventually("all connections are closed", || self.stats().connections.open == 0);
    }
}

/// A backend that says `good`, or sends as much as the path asks for: by length, in chunks or until it closes.
pub fn backend() -> Backend1 {
    Backend1::new(|seen, _| {
        let path = seen.head.split(' ').nth(1).unwrap_or_default();
        let body = vec![b'x'; LARGE];
        Some(match path {
            "/length" => ok(&body),
            "/chunked" => {
                let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                bytes.extend_from_slice(format!("{LARGE:x}\r\n").as_bytes());
                bytes.extend_from_slice(&body);
                bytes.extend_from_slice(b"\r\n0\r\n\r\n");
                bytes
            }
            "/close" => {
                let mut bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
                bytes.extend_from_slice(&body);
                bytes
            }
            // Less than what TLS takes without a reader.
            "/some" => ok(&body[..32 * 1024]),
            _ => ok(b"good"),
        })
    })
}
