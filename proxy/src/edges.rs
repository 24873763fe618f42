//! Who has spoken to whom, as one worker has seen it. The cells of an edge are found once for a connection, or for an endpoint
//! of a Service; a request only counts in them.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};

use weft_model::{Edge, Remote, ServiceKey, SpiffeId, Way};

use crate::{
    l4::Story,
    mesh::Mesh,
    traffic::{Cells, EdgeStats},
};

/// Edges that a worker knows apart; those beyond are counted together.
const MOST: usize = 500;
/// As many of these may be with addresses of which the mesh knows nothing: there are many in the world.
const ADDRESSES: usize = 200;
/// How often it is looked which of them can go.
const LOOK: Duration = Duration::from_secs(10);
/// For so long an edge is kept in mind although others would have its place.
const KEPT: Duration = Duration::from_secs(3600);
/// Policies that are named of an edge, of those that would deny something; what more would deny is counted together.
const POLICIES: usize = 8;
/// As these are named.
const OTHERS: &str = "others";

/// The edges of one worker.
#[derive(Default)]
pub(crate) struct Edges {
    known: RefCell<HashMap<Edge, Rc<EdgeCells>>>,
    others: [Rc<EdgeCells>; 2],
    looked: Cell<Option<Instant>>,
}

/// What was counted of one edge.
#[derive(Default)]
pub(crate) struct EdgeCells {
    pub(crate) requests: Cells,
    connections: Cell<u64>,
    refused: Cell<u64>,
    unproven: Cell<u64>,
    silent: Cell<u64>,
    received: Cell<u64>,
    sent: Cell<u64>,
    used: Cell<Option<Instant>>,
    would: RefCell<Would>,
}

/// What policies would deny if the namespace were further than `observe`.
#[derive(Default)]
struct Would {
    /// As long as they decide as they do.
    rulings: u64,
    by: Vec<(Box<str>, u64)>,
}

/// The cells of an endpoint, for as long as the mesh is as it was when they were found.
#[derive(Default)]
pub(crate) struct Found(RefCell<Option<(u64, Rc<EdgeCells>)>>);

impl Edges {
    /// Somebody comes from an address to a port of the pod, and has proven who it is or has not.
    pub(crate) fn inbound(
        &self,
        mesh: &Mesh,
        from: IpAddr,
        proven: Option<&SpiffeId>,
        port: u16,
        now: Instant,
    ) -> Rc<EdgeCells> {
        let from = from.to_canonical();
        let remote = match (mesh.peer_at(from), proven) {
            (Some(peer), Some(id)) if (id.namespace(), id.account()) == (peer.namespace.as_str(), &peer.account) => {
                Remote::of(&peer)
            }
            (_, Some(id)) => Remote::Identity(id.clone()),
            (Some(peer), None) => Remote::of(&peer),
            (None, None) => Remote::Address(from),
        };
        self.cells(
            Edge {
                way: Way::Inbound,
                remote,
                service: None,
                port,
                secured: proven.is_some(),
            },
            now,
        )
    }

    /// A connection goes from the pod to an address, that of a Service or of somebody.
    pub(crate) fn outbound(&self, mesh: &Mesh, to: SocketAddr, secured: bool, now: Instant) -> Rc<EdgeCells> {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let (service, peer) = mesh.behind(to);
        let (remote, port) = match (peer, &service) {
            (Some(peer), Some(_)) => (Remote::of(&peer), 0),
            (Some(peer), None) => (Remote::of(&peer), to.port()),
            (None, Some(_)) => (Remote::Service, 0),
            (None, None) => (Remote::Address(to.ip()), to.port()),
        };
        self.cells(
            Edge {
                way: Way::Outbound,
                remote,
                service,
                port,
                secured,
            },
            now,
        )
    }

    /// Something goes to an endpoint that was chosen for a Service.
    pub(crate) fn chosen(
        &self,
        mesh: &Mesh,
        service: &ServiceKey,
        endpoint: SocketAddr,
        now: Instant,
    ) -> Rc<EdgeCells> {
        let remote = mesh.peer_at(endpoint.ip().to_canonical());
        self.cells(
            Edge {
                way: Way::Outbound,
                remote: remote.map_or(Remote::Service, |peer| Remote::of(&peer)),
                service: Some(service.clone()),
                port: 0,
                secured: mesh.is_expected(endpoint),
            },
            now,
        )
    }

    /// Nothing could be chosen.
    pub(crate) fn unchosen(&self, service: &ServiceKey, now: Instant) -> Rc<EdgeCells> {
        self.cells(
            Edge {
                way: Way::Outbound,
                remote: Remote::Service,
                service: Some(service.clone()),
                port: 0,
                secured: false,
            },
            now,
        )
    }

    fn cells(&self, edge: Edge, now: Instant) -> Rc<EdgeCells> {
        let mut known = self.known.borrow_mut();
        if let Some(cells) = known.get(&edge) {
            cells.used.set(Some(now));
            return cells.clone();
        }
        let is_address = |edge: &Edge| matches!(edge.remote, Remote::Address(_));
        let full = |known: &HashMap<Edge, Rc<EdgeCells>>| {
            known.len() >= MOST
                || (is_address(&edge) && known.keys().filter(|edge| is_address(edge)).count() >= ADDRESSES)
        };
        let recent = |looked: Instant| now.saturating_duration_since(looked) < LOOK;
        if full(&known) && !self.looked.get().is_some_and(recent) {
            self.looked.set(Some(now));
            known.retain(|_, cells| cells.is_kept(now));
        }
        let cells = if full(&known) {
            self.others[edge.way as usize].clone()
        } else {
            known.entry(edge).or_default().clone()
        };
        cells.used.set(Some(now));
        cells
    }

    /// What was counted so far, by policies that decide as they do now.
    pub(crate) fn read(&self, rulings: u64) -> Seen {
        let known = self.known.borrow();
        let each = known.iter().map(|(edge, cells)| (edge.clone(), cells.read(rulings)));
        let others = [Way::Inbound, Way::Outbound].into_iter().filter_map(|way| {
            let cells = &self.others[way as usize];
            let edge = Edge {
                way,
                remote: Remote::Others,
                service: None,
                port: 0,
                secured: false,
            };
            cells.used.get().is_some().then(|| (edge, cells.read(rulings)))
        });
        Seen(each.chain(others).collect())
    }
}

impl EdgeCells {
    /// Counts a connection.
    pub(crate) fn connected(&self) {
        self.connections.set(self.connections.get() + 1);
    }

    /// Counts a connection that was not let in.
    pub(crate) fn refused(&self) {
        self.refused.set(self.refused.get() + 1);
    }

    /// Counts what is no probe where in `strict` only the kubelet may come without proof, for its probes.
    pub(crate) fn unproven(&self) {
        self.unproven.set(self.unproven.get() + 1);
    }

    /// Counts a connection in clear that has ended without a word of the client.
    pub(crate) fn silent(&self) {
        self.silent.set(self.silent.get() + 1);
    }

    /// Counts what a connection has carried.
    pub(crate) fn moved(&self, story: &Story, now: Instant) {
        self.received.set(self.received.get() + story.received.get());
        self.sent.set(self.sent.get() + story.sent.get());
        self.used.set(Some(now));
    }

    /// Counts a request.
    pub(crate) fn count(&self, status: u16, failed: bool, elapsed: Duration, now: Instant) {
        self.requests.count(status, failed, elapsed);
        self.used.set(Some(now));
    }

    /// Counts what a policy would have denied.
    pub(crate) fn would_deny(&self, rulings: u64, policy: &str) {
        let mut would = self.would.borrow_mut();
        if would.rulings != rulings {
            *would = Would {
                rulings,
                by: Vec::new(),
            };
        }
        let known = would.by.iter().position(|(name, _)| **name == *policy);
        let name = if known.is_some() || would.by.len() < POLICIES {
            policy
        } else {
            OTHERS
        };
        match would.by.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, count)) => *count += 1,
            None => would.by.push((name.into(), 1)),
        }
    }

    fn is_kept(&self, now: Instant) -> bool {
        let used = self.used.get();
        used.is_some_and(|used| now.saturating_duration_since(used) < KEPT)
    }

    fn read(&self, rulings: u64) -> Counted {
        let would = self.would.borrow();
        let would = would.by.iter().filter(|_| would.rulings == rulings);
        Counted {
            would_deny: would.map(|(name, count)| (name.to_string(), *count)).collect(),
            traffic: self.requests.read(),
            connections: self.connections.get(),
            refused: self.refused.get(),
            unproven: self.unproven.get(),
            silent: self.silent.get(),
            received: self.received.get(),
            sent: self.sent.get(),
            used: self.used.get(),
        }
    }
}

impl Found {
    /// The cells, found anew if the mesh has changed since.
    pub(crate) fn cells(&self, generation: u64, find: impl FnOnce() -> Rc<EdgeCells>) -> Rc<EdgeCells> {
        let mut found = self.0.borrow_mut();
        match &*found {
            Some((of, cells)) if *of == generation => cells.clone(),
            _ => {
                let cells = find();
                *found = Some((generation, cells.clone()));
                cells
            }
        }
    }
}

#[derive(Default)]
struct Counted {
    traffic: crate::traffic::Traffic,
    connections: u64,
    refused: u64,
    unproven: u64,
    silent: u64,
    received: u64,
    sent: u64,
    used: Option<Instant>,
    would_deny: BTreeMap<String, u64>,
}

/// What workers counted, to be summed.
#[derive(Default)]
pub(crate) struct Seen(HashMap<Edge, Counted>);

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        for (edge, more) in other.0 {
            let sum = self.0.entry(edge).or_default();
            sum.traffic.add(&more.traffic);
            sum.connections += more.connections;
            sum.refused += more.refused;
            sum.unproven += more.unproven;
            sum.silent += more.silent;
            sum.received += more.received;
            sum.sent += more.sent;
            sum.used = sum.used.max(more.used);
            for (policy, count) in more.would_deny {
                *sum.would_deny.entry(policy).or_default() += count;
            }
        }
    }

    /// The sums, in an order that stays.
    pub(crate) fn total(self) -> Vec<EdgeStats> {
        let each = self.0.into_iter().map(|(edge, counted)| EdgeStats {
            edge,
            traffic: counted.traffic,
            connections: counted.connections,
            refused: counted.refused,
            unproven: counted.unproven,
            silent: counted.silent,
            received: counted.received,
            sent: counted.sent,
            used: counted.used,
            would_deny: counted.would_deny,
        });
        let mut all: Vec<EdgeStats> = each.collect();
        all.sort_by(|a, b| a.edge.cmp(&b.edge));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_bounded_and_addresses_do_not_take_the_place_of_workloads() {
        let (edges, mesh, start) = (Edges::default(), Mesh::default(), Instant::now());
        let from = |number: usize| IpAddr::from([10, 0, (number / 256) as u8, (number % 256) as u8]);
        for number in 0..ADDRESSES + 10 {
            edges.inbound(&mesh, from(number), None, 80, start).connected();
        }
        let id = SpiffeId::parse("spiffe://a.b/ns/shop/sa/front").expect("an identity");
        edges.inbound(&mesh, from(0), Some(&id), 80, start).connected();
        let all = edges.read(0).total();
        assert_eq!(all.len(), ADDRESSES + 2);
        let of = |remote: &Remote| all.iter().find(|stats| stats.edge.remote == *remote);
        assert_eq!(of(&Remote::Others).map(|others| others.connections), Some(10));
        let proven = of(&Remote::Identity(id)).expect("it is told apart");
        assert!(proven.edge.secured && proven.connections == 1);
        // Those that are long gone give way.
        edges.inbound(&mesh, from(5000), None, 80, start + KEPT);
        let addresses = edges
            .read(0)
            .total()
            .into_iter()
            .filter(|stats| matches!(stats.edge.remote, Remote::Address(_)));
        assert_eq!(addresses.count(), 1);
    }

    #[test]
    fn cells_of_an_endpoint_are_found_anew_once_the_mesh_has_changed() {
        let found = Found::default();
        let (first, second) = (Rc::new(EdgeCells::default()), Rc::new(EdgeCells::default()));
        assert!(Rc::ptr_eq(&found.cells(1, || first.clone()), &first));
        assert!(Rc::ptr_eq(&found.cells(1, || second.clone()), &first));
        assert!(Rc::ptr_eq(&found.cells(2, || second.clone()), &second));
    }

    #[test]
    fn what_policies_would_deny_is_known_as_long_as_they_decide_as_they_do() {
        let (edges, mesh, start) = (Edges::default(), Mesh::default(), Instant::now());
        let cells = edges.inbound(&mesh, IpAddr::from([10, 0, 0, 1]), None, 80, start);
        let would = |rulings| edges.read(rulings).total().remove(0).would_deny;
        for policy in ["a", "b", "a"] {
            cells.would_deny(1, policy);
        }
        assert_eq!(would(1), BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
        assert!(would(2).is_empty());
        cells.would_deny(2, "b");
        assert_eq!(would(2), BTreeMap::from([("b".to_owned(), 1)]));
        for number in 0..2 * POLICIES {
            cells.would_deny(3, &number.to_string());
        }
        assert_eq!(would(3).len(), POLICIES + 1);
        assert_eq!(would(3)[OTHERS], POLICIES as u64);
        let mut both = edges.read(3);
        both.add(edges.read(3));
        assert_eq!(both.total()[0].would_deny[OTHERS], 2 * POLICIES as u64);
    }
}
