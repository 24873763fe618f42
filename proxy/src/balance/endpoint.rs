//! Power of two choices over peak EWMA: of two endpoints drawn at random, the one is taken at which a request is likely
//! to be done sooner. Endpoints that keep failing are set aside, and come back gently.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use super::{Random, backoff};
use crate::{config::Endpoint, edges::Found, session::identity, upstream::Connections};

/// How fast what was measured fades: after this time a latency counts a third.
const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint is taken to need before anything was measured.
const UNKNOWN: Duration = Duration::from_millis(1);
/// Failures in a row after which an endpoint is set aside.
const FAILURES: u32 = 5;
/// How long it is set aside the first time; each further time doubles it.
const ASIDE: Duration = Duration::from_secs(1);
/// The longest it is set aside.
const LONGEST_ASIDE: Duration = Duration::from_secs(60);
/// After it has come back, an endpoint gets more and more requests over this time.
const RAMP: Duration = Duration::from_secs(10);

/// The endpoints of a service, as one worker sees them.
pub struct Balancer {
    endpoints: RefCell<Vec<Rc<EndpointState>>>,
    /// The same by identity, once somebody has asked.
    identities: RefCell<Option<HashMap<u64, Rc<EndpointState>>>>,
    random: Random,
}

/// What one worker knows of an endpoint.
pub struct EndpointState {
    /// Where it is.
    pub address: SocketAddr,
    /// Of its workload, for sessions.
    pub(crate) identity: u64,
    /// The connections to it.
    pub(crate) connections: Connections,
    /// Where what goes there is counted as between workloads.
    pub(crate) edge: Found,
    pending: Cell<u32>,
    /// Seconds a request takes, peaks counting at once and fading with time.
    latency: Cell<f64>,
    measured: Cell<Option<Instant>>,
    failures: Cell<u32>,
    /// How many times in a row it was set aside.
    times_aside: Cell<u32>,
    aside_until: Cell<Option<Instant>>,
    /// When it came back.
    back_since: Cell<Option<Instant>>,
}

/// A request under way. Dropped without [`InFlight::finish`], it counts as cancelled.
pub struct InFlight {
    endpoint: Rc<EndpointState>,
    started: Instant,
}

/// How a request ended, as far as its endpoint is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered, and not with a 5xx status.
    Success,
    /// It was answered with a 5xx status, too late, or not to the end.
    Failure,
    /// No connection could be made.
    ConnectFailed,
    /// It was given up for a reason that is not the endpoint's.
    Cancelled,
}

impl Balancer {
    /// Without endpoints.
    pub fn new(seed: u64) -> Self {
        Self {
            endpoints: RefCell::default(),
            identities: RefCell::default(),
            random: Random::new(seed),
        }
    }

    /// Takes over who there is now. Those that stay keep what is known of them.
    pub fn update(&self, endpoints: &[Endpoint]) {
        let mut known = self.endpoints.borrow_mut();
        let before = std::mem::take(&mut *known);
        let mut seen = std::collections::HashSet::new();
        *known = endpoints
            .iter()
            .filter(|endpoint| seen.insert(endpoint.address))
            .map(|endpoint| {
                let identity = identity(endpoint.workload.as_str());
                let same = before.iter().find(|state| state.address == endpoint.address);
                // Another workload at an address is another endpoint.
                same.filter(|state| state.identity == identity)
                    .cloned()
                    .unwrap_or_else(|| Rc::new(EndpointState::new(endpoint.address, identity)))
            })
            .collect();
        *self.identities.borrow_mut() = None;
    }

    /// The endpoint whose workload has this identity.
    pub(crate) fn by_identity(&self, identity: u64) -> Option<Rc<EndpointState>> {
        let mut identities = self.identities.borrow_mut();
        let identities = identities.get_or_insert_with(|| {
            let endpoints = self.endpoints.borrow();
            let each = endpoints.iter().map(|state| (state.identity, state.clone()));
            each.collect()
        });
        identities.get(&identity).cloned()
    }

    /// Visits every endpoint.
    pub(crate) fn each(&self, visit: impl FnMut(&Rc<EndpointState>)) {
        self.endpoints.borrow().iter().for_each(visit);
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.endpoints.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.endpoints.borrow().is_empty()
    }

    /// Chooses an endpoint, but not `exclude` if there is another. When all are set aside, none is: a failing backend is
    /// better than none.
    pub fn pick(&self, now: Instant, exclude: Option<&Rc<EndpointState>>) -> Option<Rc<EndpointState>> {
        let endpoints = self.endpoints.borrow();
        let fits = |state: &Rc<EndpointState>| !exclude.is_some_and(|excluded| Rc::ptr_eq(state, excluded));
        match endpoints.as_slice() {
            [] => return None,
            [only] => return Some(only.clone()),
            _ => {}
        }
        let count = endpoints.len();
        let first = &endpoints[self.random.below(count)];
        let other = (self.random.below(count - 1) + 1 + self.position(&endpoints, first)) % count;
        let second = &endpoints[other];
        let (first_fits, second_fits) = (
            fits(first) && first.is_in(now, &self.random),
            fits(second) && second.is_in(now, &self.random),
        );
        let chosen = match (first_fits, second_fits) {
            (true, true) => {
                if second.load(now) < first.load(now) {
                    second
                } else {
                    first
                }
            }
            (true, false) => first,
            (false, true) => second,
            // Bad luck: look at all of them, from a random one on.
            (false, false) => {
                let start = self.random.below(count);
                let mut all = (0..count).map(|at| &endpoints[(start + at) % count]);
                let usable = all.clone().find(|state| fits(state) && state.is_in(now, &self.random));
                usable.or_else(|| all.find(|state| fits(state)))?
            }
        };
        Some(chosen.clone())
    }

    fn position(&self, endpoints: &[Rc<EndpointState>], state: &Rc<EndpointState>) -> usize {
        endpoints.iter().position(|other| Rc::ptr_eq(other, state)).unwrap_or(0)
    }
}

impl EndpointState {
    fn new(address: SocketAddr, identity: u64) -> Self {
        Self {
            address,
            identity,
            connections: Connections::new(address),
            edge: Found::default(),
            pending: Cell::new(0),
            latency: Cell::new(0.0),
            measured: Cell::new(None),
            failures: Cell::new(0),
            times_aside: Cell::new(0),
            aside_until: Cell::new(None),
            back_since: Cell::new(None),
        }
    }

    /// Counts a request as under way.
    pub fn start(endpoint: &Rc<Self>, now: Instant) -> InFlight {
        endpoint.pending.set(endpoint.pending.get() + 1);
        InFlight {
            endpoint: endpoint.clone(),
            started: now,
        }
    }

    /// Whether it is set aside.
    pub fn is_aside(&self, now: Instant) -> bool {
        self.aside_until.get().is_some_and(|until| now < until)
    }

    /// Whether it takes part: not set aside, and if it has just come back, only for a share of the requests.
    fn is_in(&self, now: Instant, random: &Random) -> bool {
        if self.is_aside(now) {
            return false;
        }
        if let Some(until) = self.aside_until.take() {
            self.back_since.set(Some(until));
        }
        let Some(since) = self.back_since.get() else {
            return true;
        };
        let share = now.saturating_duration_since(since).as_secs_f64() / RAMP.as_secs_f64();
        if share >= 1.0 {
            self.back_since.set(None);
            return true;
        }
        // From the start a few, so that it can prove itself.
        (random.below(1000) as f64) < share.max(0.05) * 1000.0
    }

    /// How long one more request would take.
    fn load(&self, now: Instant) -> f64 {
        let latency = match self.measured.get() {
            Some(at) => self.latency.get() * fade(now.saturating_duration_since(at)),
            None => UNKNOWN.as_secs_f64(),
        };
        latency.max(1e-6) * f64::from(self.pending.get() + 1)
    }

    fn measure(&self, latency: Duration, now: Instant) {
        let latency = latency.as_secs_f64();
        let before = self.latency.get();
        let value = match self.measured.get() {
            // A peak counts at once.
            Some(_) if latency > before => latency,
            Some(at) => {
                let elapsed = now.saturating_duration_since(at);
                // The exponential is spared most requests: it is under the bound only after a twentieth of the time.
                let kept = if elapsed < DECAY / 20 {
                    0.95
                } else {
                    fade(elapsed).min(0.95)
                };
                before * kept + latency * (1.0 - kept)
            }
            None => latency,
        };
        self.latency.set(value);
        self.measured.set(Some(now));
    }

    fn failed(&self, now: Instant, random: u64) {
        self.failures.set(self.failures.get() + 1);
        if self.failures.get() < FAILURES {
            return;
        }
        self.failures.set(0);
        self.times_aside.set(self.times_aside.get() + 1);
        let wait = backoff(ASIDE, self.times_aside.get(), random).min(LONGEST_ASIDE);
        self.aside_until.set(Some(now + wait));
    }
}

/// What is left of a measurement after some time.
fn fade(elapsed: Duration) -> f64 {
    (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

impl InFlight {
    /// Says how the request ended.
    pub fn finish(self, now: Instant, outcome: Outcome) {
        let endpoint = &self.endpoint;
        let elapsed = now.saturating_duration_since(self.started);
        match outcome {
            Outcome::Success => {
                endpoint.measure(elapsed, now);
                endpoint.failures.set(0);
                if endpoint.back_since.get().is_none() {
                    endpoint.times_aside.set(0);
                }
            }
            Outcome::Failure | Outcome::ConnectFailed => {
                // One that fails fast must not look fast.
                endpoint.measure(elapsed.max(Duration::from_millis(100)), now);
                endpoint.failed(now, elapsed.as_nanos() as u64);
            }
            Outcome::Cancelled => {}
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.pending.set(self.endpoint.pending.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn endpoints(count: u16) -> Vec<Endpoint> {
        let endpoint = |number| Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], 1000 + number)),
            workload: format!("default/{number}").as_str().into(),
        };
        (0..count).map(endpoint).collect()
    }

    /// Sends requests one each millisecond; each endpoint takes as long, and ends as, `answer` says.
    fn simulate(
        balancer: &Balancer,
        start: Instant,
        requests: u64,
        answer: impl Fn(u16, Duration) -> (Duration, Outcome),
    ) -> HashMap<u16, u64> {
        let mut taken = HashMap::new();
        let mut under_way: Vec<(Instant, Outcome, InFlight)> = Vec::new();
        for at in 0..requests {
            let elapsed = Duration::from_millis(at);
            let now = start + elapsed;
            let (done, rest): (Vec<_>, Vec<_>) = under_way.into_iter().partition(|(end, ..)| *end <= now);
            under_way = rest;
            for (end, outcome, in_flight) in done {
                in_flight.finish(end, outcome);
            }
            let endpoint = balancer.pick(now, None).expect("there are endpoints");
            let number = endpoint.address.port() - 1000;
            *taken.entry(number).or_default() += 1;
            let (latency, outcome) = answer(number, elapsed);
            under_way.push((now + latency, outcome, EndpointState::start(&endpoint, now)));
        }
        taken
    }

    const FAST: Duration = Duration::from_millis(5);

    #[test]
    fn equal_endpoints_get_equal_shares() {
        for seed in 1..20 {
            let balancer = Balancer::new(seed);
            balancer.update(&endpoints(4));
            let taken = simulate(&balancer, Instant::now(), 4000, |_, _| (FAST, Outcome::Success));
            for number in 0..4 {
                let share = taken[&number];
                assert!((800..1200).contains(&share), "seed {seed}: {taken:?}");
            }
        }
    }

    #[test]
    fn a_slow_endpoint_gets_little() {
        for seed in 1..20 {
            let balancer = Balancer::new(seed);
            balancer.update(&endpoints(4));
            let answer = |number, _| (if number == 0 { FAST * 20 } else { FAST }, Outcome::Success);
            let taken = simulate(&balancer, Instant::now(), 4000, answer);
            assert!(taken[&0] < 400, "seed {seed}: {taken:?}");
        }
    }

    #[test]
    fn one_that_fails_is_set_aside_and_comes_back() {
        for seed in 1..20 {
            let balancer = Balancer::new(seed);
            balancer.update(&endpoints(3));
            let start = Instant::now();
            let failing = |number, _| {
                let outcome = if number == 0 {
                    Outcome::ConnectFailed
                } else {
                    Outcome::Success
                };
                (Duration::from_millis(1), outcome)
            };
            let taken = simulate(&balancer, start, 10_000, failing);
            assert!(taken.get(&0).copied().unwrap_or(0) < 200, "seed {seed}: {taken:?}");
            let later = start + Duration::from_secs(200);
            let taken = simulate(&balancer, later, 30_000, |_, _| (FAST, Outcome::Success));
            assert!(taken[&0] > 5_000, "seed {seed}: {taken:?}");
        }
    }

    #[test]
    fn when_all_are_set_aside_all_are_used() {
        let balancer = Balancer::new(7);
        balancer.update(&endpoints(2));
        let taken = simulate(&balancer, Instant::now(), 1000, |_, _| (FAST, Outcome::Failure));
        assert_eq!(taken.values().sum::<u64>(), 1000);
    }

    #[test]
    fn the_excluded_endpoint_is_taken_only_if_it_is_the_only_one() {
        let balancer = Balancer::new(3);
        balancer.update(&endpoints(2));
        let now = Instant::now();
        let bad = balancer.pick(now, None).expect("there are two");
        for _ in 0..100 {
            assert!(!Rc::ptr_eq(
                &balancer.pick(now, Some(&bad)).expect("there are two"),
                &bad
            ));
        }
        balancer.update(&endpoints(1));
        let only = balancer.pick(now, None).expect("there is one");
        assert!(balancer.pick(now, Some(&only)).is_some());
    }

    #[test]
    fn those_that_stay_keep_what_is_known_of_them() {
        let balancer = Balancer::new(3);
        balancer.update(&endpoints(1));
        let before = balancer.pick(Instant::now(), None).expect("there is one");
        balancer.update(&endpoints(3));
        assert_eq!(balancer.len(), 3);
        assert!(
            balancer
                .endpoints
                .borrow()
                .iter()
                .any(|state| Rc::ptr_eq(state, &before))
        );
    }
}
