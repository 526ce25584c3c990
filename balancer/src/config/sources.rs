//! Sources of endpoints, as users write them.
//!
//! A worker is given by address or name; names of whole fleets begin with `dns:`. Without any
//! source, the balancer starts workers of its own, so that one command is enough.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use fleet::elastic::WorkerRange;

use super::limits::{count as count_of, positive};
use super::{ConfigError, Settings};

/// Maximum number of local workers, and of threads per worker.
const MAX_SPAWNED: usize = fleet::elastic::MAX_WORKERS;

/// A source of endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// One endpoint, at a fixed address.
    Fixed {
        /// Name of the endpoint.
        name: String,
        /// Address of the endpoint.
        address: SocketAddr,
    },
    /// One endpoint behind a host name.
    Host {
        /// Name of the endpoint.
        name: String,
        /// Host name to resolve.
        host: String,
        /// Port on that host.
        port: u16,
    },
    /// Every address of a DNS name.
    Dns {
        /// DNS name to resolve.
        host: String,
        /// The port at every address.
        port: u16,
    },
    /// Every target of the SRV records of a DNS name.
    Services(String),
    /// The workers of an `RSpec` request.
    Rspec(PathBuf),
    /// A file with one worker per line.
    File(PathBuf),
}

/// Local workers that the balancer starts and keeps alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spawn {
    /// How many workers, from the fewest to the most.
    pub range: WorkerRange,
    /// How long fewer workers must have been enough before one is stopped.
    pub shrink_after: Duration,
    /// The time within which 95 % of the requests should be answered; `None` to ignore latency.
    pub latency: Option<Duration>,
    /// Time limit for a worker that is being stopped to finish its requests.
    pub drain: Duration,
    /// The program to start.
    pub program: PathBuf,
    /// The model repository that they serve.
    pub models: PathBuf,
    /// Threads of each worker.
    pub threads: usize,
    /// A program that starts workers through [`crate::supervisor::launch`], if there is one.
    pub launcher: Option<PathBuf>,
}

pub(super) fn sources(settings: &Settings) -> Result<Vec<Source>, ConfigError> {
    let mut sources = Vec::new();
    for text in &settings.worker {
        sources.push(parse_worker(text)?);
    }
    sources.extend(settings.rspec.clone().map(Source::Rspec));
    sources.extend(settings.workers_file.clone().map(Source::File));
    Ok(sources)
}

/// Parses `HOST:PORT`, `NAME=HOST:PORT`, `dns:NAME:PORT` or `dns+srv:NAME`; a host may also be
/// written as `http://HOST:PORT/`.
pub fn parse_worker(text: &str) -> Result<Source, ConfigError> {
    let wrong =
        |problem: &str| ConfigError::Worker { text: text.to_owned(), problem: problem.to_owned() };
    if let Some(name) = text.strip_prefix("dns+srv:") {
        if !is_name(name) {
            return Err(wrong("dns+srv: takes a name such as _http._tcp.workers.example"));
        }
        return Ok(Source::Services(name.to_owned()));
    }
    if let Some(rest) = text.strip_prefix("dns:") {
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?;
        let port = parse_port(port).map_err(wrong)?;
        if !is_name(host) {
            return Err(wrong("that is not a name"));
        }
        return Ok(Source::Dns { host: host.to_owned(), port });
    }
    let (name, host) = match text.split_once('=') {
        Some((name, host)) => (Some(name), host),
        None => (None, text),
    };
    let host = bare(host).map_err(wrong)?;
    let name = name.unwrap_or(host);
    if name.is_empty() || name.len() > 255 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("the name must be printable and without spaces"));
    }
    let name = name.to_owned();
    if let Ok(address) = host.parse::<SocketAddr>() {
        parse_port(&address.port().to_string()).map_err(wrong)?;
        return Ok(Source::Fixed { name, address });
    }
    // Not resolved here: a name server that does not respond now may do so later.
    let (host, port) = host.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?;
    let port = parse_port(port).map_err(wrong)?;
    if !is_host(host) {
        return Err(wrong("that is neither an address nor a name"));
    }
    Ok(Source::Host { name, host: host.to_owned(), port })
}

/// Whether this can be a host name; digits and dots alone are an invalid address.
fn is_host(text: &str) -> bool {
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    is_name(text) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// A host and its port, without the parts of a URL around them.
fn bare(host: &str) -> Result<&str, &'static str> {
    if host.starts_with("https://") {
        return Err("workers are asked without TLS");
    }
    let host = match host.strip_prefix("http://") {
        Some(rest) => rest.strip_suffix('/').unwrap_or(rest),
        None => host,
    };
    if host.contains(['/', '?', '@']) {
        return Err("an address is a host and a port and nothing else");
    }
    if host.parse::<std::net::IpAddr>().is_ok() || host.ends_with(']') {
        return Err("the port is missing");
    }
    Ok(host)
}

fn parse_port(port: &str) -> Result<u16, &'static str> {
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| is_number && *port != 0);
    port.ok_or("the port is not a number from 1 to 65535")
}

/// Whether this can be a DNS name.
fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= 254 && text.bytes().all(is_plain)
}

/// The local workers. Without any other source, the balancer starts its own.
pub(super) fn spawn(
    settings: &Settings,
    alone: bool,
    drain: Duration,
) -> Result<Option<Spawn>, ConfigError> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let none = WorkerRange::fixed(0);
    let range = match (settings.spawn, alone) {
        (None, false) => return Ok(None),
        (Some(range), false) if range == none => return Ok(None),
        (Some(range), true) if range == none => {
            let text = "there is no worker: use --worker HOST:PORT, --rspec FILE, --workers-file FILE or --spawn N";
            return Err(ConfigError::Invalid(text.to_owned()));
        }
        (None, true) => WorkerRange::fixed(cores.max(2)),
        (Some(range), _) => range,
    };
    count_of("spawn", Some(range.max), range.max, 1..=MAX_SPAWNED)?;
    elastic_only(settings, range)?;
    let program = match &settings.worker_bin {
        Some(program) => program.clone(),
        None => sibling("worker").ok_or_else(|| {
            let text = "there is no `worker` program beside this one: build it, or name one with --worker-bin, or use --worker HOST:PORT";
            ConfigError::Invalid(text.to_owned())
        })?,
    };
    let models = settings.models.clone().unwrap_or_else(|| PathBuf::from("models"));
    let threads = settings.worker_threads.map(NonZeroUsize::get);
    let per_worker = (cores / range.max).max(1);
    let threads = count_of("worker-threads", threads, per_worker, 1..=MAX_SPAWNED)?;
    let shrink_after = positive("spawn-shrink-after", settings.spawn_shrink_after, 30)?;
    let latency = settings.spawn_latency;
    let latency = latency.map(|time| positive("spawn-latency", Some(time), 0)).transpose()?;
    Ok(Some(Spawn {
        range,
        shrink_after,
        latency,
        drain,
        program,
        models,
        threads,
        launcher: None,
    }))
}

/// Refuses settings of a range where the number of workers is fixed.
fn elastic_only(settings: &Settings, range: WorkerRange) -> Result<(), ConfigError> {
    let set = [
        ("spawn-shrink-after", settings.spawn_shrink_after),
        ("spawn-latency", settings.spawn_latency),
    ];
    match set.into_iter().find(|(_, value)| value.is_some()) {
        Some((name, _)) if range.is_fixed() => {
            let text =
                format!("{name} needs a number of workers that may change: --spawn MIN..MAX");
            Err(ConfigError::Invalid(text))
        }
        Some(_) | None => Ok(()),
    }
}

fn sibling(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name(name);
    path.is_file().then_some(path)
}
