//! Load, by tools that others know: wrk and h2load.

use std::{fmt, fs, process::Command};

use anyhow::{Context as _, bail, ensure};

use crate::configurations::HOST;

/// What a run of load came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Load {
    /// Of latencies in microseconds, in whatever order.
    pub(crate) fn of(mut latencies: Vec<u64>, seconds: u64) -> anyhow::Result<Self> {
        ensure!(!latencies.is_empty(), "no request succeeded");
        latencies.sort_unstable();
        let at = |share: f64| latencies[((latencies.len() as f64 * share) as usize).min(latencies.len() - 1)] as f64;
        Ok(Self {
            requests: latencies.len() as u64,
            per_second: latencies.len() as f64 / seconds as f64,
            p50_us: at(0.5),
            p99_us: at(0.99),
        })
    }

    /// As a process prints it that is run for a load, see [`fmt::Display`].
    pub(crate) fn printed(text: &str) -> anyhow::Result<Self> {
        let figures: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [requests, per_second, p50_us, p99_us] = figures[..] else {
            bail!("the load did not count: {text}");
        };
        Ok(Self {
            requests: requests as u64,
            per_second,
            p50_us,
            p99_us,
        })
    }
}

impl fmt::Display for Load {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} {} {} {}",
            self.requests, self.per_second, self.p50_us, self.p99_us
        )
    }
}

/// Runs a program on the core of the load, and gives what it prints.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("taskset")
        .args(["-c", "1", "nice", "-n", "-15"])
        .args(args)
        .output()?;
    ensure!(
        output.status.success(),
        "{} ended with {}: {}",
        args[0],
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// HTTP/1.1 over connections that are kept open, or one new connection a request.
pub(crate) fn wrk(url: &str, connections: u32, seconds: u64, close: bool) -> anyhow::Result<Load> {
    let (connections, duration, host) = (
        format!("-c{connections}"),
        format!("-d{seconds}s"),
        format!("Host: {HOST}"),
    );
    let mut args = vec!["wrk", "-t1", &connections, &duration, "--latency", "-H", &host];
    if close {
        args.extend(["-H", "Connection: close"]);
    }
    args.push(url);
    let text = run(&args)?;
    if let Some(line) = text.lines().find(|line| line.contains("Non-2xx")) {
        bail!("{}", line.trim());
    }
    let after = |start: &str| {
        let line = text.lines().map(str::trim).find(|line| line.starts_with(start));
        line.map(|line| line[start.len()..].trim().to_owned())
            .with_context(|| format!("wrk did not say {start}"))
    };
    let requests = text
        .lines()
        .find(|line| line.contains(" requests in "))
        .context("wrk did not count")?;
    Ok(Load {
        requests: requests
            .trim()
            .split(' ')
            .next()
            .context("wrk did not count")?
            .parse()?,
        per_second: after("Requests/sec:")?.parse()?,
        p50_us: time_us(&after("50%")?)?,
        p99_us: time_us(&after("99%")?)?,
    })
}

/// What h2load is asked for.
pub(crate) struct H2load<'a> {
    pub(crate) url: &'a str,
    pub(crate) clients: u32,
    pub(crate) streams: u32,
    pub(crate) seconds: u64,
    /// HTTP/1.1 at so many requests each second, of all clients together. They are due in the same moment.
    pub(crate) http1_rate: Option<u32>,
}

/// HTTP/2, or HTTP/1.1 at a fixed rate.
pub(crate) fn h2load(wanted: &H2load<'_>) -> anyhow::Result<Load> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    let (clients, streams) = (wanted.clients.to_string(), wanted.streams.to_string());
    let (duration, log_file) = (wanted.seconds.to_string(), format!("--log-file={}", log.display()));
    let authority = format!(":authority: {HOST}");
    let rate = wanted.http1_rate.map(|rate| format!("--rps={}", rate / wanted.clients));
    let mut args = vec![
        "h2load",
        "-c",
        &clients,
        "-m",
        &streams,
        "-D",
        &duration,
        "--warm-up-time=0",
        &log_file,
    ];
    // A `Host` would be sent beside the one that h2load makes of the URL, also in HTTP/1.1.
    args.extend(["-H", &authority]);
    if let Some(rate) = &rate {
        args.extend(["--h1", rate]);
    }
    args.push(wanted.url);
    run(&args)?;
    let mut latencies: Vec<u64> = Vec::new();
    let mut failed = 0;
    for line in fs::read_to_string(&log)?.lines() {
        let mut columns = line.split('\t').skip(1);
        let (status, latency) = (columns.next().unwrap_or_default(), columns.next().unwrap_or_default());
        if status == "200" {
            latencies.push(latency.parse()?);
        } else {
            failed += 1;
        }
    }
    // Those that are under way when the time is over are cut off.
    ensure!(
        failed <= u64::from(wanted.clients * wanted.streams),
        "{failed} requests failed"
    );
    Load::of(latencies, wanted.seconds)
}

fn time_us(text: &str) -> anyhow::Result<f64> {
    for (unit, scale) in [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * scale);
        }
    }
    bail!("{text:?} is not a time")
}
