//! Requests that a server is asked about before they go on.

use std::rc::Rc;

use http::{HeaderName, HeaderValue};

use super::{
    account::Account,
    answer::{answer_with, fail, give_up},
    plan::{deadline, remove_claims, try_limit},
};
use crate::{
    auth::{self, Unanswered, Verdict},
    config::{Auth, Filters, Match, Snapshot},
    downstream::{Client, Downstream},
    flag::Flag,
    worker::Worker,
};

/// Whom the filters have asked about a request: nobody about a preflight, which they answer themselves.
pub(super) fn asked<'f, D: Downstream>(filters: &'f Filters, request: &D) -> Option<&'f Auth> {
    let auth = filters.auth()?;
    filters.preflight(&request.view()).is_none().then_some(auth)
}

/// Asks whether a request may pass. If not, the client has been answered; else returns what goes into the response.
pub(super) async fn authorize<D: Downstream>(
    worker: &Rc<Worker>,
    client: &Client,
    request: &mut D,
    account: &mut Account,
    snapshot: &Snapshot,
    matched: &Match<'_>,
    auth: &Auth,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    remove_claims(client, request.head_mut());
    let limits = auth::Limits {
        end: deadline(matched.rule, account.started),
        each: try_limit(matched.rule),
    };
    match auth::check(worker, snapshot, client, request, auth, matched.identity, limits).await {
        Ok(Verdict::Allowed(changes)) => {
            changes.apply(request.head_mut());
            return Some(changes.response);
        }
        Ok(Verdict::Denied(denial)) => {
            account.fail(Flag::AuthDenied, format!("{} denied it", auth.name));
            account.status = denial.status;
            answer_with(worker, account, request, denial.headers, &denial.body).await;
        }
        Err(Unanswered::Client(failure)) => give_up(worker, account, request, failure).await,
        Err(Unanswered::Server(why)) => {
            let reason = format!("{}: {why}", auth.name);
            fail(worker, account, request, Flag::AuthFailed, reason).await;
        }
    }
    None
}
