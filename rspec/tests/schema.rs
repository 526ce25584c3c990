//! The committed request and generated ones against the published schema, by `xmllint`.
//!
//! The schema is not part of the repository; without it, or without `xmllint`, the check is skipped
//! with a line that says so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rspec::{REPOSITORY, Rspec, Star, image_class};

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("image_class.rspec")
}

/// The schema, when it can be used here.
fn schema() -> Option<PathBuf> {
    let schema = testdata::large("rspec3-xsd/request.xsd")?;
    if Command::new("xmllint").arg("--version").output().is_err() {
        testdata::skip("xmllint is not installed (libxml2-utils)");
        return None;
    }
    Some(schema)
}

fn validate(schema: &Path, file: &Path) -> Result<(), String> {
    let output = Command::new("xmllint")
        .args(["--noout", "--nonet", "--schema"])
        .args([schema, file])
        .output()
        .expect("xmllint runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(stderr) }
}

#[test]
fn the_committed_request_is_what_the_generator_writes() {
    let text = std::fs::read_to_string(committed()).expect("committed file");
    assert_eq!(text, image_class(REPOSITORY).to_xml());
    assert_eq!(Rspec::parse(&text).expect("valid"), image_class(REPOSITORY));
}

#[test]
fn the_committed_request_is_valid_against_the_schema() {
    let Some(schema) = schema() else { return };
    validate(&schema, &committed()).expect("valid");
}

#[test]
fn generated_requests_are_valid_and_broken_ones_are_not() {
    let Some(schema) = schema() else { return };
    let file = std::env::temp_dir().join(format!("rspec-schema-{}.rspec", std::process::id()));
    let star = Star {
        workers: 300,
        capacity: Some(100_000),
        latency: Some(Duration::from_micros(1250)),
        packet_loss: Some(0.001),
        repository: REPOSITORY.to_owned(),
    };
    let text = star.request().expect("valid").to_xml();
    std::fs::write(&file, &text).expect("written");
    let good = validate(&schema, &file);
    std::fs::write(&file, text.replacen("client_id", "client", 1)).expect("written");
    let bad = validate(&schema, &file);
    std::fs::remove_file(&file).expect("removed");
    good.expect("valid");
    bad.expect_err("the schema must refuse a node without client_id");
}
