//! HTTP/1.1 messages, read by hand.

use std::io::BufRead;

/// Reads up to the empty line.
pub fn read_head(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    loop {
        let from = head.len();
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
        if &head[from..] == "\r\n" {
            return Some(head);
        }
    }
}

/// A field of a head.
pub fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// Reads the body that follows a head, which says how long it is.
pub fn read_body(reader: &mut impl BufRead, head: &str) -> Option<Vec<u8>> {
    read_whole(reader, head).map(|(body, _)| body)
}

/// The same with the trailers after it, line by line.
pub fn read_whole(reader: &mut impl BufRead, head: &str) -> Option<(Vec<u8>, String)> {
    let (mut body, mut trailers) = (Vec::new(), String::new());
    if let Some(length) = header(head, "content-length") {
        body.resize(length.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
    } else if header(head, "transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            if size == 0 {
                trailers = read_head(reader)?;
                break;
            }
            let from = body.len();
            body.resize(from + size + 2, 0);
            reader.read_exact(&mut body[from..]).ok()?;
            body.truncate(from + size);
        }
    }
    Some((body, trailers))
}
