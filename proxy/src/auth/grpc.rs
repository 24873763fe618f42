//! Asking by Envoy's ext_authz v3: `envoy.service.auth.v3.Authorization/Check`.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;

use self::messages::{
    Address, AttributeContext, CheckRequest, CheckResponse, HeaderValueOption, SocketAddress, Timestamp,
    attribute_context::{HttpRequest, Peer, Request, TlsSession},
    check_response::HttpResponse,
    header_value_option::HeaderAppendAction,
};
use super::{Call, Change, Changes, Denial, Reply, Verdict, denial_status, is_fixed};
use crate::{
    config::HOP,
    downstream::{Client, Downstream},
    fields::Fields,
    h1::Framing,
    log::now_ms,
};

/// The messages, generated from `proto/`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated; what they mean is said in proto/"
)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/messages/envoy.service.auth.v3.rs"));
}

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// What precedes a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The request to the server.
pub(super) fn call<D: Downstream>(client: &Client, request: &D, told: &[HeaderName], body: &[u8]) -> Result<Call, ()> {
    let view = request.view();
    let mut path = view.path.to_owned();
    if let Some(query) = view.query {
        path.push('?');
        path.push_str(query);
    }
    let (text, raw_body) = match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), Bytes::new()),
        Err(_) => (String::new(), Bytes::copy_from_slice(body)),
    };
    let since = Duration::from_millis(now_ms());
    let http = HttpRequest {
        method: view.method.to_owned(),
        headers: headers(view.fields, told),
        path,
        host: view.host.to_owned(),
        scheme: client.scheme().to_owned(),
        size: match request.framing() {
            Framing::None => 0,
            Framing::Length(length) => i64::try_from(length).unwrap_or(-1),
            Framing::Chunked | Framing::UntilClose => -1,
        },
        protocol: request.protocol().to_owned(),
        body: text,
        raw_body,
    };
    let check = CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(client.peer)),
            destination: Some(peer(client.destination())),
            request: Some(Request {
                time: Some(Timestamp {
                    seconds: i64::try_from(since.as_secs()).unwrap_or(0),
                    nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
                }),
                http: Some(http),
            }),
            tls_session: client.sni().map(|sni| TlsSession { sni: sni.to_owned() }),
        }),
    };
    let length = check.encoded_len();
    let mut body = BytesMut::with_capacity(PREFIX + length);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).map_err(|_| ())?);
    check.encode(&mut body).map_err(|_| ())?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    Ok(Call {
        method: Method::POST,
        target: CHECK.to_owned(),
        // The server is asked as itself: what the client asked for is in the message.
        host: "authorization".to_owned(),
        headers,
        body: body.freeze(),
    })
}

fn peer(address: SocketAddr) -> Peer {
    Peer {
        address: Some(Address {
            socket_address: Some(SocketAddress {
                address: address.ip().to_canonical().to_string(),
                port_value: address.port().into(),
            }),
        }),
    }
}

/// The request's fields: those that may be told, or all that go further than one hop.
fn headers<F: Fields>(fields: &F, told: &[HeaderName]) -> HashMap<String, String> {
    let mut headers: HashMap<String, String> = HashMap::new();
    fields.each(&mut |name, value| {
        let is = |known: &HeaderName| name.eq_ignore_ascii_case(known.as_str().as_bytes());
        let wanted = if told.is_empty() {
            !HOP.iter().any(is)
        } else {
            told.iter().any(is)
        };
        if !wanted {
            return;
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let value = String::from_utf8_lossy(value);
        // HTTP/2 sends cookies in parts (RFC 9113, 8.2.3).
        let between = if name == "cookie" { "; " } else { "," };
        headers
            .entry(name)
            .and_modify(|known| {
                known.push_str(between);
                known.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    });
    headers
}

/// What the server's answer means; or what is wrong with it.
pub(super) fn verdict(reply: &Reply) -> Result<Verdict, String> {
    if reply.status != 200 {
        return Err(format!("it answered {} where gRPC has 200", reply.status));
    }
    let said = reply.trailers.as_ref().unwrap_or(&reply.headers);
    let code = said.get("grpc-status").and_then(|code| code.to_str().ok());
    if code != Some("0") {
        let message = said.get("grpc-message").and_then(|message| message.to_str().ok());
        let (code, message) = (code.unwrap_or("none"), message.unwrap_or_default());
        return Err(format!("its gRPC status is {code} {message}"));
    }
    let body = reply.body.as_ref().ok_or("its answer is too large")?;
    let answer = message(body).ok_or("its answer is not one CheckResponse")?;
    let code = answer
        .status
        .map(|status| status.code)
        .ok_or("its answer says neither yes nor no")?;
    match (code, answer.http_response) {
        (0, Some(HttpResponse::OkResponse(ok))) => {
            let mut changes = Changes::default();
            let removed = ok.headers_to_remove.iter().filter_map(|name| name.parse().ok());
            changes
                .request
                .extend(removed.filter(|name| !is_fixed(name)).map(Change::Remove));
            changes.request.extend(ok.headers.iter().filter_map(change));
            changes
                .response
                .extend(ok.response_headers_to_add.iter().filter_map(field));
            Ok(Verdict::Allowed(changes))
        }
        (0, _) => Ok(Verdict::Allowed(Changes::default())),
        (_, Some(HttpResponse::DeniedResponse(denied))) => {
            let mut headers = HeaderMap::new();
            for option in &denied.headers {
                let Some((name, value)) = field(option) else { continue };
                if name == header::SET_COOKIE || appends(option) {
                    headers.append(name, value);
                } else {
                    headers.insert(name, value);
                }
            }
            let status = denied.status.and_then(|status| u16::try_from(status.code).ok());
            Ok(Verdict::Denied(Denial {
                status: denial_status(status.unwrap_or(403)),
                headers,
                body: denied.body.into(),
            }))
        }
        (_, _) => Ok(Verdict::Denied(Denial {
            status: 403,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        })),
    }
}

/// The message of an answer, which must hold one and no more.
fn message(body: &Bytes) -> Option<CheckResponse> {
    let (prefix, message) = body.split_first_chunk::<PREFIX>()?;
    let [0, length @ ..] = *prefix else { return None };
    (u32::from_be_bytes(length) as usize == message.len()).then_some(())?;
    CheckResponse::decode(message).ok()
}

fn field(option: &HeaderValueOption) -> Option<(HeaderName, HeaderValue)> {
    let header = option.header.as_ref()?;
    let value: &[u8] = if header.raw_value.is_empty() {
        header.value.as_bytes()
    } else {
        &header.raw_value
    };
    let name: HeaderName = header.key.parse().ok()?;
    (!is_fixed(&name)).then_some(())?;
    Some((name, HeaderValue::from_bytes(value).ok()?))
}

/// Whether a value is added to those there are. In these messages the default is that it takes their place, whatever
/// the default of the enumeration is elsewhere: a client must not be able to add to what the server says.
fn appends(option: &HeaderValueOption) -> bool {
    option.append.is_some_and(|append| append.value)
}

fn change(option: &HeaderValueOption) -> Option<Change> {
    let (name, value) = field(option)?;
    if appends(option) {
        return Some(Change::Append(name, value));
    }
    Some(match option.append_action() {
        HeaderAppendAction::AddIfAbsent => Change::SetIfAbsent(name, value),
        HeaderAppendAction::OverwriteIfExists => Change::SetIfPresent(name, value),
        HeaderAppendAction::AppendIfExistsOrAdd | HeaderAppendAction::OverwriteIfExistsOrAdd => {
            Change::Set(name, value)
        }
    })
}
