//! External authorization (GEP-1494): a request passes only if a server allows it. Whatever keeps the server from saying so
//! keeps the request from passing.

mod call;
mod grpc;
mod http;

use std::{rc::Rc, sync::Arc};

use ::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::Bytes;
use rustls::sign::CertifiedKey;
use weft_model::BackendProtocol;

pub(crate) use self::call::Limits;
use self::call::{Call, CallError, Reply};
use crate::{
    attempt::Failure,
    body::{BodyError, Piece},
    config::{Ask, Auth, HOP, Snapshot},
    downstream::{Client, Downstream, RequestBody as _},
    fields::Fields,
    h1::{Framing, Refusal},
    worker::Worker,
};

/// What a server says of a request.
pub(crate) enum Verdict {
    /// It may pass, with these changes.
    Allowed(Changes),
    /// It may not, and this is answered.
    Denied(Denial),
}

/// What a server wants changed of a request that it allows.
#[derive(Default)]
pub(crate) struct Changes {
    request: Vec<Change>,
    /// Fields for the response.
    pub(crate) response: Vec<(HeaderName, HeaderValue)>,
}

/// A change of the request's fields.
enum Change {
    Remove(HeaderName),
    Set(HeaderName, HeaderValue),
    Append(HeaderName, HeaderValue),
    SetIfAbsent(HeaderName, HeaderValue),
    SetIfPresent(HeaderName, HeaderValue),
}

/// What the client of a request is answered that may not pass.
pub(crate) struct Denial {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no verdict.
pub(crate) enum Unanswered {
    /// It is not the server's fault.
    Client(Failure),
    /// What is wrong with the server, for the log.
    Server(String),
}

impl Changes {
    pub(crate) fn apply<F: Fields>(&self, fields: &mut F) {
        for change in &self.request {
            match change {
                Change::Remove(name) => fields.remove(&[name.as_str()]),
                Change::Set(name, value) => fields.set(name, value),
                Change::Append(name, value) => fields.append(name, value),
                Change::SetIfAbsent(name, value) if fields.get(name.as_str()).is_none() => fields.set(name, value),
                Change::SetIfPresent(name, value) if fields.get(name.as_str()).is_some() => fields.set(name, value),
                Change::SetIfAbsent(..) | Change::SetIfPresent(..) => {}
            }
        }
    }
}

/// Whether a server may not change a field: it belongs to the message it is in, or says where the request goes.
fn is_fixed(name: &HeaderName) -> bool {
    HOP.contains(name) || *name == header::HOST
}

/// The denial's status: what would look like success to the client is not one.
fn denial_status(status: u16) -> u16 {
    if (300..600).contains(&status) { status } else { 403 }
}

/// Asks whether a request may pass. A server that speaks TLS is shown `identity`, as any backend is.
pub(crate) async fn check<D: Downstream>(
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    client: &Client,
    request: &mut D,
    auth: &Auth,
    identity: Option<&Arc<CertifiedKey>>,
    limits: Limits,
) -> Result<Verdict, Unanswered> {
    if auth.max_body > 0 && request.framing() != Framing::None {
        hold(worker, request, auth.max_body).await.map_err(Unanswered::Client)?;
    }
    let entry = snapshot.resolve(auth.service);
    let entry = entry.ok_or_else(|| Unanswered::Server("the Service is not known".into()))?;
    if let Some(reason) = &entry.service.broken {
        return Err(Unanswered::Server(reason.clone()));
    }
    let upstream = worker.upstream(entry);
    let body = request.buffered().filter(|_| auth.max_body > 0).unwrap_or_default();
    let (call, h2) = match &auth.ask {
        Ask::Http { path_prefix, told, .. } => {
            let call = http::call(&request.view(), path_prefix, told, body);
            (call, upstream.protocol.get() == BackendProtocol::H2c)
        }
        Ask::Grpc { told } => (grpc::call(client, request, told, body), true),
    };
    let call = call.map_err(|()| Unanswered::Server("the request cannot be told to it".into()))?;
    let reply = call
        .make(worker, &upstream, upstream.secure(identity), h2, limits)
        .await
        .map_err(|error| match error {
            CallError::RequestTimeout => Unanswered::Client(Failure::RequestTimeout),
            error => Unanswered::Server(error.to_string()),
        })?;
    match &auth.ask {
        Ask::Http { told, heard, .. } => Ok(http::verdict(reply, told, heard)),
        Ask::Grpc { .. } => grpc::verdict(&reply).map_err(Unanswered::Server),
    }
}

/// Reads the body and keeps it, so that the server can be told it and the backend still gets it.
async fn hold<D: Downstream>(worker: &Worker, request: &mut D, most: usize) -> Result<(), Failure> {
    let too_large = Failure::ClientRefused(Refusal::BodyTooLarge);
    let known = request.buffered().map(<[u8]>::len).or(match request.framing() {
        Framing::Length(length) => Some(usize::try_from(length).unwrap_or(usize::MAX)),
        _ => None,
    });
    if known.is_some_and(|length| length > most) {
        return Err(too_large);
    }
    if request.buffered().is_some() {
        return Ok(());
    }
    let watchdog = worker.watchdogs.watch();
    watchdog.arm(worker.coarse_now(), worker.options.limits.stream_idle_timeout);
    let mut held = Vec::with_capacity(known.unwrap_or(0));
    let (mut body, _) = request.split();
    loop {
        let piece = body
            .next(&watchdog)
            .await
            .map_err(|error: BodyError| Failure::of_body(error))?;
        match &piece {
            Piece::Slice(bytes) => held.extend_from_slice(bytes),
            Piece::Shared(bytes) => held.extend_from_slice(bytes),
            Piece::End(_) => break,
        }
        if held.len() > most {
            return Err(too_large);
        }
    }
    drop(body);
    request.hold(held);
    Ok(())
}
