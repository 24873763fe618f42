//! The network of the cluster.

use std::{fs, path::Path, process::Command};

use anyhow::ensure;

use super::{NAMESPACE, NODE, NODE6, ROUTER6, RUN, inside, output};

/// What kube-proxy and interception need of a kernel for IPv6. Not every kernel that has one has the other.
const RULES: &str = "add table ip6 weft-looks
add chain ip6 weft-looks out { type nat hook output priority -100; }
add rule ip6 weft-looks out ct state new fib daddr type local tcp dport 1 redirect to :2";

/// Which families of addresses the cluster has. IPv4 comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Families {
    Both,
    Four,
}

impl Families {
    /// What components are told of both: two of a kind, with a comma, or only the first.
    pub(super) fn list(self, four: &str, six: &str) -> String {
        match self {
            Self::Both => format!("{four},{six}"),
            Self::Four => four.to_owned(),
        }
    }
}

/// Makes the namespace, with the node's addresses in it.
pub(super) fn up() -> anyhow::Result<Families> {
    if !Path::new("/run/netns").join(NAMESPACE).exists() {
        output(Command::new("ip").args(["netns", "add", NAMESPACE]))?;
        // A pair of links, of which the other end leads nowhere: not every kernel has links of type dummy.
        all(&[
            "ip link set lo up",
            "ip link add eth0 type veth peer name uplink",
            "ip link set uplink up",
            "ip link set eth0 up",
            &format!("ip addr add {NODE}/24 dev eth0"),
            // Without a default route the API server refuses to tell its own address.
            "ip route add default via 198.18.0.1 dev eth0",
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1",
        ])?;
    }
    Ok(match six() {
        Ok(()) => Families::Both,
        Err(error) => {
            print!("(of IPv4 alone, for IPv6 is not to be had here: {error:#}) ");
            Families::Four
        }
    })
}

/// Adds addresses of IPv6, if the kernel has that.
fn six() -> anyhow::Result<()> {
    ensure!(
        Path::new("/proc/sys/net/ipv6").exists(),
        "the kernel is without it, or was started with ipv6.disable=1"
    );
    let rules = Path::new(RUN).join("six.nft");
    fs::write(&rules, RULES)?;
    output(inside("nft").args(["--check", "--file"]).arg(&rules))?;
    all(&[
        // Nobody else is there who could have an address, and pods would wait for the answer of nobody.
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0 \
         net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.forwarding=1",
        &format!("ip -6 addr replace {NODE6}/64 dev eth0 nodad"),
        &format!("ip -6 route replace default via {ROUTER6} dev eth0"),
    ])
}

/// Runs commands inside, one after the other.
fn all(commands: &[&str]) -> anyhow::Result<()> {
    for command in commands {
        let mut words = command.split_whitespace();
        let program = words.next().unwrap_or_default();
        output(inside(program).args(words))?;
    }
    Ok(())
}
