//! What a client in the mesh asks, told as if the Service port had a listener.

use std::{net::IpAddr, sync::Arc};

use weft_model::{Change, Frontend, GatewayKey, Listener, ListenerProtocol, Resource};
use weft_proxy::config::{Explanation, Verdict};

use super::Question;

/// What decides about a question that is asked in a namespace: the routes of the Service port that it is for, on a listener
/// that stands for that. None if no route does.
pub(super) fn as_seen_from(namespace: &str, question: &Question, changes: Vec<Change>) -> Option<Vec<Change>> {
    let frontends = changes.iter().filter_map(|change| match change {
        Change::Upsert(Resource::Frontend(frontend)) => Some(frontend),
        _ => None,
    });
    let own = |frontend: &&Arc<Frontend>| frontend.clients.as_deref().is_none_or(|clients| clients == namespace);
    let meant = frontends
        .filter(own)
        .filter(|frontend| is_meant(frontend, namespace, question));
    // That of the clients in the namespace comes before the one for all.
    let frontend = meant.max_by_key(|frontend| frontend.clients.is_some())?.clone();
    let fits = match frontend.protocol {
        ListenerProtocol::Http => !question.is_tls(),
        ListenerProtocol::Tls => question.is_tls(),
        _ => true,
    };
    fits.then_some(())?;
    let listener = Listener {
        key: frontend.key.clone(),
        gateway: GatewayKey::from(""),
        port: question.port(),
        protocol: frontend.protocol,
        hostname: None,
        tls: None,
        backend_certificate: None,
    };
    let mut seen = vec![Change::Upsert(Resource::Listener(Arc::new(listener)))];
    seen.extend(changes.into_iter().filter_map(|change| match change {
        // Clients are not asked what they may do, see docs/authorization.md.
        Change::Upsert(Resource::Listener(_) | Resource::Authorization(_)) => None,
        // The hosts of routes are not looked at in the mesh.
        Change::Upsert(Resource::Route(mut route)) => {
            Arc::make_mut(&mut route).hostnames.clear();
            Some(Change::Upsert(Resource::Route(route)))
        }
        other => Some(other),
    }));
    Some(seen)
}

/// What is said where no route decides.
pub(super) fn unrouted() -> Explanation {
    Explanation {
        verdict: Verdict::Unrouted,
        listeners: Vec::new(),
        hostname: None,
        taken: None,
        opaque: None,
        passed: Vec::new(),
        policies: Vec::new(),
        denied: None,
    }
}

/// Whether the host and port of a question are those of a Service port: by one of its names in the DNS of a cluster, as far as
/// they are stated, or by its address.
fn is_meant(frontend: &Frontend, namespace: &str, question: &Question) -> bool {
    let (own, name, port) = frontend.service.parts();
    let host = question.url.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let named = || {
        let mut labels = host.trim_end_matches('.').split('.');
        let first = labels.next() == Some(name);
        let of = labels.next().unwrap_or(namespace) == own;
        first && of && labels.next().is_none_or(|label| label == "svc")
    };
    port == question.port() && address.map_or_else(|_| named(), |address| frontend.addresses.contains(&address))
}
