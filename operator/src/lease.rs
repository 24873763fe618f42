//! Who writes: the holder of a Lease. Everything else is done by all replicas.
//!
//! Whether a holder is gone is judged by our own clock alone: its Lease has not changed for as long as it lasts.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use tokio::sync::watch;

/// Its name.
pub(crate) const NAME: &str = "weft-operator";
/// How long it lasts without being renewed.
const LASTS: Duration = Duration::from_secs(15);
/// How often it is renewed, or looked at by those who wait for it.
const RENEW: Duration = Duration::from_secs(3);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Before another can take it over, the holder has stopped: its requests on the way are of at most this length.
pub(crate) const MARGIN: Duration = Duration::from_secs(6);

/// Until when this replica may write; none while another holds the Lease.
pub(crate) type Claim = Option<Instant>;

/// Whether a claim holds now.
pub(crate) fn is_held(claim: Claim, now: Instant) -> bool {
    claim.is_some_and(|until| now < until)
}

/// What was seen of a Lease, and since when it has been so.
#[derive(Clone, Debug)]
struct Observed {
    holder: String,
    renewed: Option<Timestamp>,
    lasts: Duration,
    since: Instant,
}

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is ours: renew it.
    Renew,
    /// It is nobody's: take it.
    Take,
    /// It is another's.
    Wait,
}

fn step(observed: &Observed, identity: &str, now: Instant) -> Step {
    if observed.holder == identity {
        Step::Renew
    } else if observed.holder.is_empty() || now.duration_since(observed.since) >= observed.lasts {
        Step::Take
    } else {
        Step::Wait
    }
}

/// Holds the Lease when it can, and says so until the receiver is dropped; then gives it back.
pub(crate) struct Keeper {
    api: Api<Lease>,
    identity: String,
    claim: watch::Sender<Claim>,
    observed: Option<Observed>,
}

impl Keeper {
    pub(crate) fn new(client: Client, namespace: &str, identity: &str) -> (Self, watch::Receiver<Claim>) {
        let (claim, receiver) = watch::channel(None);
        let keeper = Self {
            api: Api::namespaced(client, namespace),
            identity: identity.to_owned(),
            claim,
            observed: None,
        };
        (keeper, receiver)
    }

    /// Runs until `stop` is true, and gives the Lease back then.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let begun = Instant::now();
            match tokio::time::timeout(ATTEMPT, self.attempt(begun)).await {
                Ok(Ok(held)) => self.say(held.then(|| begun + LASTS - MARGIN)),
                // What was held is held until its time is over.
                Ok(Err(error)) => tracing::warn!(%error, "the Lease cannot be renewed or looked at"),
                Err(_) => tracing::warn!("the API server does not answer about the Lease"),
            }
            tokio::select! {
                () = tokio::time::sleep_until((begun + RENEW).into()) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        if is_held(*self.claim.borrow(), Instant::now()) {
            self.claim.send_replace(None);
            let _ = tokio::time::timeout(ATTEMPT, self.give_back()).await;
        }
    }

    fn say(&self, claim: Claim) {
        let before = self.claim.send_replace(claim);
        match (before, claim) {
            (None, Some(_)) => tracing::info!(lease = NAME, "this replica writes statuses and runs Gateways' pods"),
            (Some(_), None) => tracing::info!(lease = NAME, "another replica writes; this one serves"),
            _ => {}
        }
    }

    /// Whether the Lease is ours after all.
    async fn attempt(&mut self, now: Instant) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let made = self.api.create(&PostParams::default(), &self.lease(None)).await;
            return match made {
                Ok(lease) => {
                    self.observe(&lease, now);
                    Ok(true)
                }
                Err(error) if is_conflict(&error) => Ok(false),
                Err(error) => Err(error),
            };
        };
        let observed = self.observe(&lease, now);
        if step(&observed, &self.identity, now) == Step::Wait {
            return Ok(false);
        }
        match self
            .api
            .replace(NAME, &PostParams::default(), &self.lease(Some(lease)))
            .await
        {
            Ok(lease) => {
                self.observe(&lease, now);
                Ok(true)
            }
            // Another was faster.
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn observe(&mut self, lease: &Lease, now: Instant) -> Observed {
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        let (holder, renewed) = (
            spec.holder_identity.unwrap_or_default(),
            spec.renew_time.map(|time| time.0),
        );
        let since = self
            .observed
            .as_ref()
            .filter(|known| known.holder == holder && known.renewed == renewed)
            .map_or(now, |known| known.since);
        let observed = Observed {
            holder,
            renewed,
            lasts: seconds.map_or(LASTS, Duration::from_secs),
            since,
        };
        self.observed = Some(observed.clone());
        observed
    }

    /// The Lease as ours, to be written in place of the one that was read.
    fn lease(&self, read: Option<Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let (metadata, before) = match read {
            Some(lease) => (lease.metadata, lease.spec.unwrap_or_default()),
            None => (ObjectMeta::default(), LeaseSpec::default()),
        };
        let renews = before.holder_identity.as_deref() == Some(&self.identity);
        let transitions =
            before.lease_transitions.unwrap_or(0) + i32::from(!renews && before.holder_identity.is_some());
        Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..metadata
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
                acquire_time: before.acquire_time.filter(|_| renews).or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..before
            }),
        }
    }

    /// Lets another take it at once.
    async fn give_back(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            return Ok(());
        };
        if let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity))
        {
            spec.holder_identity = Some(String::new());
            self.api.replace(NAME, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(holder: &str, since: Instant) -> Observed {
        Observed {
            holder: holder.to_owned(),
            renewed: None,
            lasts: LASTS,
            since,
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_nobodys_or_has_not_changed_for_as_long_as_it_lasts() {
        let now = Instant::now();
        assert_eq!(step(&observed("me", now), "me", now), Step::Renew);
        assert_eq!(step(&observed("", now), "me", now), Step::Take);
        assert_eq!(
            step(&observed("other", now), "me", now + LASTS - Duration::from_millis(1)),
            Step::Wait
        );
        assert_eq!(step(&observed("other", now), "me", now + LASTS), Step::Take);
    }

    #[test]
    fn a_claim_ends_before_another_can_take_the_lease() {
        let now = Instant::now();
        let claim = Some(now + LASTS - MARGIN);
        assert!(is_held(claim, now));
        assert!(!is_held(claim, now + LASTS - MARGIN));
        assert!(!is_held(None, now));
        // It is renewed in time though one attempt fails.
        assert!(RENEW * 2 < LASTS - MARGIN);
    }
}
