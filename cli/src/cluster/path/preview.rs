//! What a stage would change for a namespace, from what sidecars have seen.

use std::{
    collections::HashMap,
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use weft_model::view::{EdgeView, End, Side};

use super::{
    denied::{Denied, denied},
    stage::Stage,
};
use crate::cluster::{
    seen::{Pods, named},
    words::{ago, plural},
};

/// Those that are named where there are many.
const NAMED: usize = 20;
/// Somebody who has proven who it is so much later than it last came without goes by that now.
const SETTLED: u64 = 10;

/// What the next stage would do.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Preview {
    pub(super) namespace: String,
    pub(super) stage: Stage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<Stage>,
    /// Pods with a sidecar,
    pub(super) meshed: usize,
    /// and all.
    pub(super) pods: usize,
    /// Pods that would stay outside.
    without: Vec<String>,
    /// Whom it would cut off.
    cut_off: Vec<CutOff>,
    /// Whom policies would deny something.
    denied: Vec<Denied>,
    /// Whether anybody knows.
    known: bool,
    /// Since when it is known, in seconds since 1970.
    since: u64,
}

/// Somebody who would be cut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct CutOff {
    source: String,
    destination: String,
    port: u16,
    requests: u64,
    connections: u64,
    /// What is no probe, where the kubelet probes; the rest may be of it.
    #[serde(skip_serializing_if = "is_none")]
    beside_probes: u64,
    /// Already now.
    refused: u64,
    last_seen: u64,
}

/// What a stage would do to a namespace. `callers` are those that are remembered, and since when; none if nobody knows.
pub(super) fn preview(
    namespace: &str,
    stage: Stage,
    next: Option<Stage>,
    pods: &Pods,
    callers: Option<(&[EdgeView], u64)>,
) -> Preview {
    let own = pods.all.iter().filter(|pod| pod.namespace == namespace);
    let (with, others): (Vec<_>, Vec<_>) = own.partition(|pod| pod.meshed);
    // Who never has one is not waited for. If it comes, it is among the callers.
    let without = others.iter().filter(|pod| !pod.apart);
    // Where it is strict already, those are told who are refused.
    let strict = next == Some(Stage::Strict) || stage == Stage::Strict;
    let cut_off = match callers {
        Some((callers, _)) if strict => cut_off(namespace, stage, callers, pods),
        _ => Vec::new(),
    };
    let denied = callers.map_or_else(Vec::new, |(callers, _)| denied(namespace, (stage, next), callers, pods));
    Preview {
        denied,
        namespace: namespace.to_owned(),
        stage,
        next,
        meshed: with.len(),
        pods: with.len() + others.len(),
        // They get theirs by the first step.
        without: match stage {
            Stage::None => Vec::new(),
            _ => without.map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect(),
        },
        cut_off,
        known: callers.is_some() || next == Some(Stage::Observe),
        since: callers.map_or(0, |(_, since)| since),
    }
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

/// Whether it may be the kubelet: it comes to a port at which a probe is declared, and from nobody who is known to be somebody
/// else. What it does besides is not the kubelet's: others on its node have the same address.
fn may_be_kubelet(edge: &EdgeView, pods: &Pods) -> bool {
    let of_pod = edge.source.address.is_some_and(|address| pods.is_pod(address));
    edge.probed && !of_pod && !edge.source.is_meshed()
}

/// Whether it has only ever connected, as a probe by `tcpSocket` does: that it may in any stage.
fn is_silent(edge: &EdgeView) -> bool {
    let flow = &edge.flow;
    flow.silent > 0 && flow.connections <= flow.silent && flow.requests.requests() + flow.refused == 0
}

/// Those that come and prove nothing, where that is wanted.
fn cut_off(namespace: &str, stage: Stage, callers: &[EdgeView], pods: &Pods) -> Vec<CutOff> {
    let here = || {
        let all = callers.iter().filter(|edge| edge.side == Side::Server);
        all.filter(|edge| edge.destination.namespace.as_deref() == Some(namespace))
    };
    let mut proven: HashMap<(&End, &End), u64> = HashMap::new();
    for edge in here().filter(|edge| edge.secured) {
        let last = proven.entry((&edge.source, &edge.destination)).or_default();
        *last = edge.last_seen.max(*last);
    }
    let would = |edge: &&EdgeView| {
        let flow = &edge.flow;
        let probes = may_be_kubelet(edge, pods) && flow.unproven == 0 || is_silent(edge);
        if edge.secured || probes || flow.requests.requests() + flow.connections + flow.refused == 0 {
            return false;
        }
        // Workloads of the mesh prove who they are once their namespace wants them to.
        let will = edge.source.is_meshed() && stage < Stage::Secure;
        let does = proven.get(&(&edge.source, &edge.destination));
        !will && does.is_none_or(|last| *last < edge.last_seen + SETTLED)
    };
    let mut found: Vec<CutOff> = here()
        .filter(would)
        .map(|edge| {
            let all = [edge.flow.requests.requests(), edge.flow.connections, 0];
            let [requests, connections, beside_probes] = match may_be_kubelet(edge, pods) {
                true => [0, 0, edge.flow.unproven],
                false => all,
            };
            CutOff {
                source: named(&edge.source, pods),
                destination: named(&edge.destination, pods),
                port: edge.port,
                requests,
                connections,
                beside_probes,
                refused: edge.flow.refused,
                last_seen: edge.last_seen,
            }
        })
        .collect();
    found.sort_by_key(|caller| std::cmp::Reverse(caller.last_seen));
    found
}

impl Preview {
    /// Whether nothing stands against it.
    pub(super) fn is_clean(&self) -> bool {
        let nobody = self.cut_off.is_empty() && self.denied.is_empty();
        self.known && nobody && (self.without.is_empty() || self.next != Some(Stage::Strict))
    }

    /// In a few words.
    pub(super) fn summary(&self) -> String {
        let Some(next) = self.next else {
            return match self.cut_off.len() {
                0 => "-".to_owned(),
                count => format!("{count} are refused now"),
            };
        };
        if !self.known {
            return "is not known".to_owned();
        }
        let mut parts = Vec::new();
        if !self.cut_off.is_empty() {
            parts.push(format!("cut off {}", plural(self.cut_off.len(), "caller")));
        }
        if !self.denied.is_empty() {
            parts.push(format!("deny {} by policies", plural(self.denied.len(), "caller")));
        }
        if !self.without.is_empty() && next >= Stage::Secure {
            parts.push(format!(
                "leave out {} without a sidecar",
                plural(self.without.len(), "pod")
            ));
        }
        if parts.is_empty() {
            return "cut nobody off".to_owned();
        }
        parts.join(", ")
    }

    /// In full.
    pub(super) fn details(&self) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let mut text = String::new();
        let mut line = |indent: usize, line: &str| {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "{:indent$}{line}", "");
        };
        if !self.cut_off.is_empty() {
            let heading = match self.next {
                Some(next) => format!("{}: {} would cut off", self.namespace, next.as_str()),
                None => format!("{}: those are refused", self.namespace),
            };
            line(0, "");
            line(0, &heading);
            for caller in self.cut_off.iter().take(NAMED) {
                line(2, &caller.told(now));
            }
            if self.cut_off.len() > NAMED {
                line(
                    2,
                    &format!("and {} more; -o json names all", self.cut_off.len() - NAMED),
                );
            }
            line(
                2,
                "→ give them a sidecar (weft advance their namespace), or have them come by a port of the weft.dev/skip-inbound-ports",
            );
        }
        if let Some(next) = self.next.filter(|_| !self.denied.is_empty()) {
            line(0, "");
            line(
                0,
                &format!("{}: in {} policies would deny", self.namespace, next.as_str()),
            );
            for denied in self.denied.iter().take(NAMED) {
                line(2, &denied.told(now));
            }
            if self.denied.len() > NAMED {
                line(2, &format!("and {} more; -o json names all", self.denied.len() - NAMED));
            }
            line(
                2,
                "→ allow it by an AuthorizationPolicy, if it is to go on; counted since the policies decide as they do",
            );
        }
        if !self.without.is_empty() {
            line(0, "");
            line(0, &format!("{}: without a sidecar", self.namespace));
            for pod in self.without.iter().take(NAMED) {
                line(2, pod);
            }
            if self.without.len() > NAMED {
                line(2, &format!("and {} more", self.without.len() - NAMED));
            }
            line(
                2,
                &format!(
                    "→ they were made before: kubectl rollout restart deployment -n {}",
                    self.namespace
                ),
            );
        }
        if self.next == Some(Stage::Strict) && self.since > 0 {
            let since = jiff::Timestamp::from_second(i64::try_from(self.since).unwrap_or_default()).unwrap_or_default();
            line(0, "");
            line(
                0,
                &format!(
                    "{}: callers are remembered since {since}; whoever comes more seldom is not among them",
                    self.namespace
                ),
            );
        }
        text
    }
}

impl CutOff {
    fn told(&self, now: u64) -> String {
        let mut what = Vec::new();
        for (count, name) in [(self.requests, "request"), (self.connections, "connection")] {
            if count > 0 {
                what.push(plural(usize::try_from(count).unwrap_or(usize::MAX), name));
            }
        }
        if self.beside_probes > 0 {
            let times = plural(usize::try_from(self.beside_probes).unwrap_or(usize::MAX), "time");
            what.push(format!("{times} for something else than a probe"));
        }
        if self.refused > 0 {
            what.push(format!("{} refused", self.refused));
        }
        format!(
            "{} → {}:{}, {}, last {} ago",
            self.source,
            self.destination,
            self.port,
            what.join(", "),
            ago(now.saturating_sub(self.last_seen)),
        )
    }
}

#[cfg(test)]
mod tests {
    use weft_model::Flow;

    use super::{
        super::super::seen::stat::tests::{edge, pods},
        *,
    };

    fn from(source: &str, secured: bool, last_seen: u64) -> EdgeView {
        EdgeView {
            secured,
            last_seen,
            ..edge(source, "web", "server", 3, 0)
        }
    }

    fn sources(stage: Stage, callers: &[EdgeView]) -> Vec<String> {
        let preview = preview("shop", stage, stage.next(), &pods(&[("web", true)]), Some((callers, 1)));
        assert_eq!(preview.is_clean(), preview.cut_off.is_empty());
        preview.cut_off.into_iter().map(|caller| caller.source).collect()
    }

    #[test]
    fn strict_cuts_off_who_proves_nothing_and_secure_nobody() {
        let outside = from("10.9.9.9", false, 100);
        assert!(sources(Stage::Observe, std::slice::from_ref(&outside)).is_empty());
        assert_eq!(sources(Stage::Secure, std::slice::from_ref(&outside)), ["10.9.9.9"]);
        // The kubelet may come in any stage, and other namespaces are others' business.
        let probe = EdgeView {
            probed: true,
            ..outside.clone()
        };
        let mut other = outside.clone();
        other.destination.namespace = Some("other".to_owned());
        let client = EdgeView {
            side: Side::Client,
            ..outside
        };
        assert!(sources(Stage::Secure, &[probe, other, client]).is_empty());
    }

    #[test]
    fn who_came_in_clear_before_and_proves_itself_now_is_not_cut_off() {
        let was = from("front", false, 100);
        let is = from("front", true, 200);
        assert!(sources(Stage::Secure, &[was.clone(), is.clone()]).is_empty());
        // It still comes in clear as well.
        let still = from("front", false, 195);
        assert_eq!(sources(Stage::Secure, &[still, is]), ["shop/deploy/front"]);
        assert_eq!(sources(Stage::Secure, &[was]), ["shop/deploy/front"]);
    }

    #[test]
    fn addresses_are_named_after_who_has_them() {
        let pods = pods(&[("web", true), ("cron", false)]);
        let callers = [from("10.0.0.2", false, 100)];
        let preview = preview("shop", Stage::Secure, Some(Stage::Strict), &pods, Some((&callers, 1)));
        let details = preview.details();
        assert!(
            details.contains("10.0.0.2 (pod shop/cron-1) → shop/deploy/web:8080, 3 requests, last "),
            "{details}"
        );
        assert!(details.contains("without a sidecar\n  shop/cron-1\n"), "{details}");
        assert_eq!(preview.summary(), "cut off 1 caller, leave out 1 pod without a sidecar");
        assert!(!preview.is_clean());
    }

    #[test]
    fn who_only_connects_may_do_so_in_any_stage() {
        let mut probe = from("10.9.9.9", false, 100);
        probe.flow = Flow {
            connections: 3,
            silent: 3,
            ..Flow::default()
        };
        assert!(sources(Stage::Secure, std::slice::from_ref(&probe)).is_empty());
        // One is open still, and may say something.
        probe.flow.connections = 4;
        assert_eq!(sources(Stage::Secure, &[probe]), ["10.9.9.9"]);
    }

    #[test]
    fn where_the_kubelet_probes_others_are_cut_off_all_the_same() {
        let pods = pods(&[("web", true), ("cron", false)]);
        let probed = |source: &str| EdgeView {
            probed: true,
            ..from(source, false, 100)
        };
        let mut callers = ["10.9.9.9", "10.0.0.2", "front", "10.9.9.8"].map(probed);
        // It has the address of a node, say, as the kubelet has, and wants something else.
        callers[3].flow.unproven = 2;
        let preview = preview("shop", Stage::Secure, Some(Stage::Strict), &pods, Some((&callers, 1)));
        let details = preview.details();
        assert!(
            details.contains("10.9.9.8 → shop/deploy/web:8080, 2 times for something else than a probe, last "),
            "{details}"
        );
        let mut sources: Vec<String> = preview.cut_off.into_iter().map(|caller| caller.source).collect();
        sources.sort();
        assert_eq!(sources, ["10.0.0.2 (pod shop/cron-1)", "10.9.9.8", "shop/deploy/front"]);
    }

    #[test]
    fn what_policies_would_deny_stands_against_secure() {
        let denied = EdgeView {
            would_deny: [("AuthorizationPolicy/shop/web".to_owned(), 3)].into(),
            ..from("front", false, 100)
        };
        let callers = [denied];
        let preview = preview(
            "shop",
            Stage::Observe,
            Some(Stage::Secure),
            &pods(&[("web", true)]),
            Some((&callers, 1)),
        );
        assert!(!preview.is_clean());
        assert_eq!(preview.summary(), "deny 1 caller by policies");
        let details = preview.details();
        assert!(
            details.contains(
                "shop: in secure policies would deny\n  shop/deploy/front → shop/deploy/web:8080, 3 times, last "
            ),
            "{details}"
        );
        assert!(details.contains(" ago: by AuthorizationPolicy/shop/web\n"), "{details}");
    }

    #[test]
    fn who_never_has_a_sidecar_is_not_waited_for() {
        let mut pods = pods(&[("web", true)]);
        for (name, labels, host) in [("agent", "", true), ("alone", "disabled", false)] {
            let pod = serde_json::json!({
                "metadata": {"namespace": "shop", "name": name, "labels": {"weft.dev/inject": labels}},
                "spec": {"containers": [], "hostNetwork": host},
            });
            pods.add(&serde_json::from_value(pod).expect("a pod"));
        }
        let preview = preview("shop", Stage::Secure, Some(Stage::Strict), &pods, Some((&[], 1)));
        assert!(preview.is_clean());
        assert_eq!((preview.meshed, preview.pods), (1, 3));
    }

    #[test]
    fn what_nobody_knows_is_not_clean() {
        let pods = pods(&[("web", true)]);
        assert!(!preview("shop", Stage::Secure, Some(Stage::Strict), &pods, None).is_clean());
        assert!(preview("shop", Stage::None, Some(Stage::Observe), &pods, None).is_clean());
        assert!(preview("shop", Stage::Observe, Some(Stage::Secure), &pods, Some((&[], 1))).is_clean());
    }
}
