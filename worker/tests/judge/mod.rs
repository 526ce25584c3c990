//! Properties of everything that the worker reads from strangers: any bytes are read or refused
//! without a panic, in memory and time proportional to their size. The test `readers` and the fuzz
//! targets supply the bytes.

#![allow(dead_code, reason = "each fuzz target uses its own part")]

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use allocation_counter::measure;
use bytes::Bytes;
use clap::Parser;
use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use message::tf_serving::Verb;
use message::{ContentType, coding};
use rustix::time::{ClockId, clock_gettime};
use worker::api::form;
use worker::api::reading::{Protocol, count_rows};
use worker::cli::Cli;
use worker::preprocess::{ImageError, Limits, decode, decode_for, prepare};
use worker::repository::{Filter, Input, Manifest, Resize, Version};

/// Memory that the smallest body may take, and each byte of a larger one.
const LEAST: u64 = 32 << 20;
const TIMES: u64 = 40;
/// Time that a small body may take, and each byte of a large one, in optimised code.
const SOON: Duration = Duration::from_secs(1);
const A_BYTE: Duration = Duration::from_nanos(100);
/// How much slower code may be if it is not optimised, or is instrumented for coverage.
const SLOWER: u32 = 4;
/// What the server deducts for memory that it does not count, and the most that a request may take.
const NOT_COUNTED: u64 = 1 << 20;
const MOST: u64 = 64 << 20;

/// Reads `bytes`, and checks the memory and time that this takes.
fn bounded(bytes: &[u8], read: impl FnOnce()) {
    let begun = time_of_thread();
    let taken = measure(read).bytes_max;
    let spent = time_of_thread().saturating_sub(begun);
    let size = bytes.len() as u64;
    assert!(taken < LEAST + TIMES * size, "{taken} bytes of memory for {size}");
    let most = SLOWER * (SOON + A_BYTE * u32::try_from(size).expect("a small body"));
    assert!(spent < most, "{spent:?} for {size} bytes");
}

/// CPU time of this thread, which does not advance while other threads run.
fn time_of_thread() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("time goes forward")
}

/// What remains for decoding next to a body of this size.
fn limits(bytes: &[u8]) -> Limits {
    let most = LEAST - NOT_COUNTED + (TIMES - 1) * bytes.len() as u64;
    Limits { max_bytes: most.min(MOST), ..Limits::default() }
}

/// Inputs of networks: a crop of a photo, a digit, and the whole picture scaled down.
fn inputs() -> [Input; 3] {
    let [width, height] = [224; 2];
    let resize = Resize::ShorterSide { shorter_side: 232, filter: Filter::Bilinear };
    let photo = Input { width, height, resize, mean: vec![0.5; 3], std: vec![0.5; 3] };
    let [width, height] = [28; 2];
    let digit =
        Input { width, height, resize: Resize::Digit, mean: vec![0.1307], std: vec![0.3081] };
    let resize = Resize::Squash { filter: Filter::Bicubic };
    let [width, height] = [8; 2];
    let squashed = Input { width, height, resize, mean: vec![0.0; 3], std: vec![1.0; 3] };
    [photo, digit, squashed]
}

/// A picture in any format.
pub(crate) fn picture(bytes: &[u8]) {
    let limits = limits(bytes);
    for input in inputs() {
        bounded(bytes, || {
            let Ok(picture) = decode_for(bytes, &limits, &|| false, &input) else { return };
            let pixels = u64::from(picture.width()) * u64::from(picture.height());
            assert!((1..=limits.max_pixels).contains(&pixels));
            let Ok(features) = prepare(&picture, &input) else { return };
            assert_eq!(features.len(), input.mean.len() * input.width * input.height);
            assert!(features.iter().all(|value| value.is_finite()));
        });
    }
}

/// A JPEG, whose decoder must not panic. Decoded whole or reduced, it is accepted, or refused for
/// the same reason.
pub(crate) fn jpeg(bytes: &[u8]) {
    if !bytes.starts_with(b"\xFF\xD8") {
        return;
    }
    picture(bytes);
    let limits = limits(bytes);
    let [.., squashed] = inputs();
    let whole = decode(bytes, &limits);
    let reduced = decode_for(bytes, &limits, &|| false, &squashed);
    if matches!(whole, Err(ImageError::TooMuchMemory { .. })) {
        return;
    }
    let [whole, reduced] = [whole, reduced].map(|decoded| decoded.err().map(|why| why.to_string()));
    assert!(!whole.iter().any(|why| why.contains("gave up")), "a panic");
    assert_eq!(whole, reduced, "whole and reduced");
}

/// Models of tables, one that classifies and one that predicts a number, and a model of pictures.
fn versions() -> &'static [Version; 3] {
    static ALL: OnceLock<[Version; 3]> = OnceLock::new();
    ALL.get_or_init(|| {
        let flowers = "architecture = 'linear'
            [table]
            label = 'species'
            task = 'classification'
            columns = [
                { name = 'width', type = 'number', mean = 1.0, std = 2.0 },
                { name = 'length', type = 'number', mean = 0.0, std = 1.0 },
                { name = 'colour', type = 'text', values = ['red', 'blue'] },
            ]";
        let houses = "architecture = 'linear'
            [table]
            label = 'price'
            task = 'regression'
            columns = [{ name = 'size', type = 'number', mean = 0.0, std = 1.0 }]";
        let digits = "architecture = 'mnist_cnn'
            [input]
            width = 28
            height = 28
            resize = { mode = 'digit' }
            mean = [0.1307]
            std = [0.3081]";
        let version = |manifest, labels: &[&str]| Version {
            folder: "none".into(),
            manifest: Manifest::parse(manifest).expect("a manifest"),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        };
        let ten = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        [version(flowers, &["rose", "iris"]), version(houses, &[]), version(digits, &ten)]
    })
}

/// A table with the maximum number of columns.
pub(crate) fn wide() -> Version {
    let column =
        |at: usize| format!("{{ name = 'c{at}', type = 'number', mean = 0.0, std = 1.0 }}");
    let columns: Vec<String> = (0..4096).map(column).collect();
    let manifest = format!(
        "architecture = 'linear'
        [table]
        label = 'price'
        task = 'regression'
        columns = [{}]",
        columns.join(", ")
    );
    let manifest = Manifest::parse(&manifest).expect("a manifest");
    Version { folder: "none".into(), manifest, labels: Vec::new() }
}

fn rows(protocol: Protocol<'_>, bytes: &[u8]) {
    rows_of(versions(), protocol, bytes);
}

/// Reads a body for each of the versions.
pub(crate) fn rows_of(versions: &[Version], protocol: Protocol<'_>, bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    let most = usize::try_from(MOST).expect("an address");
    for version in versions {
        bounded(bytes, || {
            if let Ok(rows) = count_rows(protocol, &body, version, most) {
                assert!((1..=65_536).contains(&rows), "{rows} rows");
            }
        });
    }
}

/// A body of TF Serving's protocol.
pub(crate) fn tf_json(bytes: &[u8]) {
    for verb in [Verb::Predict, Verb::Classify, Verb::Regress] {
        rows(Protocol::TfServing(verb), bytes);
    }
}

/// A body of the Open Inference Protocol: JSON only, JSON followed by binary data, and no JSON.
pub(crate) fn open_inference(bytes: &[u8]) {
    let end = bytes.iter().rposition(|byte| *byte == b'}').map_or(0, |end| end + 1);
    rows(Protocol::OpenInference(&HeaderMap::new()), bytes);
    for length in [end, 0] {
        let name = HeaderName::from_static("inference-header-content-length");
        let headers = HeaderMap::from_iter([(name, HeaderValue::from(length))]);
        rows(Protocol::OpenInference(&headers), bytes);
    }
}

/// Content type, content coding, query and body of an upload.
pub(crate) type Upload<'a> = (&'a [u8], &'a [u8], &'a str, &'a [u8]);

/// An upload to `/predict`.
pub(crate) fn upload((content_type, content_coding, query, body): Upload<'_>) {
    const MOST_PLAIN: usize = 1 << 16;
    let mut fields = HeaderMap::new();
    for (name, value) in [(CONTENT_TYPE, content_type), (CONTENT_ENCODING, content_coding)] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            fields.insert(name, value);
        }
    }
    let plain = match ContentType::of(&fields).and_then(|kind| kind.packed(&fields)) {
        Ok(Some(coding)) => coding::unpack(coding, body, MOST_PLAIN).unwrap_or_default(),
        Ok(None) | Err(_) => body.to_vec(),
    };
    assert!(plain.len() <= body.len().max(MOST_PLAIN));
    fields.remove(CONTENT_ENCODING);
    let plain = Bytes::from(plain);
    bounded(&plain, || {
        if let Ok(upload) = form::read(Some(query), &fields, &plain) {
            assert!((1..=1000).contains(&upload.top_k));
            let _key = upload.model.key();
        }
    });
}

/// Runs a command of the worker on a file in a folder of its own.
fn run(name: &str, content: &[u8], command: impl FnOnce(&str, &str) -> Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path(name), content).expect("a file");
    fs::write(path("flowers.csv"), FLOWERS).expect("a file");
    let arguments = command(&path(name), &path("flowers.csv"));
    let models = ["--models".to_owned(), path("models")];
    let arguments = ["worker".to_owned()].into_iter().chain(arguments).chain(models);
    let cli = Cli::try_parse_from(arguments).expect("a command");
    let _ended = worker::run(&cli, &mut Vec::new());
}

const FLOWERS: &str =
    "width,length,species\n1,2,rose\n2,3.5,iris\n1.5,2,rose\n2.5,4,iris\n,,rose\n";

/// A statement for `worker train sql`.
pub(crate) fn sql(text: &[u8]) {
    run("model.sql", text, |file, table| {
        let table = format!("flowers={table}");
        ["train", "sql", file, "--csv", &table].map(str::to_owned).to_vec()
    });
}

/// A file for `worker pull --from`.
pub(crate) fn checkpoint(bytes: &[u8]) {
    bounded(bytes, || {
        run("model.pth", bytes, |file, _| {
            ["pull", "mobilenet_v2", "--from", file].map(str::to_owned).to_vec()
        });
    });
}
