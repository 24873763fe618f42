//! Whether policies let a connection go on that is seen: asked for each request of HTTP/1, and of all when there are others.

use std::task::Context;

use super::{Observer, State};
use crate::{
    authorization::{Doing, Guard, Kept, Request},
    fields::RequestView,
    h1::Message,
    hpack::Fields,
    intercepted::Protocol,
    spans,
};

impl Observer<'_> {
    /// Why the connection may not go on, if it may not: for what the client has just said, or since there are other policies.
    /// Whoever polls is woken when it is to be asked again.
    pub(in crate::intercepted) fn denied(&self, cx: &Context<'_>) -> Option<String> {
        let guard = self.guard?;
        self.wakes(cx);
        let mut denied = self.denied.borrow_mut();
        if denied.is_none() {
            *denied = self.looked_at_anew(guard);
        }
        denied.take()
    }

    /// Whether it is to end, and nothing more is to go over.
    pub(in crate::intercepted) fn is_denied(&self) -> bool {
        self.denied.borrow().is_some()
    }

    fn looked_at_anew(&self, guard: &Guard) -> Option<String> {
        let protection = self.worker.mesh.protection();
        let same = self.protection.replace(protection.generation) == protection.generation;
        if same || !protection.guards(guard) {
            return None;
        }
        if self.is_http2() && !(protection.enforced && protection.denies_all(guard)) {
            // One that began now would be asked about request by request, and it cannot become such a one.
            let parting = self.part();
            if protection.enforced {
                parting.hasten(self.worker);
            }
            return None;
        }
        if !protection.enforced {
            return None;
        }
        let all = protection.allows_all(guard);
        let mesh = &self.worker.mesh;
        match (&*self.state.borrow(), self.spoken.get(), &*self.upgrade.borrow()) {
            _ if all => None,
            (State::Blind, Some(Protocol::Http1), Some(request)) => {
                let view = request.view();
                let barred = guard.bars(mesh, &view);
                barred
                    .then(|| guard.request(mesh, &view, Some(self.edge)).err())
                    .flatten()
            }
            // Its next request is asked about.
            (State::Http(conversation), ..) if conversation.recognised => None,
            (State::Blind, Some(Protocol::Tls | Protocol::Opaque | Protocol::ServerFirst), _) => {
                guard.opaque(mesh, self.edge).err()
            }
            _ => Some(
                "policies are for its requests, which cannot be told apart since it was open before them".to_owned(),
            ),
        }
    }

    /// A request has begun: asks about it, and says what is kept of it for its span.
    pub(super) fn begun(&self, message: &Message) -> Option<Box<spans::Seen>> {
        if let Some(guard) = self.guard {
            let view = RequestView {
                method: message.method(),
                host: message.host(),
                path: message.path(),
                query: message.query(),
                fields: message,
            };
            if let Err(reason) = guard.request(&self.worker.mesh, &view, Some(self.edge)) {
                self.denied.replace(Some(reason));
            }
            self.upgrade.replace(message.upgrade().map(|_| Kept::new(&view)));
        }
        spans::Seen::of(self.worker, message)
    }

    /// The same of HTTP/2, which no policy is asked about here.
    pub(super) fn begun2(&self, fields: &Fields) {
        let Some(guard) = self.guard.filter(|_| self.tells_probes()) else {
            return;
        };
        let [method, host, path] =
            [&fields.method, &fields.authority, &fields.path].map(|text| text.as_deref().unwrap_or_default());
        let request = Request {
            method,
            host,
            path: path.split('?').next().unwrap_or(path),
            fields: &http::HeaderMap::new(),
        };
        let protection = self.worker.mesh.protection();
        protection.count_unproven(guard, &Doing::Request(&request), self.edge);
    }

    /// Whether it is counted what the kubelet would not ask.
    pub(super) fn tells_probes(&self) -> bool {
        self.guard
            .is_some_and(|guard| self.worker.mesh.protection().tells_probes(guard))
    }
}
