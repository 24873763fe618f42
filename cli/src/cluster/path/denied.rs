//! Whom policies would deny something, from what sidecars have decided without enforcing it.

use serde::Serialize;
use weft_model::view::{EdgeView, Side};

use super::stage::Stage;
use crate::cluster::{
    seen::{Pods, named},
    words::{ago, plural},
};

/// What stands for a policy where none decides.
const DEFAULT: &str = "default";

/// Somebody whom policies would deny something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Denied {
    pub(super) source: String,
    destination: String,
    port: u16,
    /// Requests, and connections that carry something else. Each policy may count the same: then no rule of any of them allows it.
    pub(super) count: u64,
    pub(super) policies: Vec<String>,
    last_seen: u64,
}

/// Those that policies would deny something once they are enforced, where they are not yet.
pub(super) fn denied(
    namespace: &str,
    (stage, next): (Stage, Option<Stage>),
    callers: &[EdgeView],
    pods: &Pods,
) -> Vec<Denied> {
    if stage != Stage::Observe || next < Some(Stage::Secure) {
        return Vec::new();
    }
    let here = callers
        .iter()
        .filter(|edge| edge.side == Side::Server && edge.destination.namespace.as_deref() == Some(namespace));
    let mut found: Vec<Denied> = here
        .filter(|edge| !edge.would_deny.is_empty())
        .map(|edge| Denied {
            source: named(&edge.source, pods),
            destination: named(&edge.destination, pods),
            port: edge.port,
            count: edge.would_deny.values().copied().max().unwrap_or_default(),
            policies: edge.would_deny.keys().cloned().collect(),
            last_seen: edge.last_seen,
        })
        .collect();
    found.sort_by_key(|denied| std::cmp::Reverse(denied.last_seen));
    found
}

impl Denied {
    pub(super) fn told(&self, now: u64) -> String {
        let by = match &self.policies[..] {
            [only] if only == DEFAULT => "no policy allows it".to_owned(),
            policies => format!("by {}", policies.join(", ")),
        };
        format!(
            "{} → {}:{}, {}, last {} ago: {by}",
            self.source,
            self.destination,
            self.port,
            plural(usize::try_from(self.count).unwrap_or(usize::MAX), "time"),
            ago(now.saturating_sub(self.last_seen)),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::super::seen::stat::tests::{edge, pods},
        *,
    };

    fn from(source: &str, policies: &[(&str, u64)]) -> EdgeView {
        let would_deny = policies.iter().map(|(name, count)| ((*name).to_owned(), *count));
        EdgeView {
            would_deny: would_deny.collect(),
            last_seen: 100,
            ..edge(source, "web", "server", 3, 0)
        }
    }

    #[test]
    fn only_the_step_by_which_policies_are_enforced_has_them_deny() {
        let callers = [
            from("front", &[]),
            from(
                "10.9.9.9",
                &[("AuthorizationPolicy/shop/a", 2), ("AuthorizationPolicy/shop/b", 3)],
            ),
        ];
        let all = |steps| denied("shop", steps, &callers, &pods(&[("web", true)]));
        for steps in [
            (Stage::Observe, Some(Stage::Secure)),
            (Stage::Observe, Some(Stage::Strict)),
        ] {
            assert_eq!((all(steps).len(), all(steps)[0].count), (1, 3));
        }
        for steps in [
            (Stage::None, Some(Stage::Observe)),
            (Stage::Secure, Some(Stage::Strict)),
            (Stage::Strict, None),
        ] {
            assert!(all(steps).is_empty(), "{steps:?}");
        }
        assert_eq!(
            all((Stage::Observe, Some(Stage::Secure)))[0].told(160),
            "10.9.9.9 → shop/deploy/web:8080, 3 times, last 60 s ago: by AuthorizationPolicy/shop/a, AuthorizationPolicy/shop/b"
        );
        // What comes elsewhere, and what others say of it, is of no concern.
        let mut other = callers[1].clone();
        other.destination.namespace = Some("other".to_owned());
        let client = EdgeView {
            side: Side::Client,
            ..callers[1].clone()
        };
        let steps = (Stage::Observe, Some(Stage::Secure));
        assert!(denied("shop", steps, &[other, client], &pods(&[("web", true)])).is_empty());
    }

    #[test]
    fn where_no_policy_decides_it_is_said() {
        let callers = [from("front", &[("default", 1)])];
        let found = denied(
            "shop",
            (Stage::Observe, Some(Stage::Secure)),
            &callers,
            &pods(&[("web", true)]),
        );
        assert_eq!(
            found[0].told(100),
            "shop/deploy/front → shop/deploy/web:8080, 1 time, last 0 s ago: no policy allows it"
        );
        assert_eq!(BTreeMap::from([("default".to_owned(), 1)]), callers[0].would_deny);
    }
}
