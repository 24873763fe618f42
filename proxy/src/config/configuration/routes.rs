//! Routes, and the listeners and services that they name.

use std::{collections::BTreeSet, sync::Arc};

use weft_model::{L4Route, ListenerKey, Route, RouteKey, ServiceKey};

use super::{
    super::{L4Rule, Rule, ServiceId, Snapshot, attached::Attached},
    Configuration, Index,
    listeners::place_of,
    remove_from,
};

impl Configuration {
    pub(super) fn put_route(&mut self, route: Arc<Route>) -> Result<bool, String> {
        let key = route.key.clone();
        let old = self.next.routes.get(&key).cloned();
        if old.as_ref().is_some_and(|old| old.route == route) {
            return Ok(false);
        }
        // Before the old rule's are released, so that services keep their numbers.
        for service in route.services() {
            self.acquire(service);
        }
        let id = old.as_ref().map_or_else(|| self.new_id(), |old| old.id);
        let id_of = |service: &ServiceKey| self.names.get(service).map_or(ServiceId(0), |name| name.id);
        let rule = match Rule::new(id, Arc::clone(&route), &id_of) {
            Ok(rule) => Arc::new(rule),
            Err(reason) => {
                route.services().for_each(|service| self.release(service));
                return Err(reason);
            }
        };
        if let Some(old) = old {
            self.detach(&Attached::Http(old));
        }
        self.attach(&Attached::Http(Arc::clone(&rule)));
        if let Some(old) = self.next.routes.insert(key, rule) {
            self.guard_route(&old.route.key, &old.route.owner, false);
        }
        self.guard_route(&route.key, &route.owner, true);
        Ok(true)
    }

    pub(super) fn remove_route(&mut self, key: &RouteKey) -> bool {
        let Some(old) = self.next.routes.remove(key) else {
            return false;
        };
        self.guard_route(&old.route.key, &old.route.owner, false);
        self.next.guards.rules.remove(&old.id);
        self.detach(&Attached::Http(old));
        true
    }

    pub(super) fn put_l4_route(&mut self, route: Arc<L4Route>) -> bool {
        let key = route.key.clone();
        let old = self.next.l4_routes.get(&key).cloned();
        if old.as_ref().is_some_and(|old| old.route == route) {
            return false;
        }
        // Before the old rule's are released, so that services keep their numbers.
        for service in route.services() {
            self.acquire(service);
        }
        let id = old.as_ref().map_or_else(|| self.new_id(), |old| old.id);
        let id_of = |service: &ServiceKey| self.names.get(service).map_or(ServiceId(0), |name| name.id);
        let rule = Arc::new(L4Rule::new(id, Arc::clone(&route), &id_of));
        if let Some(old) = old {
            self.detach(&Attached::L4(old));
        }
        self.attach(&Attached::L4(Arc::clone(&rule)));
        if let Some(old) = self.next.l4_routes.insert(key, rule) {
            self.guard_route(&old.route.key, &old.route.owner, false);
        }
        self.guard_route(&route.key, &route.owner, true);
        true
    }

    pub(super) fn remove_l4_route(&mut self, key: &RouteKey) -> bool {
        let Some(old) = self.next.l4_routes.remove(key) else {
            return false;
        };
        self.guard_route(&old.route.key, &old.route.owner, false);
        self.next.guards.rules.remove(&old.id);
        self.detach(&Attached::L4(old));
        true
    }

    /// Puts a rule on its listeners and frontends.
    pub(super) fn attach(&mut self, rule: &Attached) {
        for key in rule.listeners() {
            self.attached.entry(key.clone()).or_default().insert(rule.key().clone());
            if let Some(listener) = self.served.get(key)
                && let Some(port) = self.next.ports.get_mut(&place_of(listener))
            {
                Arc::make_mut(port).group(listener).attach(rule);
            }
            self.change_frontend(key, |frontend| frontend.attach(rule));
        }
    }

    /// Takes a rule off its listeners and frontends and gives back the services it names.
    pub(super) fn detach(&mut self, rule: &Attached) {
        for key in rule.listeners() {
            remove_from(&mut self.attached, key, rule.key());
            if let Some(listener) = self.served.get(key)
                && let Some(port) = self.next.ports.get_mut(&place_of(listener))
            {
                Arc::make_mut(port).group(listener).detach(rule);
            }
            self.change_frontend(key, |frontend| frontend.detach(rule));
        }
        match rule {
            Attached::Http(rule) => rule.route.services().for_each(|service| self.release(service)),
            Attached::L4(rule) => rule.route.services().for_each(|service| self.release(service)),
        }
    }
}

impl Attached {
    pub(super) fn key(&self) -> &RouteKey {
        match self {
            Self::Http(rule) => &rule.route.key,
            Self::L4(rule) => &rule.route.key,
        }
    }

    /// The listeners it names, each once.
    pub(super) fn listeners(&self) -> BTreeSet<&ListenerKey> {
        match self {
            Self::Http(rule) => rule.route.listeners.iter().collect(),
            Self::L4(rule) => rule.route.listeners.iter().collect(),
        }
    }
}

impl Snapshot {
    /// The rules that name a listener, of those in an index.
    pub(super) fn attached(&self, index: &Index<ListenerKey, RouteKey>, listener: &ListenerKey) -> Vec<Attached> {
        let keys = index.get(listener).into_iter().flatten();
        keys.filter_map(|key| match self.routes.get(key) {
            Some(rule) => Some(Attached::Http(Arc::clone(rule))),
            None => self.l4_routes.get(key).cloned().map(Attached::L4),
        })
        .collect()
    }
}
