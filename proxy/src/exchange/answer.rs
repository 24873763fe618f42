//! Answers without a backend.

use std::{future::Future, pin::pin};

use http::{HeaderMap, HeaderValue, header};

use super::account::Account;
use crate::{
    attempt::Failure,
    body::guarded,
    downstream::{Downstream, Responder, ResponseFields},
    fields::Fields,
    flag::Flag,
    h1::Framing,
    worker::Worker,
};

/// The code of gRPC for what somebody may not do.
const PERMISSION_DENIED: &str = "7";

/// Answers with a failure.
pub(super) fn fail<D: Downstream>(
    worker: &Worker,
    account: &mut Account,
    request: &mut D,
    flag: Flag,
    reason: String,
) -> impl Future<Output = ()> {
    account.fail(flag, reason);
    answer(worker, account, request, HeaderMap::new())
}

/// Ends a request with the failure of its last try.
pub(super) async fn give_up<D: Downstream>(worker: &Worker, account: &mut Account, request: &mut D, failure: Failure) {
    account.fail(failure.flag(), failure.to_string());
    match failure {
        Failure::Status(status) => account.status = status,
        Failure::ClientRefused(refusal) => account.refuse(refusal),
        _ => {}
    }
    if matches!(failure, Failure::ClientGone(_)) {
        account.reusable = false;
        let (_, mut responder) = request.split();
        responder.abort();
        return;
    }
    answer(worker, account, request, HeaderMap::new()).await;
}

/// Answers without a backend, with the account's status.
pub(super) async fn answer<D: Downstream>(
    worker: &Worker,
    account: &mut Account,
    request: &mut D,
    mut headers: HeaderMap,
) {
    // The reason may name what a client need not know of: it gets the flag only, the log has both.
    let text = match account.flag {
        Flag::None => String::new(),
        flag => format!("{}\n", flag.as_str()),
    };
    let grpc = request
        .view()
        .fields
        .get("content-type")
        .is_some_and(|kind| kind.starts_with(b"application/grpc"));
    if grpc && account.flag == Flag::PolicyDenied {
        // Trailers only, so that the client has the code whatever it makes of the status.
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(PERMISSION_DENIED));
        headers.insert("grpc-message", HeaderValue::from_static(Flag::PolicyDenied.as_str()));
    }
    if !text.is_empty() && !grpc {
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
    }
    let text = if grpc { "" } else { text.as_str() };
    answer_with(worker, account, request, headers, text.as_bytes()).await;
}

/// Answers an ACME CA that asks whose the host is (RFC 8555, 8.3).
pub(super) async fn prove<D: Downstream>(worker: &Worker, account: &mut Account, request: &mut D, text: &str) {
    account.status = 200;
    let kind = HeaderValue::from_static("application/octet-stream");
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
    answer_with(worker, account, request, headers, text.as_bytes()).await;
}

/// Answers without a backend, with the account's status and a body.
pub(super) async fn answer_with<D: Downstream>(
    worker: &Worker,
    account: &mut Account,
    request: &mut D,
    headers: HeaderMap,
    body: &[u8],
) {
    let bodiless = matches!(account.status, 204 | 304);
    let framing = if bodiless {
        Framing::None
    } else {
        Framing::Length(body.len() as u64)
    };
    let body_left = request.framing() != Framing::None && request.buffered().is_none();
    let body = if request.is_head() || bodiless { b"" } else { body };
    let status = account.status;
    let watchdog = worker.watchdogs.watch();
    watchdog.arm(worker.coarse_now(), worker.options.limits.stream_idle_timeout);
    let (_, mut responder) = request.split();
    let responding = responder.respond(status, ResponseFields::Map(headers), framing, body, true);
    let sent = guarded(&watchdog, pin!(responding)).await;
    if let Err(error) = &sent {
        account.flag = Flag::ClientGone;
        account.reason = error.to_string();
        responder.abort();
    }
    account.reusable = sent.is_ok() && !body_left;
}
