//! A Kubernetes of one node in a network namespace of its own: no container engine, nothing pulled, nothing left behind.
//!
//! Everything lives in the namespace [`NAMESPACE`], pods and Services included, on addresses that are reserved for benchmarks
//! (RFC 2544) and on local ones of IPv6 (RFC 4193), so that nothing of it can be confused with a real network or leave for one.
//! Pods have an address of each family, and Services if they ask for it; IPv4 comes first. Where the kernel has no IPv6 there
//! is none here either. All state is under [`RUN`].

mod certificates;
mod components;
mod down;
mod images;
mod install;
mod lifecycle;
mod machine;
mod network;
mod processes;

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
pub(crate) use down::down;
pub(crate) use install::Definitions;
pub(crate) use lifecycle::run as lifecycle;
use weft_xtask::record::RUN;

use crate::{
    conformance, e2e, packages,
    steps::Steps,
    tools::{self, GoProgram},
    workspace,
};

/// The network namespace of the cluster.
const NAMESPACE: &str = "weft";
/// The node's address.
const NODE: &str = "198.18.0.2";
/// The addresses of pods.
const PODS: &str = "198.18.64.0/18";
/// The addresses of Services.
const SERVICES: &str = "198.19.0.0/16";
/// The node's second address.
const NODE6: &str = "fd57:6566:7400::2";
/// Where nobody is: the default route of IPv6.
const ROUTER6: &str = "fd57:6566:7400::1";
/// The second addresses of pods.
const PODS6: &str = "fd57:6566:7440::/64";
/// The second addresses of Services.
const SERVICES6: &str = "fd57:6566:74ff::/112";
/// The Service that answers for names.
const DNS: &str = "198.19.0.10";
/// The Service of the API server: the first of [`SERVICES`].
const API: &str = "198.19.0.1";
/// A Service address that is given out only to who asks for it.
pub(crate) const FREE_ADDRESS: &str = "198.19.0.200";
/// An address that no Service can have (RFC 5737).
pub(crate) const IMPOSSIBLE_ADDRESS: &str = "192.0.2.1";
/// How long a part may take to be ready.
const PATIENCE: Duration = Duration::from_secs(180);

const KUBE: GoProgram = GoProgram {
    name: "kube",
    module: "kube",
    package: ".",
    tests: false,
    // Components refuse to work with others of another version, and without this they have none.
    link: "-X k8s.io/component-base/version.gitVersion=v1.34.4 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34",
};

/// Starts the cluster, or brings it up to date: what runs and is as it should be is left alone.
pub(crate) fn up(profile: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    ensure!(is_root(), "it makes namespaces and mounts: run it as root");
    ensure!(
        tools::has_go(),
        "the parts of the cluster are built with Go: install Go 1.26 or newer, https://go.dev/dl"
    );
    let _lock = lock("cluster")?;
    fs::create_dir_all(RUN)?;
    said("packages", || packages::install(&packages::CLUSTER))?;
    let kube = said("Kubernetes, built once in some minutes", || KUBE.build())?;
    let helm = said("helm", tools::helm)?;
    let images = said("images", || images::build(profile))?;
    let families = said("network", || {
        machine::prepare()?;
        network::up()
    })?;
    said("certificates", certificates::make)?;
    commands(&kube, &helm)?;
    said("API server", || components::control_plane(&kube, families))?;
    said("containerd", || components::containerd(families))?;
    let changed = said("import of images", || images::import(&images))?;
    said("node", || components::node(&kube, families))?;
    said("Gateway API", install::gateway_api)?;
    said("PodMonitors", install::monitors)?;
    said("DNS", install::dns)?;
    said("charts", install::charts)?;
    said("restart of what has a new image", || install::restart(&changed))?;
    println!(
        "\nThe cluster is up, in {:.0} s. To use it:   cargo xtask cluster run -- kubectl get pods -A\nTo stop it:                       cargo xtask cluster down",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Starts the cluster, runs what needs it, and stops it unless it was there before.
pub(crate) fn test(steps: &mut Steps) {
    let name = "cluster";
    if !is_root() {
        return steps.skip(name, "it needs namespaces and mounts: run as root to have it");
    }
    if !tools::has_go() {
        return steps.skip(name, "its parts are built with Go: install Go to have it");
    }
    steps.step("what stands in for applications of the suites", images::test_stand_ins);
    let was_up = ensure_up().is_ok();
    steps.step(name, || up("dev"));
    // The report in docs is of a run that was meant to be one.
    steps.step("Gateway API conformance", || {
        conformance::run(&conformance::Options::of_gateways(), false)
    });
    steps.step("conformance of the mesh", || {
        conformance::run(&conformance::Options::of_mesh(), false)
    });
    steps.step("conformance of the mesh with mutual TLS", || {
        conformance::run(&conformance::Options::of_secure_mesh(), false)
    });
    // Whether the kernel has IPv6 is not ours to say.
    workspace::step(steps, "injection", false, |skipped| e2e::injection(None, Some(skipped)));
    steps.step("SMI conformance", || e2e::smi(None));
    steps.step("a sample application in the mesh", e2e::sample);
    steps.step("certificates by ACME for Gateways in the cluster", e2e::acme);
    steps.step("certificates of workloads by cert-manager", e2e::cert_manager);
    steps.step("failures under load", || e2e::failures(None));
    steps.step("installation and removal", lifecycle);
    if !was_up {
        steps.step("the end of the cluster", down);
    }
}

/// Brings the image of the sample application up to date.
pub(crate) fn sample() -> anyhow::Result<()> {
    let _lock = lock("cluster")?;
    said("image of the sample application", || {
        images::import(&[images::sample()?])
    })?;
    Ok(())
}

/// Brings the image of cert-manager up to date, and its definitions into the cluster.
pub(crate) fn cert_manager() -> anyhow::Result<Definitions> {
    let _lock = lock("cluster")?;
    said("image of cert-manager, built once in some minutes", || {
        images::import(&[images::cert_manager()?])
    })?;
    said("definitions of cert-manager", install::cert_manager)
}

/// Becomes a program that runs inside the cluster's network and knows its names.
pub(crate) fn run(mut command: Vec<String>) -> anyhow::Result<()> {
    ensure_up()?;
    if command.is_empty() {
        command.push(std::env::var("SHELL").unwrap_or_else(|_| "sh".to_owned()));
    }
    // The machine's own name servers cannot be reached from inside. What the cluster unmounts is to vanish here too.
    let error = inside("unshare")
        .args(["--mount", "--propagation", "slave", "--", "sh", "-c"])
        .args([
            "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"",
            &format!("{RUN}/resolv.conf"),
        ])
        .args(command)
        .exec();
    Err(error).context("nsenter could not be started: it is in the package util-linux")
}

/// A program inside the cluster's network, with the cluster's tools at hand.
pub(crate) fn inside(program: impl AsRef<OsStr>) -> Command {
    // Not `ip netns exec`, which mounts /sys anew and so hides the control groups.
    let mut command = Command::new("nsenter");
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .arg(format!("--net=/run/netns/{NAMESPACE}"))
        .arg("--")
        .arg(program)
        .env("PATH", format!("{RUN}/bin:{path}"))
        .env("KUBECONFIG", format!("{RUN}/admin.conf"))
        // Else it lies in the home folder, one for each cluster that ever was.
        .env("KUBECACHEDIR", format!("{RUN}/kubectl"))
        .env("CONTAINERD_ADDRESS", format!("{RUN}/containerd.sock"))
        .env("CONTAINERD_NAMESPACE", "k8s.io");
    command
}

/// Says what to do when there is no cluster to talk to.
pub(crate) fn ensure_up() -> anyhow::Result<()> {
    ensure!(is_root(), "the cluster belongs to root: run it as root");
    ensure!(
        kubectl(&["get", "--raw", "/readyz"]).is_ok(),
        "there is no cluster that answers: start it with cargo xtask cluster up"
    );
    Ok(())
}

/// Whether this process may do what a cluster needs.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Waits for others that use the same, until it is dropped.
pub(crate) fn lock(name: &str) -> anyhow::Result<File> {
    let path = tools::folder()?.join(format!("{name}.lock"));
    let file = File::create(&path)?;
    if file.try_lock().is_err() {
        println!("waiting for another run to end ({} is locked)", path.display());
        file.lock()?;
    }
    Ok(file)
}

/// Runs a step, said with how long it took.
fn said<T>(what: &str, step: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    print!("{what} … ");
    std::io::stdout().flush()?;
    let start = Instant::now();
    match step() {
        Ok(result) => {
            println!("{:.1} s", start.elapsed().as_secs_f64());
            Ok(result)
        }
        Err(error) => {
            println!("failed");
            eprintln!("the logs are in {RUN}/log; once it is mended, cargo xtask cluster up goes on from here");
            Err(error.context(what.to_owned()))
        }
    }
}

/// Waits for a condition.
fn until(what: &str, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < end, "{what}: not within {} s", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Runs a program to its end; returns what it printed.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("{command:?} could not be started"))?;
    printed(command, output)
}

fn printed(command: &Command, output: Output) -> anyhow::Result<String> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn kubectl(args: &[&str]) -> anyhow::Result<String> {
    output(inside("kubectl").args(args))
}

/// A file of `e2e/cluster` with its variables filled in.
fn template(name: &str, more: &[(&str, &str)]) -> anyhow::Result<String> {
    let path = Path::new("e2e/cluster").join(name);
    let mut text = fs::read_to_string(&path)
        .with_context(|| format!("there is no {}: run it at the root of the repository", path.display()))?;
    let variables = [("RUN", RUN), ("NODE", NODE), ("DNS", DNS)];
    for (name, value) in variables.iter().chain(more) {
        text = text.replace(&format!("${{{name}}}"), value);
    }
    Ok(text)
}

/// Puts the cluster's commands where [`inside`] finds them.
fn commands(kube: &Path, helm: &Path) -> anyhow::Result<()> {
    let folder = PathBuf::from(RUN).join("bin");
    fs::create_dir_all(&folder)?;
    for (name, command) in [
        ("kubectl", format!("{} kubectl", kube.display())),
        ("helm", helm.display().to_string()),
    ] {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\nexec {command} \"$@\"\n"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    }
    Ok(())
}
