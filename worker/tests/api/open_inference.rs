//! The Open Inference Protocol v2: JSON and binary tensors give the same answers.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};

use crate::common::{Answer, Seven, Sum, Worker, digits, flowers, png, serving};

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

async fn refused(worker: &Worker, path: &str, body: Value) -> String {
    let answer = infer(worker, path, body).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    answer.error()
}

fn image(shape: &Value, first: f64) -> Value {
    let mut pixels = vec![0.0; 784];
    pixels[0] = first;
    json!({"name": "image", "shape": shape, "datatype": "FP32", "data": pixels})
}

#[tokio::test]
async fn shapes_are_checked_dimension_by_dimension() {
    let worker = worker().await;
    let path = "/v2/models/mnist/infer";
    for shape in
        [json!([1, 784]), json!([28, 28]), json!([1, 14, 56]), json!([1, 7, 4, 28]), json!([])]
    {
        let said = refused(&worker, path, json!({"inputs": [image(&shape, 0.0)]})).await;
        assert!(said.contains("the model expects [-1,28,28]"), "{shape}: {said}");
    }
    for shape in [json!([1, 28, 28]), json!([1, 28, 28, 1])] {
        let answer = infer(&worker, path, json!({"inputs": [image(&shape, 0.0)]})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn values_that_are_not_finite_are_refused_in_json_and_in_binary() {
    let worker = worker().await;
    let path = "/v2/models/mnist/infer";
    for first in [1e39, 3e38] {
        let said =
            refused(&worker, path, json!({"inputs": [image(&json!([1, 28, 28]), first)]})).await;
        assert!(said.contains("not finite"), "{said}");
    }
    let described = json!({"inputs": [{"name": "image", "shape": [1, 28, 28], "datatype": "FP32",
        "parameters": {"binary_data_size": 4 * 784}}]});
    for first in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38] {
        let pixels = std::iter::once(first).chain(std::iter::repeat_n(0.0, 783));
        let tensor: Vec<u8> = pixels.flat_map(f32::to_le_bytes).collect();
        let answer = infer_binary(&worker, path, &described, &tensor).await;
        assert_eq!(answer.status, 400, "{first}: {answer:?}");
        assert!(answer.error().contains("not finite"), "{}", answer.error());
    }
}

#[tokio::test]
async fn data_lie_flat_or_in_lists_and_not_mixed() {
    let worker = worker().await;
    for (data, said) in [
        (json!([1, [1]]), "mixed in one list"),
        (json!(1), "fewer elements than the 2 of its shape"),
        (json!([1, 2, 3]), "more elements than the 2 of the shape"),
        (json!([1, "2"]), "does not fit the datatype"),
    ] {
        let mut tensors = inputs();
        tensors[0]["data"] = data.clone();
        let error = refused(&worker, "/v2/models/flowers/infer", json!({"inputs": tensors})).await;
        assert!(error.contains(said), "{data}: {error}");
    }
}

#[tokio::test]
async fn an_output_is_told_once() {
    let worker = worker().await;
    let twice = json!([{"name": "species_probs"}, {"name": "species_probs"}]);
    let path = "/v2/models/flowers/infer";
    let said = refused(&worker, path, json!({"inputs": inputs(), "outputs": twice})).await;
    assert_eq!(said, "output \"species_probs\" is asked for twice");
    let many = vec![json!({"name": "species_probs"}); 20_000];
    let said = refused(&worker, path, json!({"inputs": inputs(), "outputs": many})).await;
    assert!(said.contains("more than 64 elements"), "{said}");
}

#[tokio::test]
async fn parameters_are_scalars() {
    let worker = worker().await;
    let path = "/v2/models/flowers/infer";
    for parameters in [json!({"a": [1]}), json!({"a": {}}), json!({"binary_data_output": "yes"})] {
        let body = json!({"inputs": inputs(), "parameters": parameters});
        let said = refused(&worker, path, body).await;
        assert!(said.contains("parameter"), "{said}");
    }
    let plain = json!({"sequence_id": 7, "priority": "high", "x": -0.5, "y": true});
    let answer = infer(&worker, path, json!({"inputs": inputs(), "parameters": plain})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let shared = json!([{"name": "species_probs", "parameters": {"shared_memory_region": "a"}}]);
    let said = refused(&worker, path, json!({"inputs": inputs(), "outputs": shared})).await;
    assert_eq!(said, "shared memory is not supported");
}

#[tokio::test]
async fn the_best_classes_are_told_as_triton_tells_them() {
    let worker = worker().await;
    let best = json!([{"name": "species_probs", "parameters": {"classification": 1}}]);
    let path = "/v2/models/flowers/infer";
    let answer = infer(&worker, path, json!({"inputs": inputs(), "outputs": best})).await.json();
    let output = &answer["outputs"][0];
    assert_eq!((&output["datatype"], &output["shape"]), (&json!("BYTES"), &json!([2, 1])));
    assert_eq!(output["data"], json!(["0.924142:1:iris", "0.999877:0:rose"]));
    let all = json!([{"name": "species_probs",
        "parameters": {"classification": 1_000_000_000_u64, "binary_data": true}}]);
    let answer = infer(&worker, path, json!({"inputs": inputs(), "outputs": all})).await;
    let length: usize = answer.header(JSON_LENGTH).parse().unwrap();
    assert!(
        answer.body[length..]
            .starts_with(b"\x0f\0\0\x000.924142:1:iris\x0f\0\0\x000.075858:0:rose")
    );
    let texts = json!([{"name": "species_values", "parameters": {"classification": 1}}]);
    let said = refused(&worker, path, json!({"inputs": inputs(), "outputs": texts})).await;
    assert!(said.contains("has no classes"), "{said}");
}

#[tokio::test]
async fn how_pixels_lie_is_told_as_image_client_asks_for_it() {
    let mut photos = digits();
    let input = photos.manifest.input.as_mut().unwrap();
    (input.mean, input.std) = (vec![0.5; 3], vec![0.5; 3]);
    let models = [("mnist", digits()), ("photos", photos)];
    let models = models.map(|(name, version)| serving((name, 1), version, Seven));
    let worker = Worker::start(models.into()).await;
    for (model, format, dims) in
        [("mnist", "FORMAT_NONE", json!([28, 28])), ("photos", "FORMAT_NHWC", json!([28, 28, 3]))]
    {
        let config = worker.get(&format!("/v2/models/{model}/config")).await.json();
        let input = &config["input"][0];
        assert_eq!((&input["format"], &input["dims"]), (&json!(format), &dims));
    }
}

#[tokio::test]
async fn a_raw_binary_request_is_the_one_tensor_of_the_model() {
    let worker = worker().await;
    let raw = |path: &str, bytes: Vec<u8>| {
        Request::post(path).header(JSON_LENGTH, 0).body(Full::new(bytes.into())).unwrap()
    };
    let path = "/v2/models/mnist/infer";
    let answer = worker.send(raw(path, vec![0; 2 * 4 * 784])).await;
    let length: usize = answer.header(JSON_LENGTH).parse().unwrap();
    let head: Value = serde_json::from_slice(&answer.body[..length]).unwrap();
    assert_eq!(head["outputs"][0]["shape"], json!([2, 10]));
    assert_eq!(answer.body.len() - length, 2 * 10 * 4);
    for (path, size, said) in [
        (path, 4 * 784 + 1, "do not divide into rows of 3136 bytes"),
        (path, 0, "do not divide"),
        ("/v2/models/flowers/infer", 8, "is for models of one input, this one has 3"),
    ] {
        let answer = worker.send(raw(path, vec![0; size])).await;
        assert!(answer.status == 400 && answer.error().contains(said), "{answer:?}");
    }
}

#[tokio::test]
async fn an_unknown_model_is_told_which_there_are() {
    let worker = worker().await;
    let answer = infer(&worker, "/v2/models/nothing/infer", json!({"inputs": []})).await;
    assert_eq!(answer.error(), "no model \"nothing\" here; there are flowers, mnist");
    let answer = worker.post("/predict?model=flower", png()).await;
    assert_eq!(answer.error(), "no model \"flower\" here; there are flowers, mnist");
}

#[tokio::test]
async fn load_takes_no_configuration() {
    let worker = worker().await;
    for parameters in [json!({"config": "{}"}), json!({"file:1/model.onnx": "AAAA"})] {
        let body = json!({"parameters": parameters});
        let said = refused(&worker, "/v2/repository/models/flowers/load", body).await;
        assert!(said.contains("load takes no config and no files"), "{said}");
    }
    let body = json!({"parameters": {"unload_dependents": false}});
    let answer = infer(&worker, "/v2/repository/models/flowers/unload", body).await;
    assert_eq!(answer.status, 403, "{answer:?}");
}

#[tokio::test]
async fn a_list_is_no_request() {
    let worker = worker().await;
    let fields = json!([null, [], inputs(), null]);
    for body in [json!([]), fields] {
        let answer = infer(&worker, "/v2/models/flowers/infer", body).await;
        let refusal = "the request is a list, expected an object";
        assert_eq!((answer.status, answer.error().as_str()), (400, refusal));
    }
}
