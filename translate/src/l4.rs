//! Rules of TLSRoutes, TCPRoutes and UDPRoutes, lowered onto the model's.

use weft_crds::L4RouteRule;
use weft_model::{Backend, BackendTarget, L4Backend, L4Route, ListenerKey, RouteKey, RouteOwner, Timeouts};

use crate::{
    backend,
    rule::{LoweredRule, Lowering},
};

impl Lowering<'_, '_> {
    /// A rule that looks at nothing: it has backends, and no more.
    pub(crate) fn l4(&self, rule: &L4RouteRule, path: &str) -> LoweredRule {
        let mut lowered = LoweredRule {
            name: rule.name.clone(),
            matches: Vec::new(),
            filters: Vec::new(),
            backends: Vec::with_capacity(rule.backend_refs.len()),
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            broken: None,
            diagnostics: Vec::new(),
            unserved: Vec::new(),
            unresolved: Vec::new(),
        };
        for (at, reference) in rule.backend_refs.iter().enumerate() {
            let path = format!("{path}.backendRefs[{at}]");
            let resolved = backend::resolve(self.reader, self.from, &reference.backend, &path);
            let target = match resolved {
                Ok(service) => BackendTarget::Service(service),
                Err(unresolved) => {
                    let why = format!("{}: {}", unresolved.reason, unresolved.diagnostic.message);
                    lowered.unresolved.push(*unresolved);
                    BackendTarget::Invalid(why)
                }
            };
            lowered.backends.push(Backend {
                weight: reference.weight,
                target,
                filters: Vec::new(),
            });
        }
        lowered.needs_backend(path, "what comes in is refused");
        lowered
    }
}

/// The rule as the data plane has it.
pub(crate) fn model(
    key: RouteKey,
    owner: RouteOwner,
    listeners: &[ListenerKey],
    hostnames: &[weft_model::HostPattern],
    rule: LoweredRule,
) -> L4Route {
    let backends = rule.backends.into_iter().map(|backend| L4Backend {
        weight: backend.weight,
        target: backend.target,
    });
    L4Route {
        key,
        owner,
        listeners: listeners.to_vec(),
        hostnames: hostnames.to_vec(),
        backends: backends.collect(),
    }
}
