//! A proxy that tells a collector of its requests.

use std::{net::SocketAddr, sync::Arc};

use weft_model::{BackendProtocol, Resource};
use weft_proxy::{SpanOptions, SpanService, SpanStats};

use crate::{
    collector::{Collector, Told},
    common::{Fixture, Response, eventually, route, service},
};

pub(crate) struct Scene {
    pub(crate) collector: Collector,
    pub(crate) fixture: Fixture,
}

/// A proxy that begins traces with that share of requests.
pub(crate) fn telling(collector: SocketAddr, sample: f64) -> Fixture {
    Fixture::with(|options| {
        options.spans = Some(SpanOptions {
            collector: format!("http://{collector}").parse().expect("a collector"),
            sample,
            service: SpanService {
                name: "edge".to_owned(),
                namespace: Some("shop".to_owned()),
                pod: Some("edge-1".to_owned()),
            },
        });
    })
}

impl Scene {
    pub(crate) fn new(sample: f64) -> Self {
        let collector = Collector::new();
        let fixture = telling(collector.address, sample);
        Self { collector, fixture }
    }

    /// Sends all requests to some backends.
    pub(crate) fn route(&self, protocol: BackendProtocol, addresses: &[SocketAddr]) {
        let mut resources = service("web", protocol, addresses);
        resources.push(Resource::Route(Arc::new(route("web", "/", "web"))));
        let rejected = self.fixture.apply(resources);
        assert!(rejected.is_empty(), "{rejected:?}");
    }

    /// Asks with some fields.
    pub(crate) fn ask(&self, path: &str, fields: &str) -> Response {
        let mut client = self.fixture.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"));
        client.response("GET")
    }

    /// Waits until so many spans were told of.
    pub(crate) fn spans(&self, count: usize) -> Vec<Told> {
        eventually("the spans are told of", || self.collector.told().len() >= count);
        let told = self.collector.told();
        assert_eq!(told.len(), count, "{told:#?}");
        told
    }

    pub(crate) fn stats(&self) -> SpanStats {
        self.fixture.stats().spans.expect("there are spans")
    }
}
