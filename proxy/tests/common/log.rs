//! The access log of a proxy, as a test reads it.

use std::sync::{Mutex, mpsc};

use weft_proxy::{AccessLog, LogFormat, LogOutput, Options};

use super::{PATIENCE, eventually};

/// What was written so far.
pub struct Lines {
    log: mpsc::Receiver<String>,
    lines: Mutex<Read>,
}

#[derive(Default)]
struct Read {
    lines: Vec<String>,
    /// How many of them [`Lines::next`] has given.
    given: usize,
}

impl Lines {
    /// Lets a proxy write a line for every request.
    pub fn of(options: &mut Options, format: &str) -> Self {
        let (lines, log) = mpsc::channel();
        options.access_log = AccessLog {
            format: Some(LogFormat::Text(format.into())),
            sample: 1.0,
            output: LogOutput::Channel(lines),
        };
        Self {
            log,
            lines: Mutex::default(),
        }
    }

    /// Waits until there is a line that begins so.
    pub fn wait(&self, start: &str) {
        eventually(&format!("a line {start:?} of the access log"), || {
            let mut read = self.lines.lock().expect("nobody panics with it");
            for text in self.log.try_iter() {
                read.take(&text);
            }
            read.lines.iter().any(|line| line.starts_with(start))
        });
    }

    /// The next line, which is waited for.
    pub fn next(&self) -> String {
        let mut read = self.lines.lock().expect("nobody panics with it");
        while read.given == read.lines.len() {
            let text = self.log.recv_timeout(PATIENCE).expect("a line comes");
            read.take(&text);
        }
        read.given += 1;
        read.lines[read.given - 1].clone()
    }
}

impl Read {
    fn take(&mut self, text: &str) {
        self.lines.extend(text.lines().map(str::to_owned));
    }
}
