//! Fetches one file over HTTP: resumed where it broke off, checked before it gets its name.
//!
//! What has arrived lies in `NAME.part`, so that another run goes on from there. A file whose digest
//! is wrong is thrown away. Attempts, waits and sizes are bounded.

use crate::Error;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

const ATTEMPTS: u32 = 5;
/// Doubles with each attempt.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that sends nothing for so long is gone.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// More than any file that this program downloads.
const MAX_BYTES: u64 = 1 << 30;

/// Why one attempt brought no file.
enum Failure {
    /// Worth another attempt.
    Transient(String),
    /// The same would happen again.
    Permanent(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Transient(error.to_string())
    }
}

/// Brings `url` to `target`, whose SHA-256 must start with `expected`.
pub(super) fn download(url: &str, target: &Path, expected: Option<&str>) -> Result<(), Error> {
    let part = part_of(target);
    let agent = agent();
    let fail = |reason: String| Error::Download { url: url.to_owned(), reason };
    let mut attempt = 1;
    loop {
        match fetch(&agent, url, &part) {
            Ok(()) => break,
            Err(Failure::Permanent(reason)) => return Err(fail(reason)),
            Err(Failure::Transient(reason)) if attempt == ATTEMPTS => {
                let hint = "run the command again to go on from there";
                return Err(fail(format!("{reason} ({ATTEMPTS} attempts; {hint})")));
            }
            Err(Failure::Transient(reason)) => {
                tracing::warn!(url, attempt, reason, "download interrupted, resuming");
                std::thread::park_timeout(FIRST_WAIT * 2u32.pow(attempt - 1));
                attempt += 1;
            }
        }
    }
    if let Some(expected) = expected
        && let Err(error) = verify(&part, expected)
    {
        fs::remove_file(&part).map_err(Error::file(&part))?;
        return Err(fail(format!("{error}; what was downloaded is removed")));
    }
    fs::rename(&part, target).map_err(Error::file(target))
}

/// Compares the start of the SHA-256 of a file.
pub(super) fn verify(file: &Path, expected: &str) -> Result<(), Error> {
    let mut hasher = Sha256::new();
    let mut reader = File::open(file).map_err(Error::file(file))?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer).map_err(Error::file(file))? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    let digits =
        hasher.finalize().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    if digits.starts_with(expected) {
        tracing::info!(sha256 = digits, "digest verified");
        return Ok(());
    }
    Err(Error::Invalid(format!("the SHA-256 is {digits}, not {expected}")))
}

fn part_of(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

fn agent() -> Agent {
    Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(STALL_TIMEOUT))
        .timeout_per_read(Some(STALL_TIMEOUT))
        .http_status_as_error(false)
        .build()
        .new_agent()
}

/// One attempt: asks for what is missing and appends it.
fn fetch(agent: &Agent, url: &str, part: &Path) -> Result<(), Failure> {
    let mut file = OpenOptions::new().create(true).append(true).open(part)?;
    let have = file.metadata()?.len();
    let mut request = agent.get(url).header(header::ACCEPT_ENCODING, "identity");
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
    }
    let mut response = request.call().map_err(|error| failure(&error))?;
    let (start, total) = match response.status() {
        StatusCode::OK => (0, content_length(&response)),
        StatusCode::PARTIAL_CONTENT => content_range(&response)
            .filter(|(start, _)| *start == have)
            .map(|(start, total)| (start, Some(total)))
            .ok_or_else(|| Failure::Permanent("the server sent another range".to_owned()))?,
        // All of it has arrived before, or the file has changed: the digest will tell.
        StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => return settle(&response, &file, have),
        status if status.is_server_error() => return Err(Failure::Transient(status.to_string())),
        status => return Err(Failure::Permanent(status.to_string())),
    };
    if total.is_some_and(|total| total > MAX_BYTES) {
        return Err(Failure::Permanent(format!("larger than {MAX_BYTES} bytes")));
    }
    file.set_len(start)?;
    let received = start + receive(&mut response, &mut file, start, total)?;
    file.sync_all()?;
    match total {
        Some(total) if received < total => {
            Err(Failure::Transient(format!("{received} of {total} bytes arrived")))
        }
        _ => Ok(()),
    }
}

fn failure(error: &ureq::Error) -> Failure {
    if matches!(error, ureq::Error::BadUri(_) | ureq::Error::Http(_)) {
        Failure::Permanent(error.to_string())
    } else {
        Failure::Transient(error.to_string())
    }
}

/// The server has nothing after what is here: right if that is the whole file, else start afresh.
fn settle(response: &Response<Body>, file: &File, have: u64) -> Result<(), Failure> {
    let total = response.headers().get(header::CONTENT_RANGE);
    let total =
        total.and_then(|value| value.to_str().ok()?.rsplit('/').next()?.parse::<u64>().ok());
    if total.is_none_or(|total| total == have) {
        return Ok(());
    }
    file.set_len(0)?;
    Err(Failure::Transient("the file on the server has changed".to_owned()))
}

fn receive(
    response: &mut Response<Body>,
    file: &mut File,
    start: u64,
    total: Option<u64>,
) -> Result<u64, Failure> {
    let bar = progress(start, total);
    let body = response.body_mut().as_reader().take(MAX_BYTES - start.min(MAX_BYTES));
    file.seek(io::SeekFrom::End(0))?;
    let received = io::copy(&mut bar.wrap_read(body), file);
    // What did arrive stays for the next attempt.
    file.flush()?;
    bar.finish_and_clear();
    Ok(received?)
}

fn progress(start: u64, total: Option<u64>) -> ProgressBar {
    let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.with_style(style.progress_chars("=> ")).with_message("downloading").with_position(start)
}

fn content_length(response: &Response<Body>) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// First byte and total length of `bytes 5-9/10`.
fn content_range(response: &Response<Body>) -> Option<(u64, u64)> {
    let value = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}
