//! What comes as packages of the system.

use std::{path::Path, process::Command};

use anyhow::{bail, ensure};

/// A program and the Debian package that brings it.
type Needed = (&'static str, &'static str);

/// What tests in network namespaces need.
pub(crate) const NAMESPACES: [Needed; 3] = [("nft", "nftables"), ("ip", "iproute2"), ("setpriv", "util-linux")];

/// What the cluster needs.
pub(crate) const CLUSTER: [Needed; 12] = [
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("conntrack", "conntrack"),
    ("openssl", "openssl"),
    ("sysctl", "procps"),
    ("nsenter", "util-linux"),
    ("ldd", "libc-bin"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];

/// What looks at the sample application's connections, and what unpacks packages.
pub(crate) const SAMPLE: [Needed; 3] = [("tcpdump", "tcpdump"), ("dpkg-deb", "dpkg"), ("tar", "tar")];

/// Where programs are, also those that only root runs.
const FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Installs what is missing, and says so.
pub(crate) fn install(needed: &[Needed]) -> anyhow::Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(program, _)| !there_is(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(" ");
    if !there_is("apt-get") {
        bail!("this is not a Debian; install what Debian calls {missing}");
    }
    println!("installing {missing}");
    for command in [
        "apt-get -qq update".to_owned(),
        format!("apt-get -qq install -y --no-install-recommends {missing}"),
    ] {
        let status = Command::new("sh")
            .args(["-c", &format!("{command} >&2")])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .status()?;
        ensure!(status.success(), "{command} ended with {status}");
    }
    Ok(())
}

fn there_is(program: &str) -> bool {
    // An absolute path takes the place of the folder.
    FOLDERS.iter().any(|folder| Path::new(folder).join(program).exists())
}
