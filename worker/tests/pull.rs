//! `worker pull` against a small HTTP server that breaks off, resumes and lies.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use candle_core::{DType, Device, Tensor};
use clap::Parser;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use worker::model::mobilenet_v2::{LayerSpec, blocks, head, stem};
use worker::pull;
use worker::repository::{Manifest, Padding};

type Ranges = Arc<Mutex<Vec<String>>>;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    pull: pull::Args,
}

fn run(arguments: &[&str]) -> Result<String, worker::Error> {
    let arguments = ["pull", "mobilenet_v2"].iter().chain(arguments);
    let mut out = Vec::new();
    pull::run(&Cli::try_parse_from(arguments).unwrap().pull, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

/// All of MobileNetV2 in zeros, as a safetensors file that says `about` itself.
fn checkpoint(about: &[(&str, &str)]) -> Vec<u8> {
    let mut tensors = HashMap::new();
    let mut add = |spec: &LayerSpec| {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F16, &Device::Cpu).unwrap();
        let (outputs, inputs, rows, columns) = spec.weight_shape();
        tensors.insert(format!("{}.weight", spec.name), zeros(&[outputs, inputs, rows, columns]));
        tensors.insert(format!("{}.bias", spec.name), zeros(&[outputs]));
    };
    for layer in blocks().iter().flat_map(|block| &block.layers).chain([&stem(), &head()]) {
        add(layer);
    }
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F16, &Device::Cpu).unwrap();
    tensors.insert("classifier.1.weight".to_owned(), zeros(&[1000, 1280]));
    tensors.insert("classifier.1.bias".to_owned(), zeros(&[1000]));
    let about = about.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    safetensors::serialize(&tensors, Some(about)).unwrap()
}

/// Serves `file`; each connection ends after as many bytes of the body as `cuts` says next.
///
/// Gives the address and the `Range` headers that were asked with.
fn serve(file: Vec<u8>, cuts: Vec<usize>) -> (String, Ranges) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ranges);
    std::thread::spawn(move || {
        for cut in cuts {
            let (mut stream, _) = listener.accept().unwrap();
            let mut start = 0;
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let line = line.unwrap().to_ascii_lowercase();
                if let Some(range) = line.strip_prefix("range: bytes=") {
                    seen.lock().unwrap().push(range.to_owned());
                    start = range.trim_end_matches('-').parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            let length = file.len();
            let status = match start {
                0 => "200 OK".to_owned(),
                _ => format!("206 Partial\r\ncontent-range: bytes {start}-{}/{length}", length - 1),
            };
            let size = length - start;
            write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n"
            )
            .unwrap();
            stream.write_all(&file[start..(start + cut).min(length)]).unwrap();
        }
    });
    (address, ranges)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

fn manifest(models: &Path, version: u32) -> Manifest {
    let path = models.join(format!("mobilenet_v2/{version}/model.toml"));
    Manifest::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_broken_download_goes_on_where_it_ended() {
    let models = tempfile::tempdir().unwrap();
    let file =
        checkpoint(&[("padding", "tf_same"), ("mean", "0.5,0.5,0.5"), ("std", "0.5, 0.5, 0.5")]);
    let (address, ranges) = serve(file.clone(), vec![1_000_000, 2_000_000, usize::MAX / 2]);
    let url = format!("{address}/mobilenet-{}.safetensors", &digest(&file)[..8]);
    let out = run(&["--models", models.path().to_str().unwrap(), "--url", &url]).unwrap();
    assert!(out.contains("installed as version 1"), "{out}");
    let ranges = ranges.lock().unwrap();
    assert_eq!(ranges.as_slice(), ["1000000-", "3000000-"]);
    let manifest = manifest(models.path(), 1);
    assert_eq!(manifest.padding, Padding::TfSame);
    assert_eq!(manifest.input.unwrap().mean, [0.5; 3]);
    let left = std::fs::read_dir(models.path().join(".downloads")).unwrap().count();
    assert_eq!(left, 0, "the download is not kept twice");
}

#[test]
fn a_corrupt_download_is_refused_and_removed() {
    let models = tempfile::tempdir().unwrap();
    let (address, _) = serve(checkpoint(&[]), vec![usize::MAX / 2]);
    let url = format!("{address}/mobilenet-00000000.pth");
    let error = run(&["--models", models.path().to_str().unwrap(), "--url", &url]).unwrap_err();
    assert!(error.to_string().contains("SHA-256"), "{error}");
    assert_eq!(std::fs::read_dir(models.path().join(".downloads")).unwrap().count(), 0);
    assert!(!models.path().join("mobilenet_v2").exists());
}

#[test]
fn a_local_file_becomes_the_next_version_once() {
    let models = tempfile::tempdir().unwrap();
    let file = models.path().join("weights.bin");
    let arguments = ["--models", models.path().to_str().unwrap(), "--from", file.to_str().unwrap()];
    std::fs::write(&file, checkpoint(&[])).unwrap();
    assert!(run(&arguments).unwrap().contains("installed as version 1"));
    assert!(run(&arguments).unwrap().contains("already installed as version 1"));
    std::fs::write(&file, checkpoint(&[("note", "other weights")])).unwrap();
    assert!(run(&arguments).unwrap().contains("installed as version 2"));
    let manifest = manifest(models.path(), 2);
    assert_eq!(manifest.padding, Padding::Symmetric);
    assert_eq!(manifest.input.unwrap().mean, [0.485, 0.456, 0.406]);
    let labels = models.path().join("mobilenet_v2/2/labels.txt");
    assert_eq!(std::fs::read_to_string(labels).unwrap().lines().count(), 1000);
}

#[test]
fn what_is_no_mobilenet_is_refused_with_its_reason() {
    let models = tempfile::tempdir().unwrap();
    let file = models.path().join("weights.bin");
    let arguments = ["--models", models.path().to_str().unwrap(), "--from", file.to_str().unwrap()];
    let one = HashMap::from([("x", Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap())]);
    for (content, reason) in [
        (b"text".to_vec(), "neither a PyTorch nor a safetensors file"),
        (vec![0x80, 0x02, 0x8a, 0x0a], "save it again with torch.save"),
        (safetensors::serialize(&one, None).unwrap(), "not a MobileNetV2"),
        (checkpoint(&[("padding", "valid")]), "neither symmetric nor tf_same"),
    ] {
        std::fs::write(&file, content).unwrap();
        let error = run(&arguments).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(!models.path().join("mobilenet_v2").exists());
}
