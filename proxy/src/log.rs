//! The access log: lines are made by the worker, written by a thread of their own, and dropped (and counted) rather
//! than waited for when the reader of standard output is slower than the traffic.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use crate::{
    options::{AccessLog, LogFormat, LogOutput},
    tap::Tap,
};

/// Lines waiting to be written; beyond it they are dropped.
const QUEUE: usize = 8192;

/// What is known of a request when it has ended.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Record<'a> {
    /// Milliseconds since 1970 at which it ended.
    pub(crate) time_ms: u64,
    pub(crate) client: &'a str,
    /// Who the client has proven to be, in the mesh.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) peer: &'a str,
    pub(crate) protocol: &'static str,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    pub(crate) duration_us: u64,
    pub(crate) listener_port: u16,
    pub(crate) route: &'a str,
    pub(crate) service: &'a str,
    pub(crate) endpoint: &'a str,
    pub(crate) tries: u32,
    pub(crate) flag: &'static str,
    pub(crate) reason: &'a str,
    /// Bytes from the client, of a connection or flow whose content nobody looks at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) received: Option<u64>,
    /// Bytes to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sent: Option<u64>,
}

/// The sending side, one a worker.
#[derive(Clone)]
pub(crate) struct AccessLogger {
    format: Arc<LogFormat>,
    sample: u32,
    lines: mpsc::SyncSender<String>,
    dropped: Arc<AtomicU64>,
}

/// Where a record goes: to the log, to somebody who looks on, or both.
pub(crate) struct Log<'w> {
    log: Option<&'w AccessLogger>,
    tap: Option<&'w Tap>,
}

impl<'w> Log<'w> {
    /// None, if nobody wants any.
    pub(crate) fn of(log: Option<&'w AccessLogger>, tap: &'w Tap) -> Option<Self> {
        let tap = Some(tap).filter(|tap| tap.is_open());
        (log.is_some() || tap.is_some()).then_some(Self { log, tap })
    }

    /// Whether anybody wants to have a request that ended well or not, given a random number.
    pub(crate) fn wants(&mut self, random: u32, failed: bool) -> bool {
        self.log = self.log.filter(|log| log.wants(random, failed));
        self.log.is_some() || self.tap.is_some()
    }

    pub(crate) fn write(&self, record: &Record<'_>) {
        if let Some(log) = self.log {
            log.write(record);
        }
        if let Some(tap) = self.tap {
            tap.tell(record);
        }
    }
}

/// Starts the writer, if a log is wanted.
pub(crate) fn start(options: &AccessLog) -> std::io::Result<Option<AccessLogger>> {
    let Some(format) = options.format.clone() else {
        return Ok(None);
    };
    let (lines, queue) = mpsc::sync_channel::<String>(QUEUE);
    let output = options.output.clone();
    std::thread::Builder::new().name("access-log".into()).spawn(move || {
        while let Ok(mut line) = queue.recv() {
            // What has gathered meanwhile goes out in the same write.
            while line.len() < 64 * 1024
                && let Ok(next) = queue.try_recv()
            {
                line.push_str(&next);
            }
            let written = match &output {
                LogOutput::Stdout => {
                    let mut out = std::io::stdout();
                    out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_ok()
                }
                LogOutput::Channel(channel) => channel.send(line).is_ok(),
            };
            if !written {
                return;
            }
        }
    })?;
    let sample = (options.sample.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32;
    Ok(Some(AccessLogger {
        format: Arc::new(format),
        sample,
        lines,
        dropped: Arc::default(),
    }))
}

impl AccessLogger {
    /// Whether a request that ended well is among those written, given a random number.
    pub(crate) fn wants(&self, random: u32, failed: bool) -> bool {
        failed || random <= self.sample
    }

    /// Lines dropped since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn write(&self, record: &Record<'_>) {
        let line = match &*self.format {
            LogFormat::Json => serde_json::to_string(record).map(|mut json| {
                json.push('\n');
                json
            }),
            LogFormat::Text(format) => text(format, record),
        };
        let sent = line.is_ok_and(|line| self.lines.try_send(line).is_ok());
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Puts the record's fields into `{field}`; control characters are escaped so that a request can't forge a line.
fn text(format: &str, record: &Record<'_>) -> serde_json::Result<String> {
    let fields = serde_json::to_value(record)?;
    let mut line = String::with_capacity(format.len() + 64);
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('{') {
        line.push_str(before);
        match after.split_once('}') {
            Some((name, after)) => {
                match fields.get(name) {
                    Some(serde_json::Value::String(text)) if text.is_empty() => line.push('-'),
                    Some(serde_json::Value::String(text)) => line.extend(text.escape_debug()),
                    Some(value) => line.push_str(&value.to_string()),
                    None => line.push('-'),
                }
                rest = after;
            }
            None => {
                line.push('{');
                rest = after;
            }
        }
    }
    line.push_str(rest);
    line.push('\n');
    Ok(line)
}

pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(path: &str) -> Record<'_> {
        Record {
            time_ms: 1,
            client: "127.0.0.1:5",
            peer: "",
            protocol: "HTTP/1.1",
            method: "GET",
            host: "a.example",
            path,
            status: 200,
            duration_us: 42,
            listener_port: 80,
            route: "HTTPRoute/default/a/0",
            service: "",
            endpoint: "",
            tries: 1,
            flag: "",
            reason: "",
            received: None,
            sent: None,
        }
    }

    #[test]
    fn the_fields_are_those_that_are_named() {
        let whole = Record {
            peer: "spiffe://a.b/ns/c/sa/d",
            received: Some(1),
            sent: Some(1),
            ..record("/a")
        };
        let json = serde_json::to_string(&whole).expect("plain data");
        let mut rest = json.as_str();
        for field in LogFormat::FIELDS {
            let at = rest.find(&format!("\"{field}\":")).expect(field);
            rest = &rest[at..];
        }
        let fields: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(
            fields.as_object().map(serde_json::Map::len),
            Some(LogFormat::FIELDS.len())
        );
    }

    #[test]
    fn a_text_line_has_its_fields_and_nothing_a_client_could_forge() {
        let line = text("{method} {path} {status} {service} {nothing} {open", &record("/a\nb")).expect("serializes");
        assert_eq!(line, "GET /a\\nb 200 - - {open\n");
    }

    #[test]
    fn failures_are_written_whatever_the_sample() {
        let log = start(&AccessLog {
            format: Some(LogFormat::Json),
            sample: 0.0,
            output: LogOutput::Stdout,
        })
        .expect("starts")
        .expect("wanted");
        assert!(!log.wants(1, false));
        assert!(log.wants(1, true));
    }
}
