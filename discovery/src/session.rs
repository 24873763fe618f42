//! The operator's side of the stream.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
};

use futures::Stream;
use tokio::sync::mpsc;
use tonic::{
    Extensions, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
};
use weft_model::Key;

use crate::{
    identity::{Identify, Shown, shown},
    party::DataPlane,
    publisher::{Epoch, Found, Publisher, Replica, Subscription},
    reports::Hear,
    wire::{self, CAN_ANSWER, Delivered, Node, RESPONSE_BYTES, Request, Response, Talks, TypeUrl, Version, Whose},
};

/// Responses that may wait for an answer. Until then what changes is gathered, each name once.
const WINDOW: usize = 8;

/// Answers that may wait to be said.
const FOUND: usize = 8192;
/// Namespaces that a sidecar may name at first; it asks for others.
const TALKS: usize = 4096;

/// Decides who may subscribe to what.
pub trait Authenticate: Send + Sync + 'static {
    /// Whether who showed this bearer token is the data plane that it says it is.
    fn authenticate(&self, shown: Shown<'_>, data_plane: &DataPlane)
    -> impl Future<Output = Result<(), Denied>> + Send;
}

impl<A: Authenticate> Authenticate for Arc<A> {
    async fn authenticate(&self, shown: Shown<'_>, data_plane: &DataPlane) -> Result<(), Denied> {
        A::authenticate(self, shown, data_plane).await
    }
}

/// Why a data plane may not subscribe.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// The token is not valid, or not for this.
    #[error("the token does not prove {0}: {1}")]
    Token(DataPlane, String),
    /// It could not be found out.
    #[error("the token could not be checked: {0}")]
    Unavailable(String),
}

/// Serves the stream.
pub struct Server<A> {
    publisher: Publisher,
    authenticate: Arc<A>,
    identify: Option<Arc<dyn Identify>>,
    hear: Option<Arc<dyn Hear>>,
}

impl<A> Clone for Server<A> {
    fn clone(&self) -> Self {
        Self {
            publisher: self.publisher.clone(),
            authenticate: self.authenticate.clone(),
            identify: self.identify.clone(),
            hear: self.hear.clone(),
        }
    }
}

impl<A: Authenticate> Server<A> {
    /// Serves what is published.
    pub fn new(publisher: Publisher, authenticate: A) -> Self {
        Self {
            publisher,
            authenticate: Arc::new(authenticate),
            identify: None,
            hear: None,
        }
    }

    /// Serves beside it how workloads come by their certificates.
    #[must_use]
    pub fn with_identities(mut self, identify: Arc<dyn Identify>) -> Self {
        self.identify = Some(identify);
        self
    }

    /// Hears beside it what data planes have seen.
    #[must_use]
    pub fn with_reports(mut self, hear: Arc<dyn Hear>) -> Self {
        self.hear = Some(hear);
        self
    }

    pub(crate) fn hear(&self) -> Option<Arc<dyn Hear>> {
        self.hear.clone()
    }

    pub(crate) fn identify(&self) -> Option<Arc<dyn Identify>> {
        self.identify.clone()
    }

    pub(crate) async fn admit(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
        node: Option<&Node>,
    ) -> Result<DataPlane, Status> {
        let node = node.ok_or_else(|| Status::invalid_argument("the first request names no node"))?;
        let data_plane = DataPlane::of_node(node);
        let shown = shown(metadata, extensions)?;
        match self.authenticate.authenticate(shown, &data_plane).await {
            Ok(()) => Ok(data_plane),
            Err(denied @ Denied::Token(..)) => {
                tracing::warn!(%data_plane, reason = %denied, "a data plane was turned away");
                Err(Status::unauthenticated(denied.to_string()))
            }
            Err(denied @ Denied::Unavailable(_)) => Err(Status::unavailable(denied.to_string())),
        }
    }
}

/// Responses on their way.
pub(crate) type Responses = Pin<Box<dyn Stream<Item = Result<Response, Status>> + Send>>;

#[tonic::async_trait]
impl<A: Authenticate> wire::Service for Server<A> {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<Request>>,
    ) -> Result<tonic::Response<Responses>, Status> {
        let (metadata, extensions, mut requests) = request.into_parts();
        let first = requests.message().await?;
        let first = first.ok_or_else(|| Status::cancelled("the stream ended before it began"))?;
        let data_plane = self.admit(&metadata, &extensions, first.node.as_ref()).await?;
        tracing::info!(%data_plane, "a data plane has connected");
        let (sender, mut receiver) = mpsc::channel(1);
        let talks = first
            .talks
            .as_ref()
            .map(|talks| &talks.namespaces[..talks.namespaces.len().min(TALKS)]);
        let session = Session::new(self.publisher.subscribe(data_plane.clone(), talks));
        tokio::spawn(async move {
            let ended = session.run(first, requests, &sender).await;
            if let Err(status) = ended {
                tracing::info!(%data_plane, reason = %status, "the stream to a data plane has ended");
                let _ = sender.send(Err(status)).await;
            }
        });
        let responses = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let mut response = tonic::Response::new(Box::pin(responses) as Responses);
        response
            .metadata_mut()
            .insert(CAN_ANSWER, MetadataValue::from_static("1"));
        Ok(response)
    }
}

/// One data plane's stream.
struct Session {
    subscription: Subscription,
    subscribed: BTreeSet<TypeUrl>,
    /// The versions the data plane was told, or said it had.
    known: HashMap<Key, Option<Version>>,
    /// What may have to be told. Its order is that of arrival.
    changed: BTreeSet<Key>,
    /// What is to be taken away once nothing more is to be told, in the reverse order.
    gone: BTreeSet<Key>,
    /// Kinds whose first response is still due: it is sent even if it holds nothing.
    greet: BTreeSet<TypeUrl>,
    /// What was found, each to be said once what it is about has been told.
    found: Vec<Found>,
    /// Addresses that were asked about too long ago.
    forgotten: Vec<IpAddr>,
    unanswered: VecDeque<Sent>,
    nonce: u64,
    /// All mail up to here was taken out.
    epoch: Epoch,
    replica: Replica,
}

/// A response that waits for its answer.
struct Sent {
    nonce: String,
    keys: Vec<Key>,
}

impl Session {
    fn new(subscription: Subscription) -> Self {
        Self {
            subscription,
            subscribed: BTreeSet::new(),
            known: HashMap::new(),
            changed: BTreeSet::new(),
            gone: BTreeSet::new(),
            greet: BTreeSet::new(),
            found: Vec::new(),
            forgotten: Vec::new(),
            unanswered: VecDeque::new(),
            nonce: 0,
            epoch: 0,
            replica: Replica::default(),
        }
    }

    async fn run(
        mut self,
        first: Request,
        mut requests: Streaming<Request>,
        responses: &mpsc::Sender<Result<Response, Status>>,
    ) -> Result<(), Status> {
        let mail = self.subscription.mail();
        self.take_mail();
        self.heed(first)?;
        loop {
            self.report();
            let room = self.unanswered.len() < WINDOW;
            tokio::select! {
                // Answers first: they make room.
                biased;
                request = requests.message() => match request? {
                    Some(request) => self.heed(request)?,
                    None => return Ok(()),
                },
                permit = responses.reserve(), if room && self.is_due() => {
                    let permit = permit.map_err(|_| Status::cancelled("the data plane is gone"))?;
                    if let Some(response) = self.next_response() {
                        permit.send(Ok(response));
                    }
                }
                () = mail.notified() => self.take_mail(),
            }
        }
    }

    fn take_mail(&mut self) {
        let mail = self.subscription.take();
        self.changed.extend(mail.changed);
        for found in mail.found {
            self.found(found);
        }
        for found in &mut self.found {
            // A sidecar of an older version does not know of all kinds: these it is not told of.
            let is_due = |key: &Key| self.changed.contains(key) && self.subscribed.contains(&TypeUrl::of(key));
            found.keys.retain(is_due);
        }
        self.epoch = mail.epoch;
    }

    /// Takes whom a sidecar talks to.
    fn talks(&mut self, talks: &Talks) -> Result<(), Status> {
        for namespace in &talks.left {
            // If these matter, they are asked about again.
            self.forgotten.extend(self.subscription.leave(namespace));
            self.forgotten.extend(Found::leave(&mut self.found, namespace));
        }
        for address in &talks.asked {
            let wrong = |_| Status::invalid_argument(format!("{address:?} is no address"));
            let answer = self.subscription.ask(address.parse().map_err(wrong)?);
            if let Some(answer) = answer {
                self.found(answer.found);
                self.forgotten.extend(answer.forgotten);
            }
        }
        if self.found.len() > FOUND {
            return Err(Status::resource_exhausted("it asks, and does not take the answers"));
        }
        // What has come by this has to be told before it is answered.
        self.take_mail();
        Ok(())
    }

    /// Whose an address is, is to be said once.
    fn found(&mut self, found: Found) {
        match self.found.iter_mut().find(|known| known.address == found.address) {
            Some(known) => {
                known.namespaces.extend(found.namespaces);
                known.namespaces.sort_unstable();
                known.namespaces.dedup();
                known.keys.extend(found.keys);
            }
            None => self.found.push(found),
        }
    }

    /// Whether something that was found can be said.
    fn is_found(&self) -> bool {
        !self.forgotten.is_empty() || self.found.iter().any(|found| found.keys.is_empty())
    }

    fn is_due(&self) -> bool {
        let subscribed = |key: &Key| self.subscribed.contains(&TypeUrl::of(key));
        !self.greet.is_empty()
            || self.is_found()
            || self.changed.iter().any(subscribed)
            || self.gone.iter().any(subscribed)
    }

    /// Takes a request: a subscription, an ACK or a NACK.
    fn heed(&mut self, request: Request) -> Result<(), Status> {
        if let Some(talks) = &request.talks {
            self.talks(talks)?;
            if request.type_url.is_empty() {
                return Ok(());
            }
        }
        let Some(kind) = TypeUrl::parse(&request.type_url) else {
            let known = TypeUrl::ALL.map(TypeUrl::as_str).join(", ");
            let text = format!(
                "{:?} is not a kind that is served here; these are: {known}",
                request.type_url
            );
            return Err(Status::invalid_argument(text));
        };
        if !request.response_nonce.is_empty() {
            self.answered(&request);
        }
        // Who asks once more for something by its name is sent it once more.
        for name in request.resource_names_subscribe.iter().filter(|name| *name != "*") {
            let key = kind.key(name);
            if let Some(version) = self.known.get_mut(&key) {
                *version = None;
                self.changed.insert(key);
            }
        }
        if self.subscribed.insert(kind) {
            self.greet.insert(kind);
            for (name, version) in request.initial_resource_versions {
                let key = kind.key(&name);
                // It may be gone or changed: it is looked at like any other.
                self.changed.insert(key.clone());
                self.known.insert(key, Version::parse(&version));
            }
        }
        Ok(())
    }

    fn answered(&mut self, request: &Request) {
        let Some(at) = self
            .unanswered
            .iter()
            .position(|sent| sent.nonce == request.response_nonce)
        else {
            return;
        };
        let Some(sent) = self.unanswered.remove(at) else { return };
        // What was said of older versions of these holds no longer.
        for key in &sent.keys {
            self.replica.refused.remove(key);
        }
        if let Some(detail) = &request.error_detail {
            for rejected in wire::refused(detail, &sent.keys) {
                self.replica.refused.insert(rejected.key, rejected.reason);
            }
        }
    }

    /// Says what the data plane has taken, once it has answered for all that was due.
    fn report(&mut self) {
        let settled = !self.is_due() && self.unanswered.is_empty();
        // An older one does not know of all kinds, but it subscribes to the last of them last.
        let last = self.subscription.data_plane().kinds().last();
        if settled && last.is_some_and(|last| self.subscribed.contains(last)) {
            self.replica.taken = self.epoch;
        }
        self.subscription.report(&self.replica);
    }

    /// The next response that is due: what is new or other, kind by kind, then what is gone, in the reverse order.
    fn next_response(&mut self) -> Option<Response> {
        let mut resources = Vec::new();
        let (mut kind, mut bytes) = (None, 0);
        let due = std::mem::take(&mut self.changed);
        let mut due = due.into_iter();
        for key in due.by_ref() {
            let this = TypeUrl::of(&key);
            if !self.subscribed.contains(&this) {
                // Looked at once it is subscribed to.
                self.changed.insert(key);
                continue;
            }
            let told = self.subscription.get(&key);
            let full = |encoded: &wire::Encoded| bytes > 0 && bytes + encoded.json.len() > RESPONSE_BYTES;
            let is_new = told
                .as_ref()
                .is_some_and(|encoded| self.known.get(&key) != Some(&Some(encoded.version)));
            if is_new && (kind.is_some_and(|kind| kind != this) || told.as_deref().is_some_and(full)) {
                self.changed.insert(key);
                break;
            }
            for found in &mut self.found {
                found.keys.remove(&key);
            }
            let Some(encoded) = told else {
                if self.known.contains_key(&key) {
                    self.gone.insert(key);
                }
                continue;
            };
            self.gone.remove(&key);
            if !is_new {
                continue;
            }
            kind = Some(this);
            bytes += encoded.json.len();
            self.known.insert(key.clone(), Some(encoded.version));
            resources.push((key, encoded));
        }
        self.changed.extend(due);
        if let Some(kind) = kind {
            return Some(self.response(kind, resources, Vec::new()));
        }
        // That namespaces are in the mesh no longer comes first: until all have heard of it, who was in them matters still.
        let mut gone = self.gone.iter();
        let left = gone.clone().find(|key| matches!(key, Key::MeshNamespace(_)));
        let last = left.or_else(|| gone.next_back()).map(TypeUrl::of);
        let Some(kind) = last.filter(|_| {
            !self
                .changed
                .iter()
                .any(|key| self.subscribed.contains(&TypeUrl::of(key)))
        }) else {
            // What was found may stand alone.
            let found = self.is_found().then_some(TypeUrl::MeshNamespace);
            let kind = self.greet.pop_first().or(found)?;
            return Some(self.response(kind, Vec::new(), Vec::new()));
        };
        let removed: Vec<Key> = self.gone.extract_if(.., |key| TypeUrl::of(key) == kind).collect();
        for key in &removed {
            self.known.remove(key);
        }
        Some(self.response(kind, Vec::new(), removed))
    }

    fn response(&mut self, kind: TypeUrl, resources: Vec<(Key, Arc<wire::Encoded>)>, removed: Vec<Key>) -> Response {
        self.nonce += 1;
        self.greet.remove(&kind);
        let nonce = self.nonce.to_string();
        let keys = resources.iter().map(|(key, _)| key).chain(&removed).cloned().collect();
        self.unanswered.push_back(Sent {
            nonce: nonce.clone(),
            keys,
        });
        let whose = self.found.extract_if(.., |found| found.keys.is_empty());
        let whose = whose.map(|found| Whose {
            address: found.address.to_string(),
            namespaces: found.namespaces.iter().map(|name| name.to_string()).collect(),
        });
        let whose = whose.collect();
        let forgotten = self.forgotten.drain(..).map(|address| address.to_string()).collect();
        let version = if self.is_due() {
            String::new()
        } else {
            self.epoch.to_string()
        };
        let resources = resources.into_iter().map(|(key, encoded)| Delivered {
            name: wire::name(&key).to_owned(),
            version: encoded.version.text(),
            resource: Some(prost_types::Any {
                type_url: kind.as_str().to_owned(),
                value: encoded.json.to_vec(),
            }),
        });
        Response {
            system_version_info: version,
            resources: resources.collect(),
            type_url: kind.as_str().to_owned(),
            nonce,
            removed_resources: removed.iter().map(|key| wire::name(key).to_owned()).collect(),
            whose,
            forgotten,
        }
    }
}
