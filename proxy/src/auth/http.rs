//! Asking by HTTP: a request like the client's, which 200 allows.

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use bytes::Bytes;

use super::{Call, Change, Changes, Denial, Reply, Verdict, denial_status, is_fixed};
use crate::fields::{Fields, RequestView};

/// The request to the server.
pub(super) fn call<F: Fields>(
    view: &RequestView<'_, F>,
    path_prefix: &str,
    told: &[HeaderName],
    body: &[u8],
) -> Result<Call, ()> {
    let mut headers = HeaderMap::new();
    view.fields.each(&mut |name, value| {
        if let Some(name) = told
            .iter()
            .find(|told| name.eq_ignore_ascii_case(told.as_str().as_bytes()))
            && let Ok(value) = HeaderValue::from_bytes(value)
            && !is_fixed(name)
        {
            headers.append(name.clone(), value);
        }
    });
    let mut target = format!("{path_prefix}{}", view.path);
    if let Some(query) = view.query {
        target.push('?');
        target.push_str(query);
    }
    Ok(Call {
        method: Method::from_bytes(view.method.as_bytes()).map_err(|_| ())?,
        target,
        host: view.host.to_owned(),
        headers,
        body: Bytes::copy_from_slice(body),
    })
}

/// What the server's answer means.
pub(super) fn verdict(reply: Reply, told: &[HeaderName], heard: &[HeaderName]) -> Verdict {
    if reply.status != 200 {
        return Verdict::Denied(Denial {
            status: denial_status(reply.status),
            headers: reply.headers,
            body: reply.body.unwrap_or_default(),
        });
    }
    let mut changes = Changes::default();
    // What the server alone is to say is not to be believed from a client, unless the server has seen that.
    let claimed = heard.iter().filter(|name| !told.contains(name) && !is_fixed(name));
    changes.request.extend(claimed.cloned().map(Change::Remove));
    for name in reply.headers.keys() {
        let wanted = if heard.is_empty() {
            !is_of_message(name)
        } else {
            heard.contains(name)
        };
        if !wanted || is_fixed(name) {
            continue;
        }
        let mut values = reply.headers.get_all(name).iter().cloned();
        changes
            .request
            .extend(values.next().map(|value| Change::Set(name.clone(), value)));
        changes
            .request
            .extend(values.map(|value| Change::Append(name.clone(), value)));
    }
    Verdict::Allowed(changes)
}

/// Whether a field speaks of the answer that it is in, so that in another message it would be wrong.
fn is_of_message(name: &HeaderName) -> bool {
    name.as_str().starts_with("content-") || *name == header::DATE || *name == header::SERVER
}
