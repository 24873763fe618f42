//! The end of a cluster.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal};

use super::{
    NAMESPACE, RUN, is_root, lock, machine, output,
    processes::{end, started},
};

/// What would start anew what is ended.
const STARTERS: [&str; 4] = ["kubelet", "controller-manager", "scheduler", "proxy"];

/// Stops the cluster and leaves nothing of it: no process, mount, namespace, control group or file.
pub(crate) fn down() -> anyhow::Result<()> {
    let start = Instant::now();
    ensure!(is_root(), "the cluster belongs to root: run it as root");
    let _lock = lock("cluster")?;
    let namespace = Path::new("/run/netns").join(NAMESPACE);
    if !namespace.exists() && !Path::new(RUN).exists() {
        println!("there is no cluster");
        return Ok(());
    }
    ensure!(
        !same_namespace(&namespace),
        "this command runs inside the cluster that it is to stop: leave that first"
    );
    let starters: Vec<Pid> = STARTERS.iter().filter_map(|name| started(name)).collect();
    end(&starters, Signal::KILL);
    end(&in_control_groups()?, Signal::KILL);
    if namespace.exists() {
        end(&in_namespace()?, Signal::KILL);
    }
    unmount()?;
    remove_control_groups()?;
    if namespace.exists() {
        // Its links and rules go with it.
        output(Command::new("ip").args(["netns", "delete", NAMESPACE]))?;
    }
    machine::restore()?;
    fs::remove_dir_all(RUN).with_context(|| format!("{RUN} cannot be removed"))?;
    println!("the cluster is gone, in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn same_namespace(namespace: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let inode = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    inode(namespace).is_some_and(|namespace| inode(Path::new("/proc/self/ns/net")) == Some(namespace))
}

/// The components, what minds containers, and whatever else was started inside.
fn in_namespace() -> anyhow::Result<Vec<Pid>> {
    let pids = output(Command::new("ip").args(["netns", "pids", NAMESPACE]))?;
    Ok(parse(&pids))
}

/// The processes of pods, which have namespaces of their own.
fn in_control_groups() -> anyhow::Result<Vec<Pid>> {
    let mut pids = Vec::new();
    for group in control_groups() {
        for folder in tree(&group) {
            // A group may go while it is looked at.
            pids.extend(parse(
                &fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default(),
            ));
        }
    }
    Ok(pids)
}

fn parse(pids: &str) -> Vec<Pid> {
    pids.lines()
        .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
        .collect()
}

/// The group of all pods, in each hierarchy if they are of version 1.
fn control_groups() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    hierarchies
        .map(|entry| entry.path())
        .chain([root.to_owned()])
        .map(|hierarchy| hierarchy.join("kubepods"))
        .filter(|group| group.is_dir())
        .collect()
}

/// A folder and those in it, the inner ones first.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders.extend(tree(&entry.path()));
        }
    }
    folders.push(folder.to_owned());
    folders
}

fn remove_control_groups() -> anyhow::Result<()> {
    for group in control_groups() {
        for folder in tree(&group) {
            fs::remove_dir(&folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
        }
    }
    Ok(())
}

/// Unmounts all that lies in the folder, the inner mounts first; nothing may be left there when it is removed.
fn unmount() -> anyhow::Result<()> {
    for mount in mounts(RUN)?.iter().rev() {
        output(Command::new("umount").arg("--lazy").arg(mount))?;
    }
    let left = mounts(RUN)?;
    ensure!(left.is_empty(), "still mounted: {left:?}");
    Ok(())
}

/// What is mounted in a folder, in the order in which it was.
pub(super) fn mounts(folder: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    Ok(points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(folder))
        .collect())
}
