//! A try of a tunnel (RFC 9110, 9.3.6): a connection to the endpoint, on which nothing is said but what the client says.

use std::pin::pin;

use http::{HeaderMap, header};

use super::{Context, Failure, Progress, Sent};
use crate::{
    body::{Broken, guarded},
    downstream::{Downstream, Responder, ResponseFields},
    h1::Framing,
    io::Shared,
    upstream::{Alpn, BackendStream},
};

/// What a client is told whose tunnel is there.
const ESTABLISHED: u16 = 200;

pub(super) async fn make<D: Downstream>(
    context: &Context<'_>,
    request: &mut D,
    progress: &Progress,
) -> Result<Sent, Failure> {
    let (worker, connections) = (context.worker, &context.endpoint.connections);
    let connected = connections.connect(worker, context.secure, Alpn::None).await;
    let backend = Shared::new(connected.map_err(Failure::of_connecting)?);
    let mut headers = HeaderMap::new();
    context.edit_response(&mut headers);
    // There is no body that could have a length.
    headers.remove(header::CONTENT_LENGTH);
    progress.status.set(Some(ESTABLISHED));
    let told = {
        let watchdog = worker.watchdogs.watch();
        watchdog.arm(worker.coarse_now(), worker.options.limits.stream_idle_timeout);
        let (_, mut responder) = request.split();
        let fields = ResponseFields::Map(headers);
        let told = guarded(
            &watchdog,
            pin!(responder.respond(ESTABLISHED, fields, Framing::None, b"", false)),
        )
        .await;
        if told.is_err() {
            responder.abort();
        }
        told
    };
    if let Err(error) = told {
        return Ok(Sent::broken(ESTABLISHED, Broken::Client(error)));
    }
    Ok(join(context, request, &backend, b"", ESTABLISHED).await)
}

/// Joins the client and a backend, after an answer of this status, for as long as policies let it be.
pub(super) async fn join<D: Downstream>(
    context: &Context<'_>,
    request: &mut D,
    backend: &Shared<BackendStream>,
    early: &[u8],
    status: u16,
) -> Sent {
    if let Some(admitted) = context.admitted {
        context.worker.standing.upgraded(context.worker, admitted);
    }
    let tunnel = request.tunnel(backend, early, context.admitted.map(|admitted| &**admitted));
    let denied = tunnel.await;
    Sent {
        status,
        reusable: false,
        broken: denied.map(|ended| (ended.flag, ended.reason)),
    }
}
