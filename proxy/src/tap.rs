//! Requests as they come, for somebody who looks on: what the access log would say of each, told for as long as somebody wants
//! to see it. Of a path, what comes after the question mark is left out; fields and bodies are never told.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, mpsc};

use crate::log::Record;

/// Requests that may wait to be told; beyond that they are left out.
const WAITING: usize = 256;
/// How many are told at once,
const BATCH: usize = 64;
/// and how often at most.
const PACE: Duration = Duration::from_millis(100);

/// Where requests go that somebody wants to see.
#[derive(Debug)]
pub struct Tap {
    start: Instant,
    /// In milliseconds since the start; 0 while nobody looks.
    until: AtomicU64,
    sender: mpsc::Sender<String>,
    receiver: Mutex<mpsc::Receiver<String>>,
}

impl Default for Tap {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self {
            start: Instant::now(),
            until: AtomicU64::new(0),
            sender,
            receiver: Mutex::new(receiver),
        }
    }
}

impl Tap {
    /// Requests are told for so long from now on; not any more, if that is no time.
    pub fn open(&self, time: Duration) {
        let until = if time.is_zero() {
            0
        } else {
            self.millis() + time.as_millis() as u64
        };
        self.until.store(until, Ordering::Relaxed);
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn is_open(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        // While nobody looks, this is all that it costs.
        until != 0 && self.millis() < until
    }

    pub(crate) fn tell(&self, record: &Record<'_>) {
        let path = record.path.split('?').next().unwrap_or_default();
        if let (Ok(place), Ok(line)) = (
            self.sender.try_reserve(),
            serde_json::to_string(&Record { path, ..*record }),
        ) {
            place.send(line);
        }
    }

    /// Waits for requests: each as JSON.
    pub async fn next(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut receiver = self.receiver.lock().await;
        tokio::time::sleep(PACE).await;
        receiver.recv_many(&mut lines, BATCH).await;
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_told_while_somebody_looks_and_without_their_query() {
        let tap = Tap::default();
        assert!(!tap.is_open());
        tap.open(Duration::from_secs(60));
        assert!(tap.is_open());
        for _ in 0..WAITING + 10 {
            tap.tell(&Record {
                path: "/pay?card=1234",
                ..Record::default()
            });
        }
        let mut all = Vec::new();
        while all.len() < WAITING {
            all.extend(tap.next().await);
        }
        assert_eq!(all.len(), WAITING);
        assert!(
            all.iter()
                .all(|line| line.contains("\"path\":\"/pay\"") && !line.contains("1234"))
        );
        tap.open(Duration::ZERO);
        assert!(!tap.is_open());
    }
}
