use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use super::*;

/// What was said, and by whom.
type Said = Arc<Mutex<Vec<(bool, Vec<u8>)>>>;

/// One end of a connection, of which is written down what it says.
struct Recorded {
    stream: DuplexStream,
    client: bool,
    said: Said,
}

impl AsyncRead for Recorded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(length)) = written {
            let mut said = self.said.lock().expect("nobody panics with it");
            said.push((self.client, bytes[..length].to_vec()));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What a client and a server say to each other, both of which are not ours, by tables of this size.
async fn dialogue(table: u32) -> Vec<(bool, Vec<u8>)> {
    let said = Said::default();
    let (client, server) = duplex(1 << 20);
    let recorded = |stream, client| Recorded {
        stream,
        client,
        said: said.clone(),
    };
    let serving = async {
        let mut builder = h2::server::Builder::new();
        builder.header_table_size(table);
        let mut connection = builder
            .handshake::<_, Bytes>(recorded(server, false))
            .await
            .expect("it speaks HTTP/2");
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let path = request.uri().path().to_owned();
            let status: u16 = path
                .rsplit('/')
                .next()
                .and_then(|last| last.parse().ok())
                .unwrap_or(200);
            let kind = path.split('/').nth(1);
            // Some of these make blocks that do not fit into one frame.
            let long = if (kind, status) == (Some("empty"), 503) { 40 } else { 1 };
            let response = Response::builder()
                .status(if kind == Some("code") { 200 } else { status })
                .header("x-long", "~".repeat(usize::from(status) * long));
            let response = response.body(()).expect("an answer");
            match kind {
                Some("empty") => drop(respond.send_response(response, true)),
                Some("reset") => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                Some("code") => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", status.to_string().parse().expect("a value"));
                    let mut body = respond.send_response(response, false).expect("it is open");
                    body.send_data(Bytes::from_static(b"hello"), false).expect("it is open");
                    body.send_trailers(trailers).expect("it is open");
                }
                _ => {
                    let mut body = respond.send_response(response, false).expect("it is open");
                    let _ = body.send_data(Bytes::from(vec![b'x'; 40_000]), true);
                }
            }
        }
    };
    let asking = async {
        let mut builder = h2::client::Builder::new();
        builder.header_table_size(table).initial_window_size(1 << 20);
        let (sender, connection) = builder
            .handshake::<_, Bytes>(recorded(client, true))
            .await
            .expect("it speaks HTTP/2");
        let asked = async {
            for number in 0..60 {
                let kinds = ["body", "empty", "code", "reset"];
                let (kind, status) = (kinds[number % 4], [200, 404, 503][number % 3]);
                let status = if kind == "code" { 14 } else { status };
                let uri = format!("http://shop.example/{kind}/{number}/{status}?secret={number}");
                let mut request = Request::get(uri).header("x-number", number.to_string());
                for field in 0..number % 7 {
                    // Some of these make blocks that do not fit into one frame.
                    request = request.header(format!("x-field-{field}"), "v~|".repeat(number * 30));
                }
                let mut sender = sender.clone().ready().await.expect("it is open");
                let (answer, _) = sender
                    .send_request(request.body(()).expect("a request"), true)
                    .expect("it is open");
                let Ok(answer) = answer.await else { continue };
                let mut body = answer.into_body();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                }
                let _ = body.trailers().await;
            }
        };
        tokio::pin!(connection);
        tokio::select! {
            _ = &mut connection => {}
            () = asked => {}
        }
    };
    tokio::join!(serving, asking);
    let said = said.lock().expect("nobody panics with it");
    said.clone()
}

fn pieces(said: &[(bool, Vec<u8>)]) -> Vec<(bool, &[u8])> {
    said.iter().map(|(client, bytes)| (*client, &bytes[..])).collect()
}

fn cut<'s>(said: &[(bool, &'s [u8])], length: usize) -> Vec<(bool, &'s [u8])> {
    let each = said.iter();
    each.flat_map(|(client, bytes)| bytes.chunks(length).map(|piece| (*client, piece)))
        .collect()
}

#[tokio::test]
async fn requests_of_a_real_client_and_their_answers_are_told_apart_however_they_are_cut() {
    // h2 tells its peer of the size that it allows, and uses what it is allowed.
    for table in [4096, 0, 100, 65_536] {
        let said = dialogue(table).await;
        let whole = pieces(&said);
        let (ended, result) = read(&whole);
        assert_eq!(result, Ok(()));
        let awaited = (0..60).map(|number| match number % 4 {
            0 | 1 => (Some([200, 404, 503][number % 3]), None, How::Answered),
            2 => (Some(200), Some(14), How::Answered),
            _ => (None, None, How::Reset),
        });
        assert_eq!(ended, awaited.collect::<Vec<_>>());
        for length in [1, 2, 7, 1000] {
            assert_eq!(read(&cut(&whole, length)), (ended.clone(), Ok(())));
        }
    }
}

#[tokio::test]
async fn what_the_log_says_of_a_request_is_what_it_was() {
    let said = dialogue(4096).await;
    let (mut conversation, mut lines) = (Conversation::new(true, false), Vec::new());
    for (client, bytes) in &said {
        let mut ended = |pending: Pending, _| {
            let line = pending.line.expect("there is a log");
            lines.push((line.method, line.host, line.path));
        };
        let result = match client {
            true => conversation.client(bytes, &mut |_| None, &mut ended),
            false => conversation.server(bytes, &mut ended),
        };
        result.expect("it is clear");
    }
    assert_eq!(lines.len(), 60);
    let (method, host, path) = &lines[6];
    assert_eq!(
        (&method[..], &host[..], &path[..]),
        ("GET", "shop.example", "/code/6/14")
    );
}

/// A frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const GET: &[u8] = b"\x82\x84\x86";
const OK: &[u8] = b"\x88";
const TEAPOT: &[u8] = b"\x08\x03418";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn reads(turns: &[(bool, Vec<u8>)]) -> (Vec<Ended>, Result<(), Over>) {
    let begun = [(true, PREFACE)];
    let all: Vec<_> = begun.into_iter().chain(pieces(turns)).collect();
    let told = read(&all);
    for length in [1, 5] {
        assert_eq!(read(&cut(&all, length)), told);
    }
    told
}

#[test]
fn answers_belong_to_their_streams() {
    let answered = |status| (Some(status), None, How::Answered);
    let asked = |stream| (true, frame(1, 5, stream, GET));
    // In another order, with padding, priority, pieces, an interim answer, trailers and what is between.
    let told = reads(&[
        (false, frame(4, 0, 0, &[])),
        asked(1),
        (
            true,
            frame(1, 0x2d, 3, &[&[2, 0, 0, 0, 0, 9][..], GET, &[0, 0]].concat()),
        ),
        (
            true,
            [
                frame(1, 1, 5, &GET[..1]),
                frame(9, 0, 5, &GET[1..2]),
                frame(9, 4, 5, &GET[2..]),
            ]
            .concat(),
        ),
        (false, frame(1, 4, 5, b"\x08\x03103")),
        (false, frame(1, 4, 5, TEAPOT)),
        (false, frame(0xaa, 0xff, 77, b"nobody knows")),
        (false, frame(1, 4, 1, OK)),
        (false, frame(0, 0, 1, b"hello")),
        (false, frame(6, 0, 0, &[0; 8])),
        (false, frame(0, 1, 1, b"")),
        (false, frame(0, 1, 5, b"short and stout")),
        (true, frame(1, 5, 1, b"\x00\x01a\x01b")),
        (false, frame(1, 5, 3, OK)),
    ]);
    assert_eq!(told, (vec![answered(200), answered(418), answered(200)], Ok(())));
}

#[test]
fn requests_that_are_given_up_are_told_as_such() {
    let asked = |stream| (true, frame(1, 5, stream, GET));
    let told = reads(&[
        asked(1),
        asked(3),
        asked(5),
        asked(7),
        (true, frame(3, 0, 1, &[0, 0, 0, 8])),
        // What the server had begun to say.
        (false, frame(1, 5, 1, OK)),
        (false, frame(1, 4, 3, OK)),
        (false, frame(3, 0, 3, &[0, 0, 0, 2])),
        // Of what comes after 5 it knows nothing.
        (false, frame(7, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0])),
        (false, frame(1, 5, 5, TEAPOT)),
    ]);
    let ended = vec![
        (None, None, How::Cancelled),
        (Some(200), None, How::Reset),
        (Some(418), None, How::Answered),
    ];
    assert_eq!(told, (ended, Ok(())));
}

#[test]
fn what_is_not_clear_ends_the_reading() {
    let asked = || (true, frame(1, 5, 1, GET));
    for (turns, why) in [
        (vec![(false, frame(1, 5, 1, OK))], Over::Unasked),
        (vec![asked(), (false, frame(5, 4, 1, &[0, 0, 0, 2]))], Over::Push),
        (vec![asked(), (false, frame(0, 1, 1, b"x"))], Over::Frames),
        (vec![asked(), (false, frame(1, 5, 1, GET))], Over::Frames),
        (vec![(true, frame(1, 5, 2, GET))], Over::Frames),
        (vec![(true, frame(1, 5, 1, OK))], Over::Frames),
        (vec![(true, frame(1, 5, 0, GET))], Over::Frames),
        (vec![(true, frame(9, 4, 1, GET))], Over::Frames),
        (
            vec![(true, frame(1, 1, 1, GET)), (true, frame(0, 0, 1, b""))],
            Over::Frames,
        ),
        (
            vec![(true, frame(1, 1, 1, GET)), (true, frame(9, 4, 3, b""))],
            Over::Frames,
        ),
        (vec![(true, frame(1, 13, 1, &[200, 0x82]))], Over::Frames),
        (vec![(true, frame(3, 0, 1, &[0; 3]))], Over::Frames),
        (vec![(true, frame(4, 0, 0, &[0; 7]))], Over::Frames),
        (vec![(true, frame(1, 5, 1, b"\xff"))], Unclear::Short.into()),
        (vec![(true, frame(1, 5, 1, &vec![0; BLOCK + 1]))], Over::Long),
    ] {
        assert_eq!(reads(&turns), (Vec::new(), Err(why)));
    }
    let block = vec![
        (true, frame(1, 1, 1, &vec![0x82; BLOCK])),
        (true, frame(9, 4, 1, b"\x82")),
    ];
    assert_eq!(reads(&block).1, Err(Over::Long));
    let many: Vec<u8> = (0..=STREAMS as u32)
        .flat_map(|number| frame(1, 5, number * 2 + 1, GET))
        .collect();
    assert_eq!(reads(&[(true, many)]).1, Err(Over::Many));
    assert_eq!(read(&[(true, b"PRI * HTTP/1.1\r\n")]).1, Err(Over::Other));
}

/// The frames of what was said, without their payloads: kinds, flags and streams.
fn frames(mut said: &[u8]) -> Vec<(u8, u8, u32)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = said.split_first_chunk::<9>() {
        let [a, b, c, kind, flags, stream @ ..] = *head;
        frames.push((kind, flags, u32::from_be_bytes(stream)));
        said = &rest[u32::from_be_bytes([0, a, b, c]) as usize..];
    }
    assert!(said.is_empty(), "it ends with a frame");
    frames
}

#[tokio::test]
async fn another_frame_fits_where_it_is_said_to_however_a_dialogue_is_cut() {
    let said = dialogue(4096).await;
    let whole = pieces(&said);
    let of_server: Vec<u8> = whole
        .iter()
        .filter(|(client, _)| !client)
        .flat_map(|(_, bytes)| bytes.to_vec())
        .collect();
    let expected = frames(&of_server);
    assert!(
        expected.iter().any(|(kind, ..)| *kind == 9),
        "some blocks go on in another frame"
    );
    for length in [1, 2, 7, 1000, usize::MAX] {
        let (mut conversation, mut told) = (Conversation::new(false, false), Vec::new());
        let mut places = 0;
        for (client, bytes) in cut(&whole, length) {
            if client {
                conversation
                    .client(bytes, &mut |_| None, &mut |_, _| ())
                    .expect("it is clear");
                continue;
            }
            conversation.server(bytes, &mut |_, _| ()).expect("it is clear");
            let border = conversation.border();
            let (before, after) = bytes.split_at(border.unwrap_or(bytes.len()));
            told.extend_from_slice(before);
            if border.is_some() {
                places += 1;
                told.extend_from_slice(&go_away(MOST));
            }
            told.extend_from_slice(after);
        }
        assert!(places > 60, "{places} by {length}");
        let told = frames(&told);
        // What the server says first are its settings, and a block of fields is not interrupted.
        assert_eq!(told[0].0, 4);
        for pair in told.windows(2) {
            let within = matches!(pair[0], (1 | 9, flags, _) if flags & 4 == 0);
            assert_eq!(within, pair[1].0 == 9, "{pair:?}");
        }
        let without: Vec<_> = told.into_iter().filter(|(kind, ..)| *kind != 7).collect();
        assert_eq!(without, expected);
    }
}

#[test]
fn it_is_known_whether_anything_is_under_way_and_what_was_begun() {
    let mut conversation = Conversation::begun(false, false);
    let client = |conversation: &mut Conversation, bytes: &[u8]| {
        conversation
            .client(bytes, &mut |_| None, &mut |_, _| ())
            .expect("it is clear");
    };
    let server = |conversation: &mut Conversation, bytes: &[u8]| {
        conversation.server(bytes, &mut |_, _| ()).expect("it is clear");
    };
    client(&mut conversation, &frame(4, 0, 0, &[]));
    assert!(
        !conversation.is_between() && !conversation.is_quiet(),
        "the server has said nothing"
    );
    assert_eq!(conversation.border(), None);
    server(&mut conversation, &frame(4, 0, 0, &[]));
    assert!(conversation.is_quiet());
    let asked = frame(1, 5, 7, GET);
    client(&mut conversation, &asked[..10]);
    assert!(!conversation.is_quiet(), "a request is on its way");
    client(&mut conversation, &asked[10..]);
    assert_eq!((conversation.is_quiet(), conversation.last_taken()), (false, 7));
    server(&mut conversation, &frame(1, 4, 7, OK));
    assert!(conversation.is_between() && !conversation.is_quiet());
    let answer = frame(0, 1, 7, b"hello");
    server(&mut conversation, &answer[..12]);
    assert_eq!((conversation.border(), conversation.is_between()), (Some(0), false));
    server(&mut conversation, &answer[12..]);
    assert_eq!((conversation.border(), conversation.is_quiet()), (Some(2), true));
    // What has not gone over was not begun.
    client(&mut conversation, &frame(1, 5, 9, GET));
    conversation.forget_after(7);
    assert_eq!((conversation.is_quiet(), conversation.last_taken()), (true, 7));
    assert!(!conversation.is_leaving());
    server(&mut conversation, &frame(7, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0]));
    assert_eq!((conversation.is_leaving(), conversation.last_taken()), (true, 5));
}

#[test]
fn a_server_that_speaks_first_is_known_by_its_settings() {
    assert!(is_settings(&frame(4, 0, 0, &[])));
    assert!(is_settings(&frame(4, 0, 0, &[0, 3, 0, 0, 0, 100])));
    for other in [
        &b"220 mail.example ESMTP\r\n"[..],
        b"\0\0\0\x04\0\0\0\0",
        &frame(4, 1, 0, &[]),
        &frame(4, 0, 1, &[]),
        &frame(4, 0, 0, &[0; 7]),
        &frame(6, 0, 0, &[0; 6]),
        b"",
    ] {
        assert!(!is_settings(other), "{other:x?}");
    }
}

/// What dialogues are made of: who speaks, and a frame.
fn parts() -> Vec<(bool, Vec<u8>)> {
    let mut parts = vec![(true, b"x".to_vec()), (false, b"\0".to_vec())];
    for stream in [1, 3, 5] {
        let payloads: [&[u8]; 4] = [GET, b"\x40\x05:path\x02/a\xbe\x82", b"\xbf\xbe\x82", b"\x20\x82"];
        for payload in payloads {
            parts.push((true, frame(1, 5, stream, payload)));
        }
        parts.extend([
            (true, frame(1, 1, stream, &GET[..1])),
            (true, frame(9, 4, stream, &GET[1..])),
            (true, frame(3, 0, stream, &[0; 4])),
            (false, frame(1, 4, stream, OK)),
            (false, frame(1, 5, stream, b"\x40\x0bgrpc-status\x015\xbe")),
            (false, frame(1, 5, stream, b"\x48\x03404\xbe")),
            (false, frame(0, 1, stream, b"hello")),
            (false, frame(0, 0, stream, b"")),
            (false, frame(3, 0, stream, &[0; 4])),
            (false, frame(7, 0, 0, &[0, 0, 0, stream as u8, 0, 0, 0, 0])),
        ]);
    }
    for client in [true, false] {
        parts.push((client, frame(4, 0, 0, &[0, 1, 0, 0, 0x20, 0])));
    }
    parts
}

proptest::proptest! {
    #[test]
    fn a_dialogue_is_read_alike_however_it_is_cut(
        turns in proptest::collection::vec(proptest::sample::select(parts()), 1..20),
        cuts in proptest::collection::vec(1..20_usize, 1..4),
    ) {
        let begun = [(true, PREFACE)];
        let whole: Vec<_> = begun.into_iter().chain(pieces(&turns)).collect();
        let mut lengths = cuts.iter().cycle();
        let mut cut = Vec::new();
        for (client, mut rest) in whole.iter().copied() {
            while !rest.is_empty() {
                let length = lengths.next().copied().unwrap_or(1).min(rest.len());
                cut.push((client, &rest[..length]));
                rest = &rest[length..];
            }
        }
        proptest::prop_assert_eq!(read(&whole), read(&cut));
    }
}
