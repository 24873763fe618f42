//! What one worker counts of the connections it carries.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    ops::Deref,
    rc::Rc,
    time::{Duration, Instant},
};

use super::{Direction, Outcome, Protocol};
use crate::{
    l4::Story,
    traffic::{Cells, DestinationStats, GRPC_CODES, Intercepted},
};

/// Destinations that a worker knows apart; those beyond are counted together.
const MOST: usize = 1000;
/// For so long a destination is kept in mind although others would have its place.
const KEPT: Duration = Duration::from_secs(600);

/// The counters of one worker.
#[derive(Default)]
pub(crate) struct Book {
    destinations: RefCell<HashMap<(Direction, SocketAddr), Rc<Destination>>>,
    others: [Rc<Destination>; 2],
    protocols: [[Cell<u64>; Protocol::COUNT]; 2],
    lost: [Cell<u64>; 2],
    dismissed: [Cell<u64>; 2],
    routed: [Cell<u64>; Outcome::COUNT],
}

/// What was counted of one destination.
#[derive(Default)]
pub(crate) struct Destination {
    pub(super) requests: Cells,
    /// By codes of gRPC; made with the first.
    grpc: OnceCell<Box<[Cell<u64>; GRPC_CODES]>>,
    connections: Cell<u64>,
    open: Cell<u64>,
    failed: Cell<u64>,
    received: Cell<u64>,
    sent: Cell<u64>,
    used: Cell<Option<Instant>>,
}

/// A connection to a destination, for as long as it is open.
pub(super) struct Open(Rc<Destination>);

impl Book {
    /// The counters of a destination.
    pub(super) fn destination(&self, direction: Direction, address: SocketAddr, now: Instant) -> Rc<Destination> {
        let mut known = self.destinations.borrow_mut();
        let full = known.len() >= MOST && !known.contains_key(&(direction, address));
        if full {
            known.retain(|_, destination| destination.is_kept(now));
        }
        let destination = if known.len() >= MOST && full {
            self.others[direction as usize].clone()
        } else {
            known.entry((direction, address)).or_default().clone()
        };
        destination.used.set(Some(now));
        destination
    }

    pub(super) fn decided(&self, direction: Direction, protocol: Protocol) {
        add(&self.protocols[direction as usize][protocol as usize], 1);
    }

    /// Counts a connection whose requests can no longer be told apart.
    pub(super) fn lost(&self, direction: Direction) {
        add(&self.lost[direction as usize], 1);
    }

    /// Counts a connection whose client was told to go, since its requests are for routes or policies by now.
    pub(super) fn dismissed(&self, direction: Direction) {
        add(&self.dismissed[direction as usize], 1);
    }

    /// Counts what came of a connection to a Service port that has routes.
    pub(super) fn routed(&self, outcome: Outcome) {
        add(&self.routed[outcome as usize], 1);
    }

    pub(crate) fn read(&self) -> Seen {
        let destinations = self.destinations.borrow();
        let known = destinations.iter().map(|((direction, address), destination)| {
            let key = (*direction, Some(*address));
            (key, destination.read(*direction, Some(*address)))
        });
        let others = Direction::ALL.into_iter().filter_map(|direction| {
            let others = &self.others[direction as usize];
            let used = others.used.get().is_some();
            used.then(|| ((direction, None), others.read(direction, None)))
        });
        Seen {
            destinations: known.chain(others).collect(),
            protocols: std::array::from_fn(|direction| {
                std::array::from_fn(|protocol| self.protocols[direction][protocol].get())
            }),
            lost: std::array::from_fn(|direction| self.lost[direction].get()),
            dismissed: std::array::from_fn(|direction| self.dismissed[direction].get()),
            routed: std::array::from_fn(|outcome| self.routed[outcome].get()),
        }
    }
}

impl Destination {
    /// Counts a connection.
    pub(super) fn open(destination: Rc<Self>) -> Open {
        add(&destination.connections, 1);
        add(&destination.open, 1);
        Open(destination)
    }

    /// Counts a connection that could not be made.
    pub(super) fn failed(&self) {
        add(&self.failed, 1);
    }

    /// Counts a call of gRPC. A code that is none is one that is unknown, as gRPC has it.
    pub(super) fn called(&self, code: u16) {
        let codes = self.grpc.get_or_init(Box::default);
        add(codes.get(usize::from(code)).unwrap_or(&codes[2]), 1);
    }

    /// Counts what a connection has carried.
    pub(super) fn moved(&self, story: &Story) {
        add(&self.received, story.received.get());
        add(&self.sent, story.sent.get());
    }

    fn is_kept(&self, now: Instant) -> bool {
        let used = self.used.get();
        self.open.get() > 0 || used.is_some_and(|used| now.saturating_duration_since(used) < KEPT)
    }

    fn read(&self, direction: Direction, address: Option<SocketAddr>) -> DestinationStats {
        DestinationStats {
            direction,
            address,
            traffic: self.requests.read(),
            grpc: std::array::from_fn(|code| self.grpc.get().map_or(0, |codes| codes[code].get())),
            connections: self.connections.get(),
            open: self.open.get(),
            failed: self.failed.get(),
            received: self.received.get(),
            sent: self.sent.get(),
        }
    }
}

impl Deref for Open {
    type Target = Destination;

    fn deref(&self) -> &Destination {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

fn add(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get() + more);
}

/// What workers counted, to be summed.
#[derive(Default)]
pub(crate) struct Seen {
    destinations: HashMap<(Direction, Option<SocketAddr>), DestinationStats>,
    protocols: [[u64; Protocol::COUNT]; 2],
    lost: [u64; 2],
    dismissed: [u64; 2],
    routed: [u64; Outcome::COUNT],
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        for (key, more) in other.destinations {
            match self.destinations.get_mut(&key) {
                Some(sum) => sum.add(&more),
                None => drop(self.destinations.insert(key, more)),
            }
        }
        for (sums, more) in self.protocols.iter_mut().zip(other.protocols) {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        for (sums, more) in [(&mut self.lost, other.lost), (&mut self.dismissed, other.dismissed)] {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        let routed = self.routed.iter_mut().zip(other.routed);
        routed.for_each(|(sum, more)| *sum += more);
    }

    /// The sums, in an order that stays.
    pub(crate) fn total(self) -> Intercepted {
        let mut destinations: Vec<DestinationStats> = self.destinations.into_values().collect();
        destinations.sort_by_key(|destination| (destination.direction, destination.address));
        let protocols = Direction::ALL.into_iter().flat_map(|direction| {
            let counts = self.protocols[direction as usize];
            let counted = Protocol::ALL.into_iter().zip(counts);
            counted.map(move |(protocol, count)| (direction, protocol, count))
        });
        let lost = Direction::ALL.into_iter().zip(self.lost);
        let dismissed = Direction::ALL.into_iter().zip(self.dismissed);
        let routed = Outcome::ALL.into_iter().zip(self.routed);
        Intercepted {
            protocols: protocols.filter(|(.., count)| *count > 0).collect(),
            lost: lost.filter(|(_, count)| *count > 0).collect(),
            dismissed: dismissed.filter(|(_, count)| *count > 0).collect(),
            routed: routed.filter(|(_, count)| *count > 0).collect(),
            destinations,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_bounded_and_those_out_of_use_give_way() {
        let book = Book::default();
        let address = |number: usize| SocketAddr::from(([10, 0, (number / 256) as u8, (number % 256) as u8], 80));
        let start = Instant::now();
        let busy = Destination::open(book.destination(Direction::Outbound, address(0), start));
        for number in 1..MOST + 10 {
            drop(Destination::open(book.destination(
                Direction::Outbound,
                address(number),
                start,
            )));
        }
        let seen = book.read().total();
        assert_eq!(seen.destinations.len(), MOST + 1);
        let others = seen
            .destinations
            .iter()
            .find(|destination| destination.address.is_none());
        assert_eq!(others.map(|others| others.connections), Some(10));

        let later = start + KEPT;
        drop(Destination::open(book.destination(
            Direction::Outbound,
            address(MOST + 10),
            later,
        )));
        let left: Vec<_> = book.read().total().destinations;
        let addresses: Vec<_> = left.iter().filter_map(|destination| destination.address).collect();
        assert_eq!(addresses, [address(0), address(MOST + 10)]);
        assert_eq!(busy.open.get(), 1);
    }
}
