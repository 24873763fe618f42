//! Cross-origin requests (Fetch standard, "HTTP extensions"; Gateway API `HTTPCORSFilter`).

use http::{HeaderMap, HeaderName, HeaderValue, header};
use weft_model::Cors;

use super::{Answer, hosts::split_port};
use crate::fields::{Fields, RequestView};

/// Who may read responses. An allowed origin is always answered with itself, never with `*`, so one rule holds with and
/// without credentials, and every response varies by origin.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    every_origin: bool,
    origins: Vec<OriginPattern>,
    methods: Allowed,
    headers: Allowed,
    exposed: Allowed,
    credentials: bool,
    max_age: HeaderValue,
}

/// A list of names.
#[derive(Clone, Debug)]
enum Allowed {
    /// Nothing beyond what the Fetch standard always allows.
    Nothing,
    All,
    These(HeaderValue),
}

/// What a response may say about cross-origin use, all of which is this policy's to say.
const OWN: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

impl Policy {
    pub(super) fn new(cors: &Cors) -> Result<Self, String> {
        let named = cors.allow_origins.iter().filter(|origin| *origin != "*");
        Ok(Self {
            every_origin: cors.allow_origins.iter().any(|origin| origin == "*"),
            origins: named
                .map(|origin| OriginPattern::new(origin))
                .collect::<Result<_, _>>()?,
            methods: Allowed::new(&cors.allow_methods)?,
            headers: Allowed::new(&cors.allow_headers)?,
            exposed: Allowed::new(&cors.expose_headers)?,
            credentials: cors.allow_credentials,
            max_age: HeaderValue::from(cors.max_age),
        })
    }

    /// The answer to a preflight; none to any other request.
    pub(super) fn preflight<F: Fields>(&self, request: &RequestView<'_, F>) -> Option<Answer> {
        if request.method != "OPTIONS" {
            return None;
        }
        let origin = request.fields.get("origin")?;
        let method = request.fields.get("access-control-request-method")?;
        let mut headers = HeaderMap::new();
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = self.allowed(origin) else {
            return Some(Answer { status: 403, headers });
        };

        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        // A `*` means nothing to a request with credentials, so what was asked for is repeated.
        if let Some(methods) = self.methods.or_repeat(Some(method)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        if let Some(names) = self
            .headers
            .or_repeat(request.fields.get("access-control-request-headers"))
        {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        let star = (!self.credentials).then_some(b"*".as_slice());
        if let Some(names) = self.exposed.or_repeat(star) {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, names);
        }
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        Some(Answer { status: 200, headers })
    }

    /// Replaces whatever the backend said about cross-origin use by what the policy says.
    pub(super) fn edit_response<F: Fields>(&self, fields: &mut F, origin: Option<&[u8]>) {
        for name in &OWN {
            fields.remove(&[name.as_str()]);
        }
        if !varies_by_origin(fields) {
            fields.append(&header::VARY, &HeaderValue::from_static("Origin"));
        }
        let Some(origin) = origin.and_then(|origin| self.allowed(origin)) else {
            return;
        };
        fields.set(&header::ACCESS_CONTROL_ALLOW_ORIGIN, &origin);
        if self.credentials {
            fields.set(
                &header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                &HeaderValue::from_static("true"),
            );
        }
        let exposed = match &self.exposed {
            Allowed::All if self.credentials => names_of(fields),
            exposed => exposed.or_repeat(Some(b"*")),
        };
        if let Some(names) = exposed {
            fields.set(&header::ACCESS_CONTROL_EXPOSE_HEADERS, &names);
        }
    }

    /// The origin as it is sent back, if it is an allowed one.
    fn allowed(&self, origin: &[u8]) -> Option<HeaderValue> {
        let text = std::str::from_utf8(origin).ok()?;
        let allowed = self.every_origin
            || Origin::parse(text).is_some_and(|origin| self.origins.iter().any(|pattern| pattern.matches(&origin)));
        if allowed {
            HeaderValue::from_bytes(origin).ok()
        } else {
            None
        }
    }
}

impl Allowed {
    fn new(names: &[String]) -> Result<Self, String> {
        if names.is_empty() {
            return Ok(Self::Nothing);
        }
        if names.iter().any(|name| name == "*") {
            return Ok(Self::All);
        }
        match names.iter().find(|name| name.parse::<HeaderName>().is_err()) {
            // Methods and header names are both tokens (RFC 9110 section 5.6.2).
            Some(name) => Err(format!("{name:?} is neither a method nor a header name")),
            None => HeaderValue::try_from(names.join(", "))
                .map(Self::These)
                .map_err(|error| error.to_string()),
        }
    }

    /// The list, or what was asked for where everything is allowed.
    fn or_repeat(&self, asked: Option<&[u8]>) -> Option<HeaderValue> {
        match self {
            Self::Nothing => None,
            Self::These(list) => Some(list.clone()),
            Self::All => HeaderValue::from_bytes(asked?).ok(),
        }
    }
}

fn varies_by_origin<F: Fields>(fields: &F) -> bool {
    let mut varies = false;
    fields.each(&mut |name, value| {
        if name.eq_ignore_ascii_case(b"vary") {
            let mut names = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            varies |= names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"));
        }
    });
    varies
}

/// The names of all fields of a response, for those to whom `*` means nothing.
fn names_of<F: Fields>(fields: &F) -> Option<HeaderValue> {
    let mut list = Vec::new();
    fields.each(&mut |name, _| {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(name);
    });
    HeaderValue::from_bytes(&list).ok()
}

/// `scheme://host[:port]`.
struct Origin<'a> {
    scheme: &'a str,
    host: &'a str,
    /// Where none is stated, the scheme's own; 0 for a scheme that has none.
    port: u16,
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let (host, port) = split_port(authority);
        let port = match port {
            Some(port) => port.parse().ok()?,
            None if scheme.eq_ignore_ascii_case("http") => 80,
            None if scheme.eq_ignore_ascii_case("https") => 443,
            None => 0,
        };
        (!host.is_empty()).then_some(Self { scheme, host, port })
    }
}

/// An allowed origin.
#[derive(Clone, Debug)]
struct OriginPattern {
    scheme: Box<str>,
    host: HostPart,
    port: u16,
}

#[derive(Clone, Debug)]
enum HostPart {
    /// Any host, and any port as well if none is stated: who trusts all hosts has no reason to tell their ports apart.
    Any {
        any_port: bool,
    },
    /// What follows the `*`, dot included.
    Suffix(Box<str>),
    Exact(Box<str>),
}

impl OriginPattern {
    fn new(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not an origin: use `*` or `scheme://host[:port]`, the host may start with `*.`");
        let origin = Origin::parse(text).ok_or_else(wrong)?;
        let name = origin.host.strip_prefix('*').unwrap_or(origin.host);
        let stray = name.contains('*') || name.contains(['/', '?', '#', '@', ' ']) || origin.port == 0;
        if stray || (name.len() < origin.host.len() && !name.is_empty() && !name.starts_with('.')) {
            return Err(wrong());
        }
        let host = match origin.host {
            "*" => HostPart::Any {
                any_port: !text.ends_with(|last: char| last.is_ascii_digit()),
            },
            host if host.starts_with('*') => HostPart::Suffix(name.into()),
            host => HostPart::Exact(host.into()),
        };
        Ok(Self {
            scheme: origin.scheme.into(),
            host,
            port: origin.port,
        })
    }

    /// Browsers write origins in lower case, but nothing else has to.
    fn matches(&self, origin: &Origin<'_>) -> bool {
        if !self.scheme.eq_ignore_ascii_case(origin.scheme) {
            return false;
        }
        match &self.host {
            HostPart::Any { any_port } => *any_port || self.port == origin.port,
            HostPart::Exact(host) => self.port == origin.port && host.eq_ignore_ascii_case(origin.host),
            HostPart::Suffix(suffix) => {
                let (host, suffix) = (origin.host.as_bytes(), suffix.as_bytes());
                let start = host.len().checked_sub(suffix.len()).filter(|start| *start > 0);
                self.port == origin.port && start.is_some_and(|start| host[start..].eq_ignore_ascii_case(suffix))
            }
        }
    }
}
