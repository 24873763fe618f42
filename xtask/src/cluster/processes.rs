//! Processes that outlive the command that started them.

use std::{
    fs::{self, File},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use rustix::process::{Pid, Signal, kill_process};
use weft_xtask::record::{self, Record, log};

use super::{RUN, inside};

/// How long a process may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// Starts a process in the cluster's network, unless it runs with just this command and configuration; another of its name is
/// ended first.
pub(super) fn start(name: &str, command: &[String], config: &str) -> anyhow::Result<()> {
    let log = log(name);
    fs::create_dir_all(log.parent().unwrap_or(Path::new(RUN)))?;
    let command_line = command.join("\0");
    let known = Record::read(name).is_ok_and(|known| known.command == command_line && known.config == config);
    if known && started(name).is_some() {
        return Ok(());
    }
    end(started(name).as_slice(), Signal::TERM);
    let log = File::create(log)?;
    // With a session of its own it is not ended with the terminal. Neither program forks: the process is the command's.
    record::start(name, &mut inside("setsid"), log, &command_line, config)
}

/// Fails when the process has ended.
pub(super) fn must_live(name: &str) -> anyhow::Result<()> {
    if started(name).is_some() {
        return Ok(());
    }
    let log = log(name);
    let text = fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(10)..].join("\n");
    bail!("{name} has ended; its last words in {}:\n{last}", log.display())
}

/// The process that was started under a name, if it is still that one.
pub(super) fn started(name: &str) -> Option<Pid> {
    let Record { pid, command, .. } = Record::read(name).ok()?;
    let process = format!("/proc/{}", pid.as_raw_pid());
    let running = fs::read(format!("{process}/cmdline")).ok()?;
    if running.is_empty() {
        // While it turns into another program it has no command for a moment; one that has ended has no program either.
        return fs::read_link(format!("{process}/exe")).is_ok().then_some(pid);
    }
    // The command comes last, whatever has not been through yet on the way to it.
    let running = String::from_utf8_lossy(&running);
    running.trim_end_matches('\0').ends_with(&command).then_some(pid)
}

/// Ends processes, by force if they do not within some seconds.
pub(super) fn end(processes: &[Pid], signal: Signal) {
    let mut left = processes.to_vec();
    for (signal, patience) in [(signal, GRACE), (Signal::KILL, GRACE)] {
        for process in &left {
            // What has ended meanwhile need not be ended.
            let _ = kill_process(*process, signal);
        }
        let end = Instant::now() + patience;
        while !left.is_empty() && Instant::now() < end {
            left.retain(|process| lives(*process));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn lives(process: Pid) -> bool {
    // Children that are not waited for have ended, too.
    fs::read_to_string(format!("/proc/{}/stat", process.as_raw_pid()))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}
