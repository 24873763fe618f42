//! A try by HTTP/2.

use std::pin::pin;

use http::{Method, Request, Uri, header, uri};

use super::{
    Context, Failure, Progress, Sent, unless_gone,
    upload::{Upload, UploadError},
};
use crate::{
    body::{BodyError, Broken, Piece, guarded},
    downstream::{Downstream, RequestBody, Responder, ResponseFields},
    h1::Framing,
    upstream::{H2Response, send_piece},
    watchdog::Watchdog,
};

pub(super) async fn make<D: Downstream>(
    context: &Context<'_>,
    request: &mut D,
    progress: &Progress,
) -> Result<Sent, Failure> {
    let worker = context.worker;
    let connections = &context.endpoint.connections;
    let watchdog = worker.watchdogs.watch();
    watchdog.arm(worker.coarse_now(), worker.options.limits.stream_idle_timeout);
    let framing = request.framing();
    let head_request = request.is_head();
    let head = head_of(context, request)?;
    let (response, mut sender, guard) = connections
        .h2_request(worker, context.secure, head, framing == Framing::None)
        .await
        .map_err(Failure::of_connecting)?;

    let uploaded_at_once = framing == Framing::None || request.buffered().is_some();
    if framing != Framing::None
        && let Some(bytes) = request.buffered()
    {
        send_piece(&mut sender, Piece::Slice(bytes), true)
            .await
            .map_err(|error| Failure::Reset(error.to_string()))?;
    }
    let (mut body, mut responder) = request.split();
    let sending = pin!(upload(&mut body, &mut sender, &watchdog));
    let mut upload = Upload::new(sending, uploaded_at_once);
    let answered = upload
        .while_doing(pin!(unless_gone(
            &mut responder,
            pin!(guarded(&watchdog, pin!(response)))
        )))
        .await;
    let (parts, stream) = match answered {
        Ok(response) => response.into_parts(),
        Err(error) => {
            return Err(match (upload.client_failure(), error) {
                (Some(error), _) | (_, error @ BodyError::Gone) => Failure::of_body(error),
                // The backend took no notice of the stream, so it is safe to send it elsewhere (RFC 9113 8.7).
                (_, BodyError::H2(error)) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => Failure::Stale,
                (_, error) => Failure::Reset(error.to_string()),
            });
        }
    };
    let mut response = H2Response {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: stream,
        _guard: guard,
    };
    let status = response.status;
    if context.retry_codes.contains(&status) {
        return Err(Failure::Status(status));
    }
    context.edit_response(&mut response.headers);
    progress.status.set(Some(status));
    let relayed = upload
        .while_doing(pin!(relay(
            context,
            &mut response,
            &mut responder,
            &watchdog,
            head_request
        )))
        .await;
    let uploaded = upload.is_done();
    Ok(match relayed {
        Ok(()) => Sent {
            status,
            reusable: uploaded,
            broken: None,
        },
        Err(broken) => {
            responder.abort();
            Sent::broken(status, broken)
        }
    })
}

/// The head of a request as HTTP/2 has it.
fn head_of<D: Downstream>(context: &Context<'_>, request: &D) -> Result<Request<()>, Failure> {
    let view = request.view();
    let invalid = |what: &str| Failure::ClientGone(format!("the {what} cannot be sent by HTTP/2"));
    let path_and_query = match (context.line.target, view.query) {
        (Some(target), _) => target.to_owned(),
        (None, Some(query)) => format!("{}?{query}", view.path),
        (None, None) => view.path.to_owned(),
    };
    let uri = Uri::builder()
        .scheme(if context.secure.is_some() {
            uri::Scheme::HTTPS
        } else {
            uri::Scheme::HTTP
        })
        .authority(context.line.host.unwrap_or(view.host))
        .path_and_query(path_and_query)
        .build()
        .map_err(|_| invalid("target"))?;
    let method = Method::from_bytes(view.method.as_bytes()).map_err(|_| invalid("method"))?;
    let mut head = Request::new(());
    *head.method_mut() = method;
    *head.uri_mut() = uri;
    *head.version_mut() = http::Version::HTTP_2;
    *head.headers_mut() = request.headers(context.line);
    Ok(head)
}

async fn upload<B: RequestBody>(
    body: &mut B,
    sender: &mut h2::SendStream<bytes::Bytes>,
    watchdog: &Watchdog,
) -> Result<(), UploadError> {
    loop {
        let piece = match body.next(watchdog).await {
            Ok(piece) => piece,
            Err(error) => {
                sender.send_reset(h2::Reason::CANCEL);
                return Err(UploadError::Client(error));
            }
        };
        let last = matches!(piece, Piece::End(_));
        send_piece(sender, piece, false)
            .await
            .map_err(|_| UploadError::Backend)?;
        if last {
            return Ok(());
        }
    }
}

/// Passes an HTTP/2 answer on.
async fn relay<R: Responder>(
    context: &Context<'_>,
    response: &mut H2Response,
    responder: &mut R,
    watchdog: &Watchdog,
    head_request: bool,
) -> Result<(), Broken> {
    let headers = std::mem::take(&mut response.headers);
    if let Some(grpc) = context.grpc {
        grpc.see(&headers);
    }
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    let ended = response.body.is_end_stream();
    let framing = match length {
        Some(length) => Framing::Length(length),
        None if ended && !head_request => Framing::Length(0),
        None => Framing::Chunked,
    };
    let end = ended || head_request;
    let responding = responder.respond(response.status, ResponseFields::Map(headers), framing, b"", end);
    guarded(watchdog, pin!(responding)).await.map_err(Broken::Client)?;
    if end {
        return Ok(());
    }
    loop {
        let next = pin!(response.next());
        let piece = unless_gone(responder, pin!(guarded(watchdog, next))).await;
        let piece = piece.map_err(Broken::waiting)?;
        let last = matches!(piece, Piece::End(_));
        if let (Some(grpc), Piece::End(Some(trailers))) = (context.grpc, &piece) {
            grpc.see(trailers);
        }
        guarded(watchdog, pin!(responder.send(piece)))
            .await
            .map_err(Broken::Client)?;
        if last {
            return Ok(());
        }
    }
}
