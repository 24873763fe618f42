//! What a cluster changes of the machine outside its own folder, and puts back.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use super::{RUN, down::mounts};

/// Limits of the kernel, under /proc/sys, and what is needed: some tens of processes that watch files use up what there is
/// by default, and then die in odd ways.
const LIMITS: [(&str, u64); 2] = [
    ("fs/inotify/max_user_instances", 8192),
    ("fs/inotify/max_user_watches", 524_288),
];
/// Folders that containerd, its plugins and the kubelet use whatever they are told.
const FOLDERS: [&str; 4] = [
    "/run/containerd",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
];
/// Where what was is kept: a file for each limit that was raised and for each folder that was not there.
const KEPT: &str = "machine";

/// Raises limits, and keeps in mind what was before.
pub(super) fn prepare() -> anyhow::Result<()> {
    let first = !Path::new(RUN).join(KEPT).exists();
    fs::create_dir_all(Path::new(RUN).join(KEPT))?;
    for (name, needed) in LIMITS {
        let file = Path::new("/proc/sys").join(name);
        let was = fs::read_to_string(&file)?;
        if was.trim().parse::<u64>()? < needed {
            fs::write(kept(name), was)?;
            fs::write(&file, needed.to_string()).with_context(|| format!("{} cannot be raised", file.display()))?;
        }
    }
    for folder in FOLDERS {
        if first && !Path::new(folder).exists() {
            fs::write(kept(folder), "")?;
        }
    }
    Ok(())
}

/// Puts back what was.
pub(super) fn restore() -> anyhow::Result<()> {
    for (name, _) in LIMITS {
        if let Ok(was) = fs::read(kept(name)) {
            fs::write(Path::new("/proc/sys").join(name), was)?;
        }
    }
    for folder in FOLDERS
        .iter()
        .filter(|folder| kept(folder).exists() && Path::new(folder).exists())
    {
        let left = mounts(folder)?;
        ensure!(left.is_empty(), "still mounted: {left:?}");
        fs::remove_dir_all(folder).with_context(|| format!("{folder} cannot be removed"))?;
    }
    Ok(())
}

fn kept(name: &str) -> PathBuf {
    Path::new(RUN).join(KEPT).join(name.replace('/', "+"))
}
