//! `worker pull` against a small HTTP server that breaks off, resumes and sends wrong answers.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use clap::Parser;
use sha2::{Digest, Sha256};
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

/// MobileNetV2 with all weights zero, as a safetensors file with the metadata `about`.
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

/// Serves `file`; each connection ends after the number of body bytes that is next in `cuts`.
///
/// Returns the address and the `Range` headers of the requests.
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

/// Headers of a download request, in lower case.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Asked {
    range: Option<String>,
    if_range: Option<String>,
}

type Requests = Arc<Mutex<Vec<Asked>>>;

/// Sends each connection the next answer, whole; the last ends the server. Returns the address and
/// the requests.
fn answer(answers: Vec<Vec<u8>>) -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Asked::default();
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let line = line.unwrap().to_ascii_lowercase();
                match line.split_once(": ") {
                    Some(("range", range)) => asked.range = Some(range.to_owned()),
                    Some(("if-range", tag)) => asked.if_range = Some(tag.to_owned()),
                    _ if line.is_empty() => break,
                    _ => {}
                }
            }
            seen.lock().unwrap().push(asked);
            // A client that reads only the head hangs up before the end.
            drop(stream.write_all(&answer));
        }
    });
    (address, asked)
}

/// An answer with some header fields, and a body of which only `sent` bytes are sent.
fn part(status: &str, fields: &str, body: &[u8], sent: usize) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{fields}content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    [head.as_bytes(), &body[..sent.min(length)]].concat()
}

/// The remainder of a file from byte `start` on, as a partial answer.
fn rest(file: &[u8], start: usize, tag: &str) -> Vec<u8> {
    let length = file.len();
    let fields = format!("{tag}content-range: bytes {start}-{}/{length}\r\n", length - 1);
    part("206 Partial Content", &fields, &file[start..], usize::MAX)
}

/// Two checkpoints of the same length that differ in a note in their header.
fn twins() -> [Vec<u8>; 2] {
    [checkpoint(&[("note", "one")]), checkpoint(&[("note", "two")])]
}

fn installed(models: &Path, version: u32) -> Vec<u8> {
    let folder = models.join(format!("mobilenet_v2/{version}"));
    std::fs::read(folder.join("weights.safetensors")).unwrap()
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

#[test]
fn what_came_from_one_address_is_never_continued_from_another() {
    let models = tempfile::tempdir().unwrap();
    let arguments = ["--models", models.path().to_str().unwrap(), "--url"];
    let [one, two] = twins();
    let gone = part("404 Not Found", "", b"", 0);
    let (first, _) = answer(vec![part("200 OK", "etag: \"1\"\r\n", &one, 1_000_000), gone]);
    let pull = |address: &str| {
        let url = format!("{address}/weights.safetensors");
        run(&[&arguments[..], &[url.as_str()]].concat())
    };
    assert!(pull(&first).unwrap_err().to_string().contains("404"));
    let (second, asked) = answer(vec![part("200 OK", "", &two, usize::MAX)]);
    pull(&second).unwrap();
    assert_eq!(asked.lock().unwrap().as_slice(), [Asked::default()]);
    assert!(installed(models.path(), 1) == two);
}

#[test]
fn a_download_is_continued_only_with_the_same_version_of_the_file() {
    let [one, two] = twins();
    let tag = "etag: \"1\"\r\n";
    let half = 1_000_000;
    let broken = || part("200 OK", tag, &one, half);
    let whole = || part("200 OK", "etag: \"2\"\r\n", &two, usize::MAX);
    let shorter = rest(&two[..two.len() - 1], half, "");
    let elsewhere = rest(&two, half - 1, "");
    let beyond = part("416 Range Not Satisfiable", "content-range: bytes */500\r\n", b"", 0);
    for (answers, file) in [
        // Servers that follow the rules, and ones that ignore the tag.
        (vec![broken(), rest(&one, half, tag)], &one),
        (vec![broken(), whole()], &two),
        (vec![broken(), rest(&two, half, "etag: \"2\"\r\n"), whole()], &two),
        (vec![broken(), shorter, whole()], &two),
        (vec![broken(), elsewhere, whole()], &two),
        (vec![broken(), beyond, whole()], &two),
    ] {
        let models = tempfile::tempdir().unwrap();
        let (address, asked) = answer(answers);
        let url = format!("{address}/weights.safetensors");
        run(&["--models", models.path().to_str().unwrap(), "--url", &url]).unwrap();
        let asked = asked.lock().unwrap();
        assert_eq!(asked[1].range.as_deref(), Some("bytes=1000000-"));
        assert_eq!(asked[1].if_range.as_deref(), Some("\"1\""));
        assert!(asked.get(2).is_none_or(|asked| *asked == Asked::default()), "{asked:?}");
        assert!(&installed(models.path(), 1) == file, "{asked:?}");
    }
}

#[test]
fn without_a_tag_or_a_digest_a_download_begins_anew() {
    let models = tempfile::tempdir().unwrap();
    let [one, two] = twins();
    for tag in ["", "etag: W/\"1\"\r\n"] {
        let broken = part("200 OK", tag, &one, 1_000_000);
        let (address, asked) = answer(vec![broken, part("200 OK", tag, &two, usize::MAX)]);
        let url = format!("{address}/weights.safetensors");
        run(&["--models", models.path().to_str().unwrap(), "--url", &url]).unwrap();
        assert_eq!(asked.lock().unwrap()[1], Asked::default());
    }
    assert!(installed(models.path(), 1) == two);
}

#[test]
fn parts_of_two_files_that_a_digest_finds_out_are_fetched_again() {
    let models = tempfile::tempdir().unwrap();
    let [one, two] = twins();
    let broken = part("200 OK", "", &one, 1_000_000);
    let whole = part("200 OK", "", &two, usize::MAX);
    let (address, _) = answer(vec![broken, rest(&two, 1_000_000, ""), whole]);
    let url = format!("{address}/weights.safetensors");
    let sha256 = digest(&two);
    let models_at = models.path().to_str().unwrap();
    run(&["--models", models_at, "--url", &url, "--sha256", &sha256]).unwrap();
    assert!(installed(models.path(), 1) == two);
}

#[test]
fn a_file_of_another_digest_is_fetched_twice_and_no_more() {
    let models = tempfile::tempdir().unwrap();
    let [one, two] = twins();
    let answers = [part("200 OK", "", &one, 1_000_000), rest(&one, 1_000_000, "")];
    let (address, asked) = answer(answers.iter().cycle().take(6).cloned().collect());
    let url = format!("{address}/weights.safetensors");
    let sha256 = digest(&two);
    let models_at = models.path().to_str().unwrap();
    let error = run(&["--models", models_at, "--url", &url, "--sha256", &sha256]).unwrap_err();
    assert!(error.to_string().contains("the SHA-256 is"), "{error}");
    assert_eq!(asked.lock().unwrap().len(), 4);
    assert_eq!(std::fs::read_dir(models.path().join(".downloads")).unwrap().count(), 0);
}

#[test]
fn a_packed_answer_is_refused() {
    let models = tempfile::tempdir().unwrap();
    let packed = part("200 OK", "content-encoding: gzip\r\n", b"\x1f\x8b", usize::MAX);
    let (address, _) = answer(vec![packed]);
    let url = format!("{address}/weights.safetensors");
    let error = run(&["--models", models.path().to_str().unwrap(), "--url", &url]).unwrap_err();
    assert!(error.to_string().contains("packs the file (gzip)"), "{error}");
}

#[test]
fn nothing_is_looked_at_before_its_digest() {
    let models = tempfile::tempdir().unwrap();
    let file = models.path().join("weights.bin");
    std::fs::write(&file, b"PK\x03\x04 and what no reader should see").unwrap();
    let arguments = ["--models", models.path().to_str().unwrap(), "--from", file.to_str().unwrap()];
    let error = run(&[&arguments[..], &["--sha256", "0123456789"]].concat()).unwrap_err();
    assert!(error.to_string().contains("the SHA-256 is"), "{error}");
}

#[test]
fn other_labels_make_another_version() {
    let models = tempfile::tempdir().unwrap();
    let (file, labels) = (models.path().join("weights.bin"), models.path().join("names.txt"));
    std::fs::write(&file, checkpoint(&[])).unwrap();
    std::fs::write(
        &labels,
        (0..1000).map(|class| format!("{class}\n")).collect::<Vec<_>>().concat(),
    )
    .unwrap();
    let arguments = ["--models", models.path().to_str().unwrap(), "--from", file.to_str().unwrap()];
    assert!(run(&arguments).unwrap().contains("installed as version 1"));
    let named = [&arguments[..], &["--labels", labels.to_str().unwrap()]].concat();
    assert!(run(&named).unwrap().contains("installed as version 2"));
    assert!(run(&named).unwrap().contains("already installed as version 2"));
}

/// A file as written by `torch.save(model.state_dict())`: names, shapes, and half-precision values,
/// which are all zero except the first of each tensor.
fn pytorch(tensors: &[Shape]) -> Vec<u8> {
    pytorch_with(tensors, b"")
}

/// Like [`pytorch`], with `more` entries in its pickle: names and their values.
fn pytorch_with(tensors: &[Shape], more: &[u8]) -> Vec<u8> {
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(".to_vec();
    let text = |text: &str| {
        [&b"X"[..], &u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat()
    };
    let number = |n: usize| [&b"J"[..], &i32::try_from(n).unwrap().to_le_bytes()].concat();
    let tuple = |numbers: &[usize]| {
        let numbers: Vec<u8> = numbers.iter().flat_map(|n| number(*n)).collect();
        [&b"("[..], &numbers, b"t"].concat()
    };
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (at, (name, shape)) in tensors.iter().enumerate() {
        let count: usize = shape.iter().product();
        let strides: Vec<usize> =
            (0..shape.len()).map(|side| shape[side + 1..].iter().product()).collect();
        pickle.extend(text(name));
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.extend([text("storage"), b"ctorch\nHalfStorage\n".to_vec()].concat());
        pickle.extend([text(&at.to_string()), text("cpu"), number(count)].concat());
        pickle.extend(b"tQ");
        pickle.extend([number(0), tuple(shape), tuple(&strides)].concat());
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
        archive.start_file(format!("archive/data/{at}"), stored).unwrap();
        let one = half::f16::ONE.to_le_bytes();
        let zeros = vec![0; 2 * count.saturating_sub(1)];
        archive.write_all(&[&one[..], &zeros].concat()[..2 * count]).unwrap();
    }
    pickle.extend(more);
    pickle.extend(b"u}(");
    pickle.extend(text("_metadata"));
    pickle.extend(b")ub.");
    archive.start_file("archive/data.pkl", stored).unwrap();
    archive.write_all(&pickle).unwrap();
    archive.start_file("archive/byteorder", stored).unwrap();
    archive.write_all(b"little").unwrap();
    archive.finish().unwrap().into_inner()
}

/// Names and shapes of torchvision's state dict.
fn torchvision() -> Vec<Shape> {
    let mut tensors = Vec::new();
    for layer in blocks().iter().flat_map(|block| &block.layers).chain([&stem(), &head()]) {
        let (outputs, inputs, rows, columns) = layer.weight_shape();
        tensors.push((format!("{}.weight", layer.name), vec![outputs, inputs, rows, columns]));
        for part in ["weight", "bias", "running_mean", "running_var"] {
            tensors.push((format!("{}.{part}", layer.norm), vec![outputs]));
        }
    }
    tensors.push(("classifier.1.weight".to_owned(), vec![1000, 1280]));
    tensors.push(("classifier.1.bias".to_owned(), vec![1000]));
    tensors
}

#[test]
fn a_state_dict_of_pytorch_is_installed() {
    let models = tempfile::tempdir().unwrap();
    let file = models.path().join("weights.pth");
    let arguments = ["--models", models.path().to_str().unwrap(), "--from", file.to_str().unwrap()];
    let mut tensors = torchvision();
    for (name, _) in &mut tensors {
        name.insert_str(0, "module.");
    }
    std::fs::write(&file, pytorch(&tensors)).unwrap();
    let out = run(&arguments).unwrap();
    assert!(out.contains("installed as version 1") && out.contains("torchvision layout"), "{out}");
    let bytes = installed(models.path(), 1);
    let weights = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let bias = weights.tensor("classifier.1.bias").unwrap();
    assert_eq!(bias.shape(), [1000]);
    assert_eq!(&bias.data()[..4], [half::f16::ONE.to_le_bytes(), [0, 0]].concat());
}

#[test]
fn counters_are_left_out_whatever_shape_they_claim() {
    let models = tempfile::tempdir().unwrap();
    let file = models.path().join("weights.pth");
    let arguments = ["--models", models.path().to_str().unwrap(), "--from", file.to_str().unwrap()];
    // It has 2 to the power of 40 elements, all stored in the same place.
    let counter = b"X\x20\0\0\0features.0.1.num_batches_tracked\
        ctorch._utils\n_rebuild_tensor_v2\n((\
        X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ\
        K\0(\x8a\x06\0\0\0\0\0\x01t(K\0t\x89ccollections\nOrderedDict\n)RtR";
    std::fs::write(&file, pytorch_with(&torchvision(), counter)).unwrap();
    assert!(run(&arguments).unwrap().contains("installed as version 1"));
    let bytes = installed(models.path(), 1);
    let weights = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(!weights.names().iter().any(|name| name.ends_with("num_batches_tracked")));
}

/// Name and shape of a tensor.
type Shape = (String, Vec<usize>);

/// Damage to a state dict.
type Change<'a> = &'a dyn Fn(&mut Vec<Shape>);

#[test]
fn a_state_dict_that_does_not_fit_is_refused_by_its_tensor() {
    let models = tempfile::tempdir().unwrap();
    let file = models.path().join("weights.pth");
    let arguments = ["--models", models.path().to_str().unwrap(), "--from", file.to_str().unwrap()];
    let at = |tensors: &[Shape], name: &str| {
        tensors.iter().position(|(found, _)| found == name).unwrap()
    };
    let transposed = |tensors: &mut Vec<Shape>| {
        let place = at(tensors, "classifier.1.weight");
        tensors[place].1 = vec![1280, 1000];
    };
    let missing = |tensors: &mut Vec<Shape>| {
        let place = at(tensors, "features.3.conv.1.1.running_mean");
        tensors.remove(place);
    };
    let surplus = |tensors: &mut Vec<Shape>| {
        tensors.push(("ema.weight".to_owned(), vec![3]));
    };
    let changes: [(Change<'_>, &str); 3] = [
        (&transposed, "`classifier.1.weight` has shape [1280, 1000], expected [1000, 1280]"),
        (&missing, "`features.3.conv.1.1.running_mean` is missing"),
        (&surplus, "`ema.weight` is none of this network's"),
    ];
    for (change, reason) in changes {
        let mut tensors = torchvision();
        change(&mut tensors);
        std::fs::write(&file, pytorch(&tensors)).unwrap();
        let error = run(&arguments).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("weights.pth"), "{error}");
    }
    assert!(!models.path().join("mobilenet_v2").exists());
}

#[test]
fn no_bytes_of_a_checkpoint_make_the_reader_fail() {
    let whole = pytorch(&[("classifier.1.bias".to_owned(), vec![7])]);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        assert!(pull::classes(damaged).is_err());
        assert!(pull::classes(whole[..at].to_vec()).is_err());
    }
    // Deeply nested, shared and endless values, which would kill a reader that recurses or copies.
    for pickle in [
        [&b"]"[..], &b"\x85".repeat(500_000), b"."].concat(),
        [&b")"[..], &b"q\x00h\x00\x86".repeat(60), b"."].concat(),
        b"X\xff\xff\xff\xff".to_vec(),
        b"}".repeat(2_000_000),
    ] {
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let stored = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        archive.start_file("archive/data.pkl", stored).unwrap();
        archive.write_all(&pickle).unwrap();
        assert!(pull::classes(archive.finish().unwrap().into_inner()).is_err());
    }
}

#[test]
fn a_photo_model_is_held_against_its_network_when_it_loads() {
    let models = tempfile::tempdir().unwrap();
    let file = models.path().join("weights.bin");
    std::fs::write(&file, checkpoint(&[])).unwrap();
    let arguments = ["--models", models.path().to_str().unwrap(), "--from", file.to_str().unwrap()];
    run(&arguments).unwrap();
    let folder = models.path().join("mobilenet_v2/1");
    let load = || {
        let version = worker::repository::Version::read(&folder).unwrap();
        worker::model::load(&version, &engine::Options::default()).map(drop)
    };
    load().unwrap();
    let whole = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F16, &Device::Cpu).unwrap();
    let nan = |shape: &[usize]| {
        Tensor::full(f32::NAN, shape, &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap()
    };
    for (name, tensor, reason) in [
        ("classifier.1.weight", zeros(&[640, 2000]), "shape [640, 2000], expected [1000, 1280]"),
        ("classifier.1.weight", zeros(&[1000, 1300]), "shape [1000, 1300], expected [1000, 1280]"),
        ("classifier.1.weight", zeros(&[1000, 0]), "shape [1000, 0], expected [1000, 1280]"),
        ("classifier.1.bias", zeros(&[0]), "shape [0], expected [1000]"),
        ("classifier.1.bias", zeros(&[999]), "shape [999], expected [1000]"),
        ("features.3.conv.2.weight", nan(&[24, 144, 1, 1]), "holds NaN at element 0"),
        // Batch norm next to convolutions that it has been folded into.
        ("features.0.1.running_var", zeros(&[32]), "none of this network's"),
    ] {
        let mut tensors = whole.clone();
        tensors.insert(name.to_owned(), tensor);
        candle_core::safetensors::save(&tensors, folder.join("weights.safetensors")).unwrap();
        let error = worker::model::told(&load().unwrap_err());
        assert!(error.contains(&format!("`{name}`")) && error.contains(reason), "{error}");
    }
}
