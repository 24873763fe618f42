//! The cluster's own processes, as they are written down when they are started.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use rustix::process::Pid;

/// All of a running cluster. Not in a home folder, which others may not enter.
pub const RUN: &str = "/var/lib/weft-cluster";

/// What was started under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The process.
    pub pid: Pid,
    /// With a zero byte between arguments, as the kernel tells it.
    pub command: String,
    /// What it was configured with.
    pub config: String,
}

impl Record {
    /// The record of a name.
    ///
    /// # Errors
    /// There is none, or it is not whole.
    pub fn read(name: &str) -> anyhow::Result<Self> {
        let file = file(name);
        let text = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not whole", file.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '\n');
        Some(Self {
            pid: Pid::from_raw(parts.next()?.parse().ok()?)?,
            command: parts.next()?.to_owned(),
            config: parts.next()?.to_owned(),
        })
    }
}

/// Starts a process under a name, by a program that becomes it, and writes it down. It says what it does in `log`.
///
/// # Errors
/// It cannot be started, or not be written down.
pub fn start(name: &str, by: &mut Command, log: File, command: &str, config: &str) -> anyhow::Result<()> {
    let process = by
        .args(command.split('\0'))
        .current_dir(RUN)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("{name} could not be started"))?;
    let file = file(name);
    fs::create_dir_all(file.parent().unwrap_or(Path::new(RUN)))?;
    fs::write(file, format!("{}\n{command}\n{config}", process.id()))?;
    Ok(())
}

/// Where the process of a name says what it does.
pub fn log(name: &str) -> PathBuf {
    Path::new(RUN).join("log").join(name)
}

fn file(name: &str) -> PathBuf {
    Path::new(RUN).join("pid").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_may_have_lines() {
        let read = Record::parse("7\nkubelet\0--v=2\na: 1\nb: 2\n").expect("a record");
        assert_eq!(read.pid.as_raw_pid(), 7);
        assert_eq!((&*read.command, &*read.config), ("kubelet\0--v=2", "a: 1\nb: 2\n"));
        assert_eq!(Record::parse("7\nkubelet"), None);
        assert_eq!(Record::parse("none\nkubelet\n"), None);
    }
}
