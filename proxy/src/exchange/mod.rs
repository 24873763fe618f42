//! One request and its response: route, filter, choose a backend, try it, pass the answer on.

mod account;
mod answer;
mod authorize;
mod dot_segments;
mod forward;
mod plan;
mod retry;
mod route;

use std::{cell::Cell, rc::Rc};

use http::HeaderMap;

pub(crate) use self::plan::Plan;
use self::{account::Account, answer::answer, route::route};
use crate::{
    downstream::{Client, Downstream},
    flag::Flag,
    spans::Trace,
    worker::Worker,
};

/// How an exchange ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Whether the connection can carry another request.
    pub(crate) reusable: bool,
}

/// Serves one request.
pub(crate) async fn exchange<D: Downstream>(worker: &Rc<Worker>, client: &Client, request: &mut D) -> Finished {
    let mut account = Account::new();
    let _pending = Pending::new(&worker.pending);
    if worker.spans.is_some() {
        account.trace = Trace::of(worker, client, request, account.started);
    }
    if worker.pending.get() > worker.options.limits.pending {
        account.fail(Flag::Overloaded, String::new());
        answer(worker, &mut account, request, HeaderMap::new()).await;
    } else {
        route(worker, client, request, &mut account).await;
    }
    // What follows a CONNECT that got no tunnel was perhaps meant for one, and is not to be taken for a request.
    account.reusable &= !request.is_connect();
    account.close(worker, client, request);
    Finished {
        reusable: account.reusable,
    }
}

/// Counts a request for as long as it is under way, however it ends.
struct Pending<'w>(&'w Cell<usize>);

impl<'w> Pending<'w> {
    fn new(count: &'w Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
