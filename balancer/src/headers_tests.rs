//! Each rule of the module, applied to fields that clients and attackers send.

use http::Request;

use super::*;

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

fn head(fields: &[(&'static str, &'static str)]) -> request::Parts {
    let (mut head, ()) = Request::post("/predict").body(()).expect("valid").into_parts();
    for (name, value) in fields {
        head.headers.append(*name, HeaderValue::from_static(value));
    }
    head
}

fn checked(head: &request::Parts) -> Result<(), ProxyError> {
    check(head, &HeaderScan::of(&head.headers))
}

#[test]
fn connection_names_fields_but_not_those_that_carry_the_meaning() {
    let mut headers = map(&[("connection", "close, X-Private,,keep-alive, x-absent")]);
    headers.append("connection", HeaderValue::from_static("host"));
    headers.append("host", HeaderValue::from_static("a"));
    headers.append("x-private", HeaderValue::from_static("1"));
    let named = named_by_connection(&headers);
    assert_eq!(named, [HeaderName::from_static("x-private")].into());
    assert!(named_by_connection(&map(&[("host", "a")])).is_empty());
}

#[test]
fn however_many_names_connection_has_only_those_of_fields_that_are_there_are_kept() {
    let tokens: Vec<_> = (0..2000).map(|number| format!("x-{number},x-a")).collect();
    let mut headers = map(&[("x-a", "1"), ("x-7", "1"), ("x-other", "1")]);
    headers.append("connection", HeaderValue::try_from(tokens.join(",")).expect("valid"));
    let expected = ["x-a", "x-7"].map(HeaderName::from_static);
    assert_eq!(named_by_connection(&headers), expected.into());
}

#[test]
fn a_request_that_comes_by_again_and_again_goes_in_circles() {
    let passed = |via: &'static str| checked(&head(&[("host", "a"), ("via", via)]));
    let three = "1.1 imagefleet, 2 imagefleet, 1.1 other, 1.1 imagefleet";
    assert_eq!(passed(three), Ok(()));
    let lines = [("host", "a"), ("via", three), ("via", "1.0 imagefleet (again)")];
    assert_eq!(checked(&head(&lines)), Err(ProxyError::Loop));
    assert_eq!(passed("1.1 a, 1.1 b, 1.1 c, 1.1 d, 1.1 e, 1.1 f"), Ok(()), "other proxies");
}

#[test]
fn one_valid_host_is_required() {
    assert!(checked(&head(&[("host", "example.org:5000")])).is_ok());
    assert!(checked(&head(&[("host", "[::1]:80")])).is_ok());
    for fields in [
        &[][..],
        &[("host", "a"), ("host", "a")],
        &[("host", "a b")],
        &[("host", "a/b")],
        &[("host", "a@b")],
    ] {
        assert_eq!(
            checked(&head(fields)).map_err(|e| e.status()),
            Err(400.try_into().expect("ok")),
            "{fields:?}"
        );
    }
}

#[test]
fn a_default_port_may_be_left_out_and_anything_else_is_another_host() {
    let named = |target: &'static str, host: &'static str| {
        let mut head = head(&[("host", host)]);
        head.uri = http::Uri::from_static(target);
        checked(&head).is_ok()
    };
    for (target, host) in [
        ("http://a/", "a"),
        ("http://a:80/", "a"),
        ("http://a/", "A:80"),
        ("http://a:/", "a:80"),
        ("http://a/", "a:"),
        ("https://a:443/", "a"),
        ("http://[::1]:80/", "[::1]"),
        ("http://a:8080/", "a:8080"),
    ] {
        assert!(named(target, host), "{target} {host}");
    }
    for (target, host) in [
        ("http://a:443/", "a"),
        ("https://a:80/", "a"),
        ("http://a:8080/", "a"),
        ("http://b/", "a"),
        ("http://[::1]/", "[::1]:81"),
        ("http://u@a/", "a"),
        ("ftp://a:80/", "a"),
    ] {
        assert!(!named(target, host), "{target} {host}");
    }
}

#[test]
fn strange_framing_is_refused() {
    for (fields, status) in [
        (&[("host", "a"), ("transfer-encoding", "gzip, chunked")][..], 501),
        (&[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], 501),
        (&[("host", "a"), ("transfer-encoding", "identity")], 501),
        (&[("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "3")], 400),
    ] {
        let error = checked(&head(fields)).expect_err("refused");
        assert_eq!(error.status().as_u16(), status, "{fields:?}");
    }
}

#[test]
fn the_target_and_host_must_name_the_same_host() {
    let mut head = head(&[("host", "good.example")]);
    head.uri = "http://evil.example/predict".parse().expect("valid");
    assert!(checked(&head).is_err());
    head.uri = "http://GOOD.example/predict".parse().expect("valid");
    assert!(checked(&head).is_ok());
}

#[test]
fn request_ids_are_bounded_in_length_and_characters() {
    assert!(request_id(&map(&[("x-request-id", "a-b_c.1:2/3+4=")])).is_some());
    assert!(request_id(&map(&[("x-request-id", "")])).is_none());
    assert!(request_id(&map(&[("x-request-id", "a b")])).is_none());
    assert!(request_id(&map(&[("x-request-id", "\"x")])).is_none());
    let mut long = HeaderMap::new();
    long.insert(REQUEST_ID, HeaderValue::try_from("x".repeat(129)).expect("valid"));
    assert!(request_id(&long).is_none());
}

#[test]
fn a_new_request_id_is_its_number_in_hexadecimal() {
    let mut number = 0x0123_4567_89ab_cdef_u64;
    for _ in 0..1000 {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let expected = format!("{number:016x}{:016x}", !number);
        assert_eq!(RequestId::new(number, !number).to_value(), expected.as_str());
    }
}

#[test]
fn a_trace_goes_on_under_a_new_parent() {
    let parent =
        HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let child = child_trace(&parent, 0xabc).expect("valid");
    assert_eq!(child, "00-0af7651916cd43dd8448eb211c80319c-0000000000000abc-01");
    for wrong in [
        "",
        "00-x-y-z",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
    ] {
        assert_eq!(child_trace(&HeaderValue::from_static(wrong), 1), None, "{wrong}");
    }
}

#[test]
fn one_pass_finds_what_the_lookups_would_find() {
    let known = [
        ("accept", ScannedField::Accept),
        ("transfer-encoding", ScannedField::TransferEncoding),
        ("traceparent", ScannedField::Traceparent),
        ("x-request-id", ScannedField::RequestId),
        ("x-imagefleet-timeout-ms", ScannedField::TimeoutMs),
        ("user-agent", ScannedField::UserAgent),
    ];
    let bytes = "host".len() + "a".len() + 4;
    assert_eq!(HeaderScan::of(&map(&[("host", "a")])).bytes, bytes);
    for (name, field) in known {
        let headers = map(&[("host", "a"), (name, "1"), (name, "2"), ("x-other", "")]);
        let scan = HeaderScan::of(&headers);
        for (_, other) in known {
            assert_eq!(scan.has(other), other == field, "{name} {other:?}");
        }
    }
}

#[test]
fn only_a_browser_gets_a_page() {
    assert!(wants_page(&map(&[("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")])));
    assert!(!wants_page(&map(&[("accept", "*/*")])));
    assert!(!wants_page(&map(&[("accept", "application/json")])));
    assert!(!wants_page(&map(&[])));
}
