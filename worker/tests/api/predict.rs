//! `/predict` and `/mnist` as seen by their clients.

use std::io::Cursor;
use std::num::NonZeroUsize;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use worker::config::Config;

use crate::common::{Seven, Worker, config, digits, form, png, send, served, serving};

async fn worker() -> Worker {
    Worker::start(vec![served("mnist", 3, Seven).0]).await
}

#[tokio::test]
async fn a_client_that_names_no_type_gets_the_bare_label_and_a_newline() {
    let answer = worker().await.post("/predict", png()).await;
    assert_eq!((answer.status, answer.text()), (200, "\"7\"\n"));
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(answer.header("server-timing").contains("compute;dur="), "{answer:?}");
}

#[tokio::test]
async fn a_client_that_names_json_gets_everything() {
    let request = Request::post("/predict?top_k=2")
        .header("accept", "application/json")
        .header("x-imagefleet-endpoint", "server2")
        .body(Full::new(png().into()))
        .unwrap();
    let answer = worker().await.send(request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-imagefleet-endpoint"), "server2");
    let prediction: wire::Prediction = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((prediction.label.as_str(), prediction.index), ("7", 7));
    assert_eq!(prediction.top_k.iter().map(|c| c.index).collect::<Vec<_>>(), [7, 8]);
    assert!(prediction.confidence > 0.99);
    assert_eq!((prediction.model.as_str(), prediction.version.as_str()), ("mnist", "3"));
    assert_eq!(prediction.endpoint.as_deref(), Some("server2"));
    assert!(prediction.timings_ms.total >= prediction.timings_ms.compute);
}

#[tokio::test]
async fn what_a_picture_waited_for_is_a_part_of_its_time_as_the_rest_is() {
    let worker = Worker::with(
        Config { threads: NonZeroUsize::MIN, ..config() },
        vec![served("mnist", 3, Seven).0],
    )
    .await;
    let mut file = Cursor::new(Vec::new());
    let pixels = image::GrayImage::from_fn(1000, 1000, |x, y| {
        image::Luma([((x * 31 + y * 17) ^ (x * y)).to_le_bytes()[0]])
    });
    pixels.write_to(&mut file, image::ImageFormat::Png).unwrap();
    let file = Bytes::from(file.into_inner());
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let request = Request::post("/predict").header("accept", "application/json");
            tokio::spawn(send(worker.address, request.body(Full::new(file.clone())).unwrap()))
        })
        .collect();
    let mut slowest = wire::Timings::default();
    for asked in asked {
        let answer = asked.await.unwrap();
        let prediction: wire::Prediction = serde_json::from_slice(&answer.body).unwrap();
        if prediction.timings_ms.total > slowest.total {
            slowest = prediction.timings_ms;
        }
    }
    // They are decoded one at a time.
    let wire::Timings { decode, preprocess, queue, compute, total } = slowest;
    assert!(decode + preprocess + queue + compute > total / 2.0, "{slowest:?}");
}

/// A picture with as many pixels as a digit, no two rows of them alike.
fn slope() -> (Vec<u8>, Vec<u8>) {
    let tone = |x: u32, y: u32| image::Luma([(x * 8 + y).to_le_bytes()[0]]);
    let pixels = image::GrayImage::from_fn(28, 28, tone);
    let mut file = Cursor::new(Vec::new());
    pixels.write_to(&mut file, image::ImageFormat::Png).expect("written");
    (file.into_inner(), pixels.into_raw())
}

#[tokio::test]
async fn the_answer_shows_what_a_small_model_was_given_where_that_is_asked_for() {
    let mut large = digits();
    let input = large.manifest.input.as_mut().unwrap();
    (input.width, input.height) = (64, 65);
    let models = vec![served("mnist", 3, Seven).0, serving(("large", 1), large, Seven)];
    let worker = Worker::start(models).await;
    let (file, pixels) = slope();
    let ask = async |query: &str| {
        let (kind, body) = form(&[("image", &file), ("show_input", b"true")]);
        let request = Request::post(format!("/predict{query}"))
            .header("content-type", kind)
            .header("accept", "application/json");
        worker.send(request.body(Full::new(body.into())).unwrap()).await.json()
    };
    let input = &ask("?model=mnist").await["input"];
    assert_eq!((&input["width"], &input["height"]), (&28.into(), &28.into()));
    assert_eq!(input["channels"], 1);
    assert_eq!(STANDARD.decode(input["pixels"].as_str().unwrap()).unwrap(), pixels);
    for query in ["?model=mnist&show_input=false", "?model=large"] {
        assert!(ask(query).await.get("input").is_none(), "{query}");
    }
    let unclear = worker.post("/predict?show_input=maybe", file.clone()).await;
    assert_eq!((unclear.status, unclear.error().contains("show_input")), (400, true));
}

#[tokio::test]
async fn the_form_of_the_original_experiment_is_understood() {
    let (kind, body) = form(&[("number_backend_servers", b"4"), ("image", &png())]);
    let request = Request::post("/submit").header("content-type", kind);
    let answer = worker().await.send(request.body(Full::new(body.into())).unwrap()).await;
    assert_eq!(answer.text(), "\"7\"\n");
}

#[tokio::test]
async fn the_photo_form_of_an_older_project_is_understood() {
    let (kind, body) = form(&[("input_photo", &png())]);
    let request = Request::post("/predict?model=mnist").header("content-type", kind);
    let answer = worker().await.send(request.body(Full::new(body.into())).unwrap()).await;
    assert_eq!(answer.text(), "\"7\"\n");
}

#[tokio::test]
async fn the_root_tells_what_is_served() {
    let answer = worker().await.get("/").await;
    assert!(answer.text().contains("mnist (version 3)"), "{}", answer.text());
}

#[tokio::test]
async fn get_says_how_to_ask() {
    let answer = worker().await.get("/predict").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), "Please, submit an image with POST method");
}

#[tokio::test]
async fn the_digit_route_tells_the_size_of_the_upload() {
    let answer = worker().await.post("/mnist", png()).await;
    assert_eq!(answer.json()["message"], "Image received. Size=30x20. label=7");
}

#[tokio::test]
async fn model_and_version_are_chosen_by_the_query_or_the_form() {
    let models = vec![served("mnist", 3, Seven).0, served("mnist", 2, Seven).0];
    let worker = Worker::start(models).await;
    for (path, status) in [
        ("/predict?model=mnist", 200),
        ("/predict?model=mnist&version=2", 200),
        ("/predict?version=9", 404),
        ("/predict?version=stable", 404),
        ("/predict?model=resnet", 404),
    ] {
        assert_eq!(worker.post(path, png()).await.status, status, "{path}");
    }
    let (kind, body) = form(&[("image", &png()), ("model", b"resnet")]);
    let request = Request::post("/predict").header("content-type", kind);
    let answer = worker.send(request.body(Full::new(body.into())).unwrap()).await;
    assert_eq!((answer.status, answer.error().contains("resnet")), (404, true));
}

#[tokio::test]
async fn a_worker_without_models_is_alive_but_not_ready() {
    let worker = Worker::start(Vec::new()).await;
    assert_eq!(worker.get("/v2/health/live").await.status, 200);
    assert_eq!(worker.get("/v2/health/ready").await.status, 503);
    let answer = worker.post("/predict", png()).await;
    assert_eq!((answer.status, answer.error().as_str()), (503, "no model is ready"));
}

#[tokio::test]
async fn health_index_and_metrics_tell_what_is_served() {
    let worker = worker().await;
    assert_eq!(worker.get("/v2/health/ready").await.status, 200);
    assert_eq!(worker.post("/predict", png()).await.status, 200);
    let index: Vec<wire::ModelIndexEntry> =
        serde_json::from_slice(&worker.post("/v2/repository/index", "").await.body).unwrap();
    assert_eq!((index[0].name.as_str(), index[0].version.as_str()), ("mnist", "3"));
    assert_eq!(index[0].state, "READY");
    let metrics = worker.get("/metrics").await;
    let counted = "worker_requests_total{route=\"/predict\",status=\"200\"} 1";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
    worker.app.drain();
    assert_eq!(worker.get("/v2/health/ready").await.status, 503);
}

#[tokio::test]
async fn the_load_report_comes_when_it_is_asked_for() {
    let request = Request::post("/predict").header("endpoint-load-metrics-format", "json");
    let answer = worker().await.send(request.body(Full::new(png().into())).unwrap()).await;
    assert_eq!(
        answer.header("endpoint-load-metrics"),
        r#"JSON {"named_metrics":{"queue":0,"concurrency":2}}"#
    );
}
