//! Rules as nftables has them, as far as they are needed, and how `nft` writes them.

use std::fmt::{self, Display};

use ipnet::IpNet;

/// A table of both families of addresses.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) chains: Vec<Chain>,
}

/// Rules that packets go through, at one place of their way.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Hook,
    pub(super) rules: Vec<Rule>,
}

/// Where on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// Each as it leaves a process, before it is looked up of which connection it is.
    Leaving,
    /// The first of a connection as it leaves a process.
    Output,
    /// The first of a connection as it comes in, before it is known whom it is for.
    Prerouting,
}

impl Hook {
    /// What a chain there is for, as nftables calls it.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Leaving => "filter",
            Self::Output | Self::Prerouting => "nat",
        }
    }

    /// Its place among everything else that is done there: what comes before connections are looked up, and where destinations
    /// are changed.
    pub(super) fn priority(self) -> i32 {
        match self {
            Self::Leaving => -300,
            Self::Output | Self::Prerouting => -100,
        }
    }
}

/// What is done with a packet, or by the first with its connection, if all of it is true.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) matches: Vec<Match>,
    pub(super) action: Action,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// It goes where it wants.
    Pass,
    /// It goes to a port of this network namespace.
    Redirect(u16),
    /// It is of a connection that is none of those outside of this zone, though it has the addresses and ports of one of them.
    /// Replies are found all the same.
    Zone(u16),
}

/// Something that is true of a connection or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    Tcp,
    /// This is not its first packet: it was there before the rules.
    UnderWay,
    LeavesByLoopback,
    CameByLoopback,
    /// A process of this user made it.
    User(u32),
    /// Its socket has this priority, or had it: the last packets of a connection have no socket any more, and so no user.
    Priority(u32),
    To(IpNet),
    Port(u16),
    /// Its destination is not an address of this network namespace.
    NotForUs,
    /// Somebody listens where it goes to.
    Listening,
}

/// The number of the loopback device, in every network namespace.
pub(super) const LOOPBACK: u32 = 1;

impl Rule {
    pub(super) fn pass(matches: impl Into<Vec<Match>>) -> Self {
        Self {
            matches: matches.into(),
            action: Action::Pass,
        }
    }

    pub(super) fn zone(matches: impl Into<Vec<Match>>, zone: u16) -> Self {
        Self {
            matches: matches.into(),
            action: Action::Zone(zone),
        }
    }

    pub(super) fn redirect(matches: impl Into<Vec<Match>>, port: u16) -> Self {
        Self {
            matches: matches.into(),
            action: Action::Redirect(port),
        }
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.name)?;
        for chain in &self.chains {
            let hook = match chain.hook {
                Hook::Leaving | Hook::Output => "output",
                Hook::Prerouting => "prerouting",
            };
            let (kind, priority) = (chain.hook.kind(), chain.hook.priority());
            writeln!(f, "\tchain {} {{", chain.name)?;
            writeln!(f, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;")?;
            for rule in &chain.rules {
                writeln!(f, "\t\t{rule}")?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for each in &self.matches {
            write!(f, "{each} ")?;
        }
        match self.action {
            Action::Pass => write!(f, "accept"),
            Action::Redirect(port) => write!(f, "redirect to :{port}"),
            Action::Zone(zone) => write!(f, "ct original zone set {zone}"),
        }
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => write!(f, "meta l4proto tcp"),
            Self::UnderWay => write!(f, "tcp flags & (fin | syn | rst | ack) != syn"),
            Self::LeavesByLoopback => write!(f, "oif {LOOPBACK}"),
            Self::CameByLoopback => write!(f, "iif {LOOPBACK}"),
            Self::User(uid) => write!(f, "meta skuid {uid}"),
            // Two numbers, as tc has them.
            Self::Priority(priority) => write!(f, "meta priority {:x}:{:x}", priority >> 16, priority & 0xffff),
            Self::To(network) => {
                let family = if network.addr().is_ipv4() { "ip" } else { "ip6" };
                if network.prefix_len() == network.max_prefix_len() {
                    write!(f, "{family} daddr {}", network.addr())
                } else {
                    write!(f, "{family} daddr {network}")
                }
            }
            Self::Port(port) => write!(f, "tcp dport {port}"),
            Self::NotForUs => write!(f, "fib daddr type != local"),
            // Either value of what is asked: that there is a socket to ask is what counts.
            Self::Listening => write!(f, "socket transparent <= 1"),
        }
    }
}
