//! Redirects, and the changes to paths that they share with rewrites.

use http::{HeaderMap, HeaderValue, header};
use weft_model::{PathRewrite, Redirect};

use super::{Answer, hosts::split_port};
use crate::fields::{Fields, RequestView};

/// Sends the client elsewhere. What the filter does not state stays as it was requested.
///
/// The port, if it is not stated, is the scheme's own when a scheme is stated and the listener's when not; `http` leaves
/// out 80 and `https` 443 (Gateway API, `HTTPRequestRedirectFilter.port`).
pub(super) fn answer<F: Fields>(
    redirect: &Redirect,
    request: &RequestView<'_, F>,
    prefix: usize,
    scheme: &str,
    port: u16,
) -> Answer {
    let (own, _) = split_port(request.host);
    let host = redirect.hostname.as_deref().unwrap_or(own);
    let port = redirect
        .port
        .or_else(|| scheme_port(redirect.scheme.as_deref()?))
        .unwrap_or(port);
    let scheme = redirect.scheme.as_deref().unwrap_or(scheme);
    let path = match &redirect.path {
        Some(path) => rewritten(path, request.path, prefix),
        None if request.path.starts_with('/') => request.path.to_owned(),
        None => "/".to_owned(),
    };
    let mut location = format!("{scheme}://{host}");
    if scheme_port(scheme) != Some(port) {
        location.push_str(&format!(":{port}"));
    }
    location.push_str(&path);
    if let Some(query) = request.query {
        location.push('?');
        location.push_str(query);
    }
    match HeaderValue::try_from(location) {
        // HTTP/1.0 need not name a host, and then there is nowhere to send the client.
        Ok(location) if !host.is_empty() => Answer {
            status: redirect.status,
            headers: HeaderMap::from_iter([(header::LOCATION, location)]),
        },
        _ => Answer {
            status: 400,
            headers: HeaderMap::new(),
        },
    }
}

fn scheme_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// The new path. `prefix` bytes of the old one, without a trailing slash, are what the rule's prefix took.
pub(super) fn rewritten(rewrite: &PathRewrite, path: &str, prefix: usize) -> String {
    let (start, rest) = match rewrite {
        PathRewrite::Full(start) => (start.as_str(), ""),
        PathRewrite::Prefix(start) => (start.as_str(), path.get(prefix..).unwrap_or_default()),
    };
    // The rest brings its own slash.
    let start = if rest.starts_with('/') {
        start.strip_suffix('/').unwrap_or(start)
    } else {
        start
    };
    let slash = if start.starts_with('/') || (start.is_empty() && rest.starts_with('/')) {
        ""
    } else {
        "/"
    };
    format!("{slash}{start}{rest}")
}

pub(super) fn check(redirect: &Redirect) -> Result<(), String> {
    if let Some(scheme) = redirect.scheme.as_deref()
        && scheme_port(scheme).is_none()
    {
        return Err(format!(
            "a redirect cannot go to scheme {scheme:?}: use \"http\" or \"https\""
        ));
    }
    if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
        return Err(format!(
            "{} is not the status of a redirect: use 301, 302, 303, 307 or 308",
            redirect.status
        ));
    }
    redirect.hostname.as_deref().map_or(Ok(()), check_hostname)?;
    redirect.path.as_ref().map_or(Ok(()), check_path)
}

pub(super) fn check_hostname(hostname: &str) -> Result<(), String> {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
    if !hostname.is_empty() && hostname.bytes().all(name) {
        return Ok(());
    }
    Err(format!(
        "{hostname:?} is not a hostname: use labels separated by dots, without a port or wildcard"
    ))
}

pub(super) fn check_path(rewrite: &PathRewrite) -> Result<(), String> {
    let (PathRewrite::Full(path) | PathRewrite::Prefix(path)) = rewrite;
    if path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
    {
        return Ok(());
    }
    Err(format!(
        "{path:?} is not a path: percent-encode spaces, `?`, `#` and what is not ASCII"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(path: &str) -> Option<PathRewrite> {
        Some(PathRewrite::Full(path.into()))
    }

    fn prefix(path: &str) -> Option<PathRewrite> {
        Some(PathRewrite::Prefix(path.into()))
    }

    /// The location of a redirect of `http://example.org/a/b?c=d`, of which the prefix `/a` matched.
    fn location(redirect: Redirect, scheme: &str, port: u16) -> String {
        check(&redirect).expect("it is valid");
        let fields = HeaderMap::new();
        let request = RequestView {
            method: "GET",
            host: "example.org:8080",
            path: "/a/b",
            query: Some("c=d"),
            fields: &fields,
        };
        let answer = answer(&redirect, &request, 2, scheme, port);
        assert_eq!(answer.status, redirect.status);
        answer.headers[header::LOCATION]
            .to_str()
            .expect("it is text")
            .to_owned()
    }

    #[test]
    fn what_is_not_stated_stays() {
        let to = |scheme: Option<&str>, hostname: Option<&str>, port, path| Redirect {
            scheme: scheme.map(Into::into),
            hostname: hostname.map(Into::into),
            path,
            port,
            status: 302,
        };
        // (filter, scheme and port of the listener, location)
        for (redirect, scheme, port, expected) in [
            (to(None, None, None, None), "http", 80, "http://example.org/a/b?c=d"),
            (
                to(None, None, None, None),
                "http",
                8080,
                "http://example.org:8080/a/b?c=d",
            ),
            (to(None, None, None, None), "https", 443, "https://example.org/a/b?c=d"),
            (
                to(None, None, None, None),
                "https",
                8443,
                "https://example.org:8443/a/b?c=d",
            ),
            (
                to(None, Some("other.org"), None, None),
                "http",
                8080,
                "http://other.org:8080/a/b?c=d",
            ),
            (
                to(None, None, Some(80), None),
                "http",
                8080,
                "http://example.org/a/b?c=d",
            ),
            (
                to(None, None, Some(8083), None),
                "http",
                80,
                "http://example.org:8083/a/b?c=d",
            ),
            (
                to(None, None, Some(443), None),
                "http",
                80,
                "http://example.org:443/a/b?c=d",
            ),
            (
                to(None, None, Some(443), None),
                "https",
                8443,
                "https://example.org/a/b?c=d",
            ),
            (
                to(None, None, Some(80), None),
                "https",
                443,
                "https://example.org:80/a/b?c=d",
            ),
            (
                to(Some("http"), None, None, None),
                "https",
                443,
                "http://example.org/a/b?c=d",
            ),
            (
                to(Some("https"), None, None, None),
                "http",
                80,
                "https://example.org/a/b?c=d",
            ),
            (
                to(Some("https"), None, None, None),
                "http",
                8080,
                "https://example.org/a/b?c=d",
            ),
            (
                to(Some("http"), None, None, None),
                "http",
                8080,
                "http://example.org/a/b?c=d",
            ),
            (
                to(Some("https"), None, Some(443), None),
                "http",
                80,
                "https://example.org/a/b?c=d",
            ),
            (
                to(Some("http"), None, Some(80), None),
                "http",
                8080,
                "http://example.org/a/b?c=d",
            ),
            (
                to(Some("http"), None, Some(443), None),
                "http",
                80,
                "http://example.org:443/a/b?c=d",
            ),
            (
                to(Some("https"), None, Some(80), None),
                "http",
                80,
                "https://example.org:80/a/b?c=d",
            ),
            (
                to(Some("https"), None, Some(8443), None),
                "http",
                80,
                "https://example.org:8443/a/b?c=d",
            ),
            (to(None, None, None, full("/x")), "http", 80, "http://example.org/x?c=d"),
            (
                to(None, None, None, prefix("/x")),
                "http",
                80,
                "http://example.org/x/b?c=d",
            ),
            (
                to(None, None, None, prefix("/")),
                "http",
                80,
                "http://example.org/b?c=d",
            ),
            (
                to(Some("https"), Some("o.org"), Some(1), prefix("/x/")),
                "http",
                80,
                "https://o.org:1/x/b?c=d",
            ),
        ] {
            assert_eq!(
                location(redirect.clone(), scheme, port),
                expected,
                "{redirect:?} on {scheme} port {port}"
            );
        }
    }

    #[test]
    fn every_status_is_kept() {
        for status in [301, 302, 303, 307, 308] {
            location(
                Redirect {
                    scheme: None,
                    hostname: None,
                    path: None,
                    port: None,
                    status,
                },
                "http",
                80,
            );
        }
    }

    #[test]
    fn a_request_without_a_host_cannot_be_redirected_to_it() {
        let redirect = Redirect {
            scheme: None,
            hostname: None,
            path: None,
            port: None,
            status: 302,
        };
        let fields = HeaderMap::new();
        let request = RequestView {
            method: "GET",
            host: "",
            path: "//evil.org",
            query: None,
            fields: &fields,
        };
        assert_eq!(answer(&redirect, &request, 0, "http", 80).status, 400);
    }

    #[test]
    fn a_prefix_is_replaced_as_the_api_says() {
        // HTTPPathModifier.replacePrefixMatch, and the rule `/`.
        for (path, matched, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo", "/foo", "/xyz/", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/bar", "", "/xyz", "/xyz/bar"),
            ("/", "", "/xyz", "/xyz/"),
            ("/", "", "/", "/"),
            ("/foo/bar", "/foo", "xyz", "/xyz/bar"),
        ] {
            let rewrite = PathRewrite::Prefix(replacement.into());
            assert_eq!(
                rewritten(&rewrite, path, matched.len()),
                expected,
                "{path}: {matched} by {replacement}"
            );
        }
        assert_eq!(rewritten(&PathRewrite::Full("/one".into()), "/foo/bar", 4), "/one");
        assert_eq!(rewritten(&PathRewrite::Full(String::new()), "/foo/bar", 4), "/");
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let redirect = |scheme: Option<&str>, hostname: Option<&str>, path, status| Redirect {
            scheme: scheme.map(Into::into),
            hostname: hostname.map(Into::into),
            path,
            port: None,
            status,
        };
        for bad in [
            redirect(Some("ftp"), None, None, 302),
            redirect(None, Some("a b"), None, 302),
            redirect(None, Some("a:80"), None, 302),
            redirect(None, Some(""), None, 302),
            redirect(None, None, full("/a b"), 302),
            redirect(None, None, prefix("/a?b"), 302),
            redirect(None, None, None, 200),
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
