//! The network of the cluster.

use std::{path::Path, process::Command};

use super::{NAMESPACE, NODE, inside, output};

/// Makes the namespace, with the node's address in it.
pub(super) fn up() -> anyhow::Result<()> {
    if Path::new("/run/netns").join(NAMESPACE).exists() {
        return Ok(());
    }
    output(Command::new("ip").args(["netns", "add", NAMESPACE]))?;
    // A pair of links, of which the other end leads nowhere: not every kernel has links of type dummy.
    for command in [
        "ip link set lo up",
        "ip link add eth0 type veth peer name uplink",
        "ip link set uplink up",
        "ip link set eth0 up",
        &format!("ip addr add {NODE}/24 dev eth0"),
        // Without a default route the API server refuses to tell its own address.
        "ip route add default via 198.18.0.1 dev eth0",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1",
    ] {
        let mut words = command.split(' ');
        let program = words.next().unwrap_or_default();
        output(inside(program).args(words))?;
    }
    Ok(())
}
