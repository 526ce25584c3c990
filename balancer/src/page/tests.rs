use serde_json::json;

use super::*;

fn text(page: &Bytes) -> &str {
    std::str::from_utf8(page).expect("pages are text")
}

fn pages() -> Pages {
    Pages::new(10_000_000, true, None)
}

fn reader(path: &str, fields: &[(&'static str, &'static str)]) -> Reader {
    let mut request = http::Request::get(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let origin = Origin::new(HeaderValue::from_static("192.0.2.1"), "http", true);
    Reader::of(&head, &origin)
}

fn fleet() -> Json {
    json!({
        "policy": "p2c", "ready": true, "draining": false, "panic_mode": false,
        "models": ["mnist"], "active_requests": 3, "connections": 4, "waiting_requests": 0,
        "retries": 1, "outcomes": {"shed": 2, "upstream_failed": 1, "unavailable": 1, "deadline": 1},
        "endpoints": [{
            "name": "<b>one/2", "address": "10.0.0.1:80", "state": "ejected", "in_flight": 7,
            "reason": "5 failures in a row", "probe": {"seconds_ago": 1.25, "fault": null},
            "in_flight_limit": null, "weight": 1, "requests_per_second": 12.34, "failed": 6,
            "p50_ms": 1.5, "p99_ms": 12.345, "share": 0.5, "expected_share": null,
            "is_drained": false,
            "models": [{"name": "mnist", "version": "1", "state": "READY"}],
        }],
    })
}

#[test]
fn every_page_is_made_in_every_language_without_an_error() {
    for language in ["en", "de"] {
        let reader = reader("/", &[("accept-language", language), ("host", "a.example:5000")]);
        let pages = pages();
        let prediction = json!({
            "label": "7", "confidence": 0.5, "top_k": [{"label": "7", "confidence": 0.5}],
            "model": "mnist", "version": "1", "endpoint": "worker1",
            "timings_ms": {"decode":1,"preprocess":1,"queue":1,"compute":1,"total":4},
        });
        for page in [
            pages.index(&reader, &Snapshot::default()),
            pages.result(&reader, &Snapshot::default(), Outcome::Prediction(prediction, 5.0)),
            pages.error(&reader, StatusCode::NOT_FOUND, "nothing", "id"),
            pages.fleet(&reader, fleet()),
        ] {
            let page = text(&page);
            assert!(page.contains(&format!("<html lang=\"{language}\"")), "{page}");
            assert!(page.ends_with("</html>") || page.ends_with("</html>\n"), "{page}");
            assert!(!page.contains("{{") && !page.contains("{%"), "{page}");
        }
    }
}

#[test]
fn every_text_is_there_in_every_language() {
    fn keys(value: &Json, path: &str, found: &mut Vec<String>) {
        match value.as_object() {
            Some(object) => {
                object.iter().for_each(|(key, value)| keys(value, &format!("{path}.{key}"), found));
            }
            None => found.push(path.to_owned()),
        }
    }
    let of = |source: &str| {
        let texts: Json = serde_json::from_str(source).expect("JSON");
        let mut found = Vec::new();
        keys(&texts, "", &mut found);
        found
    };
    let english = of(include_str!("../../../templates/texts.en.json"));
    let german = of(include_str!("../../../templates/texts.de.json"));
    assert!(english.len() > 100);
    assert_eq!(english, german);
}

#[test]
fn the_index_posts_to_the_root_wherever_it_is_shown() {
    let page = pages().index(&reader("/", &[]), &Snapshot::default());
    assert!(text(&page).contains("multipart/form-data"));
    assert!(text(&page).contains("action=\"submit\""));
    for (path, root) in [("/", ""), ("/submit", ""), ("/v1/models/x", "../../")] {
        assert_eq!(reader(path, &[]).root(), root);
    }
}

#[test]
fn pages_name_the_address_that_their_reader_came_by() {
    for (fields, address) in [
        (vec![("host", "fleet.example:8080")], "http://fleet.example:8080"),
        (
            vec![
                ("host", "10.0.0.1"),
                ("x-forwarded-host", "fleet.example, other"),
                ("x-forwarded-proto", "https"),
            ],
            "https://fleet.example",
        ),
        (vec![("host", "a"), ("x-forwarded-proto", "javascript")], "http://a"),
    ] {
        let reader = reader("/nothing", &fields);
        assert_eq!(&*reader.address, address);
        let page = pages().error(&reader, StatusCode::NOT_FOUND, "nothing", "id");
        let shown = format!("{}/submit", address.replace('/', "&#x2f;"));
        assert!(text(&page).contains(&shown), "{}", text(&page));
    }
}

#[test]
fn labels_errors_and_hosts_are_escaped() {
    let evil = "<script>alert(1)</script>";
    let prediction = json!({
        "label": evil, "confidence": 0.5, "top_k": [], "model": evil, "version": "1",
        "endpoint": evil,
        "timings_ms": {"decode":1,"preprocess":1,"queue":1,"compute":1,"total":4},
    });
    let reader = Reader { address: evil.into(), path: evil.into(), ..Reader::default() };
    let outcome = Outcome::Prediction(prediction, 5.0);
    let result = pages().result(&reader, &Snapshot::default(), outcome);
    let error = pages().error(&reader, StatusCode::BAD_REQUEST, evil, evil);
    for page in [result, error] {
        assert!(!text(&page).contains(evil), "{}", text(&page));
        assert!(text(&page).contains("&lt;script&gt;"), "{}", text(&page));
    }
}

#[test]
fn an_error_is_headed_by_what_happened() {
    let headed = |status, words: &str| {
        let page = pages().error(&Reader::default(), status, "why", "id");
        assert!(text(&page).contains(&format!("<h1>{words}</h1>")), "{}", text(&page));
    };
    headed(StatusCode::NOT_FOUND, "There is nothing here");
    headed(StatusCode::SERVICE_UNAVAILABLE, "No worker is available right now");
    headed(StatusCode::TOO_MANY_REQUESTS, "Busy: too many pictures at once");
    headed(StatusCode::IM_A_TEAPOT, "That request cannot be answered");
    headed(StatusCode::LOOP_DETECTED, "Something broke behind the balancer");
}

#[test]
fn a_message_stands_in_the_place_of_a_prediction() {
    let outcome = Outcome::Message("It is a [7]".to_owned());
    let page = pages().result(&reader("/post", &[]), &Snapshot::default(), outcome);
    assert!(text(&page).contains("It is a [7]"), "{}", text(&page));
}

#[test]
fn the_fleet_is_a_table_with_escaped_names() {
    let page = pages().fleet(&Reader::default(), fleet());
    for part in [
        "p2c",
        "&lt;b&gt;one",
        "10.0.0.1:80",
        "ejected",
        "5 failures in a row",
        "12.3",
        "1.5 / 12.3 ms",
        "mnist/1",
        "50 %",
        "%3Cb%3Eone",
    ] {
        assert!(text(&page).contains(part), "{part}: {}", text(&page));
    }
    assert!(!text(&page).contains("<b>one"));
    assert!(!text(&page).contains("http-equiv"), "a page that loads itself again loses its reader");
}

#[test]
fn a_page_is_packed_and_not_sent_again_for_who_has_it() {
    let reader = reader("/", &[("accept-encoding", "gzip")]);
    let page = pages().index(&reader, &Snapshot::default());
    let packed = respond(page.clone(), &reader);
    assert_eq!(packed.headers()[CONTENT_ENCODING], "gzip");
    assert!(packed.body().len() < page.len() / 2);
    let mut fields = HeaderMap::new();
    fields.insert(http::header::IF_NONE_MATCH, packed.headers()[ETAG].clone());
    let known = respond_unless_known(page.clone(), &reader, &fields);
    assert_eq!((known.status(), known.body().len()), (StatusCode::NOT_MODIFIED, 0));
    let other = respond_unless_known(Bytes::from_static(b"other"), &reader, &fields);
    assert_eq!(other.status(), StatusCode::OK);
}

#[test]
fn texts_of_scripts_cannot_end_their_element() {
    let pages = pages();
    let page = pages.index(&Reader::default(), &Snapshot::default());
    let (_, rest) = text(&page).split_once("type=\"application/json\">").expect("the texts");
    let (scripts, _) = rest.split_once("</script>").expect("an end");
    let scripts: Json = serde_json::from_str(scripts).expect("JSON");
    assert_eq!(scripts["label"], "Label");
    assert!(!text(&page).contains("\"undrain\""), "what only operators read is no weight here");
    assert!(text(&pages.fleet(&Reader::default(), fleet())).contains("\"undrain\":\"Undrain\""));
}
