//! The Open Inference Protocol v2: JSON and binary tensors give the same answers.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use common::{Answer, Seven, Sum, Worker, digits, flowers, png, serving};
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};

const JSON_LENGTH: &str = "inference-header-content-length";

async fn worker() -> Worker {
    Worker::start(vec![
        serving(("flowers", 1), flowers(), Sum(2)),
        serving(("flowers", 2), flowers(), Sum(2)),
        serving(("mnist", 1), digits(), Seven),
    ])
    .await
}

/// Two flowers, whose features sum to 2.5 and -9.
fn inputs() -> Value {
    json!([
        {"name": "width", "shape": [2], "datatype": "FP32", "data": [2.0, 1.0]},
        {"name": "length", "shape": [2], "datatype": "FP32", "data": [1, -9]},
        {"name": "colour", "shape": [2, 1], "datatype": "BYTES", "data": [["blue"], ["green"]]},
    ])
}

/// The same two flowers as binary tensors.
fn binary_inputs() -> (Value, Vec<u8>) {
    let described = json!([
        {"name": "width", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
        {"name": "length", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
        {"name": "colour", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 17}},
    ]);
    let mut bytes: Vec<u8> = [2.0f32, 1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    bytes.extend([1.0f32, -9.0].iter().flat_map(|v| v.to_le_bytes()));
    for text in ["blue", "green"] {
        bytes.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    (described, bytes)
}

async fn infer(worker: &Worker, path: &str, body: Value) -> Answer {
    worker.post(path, body.to_string()).await
}

async fn infer_binary(worker: &Worker, path: &str, body: &Value, tensors: &[u8]) -> Answer {
    let json = body.to_string();
    let request = Request::post(path).header(JSON_LENGTH, json.len());
    let mut bytes = json.into_bytes();
    bytes.extend_from_slice(tensors);
    worker.send(request.body(Full::new(bytes.into())).unwrap()).await
}

#[tokio::test]
async fn json_tensors_in_give_json_tensors_out() {
    let worker = worker().await;
    let answer =
        infer(&worker, "/v2/models/flowers/infer", json!({"id": "a1", "inputs": inputs()})).await;
    let json = answer.json();
    assert_eq!(
        (&json["id"], &json["model_name"], &json["model_version"]),
        (&json!("a1"), &json!("flowers"), &json!("2"))
    );
    let output = |name: &str| {
        json["outputs"].as_array().unwrap().iter().find(|o| o["name"] == name).unwrap().clone()
    };
    let predicted = output("predicted_species");
    assert_eq!(predicted["datatype"], "BYTES");
    assert_eq!(
        (&predicted["shape"], &predicted["data"]),
        (&json!([2, 1]), &json!(["iris", "rose"]))
    );
    assert_eq!(output("species_probs")["shape"], json!([2, 2]));
}

#[tokio::test]
async fn binary_tensors_equal_json_tensors_bit_for_bit() {
    let worker = worker().await;
    let path = "/v2/models/flowers/versions/1/infer";
    let wanted = json!([{"name": "species_probs"}]);
    let json = infer(&worker, path, json!({"inputs": inputs(), "outputs": wanted})).await.json();
    let (described, tensors) = binary_inputs();
    let body =
        json!({"inputs": described, "outputs": wanted, "parameters": {"binary_data_output": true}});
    let answer = infer_binary(&worker, path, &body, &tensors).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let length: usize = answer.header(JSON_LENGTH).parse().unwrap();
    let (head, bytes) = answer.body.split_at(length);
    let head: Value = serde_json::from_slice(head).unwrap();
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 16);
    let binary: Vec<f32> =
        bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    let plain: Vec<f32> = serde_json::from_value(json["outputs"][0]["data"].clone()).unwrap();
    assert_eq!(binary, plain);
}

#[tokio::test]
async fn one_output_may_be_binary_and_the_other_json() {
    let worker = worker().await;
    let wanted = json!([
        {"name": "predicted_species", "parameters": {"binary_data": true}},
        {"name": "species_values"},
    ]);
    let body = json!({"inputs": inputs(), "outputs": wanted});
    let answer = infer(&worker, "/v2/models/flowers/infer", body).await;
    let length: usize = answer.header(JSON_LENGTH).parse().unwrap();
    let (head, bytes) = answer.body.split_at(length);
    let head: Value = serde_json::from_slice(head).unwrap();
    assert_eq!(head["outputs"][1]["data"], json!(["rose", "iris", "rose", "iris"]));
    assert_eq!(bytes, b"\x04\0\0\0iris\x04\0\0\0rose");
}

#[tokio::test]
async fn images_come_as_tensors_or_as_files() {
    let worker = worker().await;
    let tensor = json!([{"name": "image", "shape": [1, 28, 28], "datatype": "FP32", "data": vec![0.0; 784]}]);
    let answer = infer(&worker, "/v2/models/mnist/infer", json!({"inputs": tensor})).await;
    assert_eq!(answer.json()["outputs"][0]["shape"], json!([1, 10]));
    let file = png();
    let mut bytes = u32::try_from(file.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend(file);
    let described = json!([{"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": bytes.len()}}]);
    let answer =
        infer_binary(&worker, "/v2/models/mnist/infer", &json!({"inputs": described}), &bytes)
            .await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn the_server_and_its_models_describe_themselves() {
    let worker = worker().await;
    let server = worker.get("/v2").await.json();
    assert_eq!(server["name"], "imagefleet");
    let model = worker.get("/v2/models/flowers").await.json();
    assert_eq!(model["versions"], json!(["1", "2"]));
    assert_eq!(model["inputs"][2], json!({"name": "colour", "datatype": "BYTES", "shape": [-1]}));
    assert_eq!(model["outputs"][0]["shape"], json!([-1, 2]));
    let ready = worker.get("/v2/models/flowers/versions/1/ready").await;
    assert_eq!(ready.json(), json!({"name": "flowers", "ready": true}));
    let index = worker.post("/v2/repository/index", "{\"ready\": true}").await.json();
    assert_eq!(index.as_array().unwrap().len(), 3);
    infer(&worker, "/v2/models/flowers/infer", json!({"inputs": inputs()})).await;
    let stats = worker.get("/v2/models/flowers/versions/2/stats").await.json();
    let stats = &stats["model_stats"][0];
    assert_eq!((&stats["inference_count"], &stats["execution_count"]), (&json!(2), &json!(1)));
    assert_eq!(stats["inference_stats"]["success"]["count"], 1);
}

#[tokio::test]
async fn every_error_is_json_with_a_status() {
    let worker = worker().await;
    let path = "/v2/models/flowers/infer";
    for (path, body, status) in [
        (path, json!("hello"), 400),
        (path, json!({}), 400),
        (path, json!({"inputs": []}), 400),
        (
            path,
            json!({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}),
            400,
        ),
        (
            path,
            json!({"inputs": [{"name": "width", "shape": [1], "datatype": "FP7", "data": [1]}]}),
            400,
        ),
        (
            path,
            json!({"inputs": [{"name": "width", "shape": [2], "datatype": "FP32", "data": [1]}]}),
            400,
        ),
        (path, json!({"inputs": [{"name": "width", "shape": [1], "datatype": "FP32"}]}), 400),
        (
            path,
            json!({"inputs": [{"name": "width", "shape": [-1], "datatype": "FP32", "data": []}]}),
            400,
        ),
        (
            path,
            json!({"inputs": [{"name": "width", "shape": [u64::MAX, 9], "datatype": "FP32", "data": [1]}]}),
            400,
        ),
        (path, json!({"inputs": inputs(), "outputs": [{"name": "x"}]}), 400),
        (
            path,
            json!({"inputs": [{"name": "width", "shape": [1], "datatype": "INT64", "data": [1]}]}),
            400,
        ),
        ("/v2/models/nothing/infer", json!({"inputs": inputs()}), 404),
        ("/v2/models/flowers/versions/9/infer", json!({"inputs": inputs()}), 404),
        ("/v2/models/flowers", json!({}), 405),
        ("/v2/repository/models/flowers/load", json!({}), 403),
        ("/v2/elsewhere", json!({}), 404),
    ] {
        let text = body.to_string();
        let answer = infer(&worker, path, body).await;
        assert_eq!(answer.status, status, "{path} {text}: {}", answer.error());
    }
    let (described, tensors) = binary_inputs();
    let body = json!({"inputs": described});
    for cut in [0, 5, tensors.len() - 1] {
        let answer = infer_binary(&worker, path, &body, &tensors[..cut]).await;
        assert_eq!(answer.status, 400, "{}", answer.error());
    }
    let long = [&tensors[..], b"!"].concat();
    let answer = infer_binary(&worker, path, &body, &long).await;
    assert_eq!(answer.error(), "1 bytes of binary data belong to no input");
}
