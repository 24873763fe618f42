//! The network of the cluster.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{NAMESPACE, NODE, RUN, inside, output};

/// What some tens of processes that watch files use up by default, and then die of in odd ways.
const LIMITS: [(&str, u64); 2] = [("max_user_instances", 8192), ("max_user_watches", 524_288)];

/// Makes the namespace, with the node's address in it.
pub(super) fn up() -> anyhow::Result<()> {
    raise_limits()?;
    if Path::new("/run/netns").join(NAMESPACE).exists() {
        return Ok(());
    }
    output(std::process::Command::new("ip").args(["netns", "add", NAMESPACE]))?;
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

/// Raises what is lower than needed; what it was is kept.
fn raise_limits() -> anyhow::Result<()> {
    for (name, needed) in LIMITS {
        let (file, kept) = places(name);
        let was = fs::read_to_string(&file)?;
        if was.trim().parse::<u64>()? < needed {
            fs::write(kept, was)?;
            fs::write(&file, needed.to_string()).with_context(|| format!("{} cannot be raised", file.display()))?;
        }
    }
    Ok(())
}

/// Puts back what was raised.
pub(super) fn restore_limits() -> anyhow::Result<()> {
    for (name, _) in LIMITS {
        let (file, kept) = places(name);
        if kept.exists() {
            fs::write(file, fs::read(kept)?)?;
        }
    }
    Ok(())
}

/// Where a limit is, and where what it was is kept.
fn places(name: &str) -> (PathBuf, PathBuf) {
    (Path::new("/proc/sys/fs/inotify").join(name), Path::new(RUN).join(name))
}
