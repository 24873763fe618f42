//! A request's body on its way to a backend, while something else is waited for.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use crate::body::BodyError;

/// The body on its way, driven along with whatever else is waited for.
pub(super) struct Upload<'f, F> {
    sending: Pin<&'f mut F>,
    state: UploadState,
}

enum UploadState {
    Sending,
    Done,
    /// The client broke off.
    ClientFailed(BodyError),
    /// The backend takes no more; it may have answered already, so the answer is still waited for.
    BackendFailed,
}

/// Whose fault it is that an upload ended early.
pub(super) enum UploadError {
    Client(BodyError),
    Backend,
}

impl<'f, F: Future<Output = Result<(), UploadError>>> Upload<'f, F> {
    /// A body that is to be sent, unless all of it has gone out already.
    pub(super) fn new(sending: Pin<&'f mut F>, done: bool) -> Self {
        let state = if done { UploadState::Done } else { UploadState::Sending };
        Self { sending, state }
    }

    /// Whether all of it has gone out.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, UploadState::Done)
    }

    /// Why the client broke off, if it did.
    pub(super) fn client_failure(self) -> Option<BodyError> {
        match self.state {
            UploadState::ClientFailed(error) => Some(error),
            _ => None,
        }
    }

    /// Waits for `other`, and sends on meanwhile. If the client breaks off, so does this, with its error. Pinned by the
    /// caller: a future that pins its own parameter is twice as large.
    pub(super) fn while_doing<T, E: From<BodyError>>(
        &mut self,
        mut other: Pin<&mut impl Future<Output = Result<T, E>>>,
    ) -> impl Future<Output = Result<T, E>> {
        poll_fn(move |cx| {
            if matches!(self.state, UploadState::Sending)
                && let Poll::Ready(result) = self.sending.as_mut().poll(cx)
            {
                self.state = match result {
                    Ok(()) => UploadState::Done,
                    Err(UploadError::Backend) => UploadState::BackendFailed,
                    Err(UploadError::Client(error)) => {
                        self.state = UploadState::ClientFailed(error);
                        return Poll::Ready(Err(BodyError::Truncated.into()));
                    }
                };
            }
            other.as_mut().poll(cx)
        })
    }
}
