//! Session persistence, in the form of v1.6 and in that of v1.7.

use std::time::Duration;

use weft_crds::{Kind, Metadata};
use weft_model::{CookiePath, SessionCarrier, SessionPersistence};

use crate::{
    diagnostic::{Code, Diagnostic},
    duration,
    rule::invalid_duration,
    validate::is_token,
};

/// The header of sessions that name none.
const HEADER: &str = "x-weft-session";
const LONGEST_NAME: usize = 128;

/// What the tokens of an object's sessions are sealed by: its UID, which clients do not know and every replica does. What
/// was never in an API server has none, and is named instead.
pub(crate) fn seed(kind: Kind, metadata: &Metadata) -> String {
    let name = || format!("{kind}/{}/{}", metadata.namespace(), metadata.name);
    metadata.uid.clone().unwrap_or_else(name)
}

/// Lowers session persistence; what the API server would refuse of it is among the diagnostics.
pub(crate) fn lower(
    spec: &weft_crds::SessionPersistence,
    path_by_default: CookiePath,
    seed: String,
    path: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> SessionPersistence {
    let kind = spec.session_type.as_deref().unwrap_or("Cookie");
    let mut invalid = |field: &str, message: String, remedy: &str| {
        diagnostics.push(Code::Invalid.at(format!("{path}.{field}"), message, remedy));
    };
    if !matches!(kind, "Cookie" | "Header") {
        invalid(
            "type",
            format!("{kind:?} is not a type of session"),
            "use Cookie or Header",
        );
    }
    for (field, there, of) in [
        ("cookieConfig", spec.cookie_config.is_some(), "Cookie"),
        ("cookie", spec.cookie.is_some(), "Cookie"),
        ("header", spec.header.is_some(), "Header"),
    ] {
        if there && kind != of {
            invalid(
                field,
                format!("{field} is only for sessions of type {of}"),
                "remove it, or correct the type",
            );
        }
    }
    let (old, new) = (
        spec.session_name.is_some() || spec.cookie_config.is_some(),
        spec.cookie.is_some() || spec.header.is_some(),
    );
    if old && new {
        let message = "sessionName and cookieConfig (v1.6) stand beside cookie or header (v1.7)".to_owned();
        invalid("sessionName", message, "keep one of the two forms");
    }
    let cookie = spec.cookie.as_ref();
    let (name, named_by) = match (cookie, &spec.header) {
        (Some(cookie), _) => (cookie.name.as_ref(), "cookie.name"),
        (None, Some(header)) => (header.name.as_ref(), "header.name"),
        (None, None) => (spec.session_name.as_ref(), "sessionName"),
    };
    if let Some(name) = name.filter(|name| name.len() > LONGEST_NAME || !is_token(name)) {
        let remedy = "use up to 128 letters, digits, - and _";
        invalid(
            named_by,
            format!("{name:?} cannot be the name of a cookie or header"),
            remedy,
        );
    }
    let given = cookie.map(|cookie| cookie.path.as_deref().unwrap_or("/"));
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b';';
    if let Some(given) = given.filter(|given| !given.starts_with('/') || !given.bytes().all(plain)) {
        let message = format!("{given:?} cannot be the path of a cookie");
        invalid("cookie.path", message, "start it with /, without ; and white space");
    }
    let lifetime = match (cookie, &spec.cookie_config) {
        (Some(cookie), _) => cookie.lifetime_type.as_deref(),
        (None, config) => config.as_ref().and_then(|config| config.lifetime_type.as_deref()),
    };
    let lifetime_at = if cookie.is_some() {
        "cookie.lifetimeType"
    } else {
        "cookieConfig.lifetimeType"
    };
    let lifetime = lifetime.unwrap_or("Session");
    if !matches!(lifetime, "Session" | "Permanent") {
        let message = format!("{lifetime:?} is not a lifetime of a cookie");
        invalid(lifetime_at, message, "use Session or Permanent");
    }
    let permanent = lifetime == "Permanent";
    if permanent && spec.absolute_timeout.is_none() {
        let message = "a permanent cookie needs an absoluteTimeout".to_owned();
        invalid("absoluteTimeout", message, "say how long it is kept");
    }
    let mut timeout = |text: Option<&String>, field: &str| -> Option<Duration> {
        let text = text?;
        let found = duration::parse(text);
        if found.is_none() {
            diagnostics.push(invalid_duration(format!("{path}.{field}"), text));
        }
        found.filter(|timeout| !timeout.is_zero())
    };
    SessionPersistence {
        absolute_timeout: timeout(spec.absolute_timeout.as_ref(), "absoluteTimeout"),
        idle_timeout: timeout(spec.idle_timeout.as_ref(), "idleTimeout"),
        carrier: if kind == "Header" {
            SessionCarrier::Header {
                name: name.map_or(HEADER, String::as_str).to_ascii_lowercase(),
            }
        } else {
            SessionCarrier::Cookie {
                name: name.cloned(),
                path: given.map_or(path_by_default, |given| CookiePath::Given(given.to_owned())),
                permanent,
            }
        },
        seed,
    }
}
