//! The data plane's side of the stream.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    io,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};
use tonic::{Code, Status, metadata::MetadataValue};
use weft_model::{Change, Key, Rejected, Resource};

use crate::{
    asks::{Asks, Say},
    endpoint::Endpoint,
    party::DataPlane,
    reports::{self, Observe},
    transport::{self, TransportError},
    wire::{self, CAN_ANSWER, Client, MESSAGE_BYTES, Request, Response, Talks, TypeUrl, Whose},
};

/// Waits between attempts to connect double from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A stream that lasted this long was a good one: the next attempt after it comes soon.
const GOOD: Duration = Duration::from_secs(30);
/// What was refused is tried again this often.
const RETRY: Duration = Duration::from_secs(2);
/// Answers that wait for the stream; the server lets fewer responses than that be unanswered.
const ANSWERS: usize = 32;

/// Takes what comes.
pub trait Sink: Send {
    /// Puts changes in use, and returns what it refuses. What it refuses it keeps in its older version.
    fn apply(&mut self, changes: Vec<Change>) -> impl Future<Output = Vec<Rejected>> + Send;

    /// Everything that the operator has to tell at the moment was told.
    fn synced(&mut self) -> impl Future<Output = ()> + Send;

    /// Tries once more to use what it refused, and returns what is in use by now: a port may be free that was not.
    fn retry(&mut self, _refused: &BTreeSet<Key>) -> impl Future<Output = Vec<Key>> + Send {
        std::future::ready(Vec::new())
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The operator could not be reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The token could not be read.
    #[error("the token {0} cannot be read: {1}")]
    Token(PathBuf, #[source] io::Error),
    /// The operator ended it.
    #[error("the operator ended the stream: {0}")]
    Ended(Box<Status>),
}

/// Keeps a data plane up to date.
pub struct Subscriber<S> {
    endpoint: Endpoint,
    of: DataPlane,
    sink: S,
    /// What is known, with its version: told after a reconnect, so that it is not sent again.
    known: HashMap<Key, String>,
    /// What the operator was last told is not in use.
    refused: BTreeSet<Key>,
    observe: Option<Arc<dyn Observe>>,
    asks: Option<Arc<dyn Asks>>,
}

impl<S: Sink> Subscriber<S> {
    /// For a data plane.
    pub fn new(endpoint: Endpoint, of: DataPlane, sink: S) -> Self {
        Self {
            endpoint,
            of,
            sink,
            known: HashMap::new(),
            refused: BTreeSet::new(),
            observe: None,
            asks: None,
        }
    }

    /// Reports what is seen, to whichever operator it is connected to.
    pub fn observe(&mut self, observe: Arc<dyn Observe>) {
        self.observe = Some(observe);
    }

    /// Asks whose addresses are, and is told of no more than of whom it talks to.
    pub fn ask(&mut self, asks: Arc<dyn Asks>) {
        self.asks = Some(asks);
    }

    /// Starts from what was known before, say from a file: it is compared with what the operator has, and not sent again.
    pub fn known(&mut self, versions: HashMap<Key, String>) {
        self.known = versions;
    }

    /// Connects, and connects again whenever the stream ends. It ends when it is dropped.
    pub async fn run(mut self) {
        let mut wait = BACKOFF.0;
        loop {
            let begun = Instant::now();
            let Err(error) = self.stream().await;
            if let Some(asks) = &self.asks {
                asks.disconnected();
            }
            if begun.elapsed() >= GOOD {
                wait = BACKOFF.0;
            }
            let refused = matches!(&error, SubscribeError::Ended(status) if status.code() == Code::Unauthenticated);
            if refused {
                tracing::error!(%error, "the operator does not accept this data plane; what was told before stays in use");
            } else {
                tracing::warn!(%error, "not connected to the operator; what was told before stays in use");
            }
            tokio::time::sleep(jittered(wait)).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    async fn stream(&mut self) -> Result<std::convert::Infallible, SubscribeError> {
        let token = tokio::fs::read_to_string(&self.endpoint.token).await;
        let token = token.map_err(|error| SubscribeError::Token(self.endpoint.token.clone(), error))?;
        let channel = transport::connect(&self.endpoint).await?;
        let origin = transport::origin(&self.endpoint)?;
        let bearer = MetadataValue::try_from(format!("Bearer {}", token.trim()))
            .ok()
            .map(|mut bearer| {
                bearer.set_sensitive(true);
                bearer
            });
        let mut reporting = JoinSet::new();
        let mut client = Client::with_origin(channel.clone(), origin.clone()).max_decoding_message_size(MESSAGE_BYTES);
        let (answers, mut queue) = mpsc::channel::<Request>(ANSWERS);
        let kinds = self.of.kinds();
        let mut talks = self.asks.as_ref().map(|asks| Talks {
            namespaces: asks.talks(),
            ..Talks::default()
        });
        for kind in kinds {
            // The queue has room for these. The first says whom it talks to.
            let mut subscription = self.subscription(*kind);
            subscription.talks = talks.take();
            let _ = answers.try_send(subscription);
        }
        let requests = futures::stream::poll_fn(move |cx| queue.poll_recv(cx));
        let mut request = tonic::Request::new(requests);
        if let Some(bearer) = &bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        let ended = |status| SubscribeError::Ended(Box::new(status));
        let response = client.delta_aggregated_resources(request).await.map_err(ended)?;
        // One that does not answer tells everything.
        let asks = self
            .asks
            .clone()
            .filter(|_| response.metadata().contains_key(CAN_ANSWER));
        let mut responses = response.into_inner();
        if let Some(asks) = &asks {
            asks.connected();
        }
        tracing::info!(operator = self.endpoint.address, "connected to the operator");
        if let (Some(observe), Some(bearer)) = (&self.observe, bearer) {
            // It ends with this stream.
            reporting.spawn(reports::tell(channel, origin, self.of.clone(), bearer, observe.clone()));
        }
        let mut told = BTreeSet::new();
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let say = async {
                match &asks {
                    Some(asks) => asks.next().await,
                    None => std::future::pending().await,
                }
            };
            let mut response = tokio::select! {
                biased;
                // Somebody waits for the answer.
                say = say => {
                    if answers.send(talks_of(say)).await.is_err() {
                        return Err(ended(Status::unavailable("the stream is closed")));
                    }
                    continue;
                }
                response = responses.message() => match response.map_err(ended)? {
                    Some(response) => response,
                    None => return Err(ended(Status::unavailable("it is going away"))),
                },
                _ = retry.tick(), if !self.refused.is_empty() => {
                    for request in self.ask_again().await {
                        if answers.send(request).await.is_err() {
                            return Err(ended(Status::unavailable("the stream is closed")));
                        }
                    }
                    continue;
                }
            };
            let (whose, forgotten) = (
                std::mem::take(&mut response.whose),
                std::mem::take(&mut response.forgotten),
            );
            told.extend(TypeUrl::parse(&response.type_url));
            let all = !response.system_version_info.is_empty() && told.len() == kinds.len();
            let answer = self.take(response).await;
            if let Some(asks) = &asks {
                hear(&**asks, whose, &forgotten);
            }
            if all {
                if let (Some(known), None) = (&self.asks, &asks) {
                    known.told_all();
                }
                self.sink.synced().await;
            }
            if answers.send(answer).await.is_err() {
                return Err(ended(Status::unavailable("the stream is closed")));
            }
        }
    }

    /// Subscribes to all there is of a kind, but for what is known already.
    fn subscription(&self, kind: TypeUrl) -> Request {
        let known = self.known.iter().filter(|(key, _)| TypeUrl::of(key) == kind);
        Request {
            node: Some(self.of.node()),
            type_url: kind.as_str().to_owned(),
            resource_names_subscribe: vec!["*".to_owned()],
            initial_resource_versions: known
                .map(|(key, version)| (wire::name(key).to_owned(), version.clone()))
                .collect(),
            ..Request::default()
        }
    }

    /// Asks once more for what was refused and is in use by now: with the answer to it the operator hears of that.
    async fn ask_again(&mut self) -> Vec<Request> {
        let mut names: HashMap<TypeUrl, Vec<String>> = HashMap::new();
        for key in self.sink.retry(&self.refused).await {
            tracing::info!(%key, "in use by now");
            names
                .entry(TypeUrl::of(&key))
                .or_default()
                .push(wire::name(&key).to_owned());
            self.refused.remove(&key);
        }
        let requests = names.into_iter().map(|(kind, names)| Request {
            type_url: kind.as_str().to_owned(),
            resource_names_subscribe: names,
            ..Request::default()
        });
        requests.collect()
    }

    /// Applies a response, and answers it.
    async fn take(&mut self, response: Response) -> Request {
        let mut answer = Request {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..Request::default()
        };
        let Some(kind) = TypeUrl::parse(&response.type_url) else {
            answer.error_detail = Some(wire::nack(&[]));
            return answer;
        };
        let mut rejected = Vec::new();
        let mut changes = Vec::with_capacity(response.resources.len() + response.removed_resources.len());
        for delivered in response.resources {
            let key = kind.key(&delivered.name);
            let json = delivered.resource.map(|any| any.value).unwrap_or_default();
            match serde_json::from_slice::<Resource>(&json) {
                Ok(resource) if resource.key() == key => changes.push(Change::Upsert(resource)),
                Ok(_) => rejected.push(Rejected {
                    key: key.clone(),
                    reason: "the resource has another name than what it came in".to_owned(),
                }),
                Err(error) => rejected.push(Rejected {
                    key: key.clone(),
                    reason: format!("this version of the data plane cannot read it: {error}"),
                }),
            }
            self.refused.remove(&key);
            // Known even if refused: it need not come again before it has changed.
            self.known.insert(key, delivered.version);
        }
        for name in response.removed_resources {
            let key = kind.key(&name);
            self.known.remove(&key);
            self.refused.remove(&key);
            changes.push(Change::Remove(key));
        }
        if !changes.is_empty() {
            rejected.extend(self.sink.apply(changes).await);
        }
        if !rejected.is_empty() {
            for Rejected { key, reason } in &rejected {
                tracing::warn!(%key, reason, "refused");
                self.refused.insert(key.clone());
            }
            answer.error_detail = Some(wire::nack(&rejected));
        }
        answer
    }
}

/// What is said to the operator of whom it talks to.
fn talks_of(say: Say) -> Request {
    Request {
        talks: Some(Talks {
            namespaces: Vec::new(),
            asked: say.asked.iter().map(IpAddr::to_string).collect(),
            left: say.left,
        }),
        ..Request::default()
    }
}

/// Passes on what the operator has found.
fn hear(asks: &dyn Asks, whose: Vec<Whose>, forgotten: &[String]) {
    for address in forgotten.iter().filter_map(|address| address.parse().ok()) {
        asks.forgotten(address);
    }
    for Whose { address, namespaces } in whose {
        if let Ok(address) = address.parse() {
            asks.answered(address, namespaces);
        }
    }
}

/// Between half and the whole of it, so that many that lost the same operator do not come back at once.
pub fn jittered(wait: Duration) -> Duration {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    wait / 2 + wait.mul_f64((random >> 32) as f64 / f64::from(u32::MAX) / 2.0)
}
