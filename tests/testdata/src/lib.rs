//! Test data that is too large for the repository, and the list of skipped tests.
//!
//! A test that cannot run here calls [`skip`] and returns. The harness counts it as passed, so the
//! reason is also appended to the file that `IMAGEFLEET_SKIPS` names: `scripts/test.sh` prints that
//! list at its end, and `.ci/run` fails on a skip that `tests/skips.txt` does not allow.
#![forbid(unsafe_code)]

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;

/// A file or folder below `IMAGEFLEET_TEST_DATA`. If it does not exist, the calling test is
/// recorded as skipped, and the result is `None`.
///
/// # Panics
///
/// When the list of skips cannot be written.
pub fn large(path: &str) -> Option<PathBuf> {
    let Some(root) = env::var_os("IMAGEFLEET_TEST_DATA") else {
        skip(&format!("IMAGEFLEET_TEST_DATA is not set, which has {path}"));
        return None;
    };
    let found = Path::new(&root).join(path);
    if !found.exists() {
        skip(&format!("IMAGEFLEET_TEST_DATA has no {path}"));
        return None;
    }
    Some(found)
}

/// Records that the calling test is skipped, and why.
///
/// # Panics
///
/// When the list of skips cannot be written.
pub fn skip(reason: &str) {
    let thread = thread::current();
    let line = format!("{}::{}: {reason}", binary(), thread.name().unwrap_or("test"));
    eprintln!("SKIPPED: {line}");
    let Some(list) = env::var_os("IMAGEFLEET_SKIPS") else { return };
    // A single write of one line, because several processes append to the same file.
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&list)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    written.expect("IMAGEFLEET_SKIPS names a file that can be written");
}

/// The name of the test program, without the hash that cargo adds.
fn binary() -> String {
    let program = env::current_exe().unwrap_or_default();
    let name = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match name.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 => name.to_owned(),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::binary;

    #[test]
    fn a_test_program_is_named_without_its_hash() {
        assert_eq!(binary(), "testdata");
    }
}
