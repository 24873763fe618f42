//! The cluster's own processes, as `cargo xtask cluster up` has started them.

use std::{
    fs::{self, File},
    process::Command,
};

use rustix::process::{Pid, Signal, kill_process};
use weft_xtask::record::{self, Record};

use crate::cluster::eventually;

/// One that is never started anew.
const OTHER: &str = "containerd";

/// A process that stands still until this is dropped: it accepts connections and answers nothing, which is worse than to be
/// gone.
pub(super) struct Stopped(Pid);

impl Stopped {
    pub(super) fn new(name: &str) -> anyhow::Result<Self> {
        let process = Record::read(name)?.pid;
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
    let Record { pid, command, config } = Record::read(name)?;
    kill_process(pid, Signal::KILL)?;
    eventually(format!("{name} has ended"), async || Ok(!runs(pid))).await?;
    let log = File::options().append(true).open(record::log(name))?;
    // In a session of its own, since it is to outlive this. It is in the cluster's network already; its mounts are to be those
    // that the others see.
    let mounts = format!("--mount=/proc/{}/ns/mnt", Record::read(OTHER)?.pid.as_raw_pid());
    let mut by = Command::new("nsenter");
    by.args([&mounts, "--", "setsid"]);
    record::start(name, &mut by, log, &command, &config)
}
