//! Session persistence (GEP-1619) without a session anywhere: the client carries a sealed [`Token`] that names its endpoint.

mod token;

use std::{borrow::Cow, fmt::Write as _, rc::Rc, time::Duration};

use http::{HeaderName, HeaderValue, header};
use weft_model::{CookiePath, PathMatch, Route, SessionCarrier, SessionPersistence};

pub(crate) use self::token::identity;
use self::token::{Sealer, Token};
use crate::{
    balance::EndpointState,
    config::{HOP, Match, Rule, Snapshot, Target},
    fields::{Fields, RequestView},
    log::now_ms,
    upstream::Upstream,
};

/// Tokens of one request that are tried: there may be several cookies of one name, for several paths.
const TRIED: usize = 8;
/// How far the clocks of two replicas may be apart.
const SKEW: Duration = Duration::from_secs(60);

/// Session persistence of a rule or of a Service, compiled.
#[derive(Debug)]
pub(crate) struct Session {
    sealer: Sealer,
    carrier: Carrier,
    absolute: Option<Duration>,
    idle: Option<Duration>,
}

#[derive(Debug)]
enum Carrier {
    Cookie {
        name: Option<Box<str>>,
        path: CookiePath,
        permanent: bool,
    },
    Header(HeaderName),
}

impl Session {
    pub(crate) fn new(source: &SessionPersistence) -> Result<Self, String> {
        let name_of = |name: &str| {
            let name = name.parse::<HeaderName>();
            name.map_err(|_| "the name of a session is no token (RFC 9110 section 5.6.2)".to_owned())
        };
        let carrier = match &source.carrier {
            SessionCarrier::Cookie { name, path, permanent } => {
                name.as_deref().map(name_of).transpose()?;
                Carrier::Cookie {
                    name: name.as_deref().map(Box::from),
                    path: path.clone(),
                    permanent: *permanent,
                }
            }
            SessionCarrier::Header { name } => {
                let name = name_of(name)?;
                if HOP.contains(&name) || name == header::HOST || name == header::SET_COOKIE {
                    return Err(format!(
                        "the header {name} means something else: name the session's otherwise"
                    ));
                }
                Carrier::Header(name)
            }
        };
        Ok(Self {
            sealer: Sealer::new(&source.seed)?,
            carrier,
            absolute: source.absolute_timeout,
            idle: source.idle_timeout,
        })
    }

    /// What a request's token says, if it carries one that counts.
    fn read<F: Fields>(&self, route: &Route, fields: &F, now: u64) -> Option<Token> {
        let scope = scope(route);
        let mut tries = 0;
        let mut found = None;
        let mut look = |text: &[u8]| {
            tries += 1;
            if found.is_none() && tries <= TRIED {
                found = self.sealer.open(text, &scope).filter(|token| self.holds(token, now));
            }
        };
        match &self.carrier {
            Carrier::Header(name) => fields.get(name.as_str()).into_iter().for_each(look),
            Carrier::Cookie { name, path, .. } => {
                let name = cookie_name(name.as_deref(), path, &scope);
                fields.each(&mut |field, value| {
                    if !field.eq_ignore_ascii_case(b"cookie") {
                        return;
                    }
                    for pair in value.split(|byte| *byte == b';') {
                        let value = pair.trim_ascii().strip_prefix(name.as_bytes());
                        value
                            .and_then(|value| value.strip_prefix(b"="))
                            .into_iter()
                            .for_each(&mut look);
                    }
                });
            }
        }
        found
    }

    /// Whether a session goes on.
    fn holds(&self, token: &Token, now: u64) -> bool {
        let within = |since: u64, most: Option<Duration>| {
            most.is_none_or(|most| u128::from(now.saturating_sub(since)) < most.as_millis())
        };
        let latest = now + SKEW.as_millis() as u64;
        token.issued <= latest
            && token.seen <= latest
            && within(token.issued, self.absolute)
            && within(token.seen, self.idle)
    }

    /// The field that gives a token to the client.
    fn field(&self, matched: &Match<'_>, token: &Token, secure: bool) -> Option<(HeaderName, HeaderValue)> {
        let route = &matched.rule.route;
        let scope = scope(route);
        let text = self.sealer.seal(token, &scope).ok()?;
        let (name, path, permanent) = match &self.carrier {
            Carrier::Header(name) => return Some((name.clone(), HeaderValue::try_from(text).ok()?)),
            Carrier::Cookie { name, path, permanent } => (name.as_deref(), path, *permanent),
        };
        let mut cookie = format!("{}={text}", cookie_name(name, path, &scope));
        match path {
            CookiePath::Unset => {}
            CookiePath::Given(path) => _ = write!(cookie, "; Path={path}"),
            CookiePath::Matched => {
                let path = route
                    .matches
                    .get(matched.index)
                    .map_or("/", |matched| cookie_path(&matched.path));
                _ = write!(cookie, "; Path={path}");
            }
        }
        if let Some(absolute) = self.absolute.filter(|_| permanent) {
            let left = absolute.saturating_sub(Duration::from_millis(token.seen.saturating_sub(token.issued)));
            _ = write!(cookie, "; Max-Age={}", left.as_secs().max(1));
        }
        cookie.push_str("; HttpOnly; SameSite=Lax");
        if secure {
            cookie.push_str("; Secure");
        }
        Some((header::SET_COOKIE, HeaderValue::try_from(cookie).ok()?))
    }
}

/// Where a session is at home: sessions of two rules are never one, whatever they are called. Rules may move within their
/// route if they have names.
fn scope(route: &Route) -> Cow<'_, str> {
    let owner = &route.owner;
    match &owner.rule_name {
        Some(rule) => Cow::Owned(format!("{:?}/{}/{}/={rule}", owner.kind, owner.namespace, owner.name)),
        None => Cow::Borrowed(route.key.as_str()),
    }
}

/// The name of a cookie. One without a path (it belongs to a Service, which several rules may lead to) has the rule in its
/// name, or the sessions of two rules would overwrite each other.
fn cookie_name<'n>(name: Option<&'n str>, path: &CookiePath, scope: &str) -> Cow<'n, str> {
    match name {
        Some(name) if *path != CookiePath::Unset => Cow::Borrowed(name),
        name => Cow::Owned(format!("{}-{:08x}", name.unwrap_or("weft"), identity(scope) as u32)),
    }
}

/// The path that a cookie is for, by the match that took the request: of a regular expression, what is plain at its start.
fn cookie_path(path: &PathMatch) -> &str {
    match path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path,
        PathMatch::Regex(pattern) => {
            let plain = pattern.find(|c: char| !(c.is_ascii_alphanumeric() || "/-_~".contains(c)));
            let literal = &pattern[..plain.unwrap_or(pattern.len())];
            match literal.rfind('/') {
                Some(0) | None => "/",
                Some(end) => &literal[..end],
            }
        }
    }
}

/// A session that a request goes on with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resumed {
    /// Which backend of the rule it is with, whatever that one's weight.
    pub(crate) backend: usize,
    token: Token,
}

/// Whether the rule or any Service asks for sessions.
pub(crate) fn may_resume(snapshot: &Snapshot, rule: &Rule) -> bool {
    rule.session.is_some() || snapshot.has_sessions()
}

/// Finds the session of a request.
pub(crate) fn resume<F: Fields>(snapshot: &Snapshot, rule: &Rule, view: &RequestView<'_, F>) -> Option<Resumed> {
    let now = now_ms();
    let token = |session: &Session| session.read(&rule.route, view.fields, now);
    let of_rule = match &rule.session {
        Some(session) => Some(token(session)?),
        None => None,
    };
    rule.backends.iter().enumerate().find_map(|(backend, entry)| {
        let Target::Service(id) = entry.target else { return None };
        // One that nobody answers for any more has no sessions.
        let service = snapshot.resolve(id).filter(|service| !service.endpoints.is_empty())?;
        let token = match of_rule {
            Some(token) => token,
            None => token(service.session.as_deref()?)?,
        };
        let resumed = Resumed { backend, token };
        (token.service == identity(service.service.key.as_str())).then_some(resumed)
    })
}

/// What a request has to do with sessions.
pub(crate) struct Persistence<'a> {
    pub(crate) session: &'a Session,
    pub(crate) matched: Match<'a>,
    pub(crate) resumed: Option<Resumed>,
    /// Whether the client is asked to send its cookie over TLS only.
    pub(crate) secure: bool,
}

impl Persistence<'_> {
    /// The endpoint of the session, if it is there and not set aside.
    pub(crate) fn endpoint(&self, upstream: &Upstream, now: std::time::Instant) -> Option<Rc<EndpointState>> {
        let endpoint = upstream.by_identity(self.resumed?.token.endpoint)?;
        (!endpoint.is_aside(now)).then_some(endpoint)
    }

    /// The field that tells the client where it was now, unless it knows.
    pub(crate) fn field(&self, upstream: &Upstream, endpoint: &EndpointState) -> Option<(HeaderName, HeaderValue)> {
        let now = now_ms();
        let same = self
            .resumed
            .filter(|resumed| resumed.token.endpoint == endpoint.identity);
        if same.is_some() && self.session.idle.is_none() {
            return None;
        }
        let token = Token {
            issued: same.map_or(now, |resumed| resumed.token.issued),
            seen: now,
            service: identity(upstream.key.as_str()),
            endpoint: endpoint.identity,
        };
        self.session.field(&self.matched, &token, self.secure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_for_the_path_of_the_match() {
        for (path, expected) in [
            (PathMatch::Prefix("/".into()), "/"),
            (PathMatch::Prefix("/shop".into()), "/shop"),
            (PathMatch::Exact("/shop/cart".into()), "/shop/cart"),
            (PathMatch::Regex("/p1/p2/.*/p3".into()), "/p1/p2"),
            (PathMatch::Regex("/p1/p2x*".into()), "/p1"),
            (PathMatch::Regex("/(a|b)/c".into()), "/"),
            (PathMatch::Regex("[^/]+".into()), "/"),
        ] {
            assert_eq!(cookie_path(&path), expected, "{path:?}");
        }
    }
}
