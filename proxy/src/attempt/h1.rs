//! A try by HTTP/1.1.

use std::{cell::Cell, pin::pin};

use super::{
    Context, Failure, Progress, Sent, tunnel, unless_gone,
    upload::{Upload, UploadError},
};
use crate::{
    body::{BodyError, Broken, Piece, SMALL, guarded, write_piece},
    copy::copy,
    downstream::{Downstream, RequestBody, Responder, ResponseFields},
    h1::{Framing, Message},
    upstream::{H1Connection, H1Response, ResponseError, is_of_tls},
    watchdog::Watchdog,
    worker::Worker,
};

pub(super) async fn make<D: Downstream>(
    context: &Context<'_>,
    request: &mut D,
    progress: &Progress,
) -> Result<Sent, Failure> {
    let worker = context.worker;
    let connections = &context.endpoint.connections;
    let connection = H1Connection::open(worker, connections, context.secure, context.fresh)
        .await
        .map_err(Failure::of_connecting)?;
    let watchdog = worker.watchdogs.watch();
    watchdog.arm(worker.coarse_now(), worker.options.limits.stream_idle_timeout);
    let framing = request.framing();
    let head_request = request.is_head();

    let mut out = worker.outgoing.take();
    request.encode(&mut out, context.line);
    let buffered = request.buffered();
    let uploaded_at_once = framing == Framing::None || buffered.is_some();
    let written = match buffered {
        Some(body) if body.len() > SMALL => guarded(&watchdog, pin!(connection.stream.write_parts([&out, body]))).await,
        body => {
            out.extend_from_slice(body.unwrap_or_default());
            guarded(&watchdog, pin!(connection.stream.write_all(&out))).await
        }
    };
    worker.outgoing.give(out);
    if let Err(error) = written {
        return Err(if connection.reused {
            Failure::Stale
        } else {
            Failure::Reset(error.to_string())
        });
    }

    let (relayed, response) = {
        let (mut body, mut responder) = request.split();
        let sending = pin!(upload(&mut body, &connection, framing, &watchdog));
        let mut upload = Upload::new(sending, uploaded_at_once);
        let answered = upload
            .while_doing(pin!(unless_gone(
                &mut responder,
                pin!(connection.response(
                    worker,
                    if head_request { "HEAD" } else { "GET" },
                    context.line.upgrade,
                    &watchdog
                ))
            )))
            .await;
        let mut response = match answered {
            Ok(response) => response,
            Err(error) => {
                return Err(match (upload.client_failure(), error) {
                    (Some(error), _) | (_, ResponseError::Upload(error @ BodyError::Gone)) => Failure::of_body(error),
                    (_, ResponseError::Closed | ResponseError::Io(_)) if connection.reused => Failure::Stale,
                    (_, ResponseError::Io(error)) if is_of_tls(&error) => Failure::Handshake(error),
                    (_, ResponseError::Refused(refusal)) => Failure::Invalid(refusal),
                    (_, error) => Failure::Reset(error.to_string()),
                });
            }
        };
        let status = response.status;
        if context.retry_codes.contains(&status) {
            return Err(Failure::Status(status));
        }
        if let Some(head) = &mut response.message {
            context.edit_response(&mut **head);
        }
        progress.status.set(Some(status));
        let relayed = if status == 101 && context.line.upgrade {
            relay(worker, &connection, &mut response, &mut responder, &watchdog, true).await
        } else {
            upload
                .while_doing(pin!(relay(
                    worker,
                    &connection,
                    &mut response,
                    &mut responder,
                    &watchdog,
                    head_request,
                )))
                .await
        };
        if relayed.is_err() {
            responder.abort();
        }
        let uploaded = upload.is_done();
        (relayed.map(|()| uploaded), response)
    };
    let status = response.status;
    Ok(match relayed {
        Ok(_) if status == 101 && context.line.upgrade => {
            let early = response.message.as_deref().map_or(&[][..], Message::rest);
            tunnel::join(context, request, &connection.stream, early, status).await
        }
        Ok(uploaded) => {
            if uploaded {
                response.release(worker, connection, connections);
            }
            Sent {
                status,
                reusable: uploaded,
                broken: None,
            }
        }
        Err(broken) => Sent::broken(status, broken),
    })
}

async fn upload<B: RequestBody>(
    body: &mut B,
    connection: &H1Connection,
    framing: Framing,
    watchdog: &Watchdog,
) -> Result<(), UploadError> {
    loop {
        let piece = body.next(watchdog).await.map_err(UploadError::Client)?;
        let last = matches!(piece, Piece::End(_));
        let sent = write_piece(&connection.stream, framing == Framing::Chunked, piece).await;
        sent.map_err(|_| UploadError::Backend)?;
        if last {
            return Ok(());
        }
    }
}

/// Passes an HTTP/1.1 answer on. What came with its head goes out with its head.
async fn relay<R: Responder>(
    worker: &Worker,
    connection: &H1Connection,
    response: &mut H1Response,
    responder: &mut R,
    watchdog: &Watchdog,
    head_request: bool,
) -> Result<(), Broken> {
    let H1Response {
        message,
        body,
        keep_alive,
        ..
    } = response;
    let Some(head) = message else { return Ok(()) };
    let framing = head.framing();
    let (first, end) = if head_request || body.is_done() {
        (&b""[..], true)
    } else {
        let first = body.at_hand(head);
        (first, body.is_done())
    };
    let responding = responder.respond(head.status(), ResponseFields::H1(head), framing, first, end);
    guarded(watchdog, pin!(responding)).await.map_err(Broken::Client)?;
    if end {
        return Ok(());
    }
    if let Some(client) = responder.raw()
        && let Some(length) = body.take_raw()
    {
        // The head is no longer needed, and while the backend pauses, neither is a buffer.
        *message = None;
        let clean = copy(worker, &connection.stream, client, length, &Cell::new(0), watchdog).await?;
        *keep_alive &= clean;
        return Ok(());
    }
    let message = head;
    loop {
        let next = pin!(body.next(&connection.stream, message, watchdog));
        let piece = unless_gone(responder, next).await.map_err(Broken::waiting)?;
        let last = matches!(piece, Piece::End(_));
        guarded(watchdog, pin!(responder.send(piece)))
            .await
            .map_err(Broken::Client)?;
        if last {
            return Ok(());
        }
    }
}
