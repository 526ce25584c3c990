//! The work that a request may cause is bounded before it starts, and other requests are answered
//! in the meantime.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use clap::Parser;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use image::{GrayImage, ImageFormat, Luma};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use worker::cli::{Cli, Command};
use worker::config::Config;

use crate::common::{
    Gate, Gated, Seven, Sum, Worker, config, digits, flowers, handwriting, houses, png, serving,
};

const JSON_LENGTH: &str = "inference-header-content-length";

async fn worker() -> Worker {
    let mut config = config();
    config.request.max_body = 16 << 20;
    Worker::with(
        config,
        vec![
            serving(("flowers", 1), flowers(), Sum(2)),
            serving(("houses", 1), houses(), Sum(1)),
            serving(("mnist", 1), digits(), Seven),
        ],
    )
    .await
}

/// A request with `rows` houses as a binary tensor.
fn many_houses(rows: usize) -> Request<Full<Bytes>> {
    let tensor = json!({"name": "size", "shape": [rows], "datatype": "FP32",
        "parameters": {"binary_data_size": 4 * rows}});
    let json = json!({"inputs": [tensor]}).to_string();
    let request = Request::post("/v2/models/houses/infer").header(JSON_LENGTH, json.len());
    let body = [json.as_bytes(), &vec![0; 4 * rows]].concat();
    request.body(Full::new(body.into())).unwrap()
}

#[tokio::test]
async fn a_million_rows_are_refused_and_many_are_answered() {
    let worker = worker().await;
    let answer = worker.send(many_houses(1_000_000)).await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.error(), "1000000 rows, more than the 65536 of one request");
    let answer = worker.send(many_houses(65_536)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["outputs"][0]["shape"], json!([65_536]));
    let rows = vec![1.5; 70_000];
    for body in [json!({"instances": rows}), json!({"inputs": rows})] {
        let answer = worker.post("/v1/models/houses:predict", body.to_string()).await;
        assert!(
            answer.status == 400 && answer.error().contains("more than the 65536"),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_picture_of_48_megapixels_is_taken_by_a_server_that_was_told_nothing_of_pixels() {
    let Command::Serve(args) = Cli::parse_from(["worker", "serve"]).command else {
        unreachable!("the command is serve")
    };
    let mut config = config();
    config.request = Config::try_from(&args).unwrap().request;
    let worker = Worker::with(config, vec![serving(("mnist", 1), digits(), Seven)]).await;
    let picture = GrayImage::from_pixel(8000, 6000, Luma([200]));
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    let answer = worker.post("/predict", bytes.into_inner()).await;
    assert_eq!((answer.status, answer.text()), (200, "\"7\"\n"));
}

#[tokio::test]
async fn memory_is_bounded_whatever_takes_it() {
    let mut config = config();
    config.request.max_memory = 1 << 20;
    config.request.memory = 4 << 20;
    let models =
        vec![serving(("flowers", 1), flowers(), Sum(2)), serving(("mnist", 1), digits(), Seven)];
    let worker = Worker::with(config, models).await;
    let lists = format!("{{\"instances\": [{}1]}}", "[],".repeat(100_000));
    let rows = "{\"width\":1,\"length\":1,\"colour\":\"red\"},".repeat(10_000);
    let rows = format!("{{\"instances\": [{}]}}", &rows[..rows.len() - 1]);
    let inputs = r#"{"name":"","shape":[],"datatype":""},"#.repeat(4000);
    let inputs = format!(r#"{{"id": "{}", "inputs": [{inputs}{{}}]}}"#, "x".repeat(900_000));
    for (path, body) in [
        ("/v1/models/flowers:predict", lists),
        ("/v1/models/flowers:predict", rows),
        ("/v2/models/flowers/infer", inputs),
    ] {
        let answer = worker.post(path, body).await;
        assert!([400, 413].contains(&answer.status), "{answer:?}");
        assert!(answer.error().contains("--max-request-memory"), "{}", answer.error());
    }
    assert_eq!(worker.post("/predict", png()).await.status, 200);
}

#[tokio::test]
async fn an_answer_is_counted_before_it_is_written() {
    let mut config = config();
    config.request.max_memory = 3 << 20;
    // Its labels make up most of an answer and none of a request.
    let mut version = flowers();
    version.labels = vec!["r".repeat(4000), "i".repeat(4000)];
    let worker = Worker::with(config, vec![serving(("flowers", 1), version, Sum(2))]).await;
    let tensor = |name: &str, data: Value| json!({"name": name, "shape": [100], "datatype": if name == "colour" { "BYTES" } else { "FP32" }, "data": data});
    let inputs = json!([
        tensor("width", json!(vec![1; 100])),
        tensor("length", json!(vec![1; 100])),
        tensor("colour", json!(vec!["red"; 100])),
    ]);
    let row = json!({"width": 1, "length": 1, "colour": "red"});
    let ask = async |path: &str, body: Value| worker.post(path, body.to_string()).await;
    let few = json!({"inputs": inputs, "outputs": [{"name": "species_probs"}]});
    assert_eq!(ask("/v2/models/flowers/infer", few).await.status, 200);
    assert_eq!(ask("/v1/models/flowers:predict", json!({"instances": [row]})).await.status, 200);
    let all = json!({"inputs": inputs});
    let classes = json!({"inputs": inputs, "outputs": [
        {"name": "species_probs", "parameters": {"classification": 2}}]});
    for (path, body) in [
        ("/v2/models/flowers/infer", all),
        ("/v2/models/flowers/infer", classes),
        ("/v1/models/flowers:predict", json!({"instances": vec![row.clone(); 100]})),
        ("/v1/models/flowers:classify", json!({"examples": vec![row.clone(); 100]})),
    ] {
        let answer = ask(path, body).await;
        assert!([400, 413].contains(&answer.status), "{path}: {}", answer.status);
        assert!(answer.error().contains("--max-request-memory"), "{}", answer.error());
    }
}

#[tokio::test]
async fn long_names_are_not_told_in_full() {
    let worker = worker().await;
    let long = "\u{1}".repeat(200_000);
    for (path, body) in [
        (
            "/v2/models/flowers/infer",
            json!({"inputs": [{"name": long, "shape": [1], "datatype": "FP32", "data": [1]}]}),
        ),
        (
            "/v2/models/flowers/infer",
            json!({"inputs": [{"name": "width", "shape": [1], "datatype": long, "data": [1]}]}),
        ),
        ("/v2/models/flowers/infer", json!({"inputs": [], "outputs": [{"name": long}]})),
        ("/v2/models/flowers/infer", json!({"inputs": long})),
        ("/v1/models/flowers:predict", json!({"signature_name": long, "instances": [1]})),
        ("/v1/models/flowers:predict", json!({"instances": [{long.clone(): 1}]})),
        ("/v1/models/flowers:predict", json!({"instances": long})),
    ] {
        let answer = worker.post(path, body.to_string()).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.body.len() < 32 << 10, "{path}: {} bytes", answer.body.len());
    }
}

#[tokio::test]
async fn uploads_that_trickle_keep_nobody_out() {
    let mut config = config();
    config.request.memory = 2 << 20;
    config.request.max_memory = 2 << 20;
    let worker = Worker::with(config, vec![serving(("mnist", 1), digits(), Seven)]).await;
    let mut slow = Vec::new();
    for head in ["content-length: 1000000\r\n\r\nx", "transfer-encoding: chunked\r\n\r\n1\r\nx\r\n"]
    {
        for _ in 0..6 {
            let mut stream = TcpStream::connect(worker.address).await.unwrap();
            let head = format!("POST /predict HTTP/1.1\r\nhost: x\r\n{head}");
            stream.write_all(head.as_bytes()).await.unwrap();
            slow.push(stream);
        }
    }
    let request = Request::post("/predict").header("x-imagefleet-timeout-ms", "5000");
    let answer = worker.send(request.body(Full::new(png().into())).unwrap()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn an_upload_below_the_least_rate_is_answered_408() {
    let mut config = config();
    config.request.body_idle = Duration::from_millis(200);
    config.request.min_rate = 1_000_000;
    let worker = Worker::with(config, vec![serving(("mnist", 1), digits(), Seven)]).await;
    let stream = TcpStream::connect(worker.address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let head = "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    writer.write_all(head.as_bytes()).await.unwrap();
    // Never silent for long, and never done.
    let trickle = async {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = String::new();
    tokio::select! {
        () = trickle => {}
        read = reader.read_to_string(&mut answer) => drop(read),
    }
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

/// A request of a megabyte that lacks its last byte.
async fn all_but_a_byte(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // The worker may already have refused it.
    let _refused = stream.write_all(&vec![0; 999_999]).await;
    stream
}

#[tokio::test]
async fn bodies_that_find_no_memory_are_answered_429() {
    let mut config = config();
    config.request.max_memory = 1 << 20;
    config.request.memory = 1 << 20;
    let worker = Worker::with(config, vec![serving(("mnist", 1), digits(), Seven)]).await;
    // Which of the two bodies finds no memory is random, so retry until it is the complete one.
    let holder = loop {
        let holder = all_but_a_byte(worker.address).await;
        let answer = worker.post("/predict", vec![0; 900_000]).await;
        if answer.status == 429 {
            break holder;
        }
        assert_eq!(answer.status, 415, "{answer:?}");
    };
    drop(holder);
    while worker.post("/predict", vec![0; 900_000]).await.status == 429 {}
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_connection() {
    let mut config = config();
    config.max_connections = 1;
    config.patience.write = Duration::from_millis(100);
    let worker = Worker::with(config, vec![serving(("mnist", 1), digits(), Seven)]).await;
    let mut deaf = TcpStream::connect(worker.address).await.unwrap();
    let asking = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    // Blocks once the worker stops reading, and fails once it has hung up.
    while deaf.write_all(&asking).await.is_ok() {}
    assert_eq!(worker.get("/v2/health/live").await.status, 200);
}

#[tokio::test]
async fn a_later_head_that_trickles_loses_its_connection() {
    let mut config = config();
    config.patience.head = Duration::from_millis(500);
    let worker = Worker::with(config, vec![serving(("mnist", 1), digits(), Seven)]).await;
    let mut stream = TcpStream::connect(worker.address).await.unwrap();
    let request = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n";
    for _ in 0..2 {
        stream.write_all(request).await.unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        // The rest of the answer, which ends with the JSON.
        while stream.read_u8().await.unwrap() != b'}' {}
    }
    let (mut reader, mut writer) = stream.into_split();
    let trickle = async {
        writer.write_all(b"GET /v2/health/live?").await.unwrap();
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = trickle => {}
        read = reader.read_to_end(&mut rest) => drop(read),
    }
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn a_request_without_a_host_is_refused() {
    let worker = worker().await;
    for (head, status) in [
        ("GET /v2/health/live HTTP/1.1\r\n", "400"),
        ("GET /v2/health/live HTTP/1.1\r\nhost: a\r\nhost: b\r\n", "400"),
        ("GET /v2/health/live HTTP/1.0\r\n", "200"),
    ] {
        let mut stream = TcpStream::connect(worker.address).await.unwrap();
        let text = format!("{head}connection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(&answer[9..12], status, "{head}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_classify_request_keeps_no_turn_while_it_waits_for_its_model() {
    let gate = Gate::default();
    let mut config = config();
    config.request.max_body = 16 << 20;
    let gated = serving(("gated", 1), digits(), Gated(gate.clone()));
    let models = vec![gated, serving(("houses", 1), houses(), Sum(1))];
    let worker = Arc::new(Worker::with(config, models).await);
    gate.close();
    let pixels = json!(vec![0.25; 784]);
    let examples = vec![json!({"image": pixels}); 100];
    let large = json!({"examples": examples}).to_string();
    assert!(large.len() > 256 << 10);
    let own = Arc::clone(&worker);
    let held =
        tokio::spawn(async move { own.post("/v1/models/gated:classify", large).await.status });
    gate.wait_for_batch();
    let rows = json!({"instances": vec![1.25; 60_000]}).to_string();
    assert!(rows.len() > 256 << 10);
    let answer = worker.post("/v1/models/houses:predict", rows).await;
    assert_eq!(answer.status, 200);
    gate.open();
    assert_eq!(held.await.unwrap(), 200);
}

/// A WebP of one colour, `side` pixels square, in 34 bytes.
fn flat(side: u32) -> Vec<u8> {
    let sides = ((side - 1) | (side - 1) << 14).to_le_bytes();
    let head = b"RIFF\x1a\0\0\0WEBPVP8L\x0e\0\0\0\x2f";
    [&head[..], &sides, b"\x07\x10\x11\xfd\x0f\x44\x44\xff\x03"].concat()
}

#[tokio::test]
async fn images_of_a_few_bytes_may_not_have_many_pixels_together() {
    let worker = worker().await;
    let ask = async |side: u32, rows: usize| {
        let file = base64::engine::general_purpose::STANDARD.encode(flat(side));
        let rows = vec![json!({"b64": file}); rows];
        worker.post("/v1/models/mnist:predict", json!({"instances": rows}).to_string()).await
    };
    let answer = ask(900, 100).await;
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("pixels together"), "{}", answer.error());
    assert_eq!(ask(900, 3).await.status, 200);
    assert_eq!(ask(100, 300).await.status, 200);
}

#[tokio::test]
async fn a_picture_without_room_for_all_its_detail_is_read_all_the_same() {
    let mut config = config();
    config.request.picture.max_bytes = 2 << 20;
    let worker = Worker::with(config, vec![serving(("mnist", 1), handwriting(), Seven)]).await;
    let ink = |x, y| (470..530).contains(&x) && (250..650).contains(&y);
    let sheet = |x, y| image::Rgb(if ink(x, y) { [20; 3] } else { [250; 3] });
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        let mut bytes = Cursor::new(Vec::new());
        image::RgbImage::from_fn(1000, 900, sheet).write_to(&mut bytes, format).unwrap();
        let answer = worker.post("/predict", bytes.into_inner()).await;
        assert_eq!((answer.status, answer.text()), (200, "\"7\"\n"), "{format:?}");
    }
}

#[tokio::test]
async fn a_small_upload_may_not_unfold_to_all_that_a_large_one_may_take() {
    // A WebP of one colour, 2500 pixels square, in 34 bytes: decoding takes 44 MB.
    let flat =
        b"RIFF\x1a\0\0\0WEBPVP8L\x0e\0\0\0\x2f\xc3\xc9\x70\x02\x07\x10\x11\xfd\x0f\x44\x44\xff\x03";
    let mut config = config();
    config.request.max_memory = 64 << 20;
    config.request.memory = 256 << 20;
    config.request.picture.max_bytes = 64 << 20;
    config.request.picture.max_pixels = 40_000_000;
    let worker = Worker::with(config, vec![serving(("mnist", 1), digits(), Seven)]).await;
    let answer = worker.post("/predict", flat.to_vec()).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert!(answer.text().contains("JPEG"), "{}", answer.text());
}
