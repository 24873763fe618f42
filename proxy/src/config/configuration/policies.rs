//! Which policies are for what comes to Gateways. A policy touches the listeners and rules that it is for, and nothing else.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use weft_model::{
    AuthorizationPolicy, AuthorizationTarget, GatewayKey, Listener, ListenerKey, ListenerSetKey, PolicyKey, RouteKey,
    RouteKind, RouteOwner,
};

use super::{super::table::Table, Configuration, Index, remove_from};
use crate::authorization::{Policy, Protection};

/// A route by its object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Object {
    kind: RouteKind,
    namespace: Box<str>,
    name: Box<str>,
}

/// Who points to what, and what is to be brought up to date.
#[derive(Default)]
pub(super) struct Guarding {
    of_gateway: Index<GatewayKey, PolicyKey>,
    of_set: Index<ListenerSetKey, PolicyKey>,
    of_listener: Index<ListenerKey, PolicyKey>,
    of_route: Index<Object, PolicyKey>,
    /// The listeners of a Gateway.
    listeners: Index<GatewayKey, ListenerKey>,
    /// The listeners of a ListenerSet.
    members: Index<ListenerSetKey, ListenerKey>,
    /// The rules of routes, in pairs: a route has mostly one, and a set for each would have room for eleven.
    rules: BTreeSet<(Object, RouteKey)>,
    touched_listeners: HashSet<ListenerKey>,
    touched_routes: HashSet<Object>,
}

impl Object {
    fn of(owner: &RouteOwner) -> Self {
        Self {
            kind: owner.kind,
            namespace: owner.namespace.as_str().into(),
            name: owner.name.as_str().into(),
        }
    }

    fn of_target(target: &AuthorizationTarget) -> Option<Self> {
        match target {
            AuthorizationTarget::Route {
                kind, namespace, name, ..
            } => Some(Self {
                kind: *kind,
                namespace: namespace.as_str().into(),
                name: name.as_str().into(),
            }),
            _ => None,
        }
    }
}

/// Whether a policy is for a rule of a route that it is for.
fn is_for(policy: &AuthorizationPolicy, owner: &RouteOwner) -> bool {
    let object = Object::of(owner);
    policy.targets.iter().any(|target| {
        let AuthorizationTarget::Route { rule, .. } = target else {
            return false;
        };
        Object::of_target(target).as_ref() == Some(&object) && (rule.is_none() || *rule == owner.rule_name)
    })
}

impl Configuration {
    /// Takes a policy that is for Gateways or routes. One that cannot be understood in part holds all the same, on the safe side.
    pub(super) fn put_policy(&mut self, source: Arc<AuthorizationPolicy>) -> Result<bool, String> {
        let key = source.key.clone();
        let before = self.next.guards.policies.get(&key).cloned();
        if before.as_ref().is_some_and(|before| before.source == source) {
            return Ok(false);
        }
        if let Some(before) = &before {
            self.point(&before.source, false);
        }
        if source.targets.iter().all(|target| target.workloads_of().is_some()) {
            // Whoever it protects decides by itself.
            self.next.guards.policies.remove(&key);
            return Ok(before.is_some());
        }
        self.point(&source, true);
        let tally = before.map_or_else(Arc::default, |before| before.tally.clone());
        let (policy, compiled) = Policy::new(source, tally);
        self.next.guards.policies.insert(key, Arc::new(policy));
        self.touched.anything = true;
        compiled.map(|()| true)
    }

    pub(super) fn remove_policy(&mut self, key: &PolicyKey) -> bool {
        let Some(before) = self.next.guards.policies.remove(key) else {
            return false;
        };
        self.point(&before.source, false);
        true
    }

    /// Notes what a policy is for, or is no longer for.
    fn point(&mut self, policy: &AuthorizationPolicy, put: bool) {
        let guarding = &mut self.guarding;
        for target in &policy.targets {
            match target {
                AuthorizationTarget::Gateway(gateway) => {
                    set(&mut guarding.of_gateway, gateway, &policy.key, put);
                    let listeners = guarding.listeners.get(gateway).into_iter().flatten();
                    guarding.touched_listeners.extend(listeners.cloned());
                }
                AuthorizationTarget::ListenerSet { set: of, .. } => {
                    set(&mut guarding.of_set, of, &policy.key, put);
                    let listeners = guarding.members.get(of).into_iter().flatten();
                    guarding.touched_listeners.extend(listeners.cloned());
                }
                AuthorizationTarget::Listener { listener, .. } => {
                    set(&mut guarding.of_listener, listener, &policy.key, put);
                    guarding.touched_listeners.insert(listener.clone());
                }
                target => {
                    if let Some(route) = Object::of_target(target) {
                        set(&mut guarding.of_route, &route, &policy.key, put);
                        guarding.touched_routes.insert(route);
                    }
                }
            }
        }
    }

    pub(super) fn guard_listener(&mut self, listener: &Listener, put: bool) {
        set(&mut self.guarding.listeners, &listener.gateway, &listener.key, put);
        if let Some(of) = listener.key.set() {
            set(&mut self.guarding.members, &of, &listener.key, put);
        }
        self.guarding.touched_listeners.insert(listener.key.clone());
    }

    pub(super) fn guard_route(&mut self, key: &RouteKey, owner: &RouteOwner, put: bool) {
        let object = Object::of(owner);
        if self.guarding.of_route.contains_key(&object) {
            self.guarding.touched_routes.insert(object.clone());
        }
        let rule = (object, key.clone());
        if put {
            self.guarding.rules.insert(rule);
        } else {
            self.guarding.rules.remove(&rule);
        }
    }

    /// Gives listeners and rules what policies there are for them now.
    pub(super) fn settle_guards(&mut self) {
        let listeners = std::mem::take(&mut self.guarding.touched_listeners);
        let routes = std::mem::take(&mut self.guarding.touched_routes);
        if !listeners.is_empty() || !routes.is_empty() {
            self.next.guards.generation += 1;
        }
        for key in listeners {
            self.settle_listener(&key);
        }
        for object in routes {
            self.settle_route(&object);
        }
    }

    /// What the owner of the Gateway asks and what the owner of the ListenerSet asks stay apart: neither allows what the
    /// other does not.
    fn settle_listener(&mut self, key: &ListenerKey) {
        let guarding = &self.guarding;
        let of_listener = guarding.of_listener.get(key).into_iter().flatten();
        let (mut of_gateway, mut of_set) = (BTreeSet::new(), BTreeSet::new());
        if let Some(listener) = self.next.listeners.get(key) {
            of_gateway.extend(guarding.of_gateway.get(&listener.gateway).into_iter().flatten());
            match key.set() {
                None => of_gateway.extend(of_listener),
                Some(set) => of_set.extend(of_listener.chain(guarding.of_set.get(&set).into_iter().flatten())),
            }
        }
        let of_gateway = Protection::at_edge(self.policies(of_gateway, |_| true));
        let of_set = Protection::at_edge(self.policies(of_set, |_| true));
        put(&mut self.next.guards.listeners, key.clone(), of_gateway);
        put(&mut self.next.guards.sets, key.clone(), of_set);
    }

    fn settle_route(&mut self, object: &Object) {
        let first = (object.clone(), RouteKey::from(""));
        let of_route = self.guarding.rules.range(first..);
        let rules: Vec<(u64, RouteOwner)> = of_route
            .take_while(|(of, _)| of == object)
            .filter_map(|(_, key)| match self.next.routes.get(key) {
                Some(rule) => Some((rule.id, rule.route.owner.clone())),
                None => {
                    let rule = self.next.l4_routes.get(key)?;
                    Some((rule.id, rule.route.owner.clone()))
                }
            })
            .collect();
        for (id, owner) in rules {
            let policies = self.guarding.of_route.get(object).into_iter().flatten();
            let policies = self.policies(policies, |policy| is_for(&policy.source, &owner));
            put(&mut self.next.guards.rules, id, Protection::at_edge(policies));
        }
    }

    fn policies<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k PolicyKey>,
        wanted: impl Fn(&Policy) -> bool,
    ) -> Vec<Arc<Policy>> {
        let known = keys.into_iter().filter_map(|key| self.next.guards.policies.get(key));
        known.filter(|policy| wanted(policy)).cloned().collect()
    }

    #[cfg(test)]
    pub(super) fn guards_nothing(&self) -> bool {
        let guarding = &self.guarding;
        let of_listeners = guarding.of_gateway.len() + guarding.of_set.len() + guarding.of_listener.len();
        let members = guarding.listeners.len() + guarding.members.len();
        of_listeners + members + guarding.of_route.len() + guarding.rules.len() == 0
            && self.next.guards.is_empty()
            && self.next.guards.policies.is_empty()
    }
}

/// Puts a member into an index, or takes it out.
fn set<K: std::hash::Hash + Eq + Clone, V: Ord + Clone>(index: &mut Index<K, V>, key: &K, value: &V, put: bool) {
    if put {
        index.entry(key.clone()).or_default().insert(value.clone());
    } else {
        remove_from(index, key, value);
    }
}

/// Gives something what protects it, or nothing.
fn put<K: std::hash::Hash + Eq + Clone>(
    table: &mut Table<K, Arc<Protection>>,
    key: K,
    protection: Option<Arc<Protection>>,
) {
    match protection {
        Some(protection) => drop(table.insert(key, protection)),
        None => drop(table.remove(&key)),
    }
}
