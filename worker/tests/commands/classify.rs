//! `worker classify` without a server: every kind of argument, one line per image, and an error
//! that gives the number of images without a label.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::io::{Cursor, Read, Write};
use std::net::TcpListener;
use std::path::Path;

use clap::Parser;
use image::{DynamicImage, GrayImage, ImageFormat, Luma};
use worker::cli::Cli;

/// A picture of the digit one.
fn digit() -> Vec<u8> {
    let bar = |x, y| if (13..15).contains(&x) && (5..23).contains(&y) { 255 } else { 0 };
    let picture = GrayImage::from_fn(28, 28, |x, y| Luma([bar(x, y)]));
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// The lines printed by a command.
type Lines = Vec<serde_json::Value>;

/// Runs the command; returns what it prints and its result.
fn classify(arguments: &[&str]) -> (Lines, Result<(), String>) {
    classify_by(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models"), arguments)
}

/// Like [`classify`], with the models in a folder.
fn classify_by(models: &Path, arguments: &[&str]) -> (Lines, Result<(), String>) {
    let models = models.to_str().unwrap();
    let fixed = ["worker", "classify", "--json", "--model", "mnist", "--models", models];
    let cli = Cli::try_parse_from([&fixed[..], arguments].concat()).unwrap();
    let mut out = Vec::new();
    let ended = worker::run(&cli, &mut out).map_err(|error| error.to_string());
    let lines = String::from_utf8(out).unwrap();
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), ended)
}

fn files(lines: &[serde_json::Value]) -> Vec<&str> {
    lines.iter().map(|line| line["file"].as_str().unwrap()).collect()
}

/// Serves one answer to one client, and returns the URL.
fn serve(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/a.png", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let _head = client.read(&mut [0; 4096]).unwrap();
        // The client may hang up early.
        let _sent = client.write_all(&answer);
    });
    address
}

fn answer(status: &str, head: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[test]
fn files_folders_and_addresses_are_labelled_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("more")).unwrap();
    for name in ["b.png", "a.png", "more/c.png"] {
        fs::write(path(name), digit()).unwrap();
    }
    let address = serve(answer("200 OK", "", &digit()));
    let root = folder.path().to_str().unwrap();
    let (lines, ended) = classify(&[&path("b.png"), &address, root]);
    ended.unwrap();
    let [a, b, c] = ["a.png", "b.png", "more/c.png"].map(path);
    assert_eq!(files(&lines), [&b, &address, &a, &b, &c]);
    assert!(lines.iter().all(|line| line["label"] == "1"), "{lines:?}");
}

#[test]
fn what_cannot_be_read_keeps_nothing_else_from_its_label() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("empty")).unwrap();
    fs::write(path("a.png"), b"no image").unwrap();
    fs::write(path("b.png"), digit()).unwrap();
    let absent = serve(answer("404 Not Found", "", b""));
    let packed = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 20 << 20]).unwrap();
        encoder.finish().unwrap()
    };
    let bomb = serve(answer("200 OK", "Content-Encoding: gzip\r\n", &packed));
    let root = folder.path().to_str().unwrap();
    let arguments = [&path("none.png"), &absent, &bomb, &path("empty"), root];
    let (lines, ended) = classify(&arguments.map(|argument| argument as &str));
    assert_eq!(files(&lines), [&path("b.png")]);
    assert_eq!(ended.unwrap_err(), "5 of 6 images not labelled");
}

#[test]
fn the_limits_are_those_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png").to_str().unwrap().to_owned();
    fs::write(&path, digit()).unwrap();
    for limit in [["--max-body", "50"], ["--max-pixels", "783"], ["--max-pixels", "0"]] {
        let (lines, ended) = classify(&[&path, limit[0], limit[1]]);
        assert!(lines.is_empty() && ended.is_err(), "{limit:?}");
    }
    let (_, ended) = classify(&[&path, "--max-pixels", "784"]);
    ended.unwrap();
}

/// The digit one on a sheet, as a lossless WebP.
fn sheet(side: u32) -> Vec<u8> {
    let is_ink = |x, y| {
        let (x, y) = (100 * x / side, 100 * y / side);
        (47..53).contains(&x) && (25..75).contains(&y)
    };
    let sheet = GrayImage::from_fn(side, side, |x, y| Luma([if is_ink(x, y) { 20 } else { 250 }]));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(sheet).to_rgb8().write_to(&mut bytes, ImageFormat::WebP).unwrap();
    bytes.into_inner()
}

#[test]
fn a_small_file_may_take_as_much_memory_as_a_small_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Decoding takes 55 MB of the 64 MB that a large request may take.
    let large = sheet(2800);
    assert!(large.len() < 500_000, "{}", large.len());
    fs::write(path("large.webp"), large).unwrap();
    fs::write(path("small.webp"), sheet(280)).unwrap();
    let (lines, ended) = classify(&[&path("large.webp"), &path("small.webp")]);
    assert_eq!(files(&lines), [&path("small.webp")]);
    assert_eq!((&lines[0]["label"], ended.is_err()), (&"1".into(), true));
    let (_, ended) = classify(&["--max-request-memory", "1000", &path("small.webp")]);
    assert!(ended.unwrap_err().contains("--max-request-memory"));
}

#[test]
fn where_the_newest_version_does_not_load_an_older_one_answers() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/mnist/1");
    for version in ["mnist/1", "mnist/2", "mnist/3"] {
        fs::create_dir_all(path(version)).unwrap();
        for file in ["model.toml", "labels.txt", "weights.safetensors"] {
            fs::copy(shipped.join(file), path(version).join(file)).unwrap();
        }
    }
    fs::write(path("mnist/2/weights.safetensors"), b"cut off").unwrap();
    fs::write(path("mnist/3/model.toml"), "architecture = 7").unwrap();
    fs::write(path("a.png"), digit()).unwrap();
    let image = path("a.png").to_str().unwrap().to_owned();
    let labelled = |arguments: &[&str]| {
        let (lines, ended) = classify_by(root.path(), &[arguments, &[image.as_str()]].concat());
        ended.map(|()| (lines[0]["label"].clone(), lines[0]["version"].clone()))
    };
    assert_eq!(labelled(&[]).unwrap(), ("1".into(), "1".into()));
    // A version that is requested explicitly is not replaced by another.
    assert!(labelled(&["--model-version", "3"]).unwrap_err().contains("architecture"));
    let unknown = labelled(&["--model-version", "4"]).unwrap_err();
    assert!(unknown.contains("mnist/4"), "{unknown}");
    fs::write(path("mnist/serving.toml"), "version_policy = { specific = [2] }").unwrap();
    labelled(&[]).unwrap_err();
    fs::write(path("mnist/serving.toml"), "version_policy = 7").unwrap();
    assert_eq!(labelled(&[]).unwrap().1, "1");
}
