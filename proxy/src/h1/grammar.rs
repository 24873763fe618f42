//! What names and values of fields are made of (RFC 9110).

/// A byte of a token (RFC 9110, 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a request to upgrade is passed on. Not to another version of HTTP, nor to TLS: what is sent after that goes
/// past the routes.
pub(super) fn is_upgrade(value: &[u8]) -> bool {
    let mut protocols = tokens(value).peekable();
    protocols.peek().is_some()
        && protocols.all(|protocol| {
            let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
            let refused = [&b"h2c"[..], b"h2", b"http", b"tls"];
            protocol.iter().all(|byte| is_token(*byte) || *byte == b'/')
                && !refused.iter().any(|refused| name.eq_ignore_ascii_case(refused))
        })
}

/// Whether a field has this name, which is given in lower case and of letters and hyphens only: those are the bytes of
/// a token that setting one bit turns into it.
pub(super) fn is_name<const N: usize>(name: &[u8], known: &[u8; N]) -> bool {
    name.len() == N
        && name
            .iter()
            .zip(known)
            .fold(0, |differ, (byte, known)| differ | ((byte | 0x20) ^ known))
            == 0
}

/// The members of a comma-separated list.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// Digits only, and no more than fit.
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| {
        byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0'))
    })
}

/// The bytes of a host's name (RFC 3986, 3.2.2).
const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"-._~!$&'()*+,;=%";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

/// A host with a port, neither of which may be left out where a tunnel is asked for (RFC 9110, 9.3.6).
pub(crate) fn is_authority_of_tunnel(value: &[u8]) -> bool {
    let port = memchr::memrchr(b':', value).map(|at| &value[at + 1..]);
    is_authority(value) && port.is_some_and(|port| decimal(port).is_some_and(|port| (1..=0xffff).contains(&port)))
}

/// A host, perhaps with a port; no user information (RFC 9110, 4.2.4).
pub(super) fn is_authority(value: &[u8]) -> bool {
    let (host, port) = match value.strip_prefix(b"[") {
        Some(literal) => {
            let Some(end) = memchr::memchr(b']', literal) else {
                return false;
            };
            let (literal, port) = (&literal[..end], &literal[end + 1..]);
            if !literal
                .iter()
                .all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte))
            {
                return false;
            }
            (literal, port)
        }
        None => {
            let end = memchr::memchr(b':', value).unwrap_or(value.len());
            let (name, port) = value.split_at(end);
            if !name.iter().all(|byte| IN_NAME[usize::from(*byte)]) {
                return false;
            }
            (name, port)
        }
    };
    let port = match port.strip_prefix(b":") {
        Some(digits) => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        None => port.is_empty(),
    };
    !host.is_empty() && port
}
