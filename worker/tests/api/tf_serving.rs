//! TF Serving's REST API as defined by its documentation and its source code.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::Write;

use base64::Engine;
use http_body_util::Full;
use hyper::Request;
use serde_json::json;

use crate::common::{Answer, Seven, Sum, Worker, digits, flowers, houses, png, serving};

async fn worker() -> Worker {
    Worker::start(vec![
        serving(("flowers", 1), flowers(), Sum(2)),
        serving(("flowers", 12), flowers(), Sum(2)),
        serving(("houses", 1), houses(), Sum(1)),
        serving(("mnist", 1), digits(), Seven),
    ])
    .await
}

/// One flower whose features sum to 1.5.
fn flower() -> serde_json::Value {
    json!({"width": 2.0, "length": 1.0, "colour": "blue", })
}

fn text_of(value: &serde_json::Value) -> String {
    value.to_string()
}

async fn ask(worker: &Worker, path: &str, body: &serde_json::Value) -> Answer {
    worker.post(path, text_of(body)).await
}

#[tokio::test]
async fn rows_of_named_columns_get_the_outputs_of_bigquery_ml() {
    let worker = worker().await;
    let answer =
        ask(&worker, "/v1/models/flowers:predict", &json!({"instances": [flower()]})).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert!(
        answer.text().starts_with("{\n    \"predictions\": [\n        {\n"),
        "{}",
        answer.text()
    );
    let prediction = &answer.json()["predictions"][0];
    assert_eq!(prediction["species_values"], json!(["rose", "iris"]));
    assert_eq!(prediction["predicted_species"], json!(["iris"]));
    let probability = prediction["species_probs"][1].as_f64().unwrap();
    assert!((probability - 1.0 / (1.0 + (-2.5f64).exp())).abs() < 1e-6, "{probability}");
}

#[tokio::test]
async fn columns_in_give_columns_out() {
    let inputs = json!({"inputs": {"width": [2.0, 1.0], "length": [1, -9], "colour": ["blue", "green"], "other": 1}});
    let answer = ask(&worker().await, "/v1/models/flowers:predict", &inputs).await;
    assert_eq!(answer.json()["outputs"]["predicted_species"], json!([["iris"], ["rose"]]));
}

#[tokio::test]
async fn a_regression_answers_bare_values() {
    let worker = worker().await;
    let answer = ask(&worker, "/v1/models/houses:predict", &json!({"instances": [2.5, 3]})).await;
    assert_eq!(answer.text(), "{\n    \"predictions\": [2.5, 3.0\n    ]\n}");
    let examples = json!({"signature_name": "tensorflow/serving/regress",
        "context": {"size": 7}, "examples": [{"size": [1.5]}, {}]});
    let answer = ask(&worker, "/v1/models/houses:regress", &examples).await;
    assert_eq!(answer.json(), json!({"results": [1.5, 7.0]}));
    let answer = ask(&worker, "/v1/models/houses:classify", &examples).await;
    assert_eq!(answer.status, 400, "{}", answer.error());
}

#[tokio::test]
async fn values_that_nothing_computes_with_are_refused_in_words() {
    let worker = worker().await;
    for (path, body) in [
        ("/v1/models/houses:predict", r#"{"instances": [NaN]} rest"#.to_owned()),
        ("/v1/models/houses:predict", r#"{"instances": [1.5, -Infinity]}"#.to_owned()),
        ("/v1/models/houses:regress", r#"{"examples": [{"size": Infinity}]}"#.to_owned()),
        ("/v1/models/mnist:predict", format!("{{\"instances\": [[{}]]}}", pixels("NaN"))),
        ("/v1/models/mnist:predict", format!("{{\"instances\": [[{}]]}}", pixels("3e38"))),
    ] {
        let answer = worker.post(path, body.clone()).await;
        assert!(answer.status == 400 && answer.error().contains("not finite"), "{answer:?}");
    }
    let large = json!({"instances": [[3e38, 3e38]]});
    let answer = ask(&worker, "/v1/models/houses:predict", &large).await;
    assert_eq!(answer.status, 400, "{}", answer.error());
}

/// 28 rows of pixels, the first of them as given.
fn pixels(first: &str) -> String {
    let row = |first: &str| format!("[{first}{}]", ",0".repeat(27));
    let rows: Vec<String> = std::iter::once(row(first)).chain((1..28).map(|_| row("0"))).collect();
    rows.join(",")
}

#[tokio::test]
async fn a_sum_that_overflows_is_told_and_not_answered() {
    let worker = worker().await;
    let flower = json!({"width": 3e38, "length": 3e38, "colour": "red"});
    let answer = ask(&worker, "/v1/models/flowers:predict", &json!({"instances": [flower]})).await;
    assert!(answer.error().contains("too large for the model"), "{answer:?}");
}

#[tokio::test]
async fn rows_have_one_shape_as_for_tf_serving() {
    let worker = worker().await;
    for (body, said) in [
        (
            "{\"instances\": [1, [1]]}",
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: \
             Expecting shape [] but got: [1]",
        ),
        ("{\"instances\": [1e39]}", "Cannot convert JSON value: 1e+39 to float without loss"),
        (
            "{\"instances\": [20000000]}",
            "Cannot convert JSON value: 20000000 to float without loss",
        ),
        ("{\"instances\": [1.8e308]}", "Number too big to be stored in double. at offset: 15"),
    ] {
        let answer = worker.post("/v1/models/houses:predict", body).await;
        assert!(answer.status == 400 && answer.error().contains(said), "{}", answer.error());
    }
    let marked = "\u{feff}{\"instances\": [2.5]}";
    let answer = worker.post("/v1/models/houses:predict", marked).await;
    assert_eq!(answer.json(), json!({"predictions": [2.5]}));
}

#[tokio::test]
async fn files_come_in_base64_with_line_breaks() {
    let text = base64::engine::general_purpose::STANDARD.encode(png());
    let lines: Vec<&str> =
        (0..text.len()).step_by(76).map(|at| &text[at..(at + 76).min(text.len())]).collect();
    let file = json!({"b64": lines.join("\n") + "\n"});
    let answer =
        ask(&worker().await, "/v1/models/mnist:predict", &json!({"instances": [file]})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn classify_lists_every_class_with_its_score() {
    let examples = json!({"signature_name": "serving_default", "examples": [flower()]});
    let answer = ask(&worker().await, "/v1/models/flowers:classify", &examples).await;
    let results = &answer.json()["results"][0];
    assert_eq!((&results[0][0], &results[1][0]), (&json!("rose"), &json!("iris")));
    assert!(results[1][1].as_f64().unwrap() > 0.9);
}

#[tokio::test]
async fn images_come_as_floats_or_as_files() {
    let worker = worker().await;
    let pixels = vec![vec![0.0; 28]; 28];
    let file = json!({"b64": base64::engine::general_purpose::STANDARD.encode(png())});
    for body in [
        json!({"instances": [pixels]}),
        json!({"instances": [{"image": pixels}]}),
        json!({"instances": [file]}),
        json!({"instances": [{"image": file}]}),
        json!({"inputs": [pixels]}),
        json!({"inputs": {"image": [file]}}),
    ] {
        let answer = ask(&worker, "/v1/models/mnist:predict", &body).await;
        let json = answer.json();
        let row = json.get("predictions").or(json.get("outputs")).unwrap()[0].as_array().unwrap();
        assert_eq!(row.len(), 10);
        assert!(row[7].as_f64().unwrap() > 0.99, "{json}");
    }
    let answer =
        ask(&worker, "/v1/models/mnist:classify", &json!({"examples": [{"image": file}]})).await;
    assert_eq!(answer.json()["results"][0][7][0], "7");
}

#[tokio::test]
async fn states_and_metadata_describe_a_model() {
    let worker = worker().await;
    let status = worker.get("/v1/models/flowers").await.json();
    let ok = json!({"error_code": "OK", "error_message": ""});
    let state = |version: &str| json!({"version": version, "state": "AVAILABLE", "status": ok});
    assert_eq!(status, json!({"model_version_status": [state("12"), state("1")]}));
    let status = worker.get("/V1/models/flowers/versions/1").await.json();
    assert_eq!(status, json!({"model_version_status": [state("1")]}));
    let metadata = worker.get("/v1/models/flowers/metadata").await.json();
    assert_eq!(
        metadata["model_spec"],
        json!({"name": "flowers", "signature_name": "", "version": "12"})
    );
    let signature = &metadata["metadata"]["signature_def"]["signature_def"]["serving_default"];
    assert_eq!(signature["inputs"]["colour"]["dtype"], "DT_STRING");
    let shape = &signature["outputs"]["species_probs"]["tensor_shape"];
    let dim = json!([{"size": "-1", "name": ""}, {"size": "2", "name": ""}]);
    assert_eq!(shape, &json!({"dim": dim, "unknown_rank": false}));
}

#[tokio::test]
async fn every_wrong_path_says_so() {
    let worker = worker().await;
    for (path, status, error) in [
        ("/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("/v1/models/flowers:predict", 400, "Malformed request: GET /v1/models/flowers:predict"),
        ("/v1/models", 400, "Missing model name in request."),
        ("/v1/models/half", 404, "Servable not found for request: Latest(half)"),
        (
            "/v1/models/flowers/versions/50",
            404,
            "Servable not found for request: Specific(flowers, 50)",
        ),
        ("/v1/models/flowers/labels/best", 400, "Unrecognized servable version label: best"),
        (
            "/v1/models/flowers/versions/99999999999999999999",
            400,
            "Failed to convert version: 99999999999999999999 to numeric.",
        ),
    ] {
        let answer = worker.get(path).await;
        assert_eq!((answer.status, answer.error().as_str()), (status, error), "{path}");
    }
    let answer = worker.post("/v1/models/flowers", "{}").await;
    assert_eq!(answer.error(), "Malformed request: POST /v1/models/flowers");
    let answer = worker.post("/v1/models/half:predict", r#"{"instances": [1]}"#).await;
    assert_eq!(answer.error(), "Servable not found for request: Latest(half)");
}

#[tokio::test]
async fn every_wrong_body_says_so() {
    let worker = worker().await;
    for (body, error) in [
        ("", "JSON Parse error: The document is empty"),
        ("hello", "JSON Parse error: Invalid value. at offset: 0"),
        ("[1]", "JSON Value: [\n    1\n] Is not object"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ("{\"instances\": 1}", "Expecting 'instances' to be an list/array"),
        ("{\"instances\": []}", "No values in 'instances' array"),
        (
            "{\"instances\": [1], \"inputs\": [1]}",
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist",
        ),
        (
            "{\"signature_name\": 1, \"instances\": [1]}",
            "'signature_name' key must be a string value.",
        ),
        (
            "{\"signature_name\": \"x\", \"instances\": [1]}",
            "Serving signature name: \"x\" not found in signature def",
        ),
        (
            "{\"instances\": [{\"width\": \"x\", \"length\": 1, \"colour\": \"red\"}]}",
            "JSON Value: \"x\" Type: String is not of expected type: float",
        ),
        (
            "{\"instances\": [{\"width\": 1}]}",
            "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"width\": 1\n} keys must be equal to: colour,length,width",
        ),
        ("{\"inputs\": {\"width\": [1]}}", "Missing named input: length in 'inputs' object."),
        ("{\"instances\": [1, 2]}", "instances is a plain list, but expecting list of objects"),
    ] {
        let answer = worker.post("/v1/models/flowers:predict", body).await;
        let said = answer.error();
        assert!(answer.status == 400 && said.contains(error), "{body}: {said}");
    }
    let answer =
        worker.post("/v1/models/mnist:predict", r#"{"instances": [[[1,2,3],[1,2]]]}"#).await;
    let error = "Encountered list at unexpected size: 2 at level: 1 expected size: 3";
    assert!(answer.error().contains(error), "{}", answer.error());
    let answer = worker.post("/v1/models/mnist:predict", r#"{"instances": [[1, 2]]}"#).await;
    assert!(answer.error().contains("Expecting shape [28,28] but got: [2]"), "{}", answer.error());
    let answer =
        worker.post("/v1/models/mnist:predict", r#"{"instances": [{"b64": "aGk="}]}"#).await;
    assert_eq!(answer.status, 400, "{}", answer.error());
}

#[tokio::test]
async fn packed_bodies_are_unpacked() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(br#"{"instances": [2.5]}"#).unwrap();
    let request = Request::post("/v1/models/houses:predict").header("content-encoding", "gzip");
    let body = Full::new(encoder.finish().unwrap().into());
    let answer = worker().await.send(request.body(body).unwrap()).await;
    assert_eq!(answer.json(), json!({"predictions": [2.5]}));
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(br#"{"instances": [2.5]}"#).unwrap();
    let request = Request::post("/v1/models/houses:predict").header("content-encoding", "deflate");
    let body = Full::new(encoder.finish().unwrap().into());
    let answer = worker().await.send(request.body(body).unwrap()).await;
    assert_eq!(answer.json(), json!({"predictions": [2.5]}));
}
