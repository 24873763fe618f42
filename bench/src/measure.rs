//! What the kernel says of a process.

use std::{fs, path::Path};

use anyhow::Context as _;

/// Nanoseconds of CPU that all threads of a process have used.
pub(crate) fn cpu_ns(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("schedstat");
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        sum += text
            .split(' ')
            .next()
            .and_then(|first| first.parse::<u64>().ok())
            .context("schedstat is not as expected")?;
    }
    Ok(sum)
}

/// Bytes of memory of a process, shared pages counted by share.
pub(crate) fn pss(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(Path::new(&format!("/proc/{pid}/smaps_rollup")))?;
    let line = text
        .lines()
        .find(|line| line.starts_with("Pss:"))
        .context("smaps_rollup has no Pss")?;
    let kilobytes: u64 = line.split_whitespace().nth(1).context("Pss has no value")?.parse()?;
    Ok(kilobytes * 1024)
}

/// Bytes of memory of a process that are there, shared pages included.
pub(crate) fn rss(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kilobytes.context("status has no VmRSS")?.parse::<u64>()? * 1024)
}

/// The middle of some figures.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
    }
}
