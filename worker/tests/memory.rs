//! A request of any protocol takes, at worst, memory and time proportional to its body, and none of
//! the memory stays in use.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;
mod harm;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use common::{Seven, Sum, Worker, digits, flowers, handwriting, houses, png, serving};
use http_body_util::Full;
use hyper::Request;
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tokio::time::Instant;
use worker::serving::Served;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Memory that the smallest request may take, and each byte of a larger one.
const LEAST: usize = 32 << 20;
const TIMES: usize = 40;
/// Time that the smallest request may take, and each byte of a larger one.
const SOON: Duration = Duration::from_secs(1);
const A_BYTE: Duration = Duration::from_nanos(100);
/// How much slower the code may be, as it is hardly optimised.
const SLOWER: u32 = 4;

/// A request: path, the header it needs, and its body.
#[derive(Debug, Clone)]
struct Asked {
    path: &'static str,
    header: (&'static str, String),
    body: Vec<u8>,
}

const PLAIN: (&str, &str) = ("content-type", "application/json");

fn asked(path: &'static str, (name, value): (&'static str, &str), body: Vec<u8>) -> Asked {
    Asked { path, header: (name, value.to_owned()), body }
}

/// A piece of JSON between a beginning and an end, repeated to fill some size.
fn repeated(parts: [&str; 3], size: usize) -> Vec<u8> {
    let [begin, piece, end] = parts;
    let times = size.saturating_sub(begin.len() + end.len()) / piece.len();
    [begin, &piece.repeat(times), end].concat().into_bytes()
}

/// JSON that grows the most when it is parsed, for both protocols.
const TF: [[&str; 3]; 10] = [
    [r#"{"instances": ["#, "1,", "1]}"],
    [r#"{"inputs": ["#, "1,", "1]}"],
    [r#"{"instances": ["#, "[],", "1]}"],
    [r#"{"instances": ["#, "[1],", "[1]]}"],
    [r#"{"instances": ["#, r#"{"size":1},"#, r#"{"size":1}]}"#],
    [r#"{"instances": ["#, r#"{"":0},"#, "1]}"],
    [r#"{"instances": [{"#, r#""":0,"#, r#""size":1}]}"#],
    [r#"{"instances": ["#, r#"{"b64":""},"#, r#"{"b64":""}]}"#],
    [r#"{"signature_name": ""#, r"\u0001", r#"", "instances": [1]}"#],
    [r#"{"instances": "#, "[", "1"],
];
const OIP: [[&str; 3]; 9] = [
    [r#"{"inputs": ["#, r#"{"name":"","shape":[],"datatype":""},"#, "{}]}"],
    [r#"{"parameters": {"a": "#, "[", "1}"],
    [r#"{"parameters": {"a": 1"#, r#","":{}"#, "}}"],
    [r#"{"parameters": {"a": 1"#, r#","":1"#, r#"}, "inputs": []}"#],
    [r#"{"inputs": [], "outputs": ["#, r#"{"name":"price"},"#, r#"{"name":"price"}]}"#],
    [r#"{"id": ""#, r"\u0001", r#"", "inputs": []}"#],
    [r#"{"inputs": [{"name":"size","datatype":"FP32","shape":["#, "1,", r#"1],"data":[1]}]}"#],
    [r#"{"inputs": [{"name":"size","datatype":"FP32","shape":[1000000],"data":["#, "1,", "1]}]}"],
    [r#"{"inputs": [{"name":"size","datatype":"FP32","shape":[60000],"data":["#, "[1],", "[1]]}]}"],
];

fn json(shapes: &'static [[&'static str; 3]], path: &'static str) -> impl Strategy<Value = Asked> {
    (prop::sample::select(shapes), 0usize..1 << 20)
        .prop_map(move |(parts, size)| asked(path, PLAIN, repeated(parts, size)))
}

/// Many members, and many examples or rows in which each might be looked up.
fn members() -> impl Strategy<Value = Asked> {
    let shapes = [
        ("/v1/models/houses:regress", r#"{"context": {"#, r#""size":1}, "examples": ["#, "{}"),
        (
            "/v1/models/flowers:classify",
            r#"{"context": {"#,
            r#""width":1,"length":1,"colour":"red"}, "examples": ["#,
            "{}",
        ),
        (
            "/v1/models/houses:predict",
            r#"{"context": {"#,
            r#""size":1}, "instances": ["#,
            r#"{"size":1}"#,
        ),
    ];
    let counts = (0usize..100_000, 1usize..60_000);
    (prop::sample::select(shapes.to_vec()), counts).prop_map(|(shape, (members, rows))| {
        let (path, begin, middle, row) = shape;
        let rows = vec![row; rows].join(",");
        asked(
            path,
            PLAIN,
            [begin, &r#""":0,"#.repeat(members), middle, &rows, "]}"].concat().into(),
        )
    })
}

/// Binary tensors of any size, with a correct or a wrong size announced.
fn binary() -> impl Strategy<Value = Asked> {
    (0usize..200_000, any::<bool>(), 0usize..300_000).prop_map(|(rows, honest, other)| {
        let announced = if honest { rows } else { other };
        let json = format!(
            r#"{{"inputs": [{{"name":"size","shape":[{announced}],"datatype":"FP32","parameters":{{"binary_data_size":{}}}}}]}}"#,
            4 * announced
        );
        let body = [json.as_bytes(), &vec![0; 4 * rows]].concat();
        let header = ("inference-header-content-length", json.len().to_string());
        Asked { path: "/v2/models/houses/infer", header, body }
    })
}

/// Forms with many parts, with one large part, and malformed ones.
fn form() -> impl Strategy<Value = Asked> {
    let part = "--xx\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n";
    let image = "--xx\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\n";
    let shapes = [
        [part, part, "--xx--\r\n"],
        [image, "x", "\r\n--xx--\r\n"],
        ["", "--xx\r\n", ""],
        ["--xx\r\nContent-Disposition: ", "a;", "\r\n\r\n\r\n--xx--\r\n"],
    ];
    (prop::sample::select(shapes.to_vec()), 0usize..1 << 20).prop_map(|(parts, size)| {
        asked(
            "/predict",
            ("content-type", "multipart/form-data; boundary=xx"),
            repeated(parts, size),
        )
    })
}

/// Bodies that compress well, and decompress to sizes within the limit and beyond.
fn packed() -> impl Strategy<Value = Asked> {
    (prop::sample::select(&TF[..]), 0usize..4 << 20).prop_map(|(parts, size)| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&repeated(parts, size)).unwrap();
        let body = encoder.finish().unwrap();
        asked("/v1/models/houses:predict", ("content-encoding", "gzip"), body)
    })
}

/// Pictures of every format and coding, small and large, damaged in every way.
fn picture(path: &'static str) -> impl Strategy<Value = Asked> {
    let flat = image::RgbImage::from_pixel(3000, 2000, image::Rgb([90, 140, 200]));
    let mut png = std::io::Cursor::new(Vec::new());
    flat.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let all = [harm::seeds(), harm::written((640, 480)), vec![png.into_inner()]].concat();
    let small: Vec<_> = all.into_iter().filter(|bytes| bytes.len() < 1 << 20).collect();
    let harms = prop::collection::vec(harm::harm(), 0..3);
    (prop::sample::select(small), harms).prop_map(move |(mut body, harms)| {
        for harm in harms {
            if !body.is_empty() {
                harm.apply(&mut body);
            }
        }
        asked(path, ("content-type", "image/any"), body)
    })
}

/// Many images of a few bytes each, with as many pixels as a photo may have.
fn flat_pictures() -> impl Strategy<Value = Asked> {
    (1u32..2200, 0usize..3000).prop_map(|(side, rows)| {
        let size = ((side - 1) | (side - 1) << 14).to_le_bytes();
        let head = b"RIFF\x1a\0\0\0WEBPVP8L\x0e\0\0\0\x2f";
        let file = [&head[..], &size, b"\x07\x10\x11\xfd\x0f\x44\x44\xff\x03"].concat();
        let file = base64::engine::general_purpose::STANDARD.encode(file);
        let row = format!(r#"{{"b64":"{file}"}},"#);
        let rows = row.repeat(rows);
        let body = format!(r#"{{"instances": [{rows}{{"b64":"{file}"}}]}}"#);
        asked("/v1/models/mnist:predict", PLAIN, body.into())
    })
}

/// CPU time that a model of a few microseconds takes for `rows` rows, in batches of two.
fn time_of_rows(runtime: &Runtime, served: &Served, rows: usize) -> Duration {
    let once = || {
        let features = vec![0.0; rows * 28 * 28];
        let begun = time_of_process();
        let deadline = Instant::now() + Duration::from_mins(1);
        let output = runtime.block_on(served.infer(features, rows, deadline)).unwrap();
        assert_eq!(output.values.len(), rows * 10);
        time_of_process().saturating_sub(begun)
    };
    (0..3).map(|_| once()).min().unwrap()
}

/// CPU time of this process, which does not advance while other processes run.
fn time_of_process() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap()
}

#[test]
fn no_request_takes_many_times_its_body_nor_long_and_nothing_of_it_stays() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut config = common::config();
    config.request.max_body = 10 << 20;
    config.request.max_memory = 64 << 20;
    config.request.memory = 256 << 20;
    config.request.picture.max_pixels = 40_000_000;
    config.request.picture.max_bytes = 64 << 20;
    let rows_of_digits = serving(("mnist", 1), digits(), Seven);
    let models = vec![
        serving(("flowers", 1), flowers(), Sum(2)),
        serving(("houses", 1), houses(), Sum(1)),
        Arc::clone(&rows_of_digits),
        serving(("handwriting", 1), handwriting(), Seven),
    ];
    let worker = runtime.block_on(async { Worker::with(config, models).await });
    let any = prop_oneof![
        json(&TF, "/v1/models/houses:predict"),
        json(&TF, "/v1/models/flowers:predict"),
        json(&OIP, "/v2/models/houses/infer"),
        members(),
        flat_pictures(),
        binary(),
        form(),
        packed(),
        picture("/predict"),
        picture("/predict?model=handwriting"),
    ];
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let pixel = || worker.post("/predict", png());
    assert_eq!(runtime.block_on(pixel()).status, 200);
    let at_first = MEMORY.current_usage();
    let outcome = runner.run(&any, |Asked { path, header, body }| {
        let size = body.len();
        let request = Request::post(path).header(header.0, &header.1);
        let request = request.body(Full::new(body.into())).unwrap();
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let begun = time_of_process();
        let answer = runtime.block_on(worker.send(request));
        let most = MEMORY.peak_usage().saturating_sub(before);
        prop_assert!(most < LEAST + TIMES * size, "{most} for {size}: {}", answer.status);
        let spent = time_of_process().saturating_sub(begun);
        let longest = SOON + A_BYTE * u32::try_from(size).unwrap();
        prop_assert!(spent < SLOWER * longest, "{spent:?} for {size}: {}", answer.status);
        prop_assert!(answer.status < 500, "{}", answer.status);
        Ok(())
    });
    outcome.unwrap();
    assert_eq!(runtime.block_on(pixel()).status, 200);
    // The buffers that threads have allocated once remain, but nothing that grows.
    let stays = MEMORY.current_usage().saturating_sub(at_first);
    assert!(stays < 4 << 20, "{stays} bytes stay");
    // Each batch takes only its own rows, without moving all the remaining ones.
    let [few, many] = [500, 4000].map(|rows| time_of_rows(&runtime, &rows_of_digits, rows));
    assert!(many < 24 * few, "8 times the rows: {few:?} and {many:?}");
    runtime.block_on(worker.stop());
}
