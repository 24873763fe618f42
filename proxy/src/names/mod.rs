//! Names that stand for endpoints are resolved here, apart from the path of requests: what DNS says becomes endpoints of
//! the services that have the name, in the next snapshot. Only names in use are asked for, again and again as their time
//! to live is over; when there is no answer, the last one stays in use.

mod dns;
mod refusal;

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use dns::Dns;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};

use crate::{Proxy, Resolution};

/// Addresses of a name that are used: the first in order of those there are.
const ADDRESSES: usize = 64;
/// Names that are asked for at the same time.
const AT_ONCE: usize = 16;
/// Answers that wait to be put in use together.
const ANSWERS: usize = 64;

/// How names are resolved.
#[derive(Clone, Debug)]
pub struct NamesOptions {
    /// Who is asked; whom the system asks (`/etc/resolv.conf`) when empty.
    pub servers: Vec<SocketAddr>,
    /// The family of addresses that is used; the other one only for names that have none of it.
    pub family: Family,
    /// Whether a name may lead to this machine.
    pub loopback: bool,
    /// The times to live that are held to: what is less or more is taken for the least or the most.
    pub ttl: (Duration, Duration),
    /// How long until a name is asked for again for which there was no answer: the first time, and at most.
    pub retry: (Duration, Duration),
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl NamesOptions {
    /// In a pod with that address. What runs beside the data plane on its node or in its pod is not for those who write
    /// routes.
    pub fn in_pod(address: Option<IpAddr>) -> Self {
        Self {
            family: match address {
                Some(IpAddr::V6(_)) => Family::V6,
                _ => Family::V4,
            },
            loopback: false,
            ..Self::standalone()
        }
    }

    /// On a machine of one's own.
    pub fn standalone() -> Self {
        Self {
            servers: Vec::new(),
            family: Family::V4,
            loopback: true,
            ttl: (Duration::from_secs(5), Duration::from_secs(300)),
            retry: (Duration::from_secs(1), Duration::from_secs(30)),
        }
    }
}

/// Resolves the names that a data plane has in use, until the task is aborted.
pub fn start(proxy: Arc<Proxy>, options: NamesOptions) -> JoinHandle<()> {
    tokio::spawn(run(proxy, Arc::new(options)))
}

/// A name in use.
struct Followed {
    task: JoinHandle<()>,
    /// What it has come to, once that is known.
    last: Option<Resolution>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(proxy: Arc<Proxy>, options: Arc<NamesOptions>) {
    let mut wanted = proxy.names();
    wanted.mark_changed();
    let asker = Arc::new(Asker {
        dns: Dns::new(&options),
        options,
        at_once: Semaphore::new(AT_ONCE),
    });
    let (answers, mut answered) = mpsc::channel(ANSWERS);
    let mut followed: HashMap<String, Followed> = HashMap::new();
    loop {
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let names: BTreeSet<String> = wanted.borrow_and_update().clone();
                followed.retain(|hostname, _| names.contains(hostname));
                for hostname in names {
                    followed.entry(hostname).or_insert_with_key(|hostname| Followed {
                        task: tokio::spawn(asker.clone().follow(hostname.clone(), answers.clone())),
                        last: None,
                    });
                }
                // One that was gone for a moment is asked for all the time, but the data plane has forgotten it.
                let snapshot = proxy.snapshot();
                let forgotten = snapshot.names().filter(|(_, resolution)| resolution.is_none());
                let known = forgotten.filter_map(|(hostname, _)| {
                    let last = followed.get(hostname)?.last.clone()?;
                    Some((hostname.to_owned(), last))
                });
                proxy.resolve(known.collect()).await;
            }
            Some(first) = answered.recv() => {
                let mut resolutions: Vec<(String, Resolution)> = vec![first];
                while let Ok(more) = answered.try_recv() {
                    resolutions.push(more);
                }
                for (hostname, resolution) in &resolutions {
                    if let Some(followed) = followed.get_mut(hostname) {
                        followed.last = Some(resolution.clone());
                    }
                }
                proxy.resolve(resolutions).await;
            }
        }
    }
}

struct Asker {
    dns: Dns,
    options: Arc<NamesOptions>,
    at_once: Semaphore,
}

impl Asker {
    /// Asks for a name again and again, and tells what it comes to each time.
    async fn follow(self: Arc<Self>, hostname: String, answers: mpsc::Sender<(String, Resolution)>) {
        let mut known = Resolution::default();
        let mut wait = self.options.retry.0;
        loop {
            let found = {
                let _turn = self.at_once.acquire().await;
                self.dns.lookup(&hostname).await
            };
            let again = match found {
                Ok(answer) => {
                    if known.failure.is_some() {
                        tracing::info!(hostname, "there is an answer for the name again");
                    }
                    wait = self.options.retry.0;
                    let (least, most) = self.options.ttl;
                    let ttl = answer.ttl.clamp(least, most);
                    known = self.sift(&hostname, answer.addresses, &known);
                    ttl
                }
                Err(failure) => {
                    if known.failure.as_ref() != Some(&failure) {
                        let in_use = known.addresses.len();
                        tracing::warn!(hostname, failure, in_use, "there is no answer for a name");
                    }
                    known.failure = Some(failure);
                    let again = wait;
                    wait = (wait * 2).min(self.options.retry.1);
                    again
                }
            };
            if answers.send((hostname.clone(), known.clone())).await.is_err() {
                return;
            }
            tokio::time::sleep(jittered(again)).await;
        }
    }

    /// Tells addresses that may be used from those that may not.
    fn sift(&self, hostname: &str, mut addresses: Vec<IpAddr>, before: &Resolution) -> Resolution {
        addresses.sort_unstable();
        addresses.dedup();
        let refusal = |address: &IpAddr| refusal::of(*address, self.options.loopback);
        let refused = addresses.extract_if(.., |address| refusal(address).is_some());
        let mut refused: Vec<IpAddr> = refused.collect();
        refused.truncate(ADDRESSES);
        if refused != before.refused {
            for address in &refused {
                let why = refusal(address).unwrap_or_default();
                tracing::warn!(hostname, %address, why, "a name leads to where nothing is sent");
            }
        }
        addresses.truncate(ADDRESSES);
        Resolution {
            addresses,
            refused,
            failure: None,
        }
    }
}

/// Up to a tenth longer, so that what was asked together is not asked together for ever. Never shorter: before its time
/// is over, a cache on the way would only say what is known.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) >> 32;
    wait + wait.mul_f64(random as f64 / f64::from(u32::MAX) / 10.0)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn addresses_are_bounded_after_none_is_left_that_is_refused() {
        let options = NamesOptions::in_pod(None);
        let asker = Asker {
            dns: Dns::new(&options),
            options: Arc::new(options),
            at_once: Semaphore::new(1),
        };
        let address = |first: u8| move |last: u8| IpAddr::from(Ipv4Addr::new(first, 0, 0, last));
        let answer: Vec<IpAddr> = (0..200).map(address(127)).chain((0..200).map(address(192))).collect();
        let found = asker.sift("a.example", answer, &Resolution::default());
        assert_eq!(found.addresses, (0..64).map(address(192)).collect::<Vec<_>>());
        assert_eq!(found.refused, (0..64).map(address(127)).collect::<Vec<_>>());
    }

    #[test]
    fn waits_are_spread_over_a_tenth() {
        let wait = Duration::from_secs(10);
        let waits: BTreeSet<Duration> = (0..100).map(|_| jittered(wait)).collect();
        assert!(waits.len() > 50);
        assert!(
            waits
                .iter()
                .all(|jittered| (wait..=wait.mul_f64(1.1)).contains(jittered))
        );
    }
}
