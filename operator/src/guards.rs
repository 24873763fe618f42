//! Which policies the data planes of each Gateway are told: when they last became others, and what they are, so that replicas of
//! the operator can tell whether they speak of the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use weft_discovery::Epoch;
use weft_model::{AuthorizationPolicy, Change, GatewayKey, Key, PolicyKey, Resource};

use crate::infrastructure::names;

/// All that are published.
#[derive(Default)]
pub(crate) struct Guards {
    /// Those of each Gateway, by what they are.
    of: HashMap<GatewayKey, BTreeMap<PolicyKey, String>>,
    /// The Gateways of each.
    by: HashMap<PolicyKey, BTreeSet<GatewayKey>>,
    /// The last epoch in which those of a Gateway became others.
    epochs: HashMap<GatewayKey, Epoch>,
}

impl Guards {
    /// Takes over what becomes of a policy, and adds the Gateways that are told of it to `touched`.
    pub(crate) fn take(&mut self, change: &Change, touched: &mut BTreeSet<GatewayKey>) {
        match change {
            Change::Upsert(Resource::Authorization(policy)) => self.put(policy, touched),
            Change::Remove(Key::Authorization(key)) => self.remove(key, touched),
            _ => {}
        }
    }

    fn put(&mut self, policy: &AuthorizationPolicy, touched: &mut BTreeSet<GatewayKey>) {
        self.remove(&policy.key, touched);
        let gateways: BTreeSet<GatewayKey> = gateways(policy).collect();
        if gateways.is_empty() {
            return;
        }
        let digest = names::digest(&serde_json::to_string(policy).unwrap_or_default());
        for gateway in &gateways {
            let of = self.of.entry(gateway.clone()).or_default();
            of.insert(policy.key.clone(), digest.clone());
            touched.insert(gateway.clone());
        }
        self.by.insert(policy.key.clone(), gateways);
    }

    fn remove(&mut self, key: &PolicyKey, touched: &mut BTreeSet<GatewayKey>) {
        for gateway in self.by.remove(key).unwrap_or_default() {
            if let Some(of) = self.of.get_mut(&gateway) {
                of.remove(key);
                if of.is_empty() {
                    self.of.remove(&gateway);
                }
            }
            touched.insert(gateway);
        }
    }

    /// What was taken over was published.
    pub(crate) fn published(&mut self, touched: BTreeSet<GatewayKey>, epoch: Epoch) {
        for gateway in touched {
            if self.of.contains_key(&gateway) {
                self.epochs.insert(gateway, epoch);
            } else {
                self.epochs.remove(&gateway);
            }
        }
    }

    /// The last epoch in which those of a Gateway became others.
    pub(crate) fn epoch(&self, gateway: &GatewayKey) -> Epoch {
        self.epochs.get(gateway).copied().unwrap_or_default()
    }

    /// What those of a Gateway are: the same for all replicas of the operator that have read the same.
    pub(crate) fn revision(&self, gateway: &GatewayKey) -> String {
        match self.of.get(gateway) {
            Some(of) => names::digest(&serde_json::to_string(of).unwrap_or_default()),
            None => String::new(),
        }
    }
}

/// The Gateways that are told of a policy.
pub(crate) fn gateways(policy: &AuthorizationPolicy) -> impl Iterator<Item = GatewayKey> {
    let all = policy.targets.iter().flat_map(|target| target.gateways());
    all.cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(name: &str, action: &str, gateways: &[&str]) -> Change {
        let targets: Vec<_> = gateways.iter().map(|gateway| json!({"gateway": gateway})).collect();
        let key = format!("AuthorizationPolicy/n/{name}");
        let policy = json!({"kind": "authorization", "key": key, "action": action, "targets": targets});
        Change::Upsert(serde_json::from_value(policy).expect("a policy"))
    }

    #[test]
    fn a_gateway_has_to_do_with_the_policies_that_are_for_it() {
        let mut guards = Guards::default();
        let mut take = |change: Change, epoch| {
            let mut touched = BTreeSet::new();
            guards.take(&change, &mut touched);
            guards.published(touched, epoch);
            let all = ["n/a", "n/b"].map(GatewayKey::from);
            all.map(|gateway| (guards.epoch(&gateway), guards.revision(&gateway)))
        };
        let [a, b] = take(policy("p", "deny", &["n/a"]), 1);
        assert_eq!((a.0, b), (1, (0, String::new())));
        let [other, b] = take(policy("p", "allow", &["n/a", "n/b"]), 2);
        assert_eq!((other.0, b.0), (2, 2));
        assert_ne!(a.1, other.1);
        let [again, b] = take(policy("p", "deny", &["n/a"]), 3);
        assert_eq!((again, b), ((3, a.1), (0, String::new())), "of the same, the same");
        let removed = Change::Remove(Key::Authorization("AuthorizationPolicy/n/p".into()));
        assert_eq!(take(removed, 4), [(0, String::new()), (0, String::new())]);
        assert!(guards.of.is_empty() && guards.by.is_empty() && guards.epochs.is_empty());
    }
}
