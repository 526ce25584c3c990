use bytes::Bytes;
use futures_util::{FutureExt, stream};
use proptest::prelude::*;

use super::*;

/// The names and values of all parts.
type Fields = Vec<(Option<String>, Vec<u8>)>;

fn parse(body: &[u8], boundary: &str) -> Result<Fields, Refusal> {
    let mut fields = Vec::new();
    read(body, boundary.as_bytes(), |part| {
        let name = part.name.map(|name| String::from_utf8_lossy(&name).into_owned());
        fields.push((name, part.content.to_vec()));
        Ok(())
    })?;
    Ok(fields)
}

fn one(head: &str, value: &str) -> String {
    format!("--XX\r\n{head}\r\n\r\n{value}\r\n--XX--\r\n")
}

fn name_of_one(head: &str) -> Result<Option<String>, Refusal> {
    parse(one(head, "v").as_bytes(), "XX").map(|mut fields| fields.remove(0).0)
}

#[test]
fn parts_are_found_with_preamble_padding_and_epilogue() {
    let disposition = "Content-Disposition: form-data; name";
    let body = format!(
        "preamble --XX\r\n--XX \t\r\n{disposition}=a\r\n\r\n1\r\n\r\n--X\r\n--XX\r\n\r\nno head\r\n\
         --XX\r\n{disposition}=\"b\"; filename=\"\"\r\n\r\n--XX\r\n{disposition}=c\r\n\r\n\r\n--XX-- \r\n--XX"
    );
    let field = |name: Option<&str>, value: &str| (name.map(str::to_owned), value.into());
    let expected = Fields::from([
        field(Some("a"), "1\r\n\r\n--X"),
        field(None, "no head"),
        field(Some("b"), ""),
        field(Some("c"), ""),
    ]);
    assert_eq!(parse(body.as_bytes(), "XX"), Ok(expected));
}

#[test]
fn a_form_may_have_no_parts() {
    assert_eq!(parse(b"--XX--", "XX"), Ok(Fields::new()));
    assert_eq!(parse(b"\r\n--XX--\r\n", "XX"), Ok(Fields::new()));
}

#[test]
fn names_are_read_as_clients_write_them() {
    for (head, name) in [
        (r#"Content-Disposition: form-data; name="a""#, "a"),
        ("content-DISPOSITION:Form-Data;NAME=a", "a"),
        (r#"Content-Disposition: form-data; filename="x; name=b"; name="a""#, "a"),
        (r#"Content-Disposition: form-data; filename="x\"; name=b; \""; name="a""#, "a"),
        (r#"Content-Disposition: form-data; filename="C:\fakepath\x.png"; name="a""#, "a"),
        (r#"Content-Disposition: form-data; name="a"; filename*=UTF-8''%e2%82%ac.png"#, "a"),
        (r#"Content-Disposition: form-data; name="a"; filename="ü,x.png""#, "a"),
        ("Content-Disposition: form-data;\r\n\tfilename=\"x\";\r\n name=\"a\"", "a"),
        ("X: y\r\n z: w\r\nContent-Disposition: form-data; name=a;", "a"),
        (r#"Content-Disposition: form-data; name="a\"b""#, "a\"b"),
        ("Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=a", "a"),
    ] {
        assert_eq!(name_of_one(head), Ok(Some(name.to_owned())), "{head}");
    }
    let long = format!("X: {}\r\nContent-Disposition: form-data; name=a", "y".repeat(9000));
    assert_eq!(name_of_one(&long), Ok(Some("a".to_owned())));
}

#[test]
fn heads_that_say_two_things_are_refused() {
    for head in [
        "Content-Disposition: form-data; name=a; name=b",
        "Content-Disposition: form-data; name=a; name*=utf-8''b",
        "Content-Disposition: form-data; name*0=a; name*1=b",
        "Content-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=b",
        "Content-Disposition: attachment; name=a",
        "Content-Disposition: form-data; name=\"a",
        "Content-Disposition: form-data; name=\"a\"b",
        "Content-Disposition: form-data; name=a b",
        "Content-Disposition : form-data; name=a",
        " Content-Disposition: form-data; name=a",
        "Content-Disposition form-data",
        "Content-Disposition: form-data; name=a\nX: y",
        "Content-Disposition: form-data; name=a\0",
    ] {
        assert!(name_of_one(head).is_err(), "{head}");
    }
    let long = format!("X: {}\r\nContent-Disposition: form-data; name=a", "y".repeat(17_000));
    assert!(name_of_one(&long).unwrap_err().to_string().contains("too long"));
}

#[test]
fn bodies_that_end_or_go_on_strangely_are_refused() {
    let part = "--XX\r\nContent-Disposition: form-data; name=a\r\n\r\nv\r\n";
    for body in [
        "",
        "v",
        part,
        &format!("{part}--XX\r\n"),
        &format!("{part}--XXY\r\n\r\nv\r\n--XX--"),
        &format!("{part}--XX--Y"),
        &format!("{part}--XX-"),
        &part.replace("\r\n", "\n"),
        "--XX\r\nContent-Disposition: form-data; name=a\r\n--XX\r\n\r\nv\r\n--XX--",
        &format!("{}--XX--", part.repeat(65)),
    ] {
        assert!(parse(body.as_bytes(), "XX").is_err(), "{body:?}");
    }
    assert!(parse(format!("{}--XX--", part.repeat(64)).as_bytes(), "XX").is_ok());
}

#[test]
fn every_cut_of_a_body_is_refused() {
    let whole = one("Content-Disposition: form-data;\r\n name=\"a\"", "value");
    let end = whole.trim_end().len();
    for at in 0..end {
        assert!(parse(&whole.as_bytes()[..at], "XX").is_err(), "{at}");
    }
    assert!(parse(&whole.as_bytes()[..end], "XX").is_ok());
}

#[test]
fn a_transfer_coding_is_noticed() {
    for (coding, is_encoded) in [("8BIT", false), (" binary", false), ("base64", true), ("x", true)]
    {
        let head =
            format!("Content-Transfer-Encoding:{coding}\r\nContent-Disposition: form-data; name=a");
        read(one(&head, "v").as_bytes(), b"XX", |part| {
            assert_eq!(part.is_encoded, is_encoded, "{coding}");
            Ok(())
        })
        .expect("it parses");
    }
}

/// What a public library reads, given the body as a stream.
fn by_library(body: &[u8], boundary: &str) -> Option<Fields> {
    let body = Bytes::copy_from_slice(body);
    let body = stream::once(async move { Ok::<_, std::io::Error>(body) });
    let mut form = multer::Multipart::new(body, boundary);
    let mut fields = Vec::new();
    let read = async {
        while let Some(field) = form.next_field().await.ok()? {
            let name = field.name().map(str::to_owned);
            fields.push((name, field.bytes().await.ok()?.to_vec()));
        }
        Some(())
    };
    read.now_or_never().flatten()?;
    Some(fields)
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'X')],
            0..12
        ),
    ]
}

proptest! {
    #[test]
    fn what_was_written_is_read_and_as_a_library_reads_it(
        parts in proptest::collection::vec(("[a-z_]{1,12}", values(), any::<bool>()), 0..6),
        boundary in "[A-Za-z0-9'()+_,./:=?-]{4,40}",
    ) {
        let mut body = Vec::new();
        for (name, value, has_type) in &parts {
            let kind = if *has_type { "Content-Type: image/png\r\n" } else { "" };
            let head = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n{kind}\r\n");
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(value);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        let expected: Fields = parts.into_iter().map(|(name, value, _)| (Some(name), value)).collect();
        prop_assert_eq!(parse(&body, &boundary), Ok(expected.clone()));
        if !expected.is_empty() {
            prop_assert_eq!(by_library(&body, &boundary), Some(expected));
        }
    }

    #[test]
    fn no_bytes_panic(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("--XX".to_owned()), Just("\r\n".to_owned()), Just("--".to_owned()), Just(" ".to_owned()),
                Just("Content-Disposition: form-data; name=model".to_owned()), "(?s).{0,12}",
            ],
            0..24,
        ),
    ) {
        let _fields = parse(pieces.concat().as_bytes(), "XX");
    }
}

#[test]
fn a_head_is_too_long_wherever_its_lines_are_continued() {
    for length in LONGEST_HEAD - 12..LONGEST_HEAD + 12 {
        for rest in ["", "\r\n y", "\r\n\ty; z", "\r\n \r\n \r\n y", "\r\nZ: z\r\n y"] {
            let head = format!("Y: {}{rest}", "a".repeat(length - 3));
            let body = one(&head, "v");
            match parse(body.as_bytes(), "XX") {
                Ok(fields) => assert!(fields.len() == 1 && head.len() < LONGEST_HEAD + 12),
                Err(refusal) => {
                    assert!(refusal.to_string().contains("too long"), "{refusal}");
                    assert!(head.len() + 2 > LONGEST_HEAD, "{length} {rest:?}");
                }
            }
            for end in 1..20 {
                let cut = &body.as_bytes()[..body.len() - end];
                assert!(parse(cut, "XX").is_err() || end <= 4, "{length} {rest:?} {end}");
            }
        }
    }
    let folded = one(&format!("Y: {}", "\r\n a=b;".repeat(10_000)), "v");
    assert!(parse(folded.as_bytes(), "XX").unwrap_err().to_string().contains("too long"));
}
