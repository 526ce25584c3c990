//! Each rule of the module, on the fields that clients and attackers send.

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

fn origin(is_trusted: bool) -> Origin {
    let forwarded_for = HeaderValue::from_static("192.0.2.1");
    Origin { forwarded_for, is_encrypted: false, is_trusted }
}

#[test]
fn hop_by_hop_fields_and_those_that_connection_names_are_removed() {
    let mut headers = map(&[
        ("host", "a"),
        ("connection", "close, X-Private"),
        ("connection", "x-other"),
        ("x-private", "1"),
        ("x-other", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("upgrade", "websocket"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("content-length", "5"),
        ("expect", "100-continue"),
        ("content-type", "image/png"),
    ]);
    strip(&mut headers);
    let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(left, ["host", "content-type"]);
}

#[test]
fn connection_cannot_remove_what_the_request_means() {
    let mut headers =
        map(&[("host", "a"), ("content-type", "b"), ("connection", "host, content-type")]);
    strip(&mut headers);
    assert_eq!(headers.len(), 2);
}

#[test]
fn forwarded_fields_of_strangers_are_overwritten_and_of_trusted_proxies_kept() {
    let sent = [("host", "h"), ("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https")];
    let mut headers = map(&sent);
    set_origin(&mut headers, &origin(false), Version::HTTP_11);
    assert_eq!(headers.get_all(FORWARDED_FOR).iter().collect::<Vec<_>>(), ["192.0.2.1"]);
    assert_eq!(headers[FORWARDED_PROTO], "http");
    assert_eq!(headers[FORWARDED_HOST], "h");
    let mut headers = map(&sent);
    set_origin(&mut headers, &origin(true), Version::HTTP_11);
    assert_eq!(headers.get_all(FORWARDED_FOR).iter().collect::<Vec<_>>(), ["6.6.6.6", "192.0.2.1"]);
    assert_eq!(headers[FORWARDED_PROTO], "https");
    assert_eq!(headers[VIA], "1.1 imagefleet");
}

#[test]
fn one_valid_host_is_required() {
    assert!(check(&head(&[("host", "example.org:5000")])).is_ok());
    assert!(check(&head(&[("host", "[::1]:80")])).is_ok());
    for fields in [
        &[][..],
        &[("host", "a"), ("host", "a")],
        &[("host", "a b")],
        &[("host", "a/b")],
        &[("host", "a@b")],
    ] {
        assert_eq!(
            check(&head(fields)).map_err(|e| e.status()),
            Err(400.try_into().expect("ok")),
            "{fields:?}"
        );
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
        let error = check(&head(fields)).expect_err("refused");
        assert_eq!(error.status().as_u16(), status, "{fields:?}");
    }
}

#[test]
fn the_target_and_host_must_name_the_same_host() {
    let mut head = head(&[("host", "good.example")]);
    head.uri = "http://evil.example/predict".parse().expect("valid");
    assert!(check(&head).is_err());
    head.uri = "http://GOOD.example/predict".parse().expect("valid");
    assert!(check(&head).is_ok());
}

#[test]
fn a_response_keeps_its_length_but_not_its_framing() {
    let mut headers = map(&[("content-length", "3"), ("connection", "close"), ("server", "x")]);
    prepare_response(&mut headers);
    assert_eq!(headers[CONTENT_LENGTH], "3");
    assert!(!headers.contains_key(CONNECTION));
    let mut headers = map(&[("content-length", "3"), ("transfer-encoding", "chunked")]);
    prepare_response(&mut headers);
    assert!(!headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING));
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
fn only_a_browser_gets_a_page() {
    assert!(wants_page(&map(&[("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")])));
    assert!(!wants_page(&map(&[("accept", "*/*")])));
    assert!(!wants_page(&map(&[("accept", "application/json")])));
    assert!(!wants_page(&map(&[])));
}
