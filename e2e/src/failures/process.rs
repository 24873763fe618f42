//! The cluster's own processes, as `cargo xtask cluster up` has started them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::eventually;

/// Where the cluster keeps its state.
const RUN: &str = "/var/lib/weft-cluster";
/// One that is never started anew.
const OTHER: &str = "containerd";

/// A process that was started under a name: its number, the command, and what the command was started by.
struct Recorded {
    file: PathBuf,
    pid: Pid,
    command: String,
    config: String,
}

impl Recorded {
    fn read(name: &str) -> anyhow::Result<Self> {
        let file = Path::new(RUN).join("pid").join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        let mut parts = text.splitn(3, '\n');
        let mut part = || parts.next().context("the record of a process is not whole");
        Ok(Self {
            pid: Pid::from_raw(part()?.parse()?).context("it is no process")?,
            command: part()?.to_owned(),
            config: part()?.to_owned(),
            file: file.clone(),
        })
    }
}

/// A process that stands still until this is dropped: it accepts connections and answers nothing, which is worse than to be
/// gone.
pub(super) struct Stopped(Pid);

impl Stopped {
    pub(super) fn new(name: &str) -> anyhow::Result<Self> {
        let process = Recorded::read(name)?.pid;
        kill_process(process, Signal::STOP)?;
        Ok(Self(process))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Whether a process runs. One that has ended and was not waited for yet, by whoever has started it, has no program any more.
fn runs(pid: Pid) -> bool {
    fs::read_link(format!("/proc/{}/exe", pid.as_raw_pid())).is_ok()
}

/// Ends a process as a crash does, and starts it anew.
pub(super) async fn restart(name: &str) -> anyhow::Result<()> {
    let Recorded {
        file,
        pid,
        command,
        config,
    } = Recorded::read(name)?;
    kill_process(pid, Signal::KILL)?;
    eventually(format!("{name} has ended"), async || Ok(!runs(pid))).await?;
    let log = File::options()
        .append(true)
        .open(Path::new(RUN).join("log").join(name))?;
    // In a session of its own, since it is to outlive this. It is in the cluster's network already; its mounts are to be those
    // that the others see.
    let mounts = format!("--mount=/proc/{}/ns/mnt", Recorded::read(OTHER)?.pid.as_raw_pid());
    let process = Command::new("nsenter")
        .args([&mounts, "--", "setsid"])
        .args(command.split('\0'))
        .current_dir(RUN)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("{name} could not be started"))?;
    fs::write(file, format!("{}\n{command}\n{config}", process.id()))?;
    Ok(())
}
