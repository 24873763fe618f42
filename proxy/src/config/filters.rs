//! Filters, compiled.

use http::{HeaderMap, header};
use weft_model::{Filter, Mirror, PathRewrite, Redirect, ServiceKey};

use super::{
    ServiceId,
    auth::Auth,
    cors::Policy,
    edits::Edits,
    redirect::{self, rewritten},
};
use crate::fields::{Fields, RequestView};

/// What is done to a request and to its response.
///
/// A request goes through the rule's filters and then the chosen backend's; its response goes the other way round, so
/// that the rule has the last word. Within one list, a kind that the API allows once is done once.
#[derive(Clone, Debug, Default)]
pub struct Filters(Option<Box<Compiled>>);

#[derive(Clone, Debug, Default)]
struct Compiled {
    request: Vec<Edits>,
    response: Vec<Edits>,
    redirect: Option<Redirect>,
    host: Option<Box<str>>,
    path: Option<PathRewrite>,
    mirrors: Vec<MirrorTarget>,
    cors: Option<Policy>,
    auth: Option<Auth>,
}

/// A response that needs no backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header fields; there is no body.
    pub headers: HeaderMap,
}

/// Where copies of a share of the requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorTarget {
    /// Resolved by [`super::Snapshot::resolve`].
    pub service: ServiceId,
    /// Of `denominator` requests, this many are copied.
    pub numerator: u32,
    /// Not 0.
    pub denominator: u32,
}

impl MirrorTarget {
    /// Whether the request for which `random` was drawn, evenly from all numbers of its type, is copied.
    pub fn chosen(&self, random: u32) -> bool {
        // The product's upper half is an even draw from 0..denominator.
        (u64::from(random) * u64::from(self.denominator)) >> 32 < u64::from(self.numerator)
    }
}

impl Filters {
    pub(super) fn new(filters: &[Filter], id_of: &dyn Fn(&ServiceKey) -> ServiceId) -> Result<Self, String> {
        if filters.is_empty() {
            return Ok(Self::default());
        }
        let mut compiled = Compiled::default();
        for (index, filter) in filters.iter().enumerate() {
            compiled
                .add(filter, id_of)
                .map_err(|reason| format!("filter {index}: {reason}"))?;
        }
        Ok(Self(Some(Box::new(compiled))))
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The answer that takes the place of the backend's: to a CORS preflight, or a redirect, to which
    /// [`Self::edit_response`] has been done already (scripts follow a redirect only if it allows them to). `prefix` is
    /// [`super::Match::prefix`], `scheme` that of the connection and `port` the listener's.
    pub fn answer<F: Fields>(
        &self,
        request: &RequestView<'_, F>,
        prefix: usize,
        scheme: &str,
        port: u16,
    ) -> Option<Answer> {
        let compiled = self.0.as_deref()?;
        // First, because browsers do not follow redirects of preflights (Fetch standard, CORS-preflight fetch).
        self.preflight(request).or_else(|| {
            let mut answer = redirect::answer(compiled.redirect.as_ref()?, request, prefix, scheme, port);
            self.edit_response(&mut answer.headers, request.fields.get("origin"));
            Some(answer)
        })
    }

    /// The answer to a CORS preflight.
    pub(crate) fn preflight<F: Fields>(&self, request: &RequestView<'_, F>) -> Option<Answer> {
        self.0.as_deref()?.cors.as_ref()?.preflight(request)
    }

    /// Who must allow the request.
    pub(crate) fn auth(&self) -> Option<&Auth> {
        self.0.as_deref()?.auth.as_ref()
    }

    /// Changes the request's header fields.
    pub fn edit_request<F: Fields>(&self, fields: &mut F) {
        for edits in self.0.iter().flat_map(|compiled| &compiled.request) {
            edits.apply(fields);
        }
    }

    /// The host that the backend sees, when it is not the client's.
    pub fn host(&self) -> Option<&str> {
        self.0.as_deref()?.host.as_deref()
    }

    /// The path and query that the backend sees, when they are not the client's. `prefix` is [`super::Match::prefix`].
    pub fn target(&self, path: &str, query: Option<&str>, prefix: usize) -> Option<String> {
        let mut target = rewritten(self.0.as_deref()?.path.as_ref()?, path, prefix);
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        Some(target)
    }

    /// Changes the response's header fields. `origin` is the request's `Origin`.
    pub fn edit_response<F: Fields>(&self, fields: &mut F, origin: Option<&[u8]>) {
        let Some(compiled) = self.0.as_deref() else { return };
        for edits in &compiled.response {
            edits.apply(fields);
        }
        if let Some(policy) = &compiled.cors {
            policy.edit_response(fields, origin);
        }
    }

    /// Where copies go.
    pub fn mirrors(&self) -> &[MirrorTarget] {
        self.0.as_deref().map_or(&[], |compiled| &compiled.mirrors)
    }
}

impl Compiled {
    fn add(&mut self, filter: &Filter, id_of: &dyn Fn(&ServiceKey) -> ServiceId) -> Result<(), String> {
        match filter {
            Filter::RequestHeaders(edit) => {
                let mut edits = Edits::new(edit)?;
                // The host is not a field in HTTP/2: setting it is a rewrite.
                if let Some(index) = edits.set.iter().position(|(name, _)| name == header::HOST) {
                    let (_, value) = edits.set.remove(index);
                    let host = value
                        .to_str()
                        .map_err(|_| format!("{value:?} is not a host: use a hostname"))?;
                    self.host = Some(host.into());
                }
                edits.refuse(
                    &header::HOST,
                    "a request has exactly one host: `set` it, or use a URLRewrite filter",
                )?;
                self.request.push(edits);
            }
            Filter::ResponseHeaders(edit) => self.response.push(Edits::new(edit)?),
            Filter::Redirect(redirect) => {
                redirect::check(redirect)?;
                self.redirect = Some(redirect.clone());
            }
            Filter::Rewrite(rewrite) => {
                if let Some(hostname) = &rewrite.hostname {
                    redirect::check_hostname(hostname)?;
                    self.host = Some(hostname.as_str().into());
                }
                if let Some(path) = &rewrite.path {
                    redirect::check_path(path)?;
                    self.path = Some(path.clone());
                }
            }
            Filter::Mirror(Mirror {
                service,
                numerator,
                denominator,
            }) => {
                if *denominator == 0 || numerator > denominator {
                    return Err(format!(
                        "{numerator}/{denominator} is not a share of the requests: use 0/1 to 1/1"
                    ));
                }
                let target = |key| MirrorTarget {
                    service: id_of(key),
                    numerator: *numerator,
                    denominator: *denominator,
                };
                self.mirrors.extend(service.as_ref().map(target));
            }
            Filter::Cors(cors) => self.cors = Some(Policy::new(cors)?),
            Filter::ExternalAuth(auth) => self.auth = Some(Auth::new(auth, id_of)?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use weft_model::{HeaderChange, HeaderEdit};

    use super::*;

    fn edit(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderEdit {
        let changes = |list: &[(&str, &str)]| {
            let change = |(name, value): &(&str, &str)| HeaderChange {
                name: (*name).into(),
                value: (*value).into(),
            };
            list.iter().map(change).collect()
        };
        HeaderEdit {
            set: changes(set),
            add: changes(add),
            remove: remove.iter().map(|name| (*name).into()).collect(),
        }
    }

    fn compile(filter: Filter) -> Result<Filters, String> {
        Filters::new(&[filter], &|_| ServiceId(7))
    }

    fn lines(fields: &HeaderMap) -> Vec<String> {
        let mut lines = Vec::new();
        Fields::each(fields, &mut |name, value| {
            lines.push(format!(
                "{}: {}",
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(value)
            ));
        });
        lines.sort();
        lines
    }

    #[test]
    fn fields_are_set_added_and_removed() {
        let edit = edit(
            &[("X-Set", "1"), ("x-set", "ignored")],
            &[("X-Add", "2"), ("X-ADD", "ignored")],
            &["X-Gone"],
        );
        let filters = compile(Filter::RequestHeaders(edit.clone())).expect("it is valid");
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("x-set", "old"),
            ("x-set", "older"),
            ("x-add", "1"),
            ("x-gone", "x"),
            ("x-other", "y"),
        ] {
            fields.append(name, HeaderValue::from_static(value));
        }
        let mut response = fields.clone();
        filters.edit_request(&mut fields);
        let expected = ["x-add: 1", "x-add: 2", "x-other: y", "x-set: 1"];
        assert_eq!(lines(&fields), expected);

        let before = lines(&response);
        filters.edit_response(&mut response, None);
        assert_eq!(lines(&response), before, "a request's filter leaves the response alone");
        compile(Filter::ResponseHeaders(edit))
            .expect("it is valid")
            .edit_response(&mut response, None);
        assert_eq!(lines(&response), expected);
    }

    #[test]
    fn what_would_break_a_message_is_refused() {
        for (edit, word) in [
            (edit(&[("a b", "1")], &[], &[]), "header name"),
            (edit(&[("a", "1\r\nb: 2")], &[], &[]), "control characters"),
            (edit(&[], &[("Content-Length", "1")], &[]), "framing"),
            (edit(&[], &[], &["Transfer-Encoding"]), "framing"),
            (edit(&[], &[("host", "a")], &[]), "exactly one host"),
            (edit(&[], &[], &["host"]), "exactly one host"),
        ] {
            let reason = compile(Filter::RequestHeaders(edit.clone())).expect_err("it is invalid");
            assert!(reason.contains(word), "{edit:?}: {reason}");
        }
    }

    #[test]
    fn setting_the_host_rewrites_it() {
        let filters = compile(Filter::RequestHeaders(edit(&[("Host", "other.example")], &[], &[]))).expect("valid");
        assert_eq!(filters.host(), Some("other.example"));
        let mut fields = HeaderMap::new();
        filters.edit_request(&mut fields);
        assert!(fields.is_empty());
    }

    #[test]
    fn a_mirror_takes_its_share() {
        let key = ServiceKey::new("default", "copy", 80);
        for (numerator, denominator) in [(0, 100), (20, 100), (25, 50), (35, 100), (1, 3), (1, 1), (1, 1000)] {
            let mirror = Mirror {
                service: Some(key.clone()),
                numerator,
                denominator,
            };
            let filters = compile(Filter::Mirror(mirror)).expect("it is valid");
            let target = filters.mirrors()[0];
            assert_eq!(target.service, ServiceId(7));
            // Steps through all numbers of the type evenly, by a prime.
            let draws = 1_000_003_u32;
            let chosen = (0..draws)
                .filter(|draw| target.chosen(draw.wrapping_mul(2_654_435_761)))
                .count();
            let share = chosen as f64 / f64::from(draws);
            let wanted = f64::from(numerator) / f64::from(denominator);
            assert!(
                (share - wanted).abs() < 1e-4,
                "{share} instead of {numerator}/{denominator}"
            );
        }
        assert!(
            compile(Filter::Mirror(Mirror {
                service: Some(key.clone()),
                numerator: 2,
                denominator: 1
            }))
            .is_err()
        );
        assert!(
            compile(Filter::Mirror(Mirror {
                service: Some(key),
                numerator: 0,
                denominator: 0
            }))
            .is_err()
        );
        let nowhere = Mirror {
            service: None,
            numerator: 1,
            denominator: 1,
        };
        assert!(
            compile(Filter::Mirror(nowhere))
                .expect("it is valid")
                .mirrors()
                .is_empty()
        );
    }
}
