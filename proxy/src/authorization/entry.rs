//! By what somebody was let in who stays: all of it, so that policies can be asked again for as long as it is open.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Decision, Guard, edge::Passage};
use crate::{
    config::{Rule, Snapshot},
    downstream::{Client, Downstream},
    edges::EdgeCells,
    fields::{Fields, RequestView},
    tls::Tls,
    worker::Worker,
};

/// By what somebody was let in.
pub(crate) enum Entry {
    /// At a Gateway.
    Gateway {
        client: SocketAddr,
        passage: Passage,
        /// Where TLS ends here: what the client has shown.
        tls: Option<Rc<Tls>>,
        /// With what it began, if that was a request.
        request: Option<Box<Kept>>,
    },
    /// Beside a pod, to the application.
    Pod {
        guard: Rc<Guard>,
        edge: Option<Rc<EdgeCells>>,
        request: Box<Kept>,
    },
}

/// A request as policies saw it, before anything of it was changed.
pub(crate) struct Kept {
    method: Box<str>,
    host: Box<str>,
    path: Box<str>,
    fields: HeaderMap,
}

impl Kept {
    pub(crate) fn new<F: Fields>(view: &RequestView<'_, F>) -> Box<Self> {
        let mut fields = HeaderMap::new();
        view.fields.each(&mut |name, value| {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                fields.append(name, value);
            }
        });
        Box::new(Self {
            method: view.method.into(),
            host: view.host.into(),
            path: view.path.into(),
            fields,
        })
    }

    pub(crate) fn view(&self) -> RequestView<'_, HeaderMap> {
        RequestView {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            // No policy asks for it.
            query: None,
            fields: &self.fields,
        }
    }
}

impl Entry {
    /// By which a request came in that asks for another protocol or for a tunnel; none where nobody decides about it. What it asks
    /// is kept: it is changed on its way.
    pub(crate) fn of_upgrade<D: Downstream>(
        snapshot: &Snapshot,
        client: &Client,
        request: &D,
        rule: Option<&Rule>,
    ) -> Option<Self> {
        if request.upgrade().is_none() && !request.is_connect() {
            return None;
        }
        let view = request.view();
        let Some(outbound) = &client.outbound else {
            let passage = Passage::of_request(snapshot.port(client.port)?, view.host, rule?);
            return Some(Self::Gateway {
                client: client.peer,
                passage,
                tls: client.tls.clone(),
                request: Some(Kept::new(&view)),
            });
        };
        Some(Self::Pod {
            guard: outbound.guard.clone()?,
            edge: outbound.edge.clone(),
            request: Kept::new(&view),
        })
    }

    /// Whether it may be there; if not, why.
    pub(crate) fn decide(&self, worker: &Worker, snapshot: &Snapshot) -> Decision {
        match self {
            Self::Gateway {
                client,
                passage,
                tls,
                request,
            } => {
                let shown = tls.as_ref().and_then(|tls| tls.shown(&worker.mesh));
                passage.decide(snapshot, *client, shown.as_deref(), request.as_deref())
            }
            Self::Pod { guard, edge, request } => guard.request(&worker.mesh, &request.view(), edge.as_deref()),
        }
    }

    /// Whether it would not be let in any more. Nothing is counted.
    pub(crate) fn is_barred(&self, worker: &Worker, snapshot: &Snapshot) -> bool {
        match self {
            Self::Gateway {
                client,
                passage,
                tls,
                request,
            } => {
                let distrusts = |tls: &Rc<Tls>| !tls.is_trusted(snapshot, passage.port());
                if tls.as_ref().is_some_and(distrusts) {
                    return true;
                }
                let shown = tls.as_ref().and_then(|tls| tls.shown(&worker.mesh));
                passage.is_barred(snapshot, *client, shown.as_deref(), request.as_deref())
            }
            Self::Pod { guard, request, .. } => guard.bars(&worker.mesh, &request.view()),
        }
    }

    /// Whether what is asked of clients' certificates may bar it.
    pub(crate) fn is_of_tls(&self) -> bool {
        matches!(self, Self::Gateway { tls: Some(_), .. })
    }

    /// Whether it is the sidecar beside a pod that decides.
    pub(crate) fn is_of_pod(&self) -> bool {
        matches!(self, Self::Pod { .. })
    }

    /// How long it may stay once it is barred. Beside a pod it ends at once, as all that is carried there does.
    pub(crate) fn grace(&self, worker: &Worker) -> Duration {
        match self {
            Self::Gateway { .. } => worker.options.limits.denied_grace,
            Self::Pod { .. } => Duration::ZERO,
        }
    }
}
