//! Damaged requests of every protocol: a status below 500, JSON if it is an error, and no panic.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use http_body_util::Full;
use hyper::Request;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::common::{Answer, Seven, Sum, Worker, digits, flowers, serving};

const JSON_LENGTH: &str = "inference-header-content-length";

/// Path, content type and body.
type Sound = (&'static str, &'static str, &'static str);

/// Valid requests, which are answered 200.
const SOUND: [Sound; 6] = [
    (
        "/v1/models/flowers:predict",
        "application/json",
        r#"{"instances": [{"width": 2.0, "length": -1e0, "colour": "blue"}]}"#,
    ),
    (
        "/v1/models/flowers:predict",
        "application/json",
        r#"{"signature_name": "serving_default", "inputs": {"width": [2], "length": [-0.5], "colour": ["\u0062lue"]}}"#,
    ),
    (
        "/v1/models/flowers:classify",
        "application/json",
        r#"{"context": {"width": 1}, "examples": [{"length": 1.5, "colour": "red"}]}"#,
    ),
    (
        "/v2/models/flowers/infer",
        "application/json",
        r#"{"id": "a", "inputs": [
            {"name": "width", "shape": [1], "datatype": "FP32", "data": [2.0]},
            {"name": "length", "shape": [1, 1], "datatype": "FP32", "data": [[1]]},
            {"name": "colour", "shape": [1], "datatype": "BYTES", "data": ["blue"]}],
            "outputs": [{"name": "predicted_species", "parameters": {"binary_data": true}}]}"#,
    ),
    (
        "/v2/models/flowers/infer",
        "application/octet-stream",
        concat!(
            r#"{"inputs": [{"name": "width", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}},"#,
            r#"{"name": "length", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}},"#,
            r#"{"name": "colour", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 8}}]}"#,
            "\0\0\0\0\0\0\0\0\u{4}\0\0\0blue"
        ),
    ),
    ("/v2/repository/index", "application/json", r#"{"ready": true}"#),
];

async fn post(worker: &Worker, path: &str, kind: &str, (body, json): (Vec<u8>, usize)) -> Answer {
    let mut request = Request::post(path).header("content-type", kind);
    if kind == "application/octet-stream" {
        request = request.header(JSON_LENGTH, json);
    }
    worker.send(request.body(Full::new(body.into())).unwrap()).await
}

/// Where the JSON of a body ends.
fn json_end(body: &str) -> usize {
    body.rfind('}').map_or(0, |end| end + 1)
}

#[test]
fn no_damage_to_a_request_is_a_server_error() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let worker = runtime.block_on(Worker::start(vec![
        serving(("flowers", 1), flowers(), Sum(2)),
        serving(("mnist", 1), digits(), Seven),
    ]));
    for (path, kind, body) in SOUND {
        let sound = (body.as_bytes().to_vec(), json_end(body));
        let answer = runtime.block_on(post(&worker, path, kind, sound));
        assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
    }
    let damage = (
        0..SOUND.len(),
        any::<prop::sample::Index>(),
        0usize..12,
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..6),
            "[\\[\\]{}\",:.0-9eE-]{0,6}".prop_map(String::into_bytes),
        ],
        -2isize..3,
    );
    let mut runner = TestRunner::new(Config { cases: 400, ..Config::default() });
    let outcome = runner.run(&damage, |(which, at, cut, piece, shift)| {
        let (path, kind, sound) = SOUND[which];
        let at = at.index(sound.len());
        let end = (at + cut).min(sound.len());
        let bytes = sound.as_bytes();
        let body = [&bytes[..at], &piece, &bytes[end..]].concat();
        let json = json_end(sound).saturating_add_signed(shift);
        let answer = runtime.block_on(post(&worker, path, kind, (body, json)));
        prop_assert!(answer.status < 500, "{answer:?}");
        if answer.status != 200 {
            prop_assert!(!answer.error().is_empty());
        }
        Ok(())
    });
    outcome.unwrap();
    runtime.block_on(worker.stop());
}
