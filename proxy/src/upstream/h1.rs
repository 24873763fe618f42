//! HTTP/1.1 towards a backend.

use std::{future::poll_fn, io, task::Poll};

use super::{Alpn, BackendStream, ConnectError, Connections, Secure, by};
use crate::{
    body::{BodyError, H1Body},
    h1::{Framing, Limits, Message, Parse, Pooled, Refusal},
    io::Shared,
    watchdog::Watchdog,
    worker::Worker,
};

/// A connection that carries one request at a time.
pub(crate) struct H1Connection {
    pub(crate) stream: Shared<BackendStream>,
    /// By what it is secured; 0 is nothing.
    by: u64,
    /// Whether it has carried a request before: then the backend may have closed it meanwhile.
    pub(crate) reused: bool,
}

/// A backend's answer, its head read, its body still to come.
pub(crate) struct H1Response {
    pub(crate) status: u16,
    /// The head, and what of the body was read with it; none once the body is passed on without it.
    pub(crate) message: Option<Pooled>,
    pub(crate) body: H1Body,
    /// Whether the connection can carry another request after the body.
    pub(crate) keep_alive: bool,
}

/// Interim responses before the one that counts.
const INTERIM: usize = 32;

/// Why no head of a response came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResponseError {
    #[error("the backend closed the connection before it answered")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the backend's answer is not valid: {0}")]
    Refused(#[from] Refusal),
    #[error("the backend was silent for too long")]
    Silent,
    #[error("the request's body broke off: {0}")]
    Upload(#[from] BodyError),
}

impl H1Connection {
    /// An idle connection to the endpoint, or a new one.
    pub(crate) async fn open(
        worker: &Worker,
        home: &Connections,
        secure: Option<&Secure>,
        fresh: bool,
    ) -> Result<Self, ConnectError> {
        let idle = if fresh {
            None
        } else {
            home.take_idle(home.by(worker, secure))
        };
        let (stream, reused) = match idle {
            Some(stream) => {
                worker.count_connections(|stats| stats.upstream_reused += 1);
                (stream, true)
            }
            None => (home.connect(worker, secure, Alpn::Http1).await?, false),
        };
        Ok(Self {
            by: by(secure, stream.is_mutual()),
            stream: Shared::new(stream),
            reused,
        })
    }

    /// Reads the head of the response. Interim responses but 101 are skipped; 101 is one if an `upgrade` was asked for.
    pub(crate) async fn response(
        &self,
        worker: &Worker,
        method: &str,
        upgrade: bool,
        watchdog: &Watchdog,
    ) -> Result<H1Response, ResponseError> {
        let limits = Limits {
            head_bytes: worker.options.limits.head_bytes,
            fields: worker.options.limits.fields,
        };
        let message = read_head(&self.stream, worker, &limits, method, watchdog).await?;
        if message.status() == 101 && !upgrade {
            return Err(Refusal::UnaskedUpgrade.into());
        }
        let body = H1Body::new(message.framing());
        Ok(H1Response {
            status: message.status(),
            keep_alive: message.keep_alive() && message.framing() != Framing::UntilClose,
            message: Some(message),
            body,
        })
    }
}

impl H1Response {
    /// Keeps the connection for the next request, if it can carry one.
    pub(crate) fn release(mut self, worker: &Worker, connection: H1Connection, home: &Connections) {
        let mut clean = self.keep_alive && self.body.is_done();
        if let Some(message) = &mut self.message {
            self.body.settle(message);
            // What comes unasked after the body belongs to no request.
            clean &= message.rest().is_empty();
        }
        if clean {
            home.give_idle(worker, connection.stream.into_inner(), connection.by);
        }
    }
}

async fn read_head(
    stream: &Shared<BackendStream>,
    worker: &Worker,
    limits: &Limits,
    method: &str,
    watchdog: &Watchdog,
) -> Result<Pooled, ResponseError> {
    let mut held: Option<Pooled> = None;
    let mut interim = 0;
    loop {
        // No buffer is held while nothing has come.
        let read = poll_fn(|cx| {
            if watchdog.poll_expired(cx).is_ready() {
                return Poll::Ready(Err(ResponseError::Silent));
            }
            let mut message = held.take().unwrap_or_else(|| worker.messages.take());
            let polled = stream.poll_read(cx, message.space());
            if let Poll::Ready(Ok(read)) = &polled {
                message.filled(*read);
            }
            if !message.is_empty() || polled.is_ready() {
                held = Some(message);
            }
            polled.map_err(ResponseError::Io)
        })
        .await?;
        let Some(message) = &mut held else { continue };
        if read == 0 {
            // With a part of a head it has answered, so it must not be asked again as if it had not.
            return Err(if message.is_empty() {
                ResponseError::Closed
            } else {
                Refusal::TruncatedHead.into()
            });
        }
        while let Parse::Complete = message.parse_response(limits, method)? {
            if message.status() >= 200 || message.status() == 101 {
                return Ok(held.take().unwrap_or_else(|| worker.messages.take()));
            }
            interim += 1;
            if interim > INTERIM {
                return Err(Refusal::TooManyInterim.into());
            }
            Message::next(message);
            if message.is_empty() {
                break;
            }
        }
    }
}
