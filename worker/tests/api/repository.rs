//! Versions are added, removed, broken and swapped under load, without affecting any request.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use candle_core::{DType, Device, Tensor};
use http_body_util::Full;
use hyper::Request;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::Instant;
use worker::metrics::Metrics;
use worker::serve::serve;
use worker::serving::loader::Loader;
use worker::serving::{Missing, Selector, Snapshot, State};

use crate::common::{config, png, send};

const MANIFEST: &str = "architecture = 'mnist_cnn'
    max_batch_size = 2
    [input]
    width = 28
    height = 28
    resize = { mode = 'squash', filter = 'bilinear' }
    mean = [0.1307]
    std = [0.3081]";

/// Writes a version whose answer is always its own last digit.
fn write_version(root: &Path, model: &str, number: usize) {
    let folder = root.join(model).join(number.to_string());
    fs::create_dir_all(&folder).unwrap();
    save(&tensors(number), &folder.join("weights.safetensors"));
    fs::write(folder.join("labels.txt"), "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n").unwrap();
    // Last, so that a version is never seen half written.
    fs::write(folder.join("model.toml"), MANIFEST).unwrap();
}

type Tensors = HashMap<&'static str, Tensor>;

fn save(tensors: &Tensors, path: &Path) {
    candle_core::safetensors::save(tensors, path).unwrap();
}

/// Weights of a network that always reads the last digit of `number`.
fn tensors(number: usize) -> Tensors {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let mut bias = [0f32; 10];
    bias[number % 10] = 9.0;
    HashMap::from([
        ("conv1.weight", zeros(&[32, 1, 5, 5])),
        ("conv1.bias", zeros(&[32])),
        ("conv2.weight", zeros(&[64, 32, 5, 5])),
        ("conv2.bias", zeros(&[64])),
        ("fc1.weight", zeros(&[128, 64 * 7 * 7])),
        ("fc1.bias", zeros(&[128])),
        ("fc2.weight", zeros(&[10, 128])),
        ("fc2.bias", Tensor::new(&bias, &Device::Cpu).unwrap()),
    ])
}

struct Repository {
    root: tempfile::TempDir,
    published: Arc<ArcSwap<Snapshot>>,
    loader: Loader,
}

impl Repository {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let published = Arc::new(ArcSwap::default());
        let metrics = Arc::new(Metrics::new());
        let loader = Loader::new(
            (root.path().to_owned(), engine::Options::default()),
            metrics,
            Arc::clone(&published),
        );
        Self { root, published, loader }
    }

    fn write(&self, number: usize) {
        write_version(self.root.path(), "mnist", number);
    }

    fn latest(&self) -> Result<u64, Missing> {
        self.published.load().find("mnist", Selector::Latest).map(|served| served.number)
    }

    fn labelled(&self, label: &str) -> Result<u64, Missing> {
        self.published.load().find("mnist", Selector::Label(label)).map(|served| served.number)
    }

    fn has(&self, number: u64) -> bool {
        self.published.load().find("mnist", Selector::Number(number)).is_ok()
    }

    fn state(&self, number: u64) -> (State, String) {
        let snapshot = self.published.load();
        let status = &snapshot.models["mnist"].states[&number];
        (status.state, status.reason.clone())
    }

    fn file(&self, path: &str) -> PathBuf {
        self.root.path().join("mnist").join(path)
    }

    /// The digit that version 1 answers for any input.
    fn answer(&self) -> usize {
        let served = Arc::clone(&self.published.load().models["mnist"].ready[&1]);
        let deadline = Instant::now() + Duration::from_mins(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let output = runtime.block_on(served.infer(vec![0.0; 28 * 28], 1, deadline)).unwrap();
        worker::model::top_k(&output.values, 1)[0]
    }

    fn settings(&self, text: &str) {
        fs::write(self.root.path().join("mnist/serving.toml"), text).unwrap();
    }
}

#[test]
fn a_new_version_takes_over_and_the_old_one_leaves() {
    let mut repository = Repository::new();
    repository.loader.rescan();
    assert_eq!(repository.latest(), Err(Missing::Model));
    repository.write(1);
    repository.loader.rescan();
    assert_eq!(repository.latest(), Ok(1));
    repository.write(2);
    repository.loader.rescan();
    assert_eq!((repository.latest(), repository.has(1)), (Ok(2), false));
    fs::remove_dir_all(repository.root.path().join("mnist/2")).unwrap();
    repository.loader.rescan();
    assert_eq!(repository.latest(), Ok(1));
}

#[test]
fn a_broken_version_is_reported_while_the_old_one_serves_and_retried_when_it_changes() {
    let mut repository = Repository::new();
    repository.write(1);
    repository.loader.rescan();
    repository.write(2);
    let weights = repository.root.path().join("mnist/2/weights.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    repository.loader.rescan();
    assert_eq!(repository.latest(), Ok(1));
    let (state, reason) = repository.state(2);
    assert!(state == State::Unavailable && !reason.is_empty(), "{state:?} {reason}");
    fs::write(&weights, &whole).unwrap();
    repository.loader.rescan();
    assert_eq!((repository.latest(), repository.state(2).0), (Ok(2), State::Ready));
}

#[test]
fn a_version_whose_labels_do_not_fit_is_broken() {
    let mut repository = Repository::new();
    repository.write(1);
    fs::write(repository.root.path().join("mnist/1/labels.txt"), "a\nb\n").unwrap();
    repository.loader.rescan();
    assert_eq!(repository.latest(), Err(Missing::Model));
    assert!(repository.state(1).1.contains("10 outputs for 2 labels"));
}

#[test]
fn the_policy_says_which_versions_stay_and_labels_name_them() {
    let mut repository = Repository::new();
    repository.write(1);
    repository.settings("version_policy = { latest = 2 }\n[labels]\nstable = 2");
    for number in [2, 3] {
        repository.write(number);
        repository.loader.rescan();
    }
    assert_eq!([1, 2, 3].map(|number| repository.has(number)), [false, true, true]);
    assert_eq!(repository.labelled("stable"), Ok(2));
    repository.settings("version_policy = { specific = [1] }");
    repository.loader.rescan();
    assert_eq!([1, 2, 3].map(|number| repository.has(number)), [true, false, false]);
}

#[test]
fn a_label_moves_to_a_version_once_that_runs() {
    let mut repository = Repository::new();
    repository.write(1);
    repository.settings("[labels]\nstable = 1");
    repository.loader.rescan();
    assert_eq!(repository.labelled("stable"), Ok(1));
    let mut broken = tensors(2);
    broken.insert("fc1.bias", Tensor::full(f32::NAN, &[128], &Device::Cpu).unwrap());
    repository.write(2);
    save(&broken, &repository.file("2/weights.safetensors"));
    repository.settings("version_policy = { specific = [2] }\n[labels]\nstable = 2");
    repository.loader.rescan();
    assert_eq!((repository.labelled("stable"), repository.latest()), (Ok(1), Ok(1)));
    // The other named versions are served, and only versions without a label are retired.
    repository.write(3);
    repository.settings("version_policy = { specific = [2, 3] }\n[labels]\nstable = 2\ncanary = 3");
    repository.loader.rescan();
    assert_eq!((repository.labelled("stable"), repository.labelled("canary")), (Ok(1), Ok(3)));
    assert_eq!(repository.published.load().models["mnist"].labels_of(1), ["stable"]);
    save(&tensors(2), &repository.file("2/weights.safetensors"));
    repository.loader.rescan();
    assert_eq!((repository.labelled("stable"), repository.has(1)), (Ok(2), false));
    repository.settings("version_policy = { specific = [2, 3] }\n[labels]\ncanary = 3");
    repository.loader.rescan();
    assert_eq!(repository.labelled("stable"), Err(Missing::Label));
}

#[test]
fn files_that_change_under_a_number_are_served_by_what_they_hold() {
    let mut repository = Repository::new();
    repository.write(1);
    repository.loader.rescan();
    assert_eq!(repository.answer(), 1);
    let weights = repository.file("1/weights.safetensors");
    let time = fs::metadata(&weights).unwrap().modified().unwrap();
    // A file of the same length and modification time as the one that it replaces.
    save(&tensors(7), &repository.file("fresh"));
    fs::rename(repository.file("fresh"), &weights).unwrap();
    fs::File::options().write(true).open(&weights).unwrap().set_modified(time).unwrap();
    repository.loader.rescan();
    assert_eq!((repository.answer(), repository.has(1)), (7, true));
    // Touched but unchanged: the version in service stays.
    let before = Arc::clone(&repository.published.load().models["mnist"].ready[&1]);
    save(&tensors(7), &weights);
    fs::write(repository.file("1/notes"), "trained on a Sunday").unwrap();
    repository.loader.rescan();
    let after = Arc::clone(&repository.published.load().models["mnist"].ready[&1]);
    assert!(Arc::ptr_eq(&before, &after));
}

#[test]
fn files_that_break_under_a_number_leave_what_they_held_before() {
    let mut repository = Repository::new();
    repository.write(1);
    repository.loader.rescan();
    let weights = repository.file("1/weights.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    repository.loader.rescan();
    assert_eq!((repository.latest(), repository.answer()), (Ok(1), 1));
    let (state, reason) = repository.state(1);
    assert_eq!(state, State::Ready);
    assert!(reason.contains("serves what it held before"), "{reason}");
    save(&tensors(3), &weights);
    repository.loader.rescan();
    assert_eq!((repository.answer(), repository.state(1).1.as_str()), (3, ""));
}

#[test]
fn every_tensor_is_held_against_the_network_and_what_serves_goes_on() {
    let mut repository = Repository::new();
    repository.write(1);
    repository.loader.rescan();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let full = |value: f32, shape: &[usize]| Tensor::full(value, shape, &Device::Cpu).unwrap();
    for (name, tensor, expected) in [
        ("conv2.weight", zeros(&[64, 10]), "shape [64, 10], expected [64, 32, 5, 5]"),
        ("conv1.bias", zeros(&[0]), "shape [0], expected [32]"),
        ("fc2.weight", zeros(&[10, 0]), "shape [10, 0], expected [10, 128]"),
        ("fc2.weight", zeros(&[128, 10]), "shape [128, 10], expected [10, 128]"),
        ("fc1.bias", full(f32::NAN, &[128]), "holds NaN at element 0"),
        ("fc1.bias", full(f32::INFINITY, &[128]), "holds inf at element 0"),
        ("conv3.bias", zeros(&[1]), "none of this network's"),
    ] {
        let mut tensors = tensors(2);
        tensors.insert(name, tensor);
        fs::create_dir_all(repository.file("2")).unwrap();
        for file in ["labels.txt", "model.toml"] {
            fs::copy(repository.file("1").join(file), repository.file("2").join(file)).unwrap();
        }
        save(&tensors, &repository.file("2/weights.safetensors"));
        repository.loader.rescan();
        let (state, reason) = repository.state(2);
        assert_eq!(state, State::Unavailable, "{name}");
        assert!(reason.contains(&format!("`{name}`")) && reason.contains(expected), "{reason}");
        assert_eq!((repository.latest(), repository.answer()), (Ok(1), 1));
    }
    let mut few = tensors(2);
    few.remove("fc1.bias");
    save(&few, &repository.file("2/weights.safetensors"));
    repository.loader.rescan();
    assert!(repository.state(2).1.contains("`fc1.bias` is missing"), "{:?}", repository.state(2));
}

#[test]
fn a_network_whose_outputs_overflow_does_not_load() {
    let mut repository = Repository::new();
    repository.write(1);
    let mut large = tensors(1);
    for (name, shape) in [("fc1.bias", &[128][..]), ("fc2.weight", &[10, 128])] {
        large.insert(name, Tensor::full(1e15f32, shape, &Device::Cpu).unwrap());
    }
    large.insert("conv2.bias", Tensor::full(1e15f32, &[64], &Device::Cpu).unwrap());
    let fc1 = Tensor::full(1e15f32, &[128, 64 * 7 * 7], &Device::Cpu).unwrap();
    large.insert("fc1.weight", fc1);
    save(&large, &repository.file("1/weights.safetensors"));
    repository.loader.rescan();
    let (state, reason) = repository.state(1);
    assert!(state == State::Unavailable && reason.contains("not finite"), "{state:?} {reason}");
}

#[test]
fn a_batch_that_needs_too_much_memory_is_refused_before_any_is_taken() {
    let mut repository = Repository::new();
    let manifest = |side: usize, rows: usize| {
        format!(
            "architecture = 'mobilenet_v2'
            max_batch_size = {rows}
            [input]
            width = {side}
            height = {side}
            resize = {{ mode = 'squash', filter = 'bilinear' }}
            mean = [0.5, 0.5, 0.5]
            std = [0.5, 0.5, 0.5]"
        )
    };
    repository.write(1);
    fs::write(repository.file("1/model.toml"), manifest(2048, 1024)).unwrap();
    repository.loader.rescan();
    let (state, reason) = repository.state(1);
    assert_eq!(state, State::Unavailable);
    assert!(reason.contains("--max-model-memory") && reason.contains("max_batch_size"), "{reason}");
    repository.write(1);
    let text = fs::read_to_string(repository.file("1/model.toml")).unwrap();
    let many = text.replace("max_batch_size = 2", "max_batch_size = 1024");
    fs::write(repository.file("1/model.toml"), many).unwrap();
    repository.loader = Loader::new(
        (repository.root.path().to_owned(), engine::Options::default()),
        Arc::new(Metrics::new()),
        Arc::clone(&repository.published),
    )
    .with_memory(1 << 20);
    repository.loader.rescan();
    assert!(repository.state(1).1.contains("(1048576)"), "{:?}", repository.state(1));
}

#[test]
fn weights_that_need_too_much_memory_are_refused_before_any_is_taken() {
    let mut repository = Repository::new();
    repository.loader = Loader::new(
        (repository.root.path().to_owned(), engine::Options::default()),
        Arc::new(Metrics::new()),
        Arc::clone(&repository.published),
    )
    .with_memory(128 << 20);
    repository.write(1);
    repository.loader.rescan();
    repository.write(2);
    let weights = repository.file("2/weights.safetensors");
    fs::File::options().write(true).open(weights).unwrap().set_len(100 << 20).unwrap();
    repository.loader.rescan();
    assert_eq!((repository.latest(), repository.answer()), (Ok(1), 1));
    let (state, reason) = repository.state(2);
    assert_eq!(state, State::Unavailable);
    assert!(
        reason.contains("a file of 104857600 bytes") && reason.contains("--max-model-memory"),
        "{reason}"
    );
}

#[test]
fn files_are_told_by_their_place_in_the_repository() {
    let mut repository = Repository::new();
    let root = repository.root.path().display().to_string();
    let manifest = MANIFEST.replace("'squash'", "'crush'");
    for (file, content, wanted) in [
        ("model.toml", None, "mnist/2/model.toml: No such file"),
        ("model.toml", Some(&manifest[..]), "mnist/2/model.toml: "),
        ("labels.txt", None, "mnist/2/labels.txt: No such file"),
        ("labels.txt", Some(""), "mnist/2/labels.txt: no labels"),
        ("weights.safetensors", None, "mnist/2/weights.safetensors: No such file"),
        ("weights.safetensors", Some("PK"), "the model failed: weights.safetensors: no header"),
    ] {
        repository.write(2);
        match content {
            Some(content) => fs::write(repository.file("2").join(file), content).unwrap(),
            None => fs::remove_file(repository.file("2").join(file)).unwrap(),
        }
        repository.loader.rescan();
        let (_, reason) = repository.state(2);
        assert!(reason.starts_with(wanted) && !reason.contains(&root), "{file}: {reason}");
    }
}

#[cfg(unix)]
#[test]
fn pipes_broken_links_and_folders_stop_nothing_else() {
    let mut repository = Repository::new();
    repository.write(1);
    let root = repository.root.path().to_owned();
    let pipe = |path: &str| {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        let made = std::process::Command::new("mkfifo").arg(root.join(path)).status().unwrap();
        assert!(made.success());
    };
    let link = |at: &str| std::os::unix::fs::symlink("nowhere", root.join(at)).unwrap();
    pipe("queue");
    pipe("manifest/1/model.toml");
    write_version(&root, "weights", 1);
    fs::remove_file(root.join("weights/1/weights.safetensors")).unwrap();
    pipe("weights/1/weights.safetensors");
    write_version(&root, "labels", 1);
    fs::remove_file(root.join("labels/1/labels.txt")).unwrap();
    pipe("labels/1/labels.txt");
    write_version(&root, "settings", 1);
    pipe("settings/serving.toml");
    fs::create_dir_all(root.join("folder/1/model.toml")).unwrap();
    link("gone");
    write_version(&root, "linked", 1);
    link("linked/2");
    repository.loader.rescan();
    assert_eq!(repository.latest(), Ok(1));
    let place = root.display().to_string();
    let snapshot = repository.published.load_full();
    let reason = |model: &str, number: u64| snapshot.models[model].states[&number].reason.clone();
    for model in ["manifest", "weights", "labels", "folder"] {
        assert!(reason(model, 1).contains("not a regular file"), "{model}: {}", reason(model, 1));
        assert!(!reason(model, 1).contains(&place), "{model}: {}", reason(model, 1));
    }
    assert!(snapshot.find("settings", Selector::Latest).is_ok());
    assert_eq!(snapshot.find("linked", Selector::Latest).unwrap().number, 1);
    assert!(!reason("linked", 2).is_empty());
    assert!(!snapshot.models.contains_key("gone"));
}

#[cfg(unix)]
#[test]
fn a_model_whose_folder_cannot_be_read_goes_on_as_it_was() {
    let mut repository = Repository::new();
    repository.write(1);
    let elsewhere = tempfile::tempdir().unwrap();
    let folder = elsewhere.path().join("mnist");
    fs::rename(repository.root.path().join("mnist"), &folder).unwrap();
    std::os::unix::fs::symlink(&folder, repository.root.path().join("mnist")).unwrap();
    repository.loader.rescan();
    assert_eq!(repository.answer(), 1);
    // As if a file system were not mounted.
    fs::rename(&folder, elsewhere.path().join("away")).unwrap();
    write_version(repository.root.path(), "other", 5);
    repository.loader.rescan();
    assert_eq!(repository.answer(), 1);
    assert!(repository.published.load().find("other", Selector::Latest).is_ok());
    fs::rename(elsewhere.path().join("away"), &folder).unwrap();
    fs::remove_file(repository.root.path().join("mnist")).unwrap();
    repository.loader.rescan();
    assert_eq!(repository.latest(), Err(Missing::Model), "it was taken away, and not only hidden");
}

/// A whole worker on a free port.
struct Process {
    address: SocketAddr,
    leave: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<Result<(), worker::Error>>,
}

async fn start(root: &Path) -> Process {
    start_with(root, |_| {}).await
}

async fn start_with(root: &Path, change: impl FnOnce(&mut worker::config::Config)) -> Process {
    let mut config = config();
    config.models = root.to_owned();
    config.poll = Some(Duration::from_millis(20));
    change(&mut config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (leave, left) = oneshot::channel();
    let (announce, announced) = oneshot::channel();
    let leaving = async { drop(left.await) };
    let ended = tokio::spawn(serve(config, listener, leaving, |address| {
        announce.send(address).map_err(|_| std::io::Error::other("no receiver"))
    }));
    Process { address: announced.await.unwrap(), leave, ended }
}

async fn post(address: SocketAddr, path: &str) -> crate::common::Answer {
    send(address, Request::post(path).body(Full::new(png().into())).unwrap()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn swapping_versions_under_load_fails_no_request() {
    let root = tempfile::tempdir().unwrap();
    write_version(root.path(), "mnist", 1);
    let process = start(root.path()).await;
    let address = process.address;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut answers = 0;
                while !stop.load(Ordering::Relaxed) {
                    let answer = post(address, "/predict").await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    for number in 2..8 {
        write_version(root.path(), "mnist", number);
        let begun = Instant::now();
        let label = format!("\"{number}\"\n");
        while post(address, "/predict").await.text() != label {
            assert!(begun.elapsed() < Duration::from_secs(30), "version {number} never served");
        }
        fs::remove_dir_all(root.path().join("mnist").join((number - 1).to_string())).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
    drop(process.leave);
    process.ended.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_unloaded_and_loaded_by_order() {
    let root = tempfile::tempdir().unwrap();
    write_version(root.path(), "mnist", 4);
    let process = start(root.path()).await;
    let status = async |path: &str| post(process.address, path).await.status;
    assert_eq!(status("/predict").await, 200);
    assert_eq!(status("/v2/repository/models/mnist/unload").await, 200);
    assert_eq!(status("/predict?model=mnist").await, 404);
    assert_eq!(status("/v2/repository/models/mnist/load").await, 200);
    assert_eq!(status("/predict?model=mnist").await, 200);
    assert_eq!(status("/v2/repository/models/nothing/load").await, 404);
    assert_eq!(status("/v2/repository/models/nothing/unload").await, 404);
    drop(process.leave);
    process.ended.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_by_order_reads_files_that_have_changed_and_says_when_they_do_not_load() {
    let root = tempfile::tempdir().unwrap();
    write_version(root.path(), "mnist", 1);
    let process = start_with(root.path(), |config| config.poll = None).await;
    let load = async || post(process.address, "/v2/repository/models/mnist/load").await;
    let weights = root.path().join("mnist/1/weights.safetensors");
    save(&tensors(8), &weights);
    assert_eq!(load().await.status, 200);
    assert_eq!(post(process.address, "/predict").await.text(), "\"8\"\n");
    let mut broken = tensors(8);
    broken.insert("fc1.bias", Tensor::full(f32::NAN, &[128], &Device::Cpu).unwrap());
    save(&broken, &weights);
    let answer = load().await;
    assert_eq!(answer.status, 400);
    let error = answer.error();
    assert!(error.contains("`fc1.bias`") && error.contains("held before"), "{error}");
    assert_eq!(post(process.address, "/predict").await.text(), "\"8\"\n");
    write_version(root.path(), "mnist", 2);
    save(&broken, &root.path().join("mnist/2/weights.safetensors"));
    save(&tensors(8), &weights);
    let error = load().await.error();
    assert!(error.contains("version 2") && error.contains("version 1 serves"), "{error}");
    let away = root.path().join("away");
    fs::rename(root.path().join("mnist"), &away).unwrap();
    std::os::unix::fs::symlink("nowhere", root.path().join("mnist")).unwrap();
    let error = load().await.error();
    assert!(error.contains("mnist: No such file"), "{error}");
    assert!(!error.contains(&root.path().display().to_string()), "{error}");
    drop(process.leave);
    process.ended.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_loaded_or_unloaded_while_the_repository_cannot_be_read() {
    let root = tempfile::tempdir().unwrap();
    let models = root.path().join("models");
    write_version(&models, "mnist", 4);
    let process = start(&models).await;
    fs::rename(&models, root.path().join("elsewhere")).unwrap();
    for order in ["load", "unload"] {
        let answer = post(process.address, &format!("/v2/repository/models/mnist/{order}")).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (503, "the model repository cannot be read")
        );
    }
    assert_eq!(post(process.address, "/predict?model=mnist").await.status, 200);
    fs::rename(root.path().join("elsewhere"), &models).unwrap();
    let answer = post(process.address, "/v2/repository/models/mnist/unload").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(post(process.address, "/predict?model=mnist").await.status, 404);
    drop(process.leave);
    process.ended.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_in_a_browser_loads_or_unloads_a_model() {
    let root = tempfile::tempdir().unwrap();
    write_version(root.path(), "mnist", 4);
    let process = start(root.path()).await;
    let order = async |verb: &str, fields: &[(&str, &str)]| {
        let mut request = Request::post(format!("/v2/repository/models/mnist/{verb}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        send(process.address, request.body(Full::default()).unwrap()).await
    };
    for verb in ["unload", "load"] {
        for fields in [
            [("host", "127.0.0.1:8501"), ("origin", "https://evil.example")],
            [("host", "127.0.0.1:8501"), ("origin", "null")],
            [("host", "127.0.0.1:8501"), ("sec-fetch-site", "cross-site")],
            [("host", "127.0.0.1:8501"), ("referer", "https://evil.example/page")],
            // DNS rebinding: the attacker's host name resolves to this worker.
            [("host", "evil.example:8501"), ("origin", "http://evil.example:8501")],
            [("host", "evil.example:8501"), ("sec-fetch-site", "same-origin")],
        ] {
            let answer = order(verb, &fields).await;
            assert_eq!(answer.status, 403, "{verb} {fields:?}");
            assert!(answer.error().contains("operators"), "{answer:?}");
        }
    }
    assert_eq!(post(process.address, "/predict?model=mnist").await.status, 200);
    let own = [("host", "localhost:8501"), ("origin", "http://localhost:8501")];
    assert_eq!(order("unload", &own).await.status, 200);
    // As a balancer forwards an operator's order.
    let passed_on = [("x-forwarded-for", "127.0.0.1"), ("via", "1.1 imagefleet")];
    assert_eq!(order("load", &passed_on).await.status, 200);
    drop(process.leave);
    process.ended.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_may_differ_by_spaces() {
    let root = tempfile::tempdir().unwrap();
    write_version(root.path(), "mnist", 4);
    let folder = root.path().join("mnist/4");
    let spaced: Vec<String> = (0..10).map(|digit| " ".repeat(digit) + "x").collect();
    fs::write(folder.join("labels.txt"), spaced.join("\n")).unwrap();
    let labels = worker::repository::Version::read(&folder).unwrap().labels;
    assert_eq!(labels, spaced);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_allows_no_model_control_keeps_its_models() {
    let root = tempfile::tempdir().unwrap();
    write_version(root.path(), "mnist", 4);
    let process = start_with(root.path(), |config| config.allows_model_control = false).await;
    for order in ["load", "unload"] {
        let answer = post(process.address, &format!("/v2/repository/models/mnist/{order}")).await;
        assert_eq!(answer.status, 403, "{answer:?}");
    }
    assert_eq!(post(process.address, "/predict?model=mnist").await.status, 200);
    drop(process.leave);
    process.ended.await.unwrap().unwrap();
}

/// Loading this many versions takes far longer than shutting down a server.
const MORE: usize = 60;

/// Hard-links version 1 under more numbers, all to be served; they all appear at the same time.
fn number_again(root: &Path) {
    let (model, hidden) = (root.join("mnist"), root.join(".mnist"));
    for number in 2..2 + MORE {
        let folder = hidden.join(number.to_string());
        fs::create_dir_all(&folder).unwrap();
        for file in ["weights.safetensors", "labels.txt", "model.toml"] {
            fs::hard_link(model.join("1").join(file), folder.join(file)).unwrap();
        }
    }
    let policy = format!("version_policy = {{ latest = {} }}", 1 + MORE);
    fs::write(hidden.join("serving.toml"), policy).unwrap();
    fs::rename(model.join("1"), hidden.join("1")).unwrap();
    fs::remove_dir_all(&model).unwrap();
    fs::rename(hidden, model).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_waits_for_no_models_that_are_loading() {
    let mut repository = Repository::new();
    let root = repository.root.path().to_owned();
    repository.write(1);
    number_again(&root);
    let begun = Instant::now();
    repository.loader.rescan();
    let all = begun.elapsed();
    assert!(repository.has(1) && repository.has(1 + MORE as u64));
    // It shuts down before its first scan of the models has ended.
    let mut config = config();
    config.models.clone_from(&root);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let begun = Instant::now();
    serve(config, listener, std::future::ready(()), |_| Ok(())).await.unwrap();
    assert!(begun.elapsed() < all / 2, "{:?} of {all:?}", begun.elapsed());
    // It shuts down when more versions have appeared.
    for number in 2..2 + MORE {
        fs::remove_dir_all(root.join("mnist").join(number.to_string())).unwrap();
    }
    let process = start(&root).await;
    number_again(&root);
    let path = format!("/v1/models/mnist/versions/{}", 1 + MORE);
    let get = || Request::get(&path).body(Full::default()).unwrap();
    while send(process.address, get()).await.status != 200 {}
    let begun = Instant::now();
    drop(process.leave);
    process.ended.await.unwrap().unwrap();
    assert!(begun.elapsed() < all / 2, "{:?} of {all:?}", begun.elapsed());
}

#[tokio::test]
async fn a_worker_without_a_model_folder_says_so() {
    let root = tempfile::tempdir().unwrap();
    let mut config = config();
    config.models = root.path().join("nowhere");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = serve(config, listener, std::future::pending(), |_| Ok(())).await.unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}
