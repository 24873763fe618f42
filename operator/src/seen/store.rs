//! What was reported here: for some minutes as it came, and for a day who has spoken to whom. Both are bounded, whatever data
//! planes say.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use weft_discovery::{DataPlane, Hear};
use weft_model::{EdgeReport, Peer, Report, RouteReport};

use super::{
    plane::{EDGES, KEPT, Plane, WINDOW, size},
    taps::Taps,
    workloads::{Workload, Workloads},
};

/// Data planes that are remembered, of which some may be gone.
const PLANES: usize = 10_000;
/// Edges and routes that are remembered as they came, of all data planes together: some 80 MB.
const ENTRIES: usize = 200_000;
/// How much of that may be of one data plane.
const SHARE: usize = 20_000;
/// How often is reported if there are few data planes, and how many reports a second are heard if there are many.
const PACE: Duration = Duration::from_secs(5);
const RATE: f64 = 200.0;
/// How often data planes are counted.
const COUNT: Duration = Duration::from_secs(10);
/// A data plane that has said nothing for so many times as long as it should is not there any more, or not here.
const SILENT: u32 = 4;
/// Policies that are remembered of an edge, and backends of a split.
const POLICIES: usize = 16;
const BACKENDS: usize = 64;

/// What was reported here.
pub(crate) struct Sightings {
    workloads: Workloads,
    since: SystemTime,
    pace: Duration,
    state: Mutex<State>,
    /// Those that look on.
    pub(super) taps: Arc<Taps>,
}

#[derive(Default)]
struct State {
    planes: HashMap<DataPlane, Plane>,
    /// What all reports hold that are remembered as they came.
    entries: usize,
    /// Data planes that report, and when they were counted.
    live: Option<(usize, Instant)>,
}

/// The time somebody asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Period {
    /// The last so much of it.
    Last(Duration),
    /// As long as anything is remembered. There is no telling how long requests took.
    Ever,
}

/// What one data plane has seen in that time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlaneSummary {
    /// `Gateway` or `Pod`.
    pub(crate) kind: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// The Gateway's name, or the pod's.
    pub(crate) name: String,
    /// The pod, if it is one with a sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) own: Option<Arc<Peer>>,
    /// The node that the pod is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Arc<str>>,
    /// Who has spoken to it, and to whom it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) edges: Vec<EdgeReport>,
    /// By which routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) routes: Vec<RouteReport>,
}

impl Sightings {
    pub(crate) fn new(workloads: Workloads) -> Arc<Self> {
        Self::with_pace(workloads, PACE)
    }

    /// The same with another pace, of a few data planes.
    pub(crate) fn with_pace(workloads: Workloads, pace: Duration) -> Arc<Self> {
        Arc::new(Self {
            workloads,
            since: SystemTime::now(),
            pace,
            state: Mutex::default(),
            taps: Arc::default(),
        })
    }

    /// Since when anything is remembered, in seconds since 1970.
    pub(crate) fn since(&self) -> u64 {
        let kept = SystemTime::now().checked_sub(KEPT);
        let since = kept.map_or(self.since, |kept| kept.max(self.since));
        since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// What was seen by the data planes of a namespace, or by all.
    pub(crate) fn seen(&self, period: Period, of: Option<&str>) -> Vec<PlaneSummary> {
        let now = Instant::now();
        let silent = self.pace() * SILENT;
        let state = self.state();
        let mut all: Vec<PlaneSummary> = state
            .planes
            .iter()
            .filter(|(plane, _)| of.is_none_or(|of| of == named(plane).1))
            .map(|(of, plane)| {
                let (kind, namespace, name) = named(of);
                let (edges, routes) = match period {
                    Period::Last(window) => plane.summed(now, window),
                    Period::Ever => {
                        // Nobody says any more what policies would deny of what comes to a pod that is gone.
                        let judges = self.own(of).is_some() && now.saturating_duration_since(plane.heard) < silent;
                        (plane.callers(now, judges), Vec::new())
                    }
                };
                PlaneSummary {
                    kind: kind.to_owned(),
                    namespace,
                    name,
                    own: plane.own.as_ref().map(|own| own.peer.clone()),
                    node: plane.own.as_ref().and_then(|own| own.node.clone()),
                    edges,
                    routes,
                }
            })
            .filter(|plane| !plane.edges.is_empty() || !plane.routes.is_empty())
            .collect();
        all.sort_by(|a, b| (&a.kind, &a.namespace, &a.name).cmp(&(&b.kind, &b.namespace, &b.name)));
        all
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self, of: &DataPlane) -> Option<Arc<Peer>> {
        self.workload(of).map(|workload| workload.peer)
    }

    fn workload(&self, of: &DataPlane) -> Option<Workload> {
        match of {
            DataPlane::Sidecar { namespace, pod } => self.workloads.get(&format!("{namespace}/{pod}").into()),
            DataPlane::Gateway { .. } => None,
        }
    }

    fn take(&self, of: &DataPlane, mut report: Report, now: Instant) {
        report.edges.truncate(EDGES);
        report.routes.truncate(EDGES);
        for route in &mut report.routes {
            while route.backends.len() > BACKENDS {
                route.backends.pop_last();
            }
        }
        for edge in &mut report.edges {
            while edge.would_deny.len() > POLICIES {
                edge.would_deny.pop_last();
            }
        }
        let own = self.workload(of);
        let mut state = self.state();
        state.make_room(of, now);
        let State { planes, entries, .. } = &mut *state;
        let plane = planes.entry(of.clone()).or_insert_with(|| Plane::new(now));
        plane.heard = now;
        // A pod that is gone still was what it was.
        plane.own = own.or(plane.own.take());
        plane.remember(&report, now);
        *entries -= plane.forget(now);
        // What was counted before it was connected has come at no time that is known.
        if !report.total && *entries < ENTRIES && plane.entries() < SHARE {
            *entries += size(&report);
            plane.recent.push_back((now, report));
        }
    }
}

impl Hear for Sightings {
    fn heard(&self, of: &DataPlane, report: Report) {
        self.take(of, report, Instant::now());
    }

    fn taps(&self) -> watch::Receiver<u64> {
        self.taps.changes()
    }

    fn is_tapped(&self, of: &DataPlane) -> bool {
        self.taps.is_wanted(of, self.own(of).as_deref())
    }

    fn tapped(&self, of: &DataPlane, requests: Vec<String>) {
        self.taps.told(of, self.own(of).as_deref(), requests);
    }

    fn pace(&self) -> Duration {
        let live = self.state().live(Instant::now());
        self.pace.max(Duration::from_secs_f64(live as f64 / RATE))
    }
}

impl State {
    fn live(&mut self, now: Instant) -> usize {
        match self.live {
            Some((live, at)) if now.saturating_duration_since(at) < COUNT => live,
            _ => {
                let planes = self.planes.values();
                let live = planes
                    .filter(|plane| now.saturating_duration_since(plane.heard) < WINDOW)
                    .count();
                self.live = Some((live, now));
                live
            }
        }
    }

    /// Forgets who is long gone, and if that is not enough, whoever was not heard of for longest.
    fn make_room(&mut self, of: &DataPlane, now: Instant) {
        if self.planes.len() < PLANES || self.planes.contains_key(of) {
            return;
        }
        let oldest = self.planes.iter().min_by_key(|(_, plane)| plane.heard);
        let oldest = oldest.map(|(of, _)| of.clone());
        let gone = |of: &DataPlane, plane: &Plane| {
            now.saturating_duration_since(plane.heard) >= KEPT || Some(of) == oldest.as_ref()
        };
        for (_, plane) in self.planes.extract_if(|of, plane| gone(of, plane)) {
            self.entries -= plane.entries();
        }
    }
}

fn named(of: &DataPlane) -> (&'static str, String, String) {
    match of {
        DataPlane::Sidecar { namespace, pod } => ("Pod", namespace.clone(), pod.clone()),
        DataPlane::Gateway { gateway, .. } => {
            let (namespace, name) = gateway.as_str().split_once('/').unwrap_or_default();
            ("Gateway", namespace.to_owned(), name.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use weft_model::{Change, Counts, Edge, Flow, Key, Latencies, Remote, Resource, Way};

    use super::*;

    fn report(total: bool, address: u8, requests: u64) -> Report {
        Report {
            total,
            edges: vec![EdgeReport {
                edge: Edge {
                    way: Way::Inbound,
                    remote: Remote::Address([10, 0, 0, address].into()),
                    service: None,
                    port: 80,
                    secured: false,
                },
                flow: Flow {
                    requests: Counts {
                        classes: [0, requests, 0, 0, 0],
                        failures: 0,
                        latencies: Latencies {
                            buckets: vec![(9, requests)],
                            sum_micros: 50 * requests,
                        },
                    },
                    ..Flow::default()
                },
                age_s: 0,
                would_deny: BTreeMap::new(),
            }],
            routes: vec![RouteReport {
                route: "HTTPRoute/shop/web/0".into(),
                requests: Counts {
                    classes: [0, requests, 0, 0, 0],
                    ..Counts::default()
                },
                backends: BTreeMap::new(),
            }],
        }
    }

    fn requests(seen: &[PlaneSummary]) -> u64 {
        let edges = seen.iter().flat_map(|plane| &plane.edges);
        edges.map(|edge| edge.flow.requests.requests()).sum()
    }

    #[test]
    fn what_has_come_within_a_time_is_summed_and_who_has_come_ever_is_remembered() {
        let sightings = Sightings::new(Workloads::default());
        let (of, start) = (DataPlane::sidecar("shop", "web-1"), Instant::now());
        let old = start
            .checked_sub(Duration::from_secs(60))
            .expect("the machine runs for a minute");
        sightings.take(&of, report(true, 1, 100), old);
        sightings.take(&of, report(false, 1, 5), old);
        sightings.take(&of, report(false, 1, 2), start);
        sightings.take(&of, report(false, 1, 1), start);
        let last = |seconds| sightings.seen(Period::Last(Duration::from_secs(seconds)), None);
        assert_eq!((requests(&last(30)), requests(&last(120))), (3, 8));
        assert_eq!(last(30)[0].routes[0].requests.requests(), 3);
        assert_eq!(last(30)[0].edges[0].flow.requests.latencies.count(), 3);
        let ever = sightings.seen(Period::Ever, None);
        assert_eq!(
            (requests(&ever), ever[0].edges[0].flow.requests.latencies.count()),
            (108, 0)
        );
        // Connected anew, it tells all of it again.
        sightings.take(&of, report(true, 1, 110), start);
        assert_eq!(requests(&sightings.seen(Period::Ever, None)), 110);
        // Started anew, it has counted little.
        sightings.take(&of, report(true, 1, 1), start);
        assert_eq!(requests(&sightings.seen(Period::Ever, None)), 110);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let sightings = Sightings::new(Workloads::default());
        let start = Instant::now();
        for number in 0..PLANES + 5 {
            let of = DataPlane::sidecar("shop", format!("web-{number}"));
            sightings.take(&of, report(false, 1, 1), start + Duration::from_millis(number as u64));
        }
        let known = sightings.state();
        assert_eq!(known.planes.len(), PLANES);
        assert!(!known.planes.contains_key(&DataPlane::sidecar("shop", "web-0")));
        assert_eq!(known.entries, PLANES * 3);
        drop(known);
        let of = DataPlane::sidecar("shop", "web-7000");
        sightings.take(&of, report(false, 1, 1), start + WINDOW + Duration::from_secs(60));
        assert_eq!(sightings.state().planes[&of].recent.len(), 1);
        assert!(sightings.pace() >= Duration::from_secs(50));
    }

    fn pod(name: &str) -> Peer {
        let peer = serde_json::json!({
            "key": format!("shop/{name}"), "addresses": [], "namespace": "shop", "account": "web",
        });
        serde_json::from_value(peer).expect("a peer")
    }

    #[test]
    fn what_would_be_denied_is_as_it_was_last_said_by_a_pod_that_is_there() {
        let workloads = Workloads::default();
        let sightings = Sightings::new(workloads.clone());
        workloads.take(&[Change::Upsert(Resource::Peer(Arc::new(pod("web-1"))))], |_| None);
        let (of, now) = (DataPlane::sidecar("shop", "web-1"), Instant::now());
        let says = |total, denied: &[(&str, u64)], at| {
            let mut report = report(total, 1, 1);
            report.edges[0].would_deny = denied
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect();
            sightings.take(&of, report, at);
        };
        let told = || sightings.seen(Period::Ever, None)[0].edges[0].would_deny.clone();
        says(true, &[("a", 2)], now);
        says(false, &[("a", 5), ("b", 1)], now);
        assert_eq!(told(), BTreeMap::from([("a".to_owned(), 5), ("b".to_owned(), 1)]));
        says(false, &[], now);
        assert!(told().is_empty());
        // It has started anew, and nobody has come yet.
        says(false, &[("a", 5)], now);
        let empty = Report {
            total: true,
            ..Report::default()
        };
        sightings.take(&of, empty, now);
        assert!(told().is_empty());
        says(false, &[("a", 1)], now);
        assert_eq!(told().len(), 1);
        // It is gone: it still was called, but of what would become of that nobody knows.
        workloads.take(&[Change::Remove(Key::Peer("shop/web-1".into()))], |_| None);
        assert!(told().is_empty());
        // So it is if it tells another replica.
        workloads.take(&[Change::Upsert(Resource::Peer(Arc::new(pod("web-1"))))], |_| None);
        assert_eq!(told().len(), 1);
        let before = now.checked_sub(PACE * SILENT).expect("the machine runs for a while");
        says(false, &[("a", 1)], before);
        assert!(told().is_empty());
    }

    #[test]
    fn a_pod_that_is_gone_still_was_what_it_was() {
        let workloads = Workloads::default();
        let sightings = Sightings::new(workloads.clone());
        let peer = pod("web-1");
        workloads.take(&[Change::Upsert(Resource::Peer(Arc::new(peer.clone())))], |_| None);
        let of = DataPlane::sidecar("shop", "web-1");
        sightings.heard(&of, report(false, 1, 1));
        workloads.take(&[Change::Remove(Key::Peer("shop/web-1".into()))], |_| None);
        sightings.heard(&of, report(false, 1, 1));
        let seen = sightings.seen(Period::Last(WINDOW), None);
        assert_eq!(seen[0].own.as_deref(), Some(&peer));
        assert!(sightings.seen(Period::Ever, Some("other")).is_empty());
        assert_eq!(sightings.seen(Period::Ever, Some("shop")).len(), 1);
    }
}
