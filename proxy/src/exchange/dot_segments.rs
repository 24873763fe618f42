//! Paths with segments that lead elsewhere (RFC 3986, 3.3).

/// Whether a path says `.` or `..`, plainly or in percent-encoding. Routes match paths as they are sent; a backend that
/// resolved such a path could be led to one that another rule guards.
pub(super) fn has_dot_segments(path: &str) -> bool {
    if memchr::memchr2(b'.', b'%', path.as_bytes()).is_none() {
        return false;
    }
    path.split('/').any(|segment| {
        let mut rest = segment;
        let mut dots = 0;
        while !rest.is_empty() {
            let encoded = rest.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("%2e"));
            let length = if rest.starts_with('.') {
                1
            } else if encoded {
                3
            } else {
                return false;
            };
            rest = &rest[length..];
            dots += 1;
        }
        dots == 1 || dots == 2
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_seen_however_they_are_written() {
        for path in ["/..", "/a/../b", "/./", "/%2e%2E/x", "/a/.%2e"] {
            assert!(has_dot_segments(path), "{path}");
        }
        for path in ["/", "/a.b", "/...", "/.well-known/x", "/a%2eb", "/..a", "/%2f"] {
            assert!(!has_dot_segments(path), "{path}");
        }
    }
}
