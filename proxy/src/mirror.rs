//! Copies of requests, sent beside the request itself; what they are answered is thrown away.

use std::{rc::Rc, time::Instant};

use weft_model::BackendProtocol;

use crate::{
    balance::EndpointState,
    body::Piece,
    config::{Filters, Snapshot},
    downstream::{Client, Downstream, Outgoing},
    exchange::Plan,
    h1::Framing,
    upstream::H1Connection,
    worker::Worker,
};

/// Sends the copies that the filters ask for. A request whose body has not all come yet is not copied: waiting for it
/// would slow the request itself down.
pub(crate) fn send<D: Downstream>(
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    client: &Client,
    request: &D,
    filters: &Filters,
    plan: &Plan<'_>,
) {
    if filters.mirrors().is_empty() {
        return;
    }
    let whole = request.framing() == Framing::None || request.buffered().is_some();
    for mirror in filters.mirrors() {
        if !whole || !mirror.chosen(worker.random() as u32) {
            continue;
        }
        let Some(entry) = snapshot.resolve(mirror.service) else {
            continue;
        };
        if entry.service.broken.is_some() {
            continue;
        }
        let upstream = worker.upstream(entry);
        if upstream.protocol.get() == BackendProtocol::H2c {
            continue;
        }
        let mut copy = Vec::with_capacity(1024);
        request.encode(
            &mut copy,
            &Outgoing {
                target: plan.target.as_deref(),
                host: plan.host,
                upgrade: false,
                client,
            },
        );
        copy.extend_from_slice(request.buffered().unwrap_or_default());
        let method = request.view().method.to_owned();
        let worker = worker.clone();
        let secure = upstream.secure(plan.identity);
        let task = async move {
            let now = Instant::now();
            let Some(endpoint) = upstream.pick(now, None) else {
                return;
            };
            let _in_flight = EndpointState::start(&endpoint, now);
            let connections = &endpoint.connections;
            let Ok(connection) = H1Connection::open(&worker, connections, secure.as_deref(), false).await else {
                return;
            };
            let watchdog = worker.watchdogs.watch();
            watchdog.arm(worker.coarse_now(), worker.options.limits.stream_idle_timeout);
            if connection.stream.write_all(&copy).await.is_err() {
                return;
            }
            let Ok(mut response) = connection.response(&worker, &method, false, &watchdog).await else {
                return;
            };
            let Some(message) = &mut response.message else { return };
            while let Ok(piece) = response.body.next(&connection.stream, message, &watchdog).await {
                if matches!(piece, Piece::End(_)) {
                    return response.release(&worker, connection, connections);
                }
            }
        };
        tokio::task::spawn_local(task);
    }
}
