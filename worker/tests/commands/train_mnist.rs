//! `worker train mnist`, run as by a user: what it learns, resuming a killed run, and what it
//! refuses.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

const SIDE: usize = 28;

/// Writes both splits as plain IDX files; `pixels` draws image `i` of digit `i % 10`.
fn write_data(dir: &Path, counts: [(&str, usize); 2], pixels: impl Fn(usize) -> Vec<u8>) {
    for (stem, count) in counts {
        let labels = (0..count).map(|i| u8::try_from(i % 10).unwrap()).collect();
        let images = (0..count).flat_map(&pixels).collect();
        write_split(dir, stem, images, labels);
    }
}

fn write_split(dir: &Path, stem: &str, images: Vec<u8>, labels: Vec<u8>) {
    let size = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
    let count = size(labels.len());
    let mut file = [&[0, 0, 8, 3], &count[..], &size(SIDE), &size(SIDE)].concat();
    file.extend(images);
    fs::write(dir.join(format!("{stem}-images-idx3-ubyte")), file).unwrap();
    let mut file = [&[0, 0, 8, 1], &count[..]].concat();
    file.extend(labels);
    fs::write(dir.join(format!("{stem}-labels-idx1-ubyte")), file).unwrap();
}

/// A bar whose position encodes the digit, with some texture that differs between images.
fn bar(i: usize) -> Vec<u8> {
    let ink = |p: usize| {
        let column = p % SIDE;
        let on = (column / 2).saturating_sub(2) == i % 10;
        if on { 200 + u8::try_from((p * (i + 3)) % 55).unwrap() } else { 0 }
    };
    (0..SIDE * SIDE).map(ink).collect()
}

fn train(root: &Path, name: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.args(["train", "mnist", "--data"]).arg(root.join("data"));
    command.arg("--out").arg(root.join(name).join("mnist/1"));
    command.arg("--state").arg(root.join(name).join("state")).args(flags);
    command
}

fn succeed(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn weights(root: &Path, name: &str) -> Vec<u8> {
    fs::read(root.join(name).join("mnist/1/weights.safetensors")).unwrap()
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits_as_an_undisturbed_one() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::create_dir(root.join("data")).unwrap();
    write_data(&root.join("data"), [("train", 120), ("t10k", 10)], bar);
    let flags = ["--epochs", "3", "--hold-out", "20", "--batch-size", "40", "--threads"];
    let with = |threads, more: &[&'static str]| [&flags[..], &[threads], more].concat();
    succeed(train(root, "undisturbed", &with("1", &[])));

    let mut killed = train(root, "killed", &with("2", &[])).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(killed.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("epoch")), "it ended before its first epoch");
    // The checkpoint of the first epoch follows its line; the second epoch's line shows that it
    // has been written.
    assert!(log.any(|line| line.unwrap().contains("epoch")), "it ended before its second epoch");
    killed.kill().unwrap();
    killed.wait().unwrap();

    let refused = train(root, "killed", &with("2", &[])).output().unwrap();
    if refused.status.success() {
        // The run completed before it was killed, so there was nothing to protect.
        assert_eq!(weights(root, "killed"), weights(root, "undisturbed"));
        return;
    }
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("--resume"), "{message}");
    let other = train(root, "killed", &with("2", &["--resume", "--seed", "9"])).output().unwrap();
    let message = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && message.contains("another run"), "{message}");

    succeed(train(root, "killed", &with("2", &["--resume"])));
    assert!(weights(root, "killed") == weights(root, "undisturbed"), "other bits after resuming");
    assert!(
        fs::read_dir(root.join("killed/state"))
            .unwrap()
            .all(|entry| { !entry.unwrap().file_name().to_string_lossy().contains("checkpoint") })
    );
}

#[test]
fn a_small_subset_of_mnist_is_learnt_beyond_nine_in_ten() {
    let Some(mnist) = testdata::large("mnist") else { return };
    let unpacked = |name: &str| -> Vec<u8> {
        let packed = fs::read(mnist.join(name)).unwrap();
        let mut plain = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(packed.as_slice());
        std::io::Read::read_to_end(&mut reader, &mut plain).unwrap();
        plain
    };
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::create_dir(root.join("data")).unwrap();
    for (stem, count) in [("train", 1200), ("t10k", 500)] {
        let images = unpacked(&format!("{stem}-images-idx3-ubyte.gz"));
        let labels = unpacked(&format!("{stem}-labels-idx1-ubyte.gz"));
        let images = images[16..16 + count * SIDE * SIDE].to_vec();
        write_split(&root.join("data"), stem, images, labels[8..8 + count].to_vec());
    }
    let flags = ["--epochs", "3", "--hold-out", "0", "--batch-size", "30", "--augment", "0.3"];
    let report = succeed(train(root, "small", &flags));
    let line = report.lines().find(|line| line.starts_with("test images")).unwrap();
    let percent: f64 = line.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(percent > 90.0, "{report}");

    let mut eval = Command::new(env!("CARGO_BIN_EXE_worker"));
    eval.args(["eval", "mnist", "--json", "--data"]).arg(root.join("data"));
    eval.arg("--folder").arg(root.join("small/mnist/1"));
    let served: serde_json::Value = serde_json::from_str(&succeed(eval)).unwrap();
    let accuracy = served["accuracy"].as_f64().unwrap() * 100.0;
    assert!((accuracy - percent).abs() < 0.21, "served {accuracy} %, trained {percent} %");
    let mut eval = Command::new(env!("CARGO_BIN_EXE_worker"));
    eval.args(["eval", "mnist", "--json", "--prepared", "--data"]).arg(root.join("data"));
    eval.arg("--folder").arg(root.join("small/mnist/1"));
    let prepared: serde_json::Value = serde_json::from_str(&succeed(eval)).unwrap();
    assert_eq!(prepared["images"], served["images"]);
    for curve in ["loss.svg", "accuracy.svg"] {
        assert!(root.join("small/state").join(curve).is_file());
    }
}

#[test]
fn the_digit_model_reads_the_test_images_of_mnist_as_they_are_served() {
    let Some(mnist) = testdata::large("mnist") else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/mnist/1");
    let mut eval = Command::new(env!("CARGO_BIN_EXE_worker"));
    eval.args(["eval", "mnist", "--json", "--prepared", "--data"]).arg(mnist);
    eval.arg("--folder").arg(folder);
    let report: serde_json::Value = serde_json::from_str(&succeed(eval)).unwrap();
    assert_eq!(report["images"], 10_000);
    assert!(report["accuracy"].as_f64().unwrap() >= 0.996, "{report}");
}

#[test]
fn unusable_requests_end_with_one_line_that_says_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let refused = |flags: &[&str]| {
        let output = train(root, "none", flags).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&[]).contains("--download"));
    assert!(refused(&["--rate", "0"]).contains("--rate"));
    assert!(refused(&["--epochs", "0"]).contains("--epochs"));
    fs::create_dir(root.join("data")).unwrap();
    write_data(&root.join("data"), [("train", 20), ("t10k", 10)], bar);
    assert!(refused(&["--hold-out", "20"]).contains("--hold-out"));
}

#[test]
fn a_training_never_writes_over_a_version_and_never_writes_what_diverged() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::create_dir(root.join("data")).unwrap();
    write_data(&root.join("data"), [("train", 60), ("t10k", 10)], bar);
    let flags = ["--epochs", "1", "--hold-out", "10", "--batch-size", "50"];
    let first = succeed(train(root, "kept", &flags));
    assert!(first.contains("kept/mnist/1"), "{first}");
    let before = weights(root, "kept");
    let second = succeed(train(root, "kept", &[&flags[..], &["--seed", "2"]].concat()));
    assert!(second.contains("kept/mnist/2"), "{second}");
    assert_eq!(weights(root, "kept"), before);
    assert!(root.join("kept/mnist/2/model.toml").is_file());

    let diverged = [&flags[..], &["--rate", "1e38"]].concat();
    let output = train(root, "diverged", &diverged).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("--rate"), "{message}");
    assert!(!root.join("diverged/mnist/1").exists());
}

#[test]
fn without_a_folder_named_the_digit_model_gets_its_next_version() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::create_dir(root.join("data")).unwrap();
    fs::create_dir_all(root.join("models/mnist/4")).unwrap();
    write_data(&root.join("data"), [("train", 60), ("t10k", 10)], bar);
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.current_dir(root).args(["train", "mnist", "--data", "data", "--epochs", "1"]);
    command.args(["--hold-out", "10", "--batch-size", "50"]);
    let report = succeed(command);
    assert!(report.contains("models/mnist/5"), "{report}");
    let mut eval = Command::new(env!("CARGO_BIN_EXE_worker"));
    eval.current_dir(root).args(["eval", "mnist", "--data", "data", "--json"]);
    let served: serde_json::Value = serde_json::from_str(&succeed(eval)).unwrap();
    assert_eq!(served["images"], 10);
}
