//! What one data plane has reported.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use weft_model::{Counts, Edge, EdgeReport, Flow, Latencies, Report, RouteReport};

use super::workloads::Workload;

/// How long reports are remembered as they came: no longer a time can be asked about.
pub(crate) const WINDOW: Duration = Duration::from_secs(300);
/// How long is remembered who has spoken to whom.
pub(super) const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Edges that are remembered of each.
pub(super) const EDGES: usize = 1000;

/// What it has said lately, and whom it has ever spoken to.
pub(super) struct Plane {
    pub(super) own: Option<Workload>,
    pub(super) recent: VecDeque<(Instant, Report)>,
    callers: HashMap<Edge, Caller>,
    pub(super) heard: Instant,
}

/// Who has spoken to whom.
struct Caller {
    flow: Flow,
    last: Instant,
    /// What policies would deny of it, as it stands.
    would_deny: BTreeMap<String, u64>,
}

impl Plane {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            own: None,
            recent: VecDeque::new(),
            callers: HashMap::new(),
            heard: now,
        }
    }

    /// Remembers who has spoken to whom.
    pub(super) fn remember(&mut self, report: &Report, now: Instant) {
        if report.total {
            self.callers.values_mut().for_each(|caller| caller.would_deny.clear());
        }
        for EdgeReport {
            edge,
            flow,
            age_s,
            would_deny,
        } in &report.edges
        {
            let at = now.checked_sub(Duration::from_secs(*age_s)).unwrap_or(now);
            let flow = Flow {
                requests: Counts {
                    latencies: Latencies::default(),
                    ..flow.requests.clone()
                },
                ..*flow
            };
            let room = self.callers.len() < EDGES;
            match self.callers.get_mut(edge) {
                Some(Caller {
                    flow: known,
                    last,
                    would_deny: judged,
                }) => {
                    if !report.total {
                        known.add(&flow);
                    } else if flow.requests.requests() + flow.connections
                        >= known.requests.requests() + known.connections
                    {
                        *known = flow;
                    }
                    *last = at.max(*last);
                    judged.clone_from(would_deny);
                }
                None if room => {
                    let caller = Caller {
                        flow,
                        last: at,
                        would_deny: would_deny.clone(),
                    };
                    self.callers.insert(edge.clone(), caller);
                }
                None => {}
            }
        }
        self.callers
            .retain(|_, caller| now.saturating_duration_since(caller.last) < KEPT);
    }

    /// How much is remembered as it came.
    pub(super) fn entries(&self) -> usize {
        self.recent.iter().map(|(_, report)| size(report)).sum()
    }

    /// Forgets what is too old to be asked about; returns how much that was.
    pub(super) fn forget(&mut self, now: Instant) -> usize {
        let mut gone = 0;
        while let Some((at, report)) = self.recent.front() {
            if now.saturating_duration_since(*at) <= WINDOW {
                break;
            }
            gone += size(report);
            self.recent.pop_front();
        }
        gone
    }

    /// What was seen within that time.
    pub(super) fn summed(&self, now: Instant, window: Duration) -> (Vec<EdgeReport>, Vec<RouteReport>) {
        let mut edges: HashMap<&Edge, EdgeReport> = HashMap::new();
        let mut routes: HashMap<&str, RouteReport> = HashMap::new();
        let recent = self
            .recent
            .iter()
            .filter(|(at, _)| now.saturating_duration_since(*at) <= window);
        for (at, report) in recent {
            let ago = now.saturating_duration_since(*at).as_secs();
            for more in &report.edges {
                let age_s = ago + more.age_s;
                match edges.get_mut(&more.edge) {
                    Some(sum) => {
                        sum.flow.add(&more.flow);
                        sum.age_s = sum.age_s.min(age_s);
                        // The last that was said is how it stands.
                        sum.would_deny.clone_from(&more.would_deny);
                    }
                    None => drop(edges.insert(&more.edge, EdgeReport { age_s, ..more.clone() })),
                }
            }
            for more in &report.routes {
                match routes.get_mut(more.route.as_str()) {
                    Some(sum) => sum.add(more),
                    None => drop(routes.insert(more.route.as_str(), more.clone())),
                }
            }
        }
        let mut edges: Vec<EdgeReport> = edges.into_values().collect();
        edges.sort_by(|a, b| a.edge.cmp(&b.edge));
        let mut routes: Vec<RouteReport> = routes.into_values().collect();
        routes.sort_by(|a, b| a.route.cmp(&b.route));
        (edges, routes)
    }

    /// Who has spoken to whom; with what policies would deny of it, if somebody `judges`.
    pub(super) fn callers(&self, now: Instant, judges: bool) -> Vec<EdgeReport> {
        let each = self.callers.iter().map(|(edge, caller)| EdgeReport {
            edge: edge.clone(),
            flow: caller.flow.clone(),
            age_s: now.saturating_duration_since(caller.last).as_secs(),
            would_deny: if judges {
                caller.would_deny.clone()
            } else {
                BTreeMap::new()
            },
        });
        let mut all: Vec<EdgeReport> = each.collect();
        all.sort_by(|a, b| a.edge.cmp(&b.edge));
        all
    }
}

/// How much of what is remembered a report is.
pub(super) fn size(report: &Report) -> usize {
    1 + report.edges.len() + report.routes.len()
}
