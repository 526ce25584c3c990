//! Fetches one file over HTTP: resumed where it broke off, checked before it is used.
//!
//! A response continues a partial download only if it is of the same file: either the server
//! confirms the entity tag that it sent before, or a digest will tell at the end. Everything else
//! starts over. Attempts, waits and sizes are bounded.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::partial::{About, Partial, hex};
use crate::Error;

const ATTEMPTS: u32 = 5;
/// Doubles with each attempt.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that sends nothing for this long counts as gone.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// No attempt takes longer, however slowly bytes keep coming.
const ATTEMPT_TIMEOUT: Duration = Duration::from_hours(1);

/// Why an attempt failed.
enum Failure {
    /// Worth another attempt.
    Transient(String),
    /// Another attempt would fail in the same way.
    Permanent(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Transient(error.to_string())
    }
}

/// Downloads at most `limit` bytes from `url`, whose SHA-256 must start with `expected`; a partial
/// download is kept beside `target`.
pub(super) fn download(
    url: &str,
    target: &Path,
    expected: Option<&str>,
    limit: u64,
) -> Result<Vec<u8>, Error> {
    let mut partial = Partial::open(target, url)?;
    let fail = |reason: String| Error::Download { url: url.to_owned(), reason };
    let download = Download { agent: agent(), url, has_digest: expected.is_some(), limit };
    let mut is_second = false;
    loop {
        download.attempts(&mut partial).map_err(fail)?;
        let bytes = partial.bytes(limit).map_err(|error| fail(error.to_string()))?;
        match check(&bytes, expected) {
            Ok(()) => {
                partial.remove()?;
                return Ok(bytes);
            }
            // Perhaps parts of two files: try once more, from the start.
            Err(Error::Invalid(reason)) if partial.is_joined && !is_second => {
                is_second = true;
                tracing::warn!(url, reason, "partial download discarded");
                partial.restart(None, None).map_err(|error| fail(error.to_string()))?;
            }
            Err(error) => {
                partial.remove()?;
                return Err(fail(format!("{error}; what was downloaded is removed")));
            }
        }
    }
}

/// Checks the start of a file's SHA-256; only logs it if there is none to compare with.
pub(super) fn check(bytes: &[u8], expected: Option<&str>) -> Result<(), Error> {
    let digits = hex(&Sha256::digest(bytes));
    match expected {
        Some(expected) if digits.starts_with(expected) => {
            tracing::info!(sha256 = digits, "digest verified");
            Ok(())
        }
        Some(expected) => Err(Error::Invalid(format!("the SHA-256 is {digits}, not {expected}"))),
        None => {
            tracing::warn!(sha256 = digits, "no digest to compare with: give one with --sha256");
            Ok(())
        }
    }
}

/// An HTTP agent with time limits on connecting and on silence.
pub(crate) fn agent() -> Agent {
    Agent::config_builder()
        .timeout_global(Some(ATTEMPT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(STALL_TIMEOUT))
        .timeout_per_read(Some(STALL_TIMEOUT))
        .http_status_as_error(false)
        .build()
        .new_agent()
}

/// What every attempt has in common.
struct Download<'a> {
    agent: Agent,
    url: &'a str,
    /// Whether a digest will show that the parts belong together.
    has_digest: bool,
    limit: u64,
}

impl Download<'_> {
    /// Tries until the whole file has arrived.
    fn attempts(&self, partial: &mut Partial) -> Result<(), String> {
        let mut attempt = 1;
        loop {
            match self.fetch(partial) {
                Ok(()) => return Ok(()),
                Err(Failure::Permanent(reason)) => return Err(reason),
                Err(Failure::Transient(reason)) if attempt == ATTEMPTS => {
                    let hint = "run the command again to go on from there";
                    return Err(format!("{reason} ({ATTEMPTS} attempts; {hint})"));
                }
                Err(Failure::Transient(reason)) => {
                    tracing::warn!(
                        url = self.url,
                        attempt,
                        reason,
                        "download interrupted, resuming"
                    );
                    std::thread::park_timeout(FIRST_WAIT * 2u32.pow(attempt - 1));
                    attempt += 1;
                }
            }
        }
    }

    /// One attempt: requests the missing bytes and appends them.
    fn fetch(&self, partial: &mut Partial) -> Result<(), Failure> {
        let have = partial.len()?;
        let tag = partial.about().tag.clone();
        let resumes = have > 0 && (tag.is_some() || self.has_digest);
        let mut request = self.agent.get(self.url).header(header::ACCEPT_ENCODING, "identity");
        if resumes {
            request = request.header(header::RANGE, format!("bytes={have}-"));
        }
        if let Some(tag) = tag.filter(|_| resumes) {
            request = request.header(header::IF_RANGE, tag);
        }
        let mut response = request.call().map_err(|error| failure(&error))?;
        let total = match response.status() {
            StatusCode::OK => Self::begin(&response, partial)?,
            StatusCode::PARTIAL_CONTENT if resumes => continued(&response, partial)?,
            StatusCode::RANGE_NOT_SATISFIABLE if resumes => return settle(&response, partial),
            status if status.is_server_error() => {
                return Err(Failure::Transient(status.to_string()));
            }
            status => return Err(Failure::Permanent(status.to_string())),
        };
        if total.is_some_and(|total| total > self.limit) {
            return Err(self.too_large());
        }
        self.receive(&mut response, partial, total)?;
        let received = partial.len()?;
        match total {
            _ if received > self.limit => Err(self.too_large()),
            Some(total) if received != total => {
                Err(Failure::Transient(format!("{received} of {total} bytes arrived")))
            }
            _ => Ok(()),
        }
    }

    /// The server sends the whole file: discards what has arrived so far.
    fn begin(response: &Response<Body>, partial: &mut Partial) -> Result<Option<u64>, Failure> {
        let packed = text(response, &header::CONTENT_ENCODING);
        if let Some(coding) = packed.filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
            let reason = format!("the server packs the file ({coding}), which was not asked for");
            return Err(Failure::Permanent(reason));
        }
        let total = text(response, &header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        partial.restart(tag(response), total)?;
        Ok(total)
    }

    fn receive(
        &self,
        response: &mut Response<Body>,
        partial: &mut Partial,
        total: Option<u64>,
    ) -> Result<(), Failure> {
        let have = partial.len()?;
        let bar = progress(have, total);
        // One byte beyond the limit shows that there is more.
        let body = response.body_mut().as_reader().take(self.limit.saturating_sub(have) + 1);
        let received = partial.append(&mut bar.wrap_read(body));
        bar.finish_and_clear();
        received?;
        Ok(())
    }

    fn too_large(&self) -> Failure {
        Failure::Permanent(format!("larger than {} bytes", self.limit))
    }
}

fn failure(error: &ureq::Error) -> Failure {
    if matches!(error, ureq::Error::BadUri(_) | ureq::Error::Http(_)) {
        Failure::Permanent(error.to_string())
    } else {
        Failure::Transient(error.to_string())
    }
}

/// The total length of a file, if the response continues the bytes already here.
fn continued(response: &Response<Body>, partial: &mut Partial) -> Result<Option<u64>, Failure> {
    let have = partial.len()?;
    let range = content_range(response).filter(|(start, _)| *start == have);
    match range {
        Some((_, total)) if is_same(response, total, partial.about()) => {
            partial.is_joined = true;
            Ok(Some(total))
        }
        _ => Err(changed(partial)),
    }
}

/// The server has no further bytes: right if the whole file is here already, else start over.
fn settle(response: &Response<Body>, partial: &mut Partial) -> Result<(), Failure> {
    let range = text(response, &header::CONTENT_RANGE);
    let total = range.and_then(|range| range.rsplit('/').next()?.parse::<u64>().ok());
    let have = partial.len()?;
    match total {
        Some(total) if total == have && is_same(response, total, partial.about()) => Ok(()),
        _ => Err(changed(partial)),
    }
}

/// Whether a response of this total length is of the same file, as far as is known.
fn is_same(response: &Response<Body>, total: u64, about: &About) -> bool {
    let agrees =
        |found: Option<String>| found.is_none() || about.tag.is_none() || found == about.tag;
    about.total.is_none_or(|known| known == total) && agrees(tag(response))
}

fn changed(partial: &mut Partial) -> Failure {
    match partial.restart(None, None) {
        Ok(()) => Failure::Transient("the file on the server has changed".to_owned()),
        Err(error) => Failure::Permanent(error.to_string()),
    }
}

fn progress(start: u64, total: Option<u64>) -> ProgressBar {
    let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.with_style(style.progress_chars("=> ")).with_message("downloading").with_position(start)
}

fn text<'a>(response: &'a Response<Body>, name: &header::HeaderName) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// The entity tag of a response, if it is a strong one: it identifies the bytes, not their meaning.
fn tag(response: &Response<Body>) -> Option<String> {
    let tag = text(response, &header::ETAG)?;
    (!tag.starts_with("W/")).then(|| tag.to_owned())
}

/// First byte and total length of `bytes 5-9/10`.
fn content_range(response: &Response<Body>) -> Option<(u64, u64)> {
    let range = text(response, &header::CONTENT_RANGE)?;
    let (range, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}
