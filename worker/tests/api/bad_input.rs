//! Every kind of bad request gets its documented status, in JSON, and the worker keeps running.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Seven, Worker, form, handwriting, png, served, serving};

async fn worker() -> Worker {
    Worker::start(vec![served("mnist", 1, Seven).0]).await
}

/// A PNG whose header claims 20,000 x 20,000 pixels.
fn bomb() -> Vec<u8> {
    let mut png = png();
    png[16..20].copy_from_slice(&20_000u32.to_be_bytes());
    png[20..24].copy_from_slice(&20_000u32.to_be_bytes());
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

fn truncated_jpeg() -> Vec<u8> {
    let pixels =
        image::GrayImage::from_fn(64, 64, |x, y| image::Luma([u8::try_from(x * y % 251).unwrap()]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    let mut bytes = bytes.into_inner();
    bytes.truncate(bytes.len() / 2);
    bytes
}

#[tokio::test]
async fn each_bad_body_has_its_status() {
    let worker = worker().await;
    for (body, status) in [
        (Vec::new(), 400),
        (b"just text, named photo.jpg".to_vec(), 415),
        (truncated_jpeg(), 422),
        (bomb(), 413),
        (vec![0; 2 << 20], 413),
    ] {
        let length = body.len();
        let answer = worker.post("/predict", body).await;
        assert_eq!(answer.status, status, "{length} bytes: {}", answer.error());
    }
    assert_eq!(worker.post("/predict", png()).await.status, 200);
}

/// A black picture, like an empty canvas.
fn blank() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::GrayImage::new(280, 280).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[tokio::test]
async fn a_picture_without_a_digit_is_answered_so_by_every_route() {
    let model = serving(("mnist", 1), handwriting(), Seven);
    let worker = Worker::start(vec![model]).await;
    let image = STANDARD.encode(blank());
    let row = format!("{{\"instances\":[{{\"b64\":\"{image}\"}}]}}");
    // TensorFlow Serving's protocol uses 400 for any invalid input.
    for (path, body, status) in [
        ("/submit", blank(), 422),
        ("/predict", blank(), 422),
        ("/mnist", blank(), 422),
        ("/v1/models/mnist:predict", row.into_bytes(), 400),
    ] {
        let answer = worker.post(path, body).await;
        assert_eq!((answer.status, answer.error().as_str()), (status, "no digit found"), "{path}");
    }
    let tensor = [&u32::try_from(blank().len()).unwrap().to_le_bytes()[..], &blank()].concat();
    let json = format!(
        r#"{{"inputs":[{{"name":"image","datatype":"BYTES","shape":[1],"parameters":{{"binary_data_size":{}}}}}]}}"#,
        tensor.len()
    );
    let request = Request::post("/v2/models/mnist/infer");
    let request = request.header("inference-header-content-length", json.len());
    let body = [json.as_bytes(), &tensor].concat();
    let answer = worker.send(request.body(Full::new(body.into())).unwrap()).await;
    assert_eq!((answer.status, answer.error().as_str()), (422, "no digit found"));
    assert_eq!(worker.post("/submit", png()).await.status, 200);
}

#[tokio::test]
async fn each_bad_question_has_its_status() {
    let worker = worker().await;
    for (path, status) in [
        ("/predict?top_k=0", 400),
        ("/predict?top_k=1001", 400),
        ("/predict?top_k=many", 400),
        ("/predict?model=nothing", 404),
        ("/nowhere", 404),
        ("/v2/health/live", 405),
    ] {
        let answer = worker.post(path, png()).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.error());
    }
    let answer = worker.get("/mnist").await;
    assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
    assert_eq!(answer.error(), "this path does not take GET");
}

#[tokio::test]
async fn a_form_without_an_image_is_refused() {
    let worker = worker().await;
    for parts in [&[("picture", b"x".as_slice())][..], &[("image", b"")], &[]] {
        let (kind, body) = form(parts);
        let request = Request::post("/predict").header("content-type", kind);
        let answer = worker.send(request.body(Full::new(body.into())).unwrap()).await;
        assert_eq!(answer.status, 400, "{parts:?}: {}", answer.error());
    }
    let request = Request::post("/predict").header("content-type", "multipart/form-data");
    let answer = worker.send(request.body(Full::new("x".into())).unwrap()).await;
    assert_eq!(answer.status, 400, "{}", answer.error());
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_refused_before_it_sends() {
    let worker = worker().await;
    let mut stream = TcpStream::connect(worker.address).await.unwrap();
    let head = "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 52428800\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_client_that_sends_a_huge_body_first_still_reads_its_413() {
    let worker = worker().await;
    let answer = worker.post("/predict", vec![1; 50 << 20]).await;
    assert_eq!(answer.status, 413);
    assert!(answer.error().contains("1048576 bytes"), "{}", answer.error());
}

#[tokio::test]
async fn a_stalled_upload_is_answered_408() {
    let mut config = crate::common::config();
    config.request.body_idle = std::time::Duration::from_millis(50);
    let worker = Worker::with(config, vec![served("mnist", 1, Seven).0]).await;
    let mut stream = TcpStream::connect(worker.address).await.unwrap();
    let head = "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("{\"error\":\"the upload took too long\"}"), "{answer}");
}
