//! Heads as endpoints send them, and as they should not.

use proptest::prelude::*;

use super::*;

fn head(wire: &str) -> Result<Option<Head>, Malformed> {
    parse(&mut BytesMut::from(wire), false, HeaderMap::new)
}

fn whole(wire: &str) -> Head {
    head(wire).expect("well-formed").expect("complete")
}

#[test]
fn what_belongs_to_the_connection_stays_behind() {
    let head = whole(
        "HTTP/1.1 200 OK\r\nserver: x\r\nconnection: keep-alive, x-private\r\nx-private: 1\r\n\
         keep-alive: timeout=5\r\ntrailer: x\r\nupgrade: h2c\r\ncontent-length: 3\r\n\
         endpoint-load-metrics: JSON {}\r\nset-cookie: a\r\nset-cookie: b\r\n\r\nabc",
    );
    assert_eq!(head.parts.status, 200);
    assert_eq!(head.report.expect("a report"), "JSON {}");
    let mut names: Vec<_> = head.parts.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["server", "set-cookie"]);
    assert_eq!(head.parts.headers.get_all("set-cookie").iter().count(), 2);
    assert!(head.keeps);
    assert_eq!(head.framing, Framing::Length(3));
}

#[test]
fn the_body_ends_as_the_rfc_has_it() {
    let chunked = Framing::Chunked(Chunk::Size);
    for (fields, framing, keeps) in [
        ("content-length: 5\r\n", Framing::Length(5), true),
        ("content-length: 5\r\ncontent-length: 5\r\n", Framing::Length(5), true),
        ("content-length: 5\r\nconnection: close\r\n", Framing::Length(5), false),
        ("transfer-encoding: Chunked\r\n", chunked, true),
        ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", chunked, false),
        ("", Framing::UntilClose, false),
    ] {
        let head = whole(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
        assert_eq!((head.framing, head.keeps), (framing, keeps), "{fields}");
    }
    let head = whole("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n");
    assert!(!head.parts.headers.contains_key(CONTENT_LENGTH));
    assert!(!whole("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n").keeps);
    for bodiless in ["204 No Content", "304 Not Modified"] {
        let head = whole(&format!("HTTP/1.1 {bodiless}\r\ncontent-length: 9\r\n\r\n"));
        assert_eq!((head.framing, head.keeps), (Framing::Length(0), true));
    }
    let to_head = parse(
        &mut BytesMut::from("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
        true,
        HeaderMap::new,
    );
    let to_head = to_head.expect("well-formed").expect("complete");
    assert_eq!(to_head.framing, Framing::Length(0));
    assert_eq!(to_head.parts.headers[CONTENT_LENGTH], "9");
}

#[test]
fn interim_responses_are_passed_over() {
    let final_one = whole(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n",
    );
    assert_eq!(final_one.parts.status, 201);
    assert!(head_is_partial("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 20"));
    assert!(matches!(head("HTTP/1.1 101 Switching Protocols\r\n\r\n"), Err(Malformed)));
}

fn head_is_partial(wire: &str) -> bool {
    matches!(head(wire), Ok(None))
}

#[test]
fn what_is_ambiguous_is_refused() {
    for wire in [
        "garbage\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nname : x\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    ] {
        assert!(matches!(head(wire), Err(Malformed)), "{wire}");
    }
}

#[test]
fn a_head_without_end_is_refused_at_the_limit() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD));
    assert!(matches!(head(&long), Err(Malformed)));
    let fields = "x: y\r\n".repeat(MAX_FIELDS + 1);
    assert!(matches!(head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")), Err(Malformed)));
}

proptest! {
    #[test]
    fn no_bytes_are_a_panic(noise in prop::collection::vec(any::<u8>(), 0..300), is_head: bool) {
        let mut wire = BytesMut::from("HTTP/1.1 200 OK\r\n");
        wire.extend_from_slice(&noise);
        let _outcome = parse(&mut wire, is_head, HeaderMap::new);
        let _outcome = parse(&mut BytesMut::from(&noise[..]), is_head, HeaderMap::new);
    }

    #[test]
    fn a_head_is_read_when_its_last_byte_is_here_and_not_before(cut in 0_usize..60) {
        let wire = "HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ncontent-length: 12\r\n\r\n";
        let cut = cut.min(wire.len() - 1);
        prop_assert!(head_is_partial(&wire[..cut]));
        prop_assert_eq!(whole(wire).framing, Framing::Length(12));
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_is_not_read_again_for_each() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(60_000));
    for end in ["\r\n\r\n", "\n\n", "\n\r\n"] {
        let wire = long.replace("\r\n\r\n", end);
        let (mut looks, mut looked_at) = (Looks::default(), 0);
        let mut is_whole = false;
        for length in 1..=wire.len() {
            let part = &wire.as_bytes()[..length];
            if looks.is_due(part) {
                looked_at += length;
                let mut input = BytesMut::from(part);
                is_whole = parse(&mut input, false, HeaderMap::new).expect("a head").is_some();
                looks.note(part);
            }
            assert_eq!(is_whole, length == wire.len(), "{length} {end:?}");
        }
        assert!(looked_at < 10_000_000, "{looked_at} bytes were read");
    }
}
