//! From flags, environment and file to one validated [`Config`].
//!
//! [`Settings`] is what a user wrote, every field optional; flags and environment win over the file,
//! the file over the defaults. [`Config`] is what the program works by: once it exists, nothing
//! later can fail on configuration. Errors name the rule and how to follow it.

mod network;
mod settings;
mod sources;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use network::Network;
pub use settings::{Cli, Command, Settings};
pub use sources::{Source, Spawn, parse_worker};
use sources::{sources, spawn};

use crate::policy::Kind;
use crate::tls::{Files, Tls};
use crate::upstream;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is not what it should be.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// A worker's address is wrong.
    #[error("worker {text:?}: {problem}; write HOST:PORT, for example 10.0.0.7:8501")]
    Worker {
        /// As written.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Settings that make no sense, alone or together.
    #[error("{0}")]
    Invalid(String),
}

/// Time limits of the request path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's head to the end of the answer.
    pub request: Duration,
    /// In the queue for an endpoint.
    pub queue: Duration,
    /// To connect to an endpoint.
    pub connect: Duration,
    /// From the first byte of a head to its end.
    pub header: Duration,
    /// Between two pieces of a request body.
    pub body: Duration,
    /// Between two requests on a connection.
    pub keep_alive: Duration,
    /// For requests to finish after SIGTERM.
    pub drain: Duration,
}

/// How much of everything is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of one request body.
    pub body: usize,
    /// Bytes of all request bodies that are held at a time.
    pub bodies: usize,
    /// Client connections.
    pub connections: usize,
    /// Client connections from one address; 0 for no limit.
    pub connections_per_ip: usize,
    /// Requests that wait for an endpoint.
    pub queue: usize,
    /// Requests in flight on one endpoint; 0 to learn it from the worker.
    pub in_flight: u32,
    /// Bytes per second that a request body must bring on average.
    pub body_rate: usize,
}

/// How endpoints are probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probing {
    /// What is asked; empty for no probes at all.
    pub path: String,
    /// Time between two probes.
    pub interval: Duration,
    /// Time for an answer.
    pub timeout: Duration,
}

/// How the access log is written.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// The combined format of Apache and nginx.
    Combined,
}

/// Everything the balancer works by.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where operators connect.
    pub admin: SocketAddr,
    /// Where endpoints come from, in the order of the list.
    pub sources: Vec<Source>,
    /// Workers to start.
    pub spawn: Option<Spawn>,
    /// Which endpoint takes a request.
    pub policy: Kind,
    /// The header whose value is the key of the hash policy; the body without one.
    pub hash_header: Option<http::HeaderName>,
    /// Threads that carry requests.
    pub threads: usize,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Amounts.
    pub bounds: Bounds,
    /// Probes.
    pub probing: Probing,
    /// Pool settings.
    pub pool: upstream::Settings,
    /// Retries allowed, in percent of the active requests.
    pub retry_percent: u32,
    /// Whether requests that take long are sent to a second endpoint.
    pub hedge: bool,
    /// The access log.
    pub access_log: Option<(PathBuf, LogFormat)>,
    /// Proxies whose word about the client is taken.
    pub trusted_proxies: Vec<Network>,
    /// Clients that may load and unload models.
    pub orders_from: Vec<Network>,
    /// Whether they begin each connection with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// The certificate, if clients connect over TLS.
    pub tls: Option<Arc<Tls>>,
    /// Whom to ask for names; the system's name servers without one.
    pub dns_server: Option<SocketAddr>,
    /// Whether clients without TLS may speak HTTP/2.
    pub h2c: bool,
    /// What to log, in the syntax of `tracing_subscriber`.
    pub log: String,
}

impl Config {
    /// Reads the file that `cli` names, if any, and checks everything.
    pub fn load(settings: Settings) -> Result<Self, ConfigError> {
        let settings = match settings.config.clone() {
            Some(path) => settings.or(Settings::read(&path)?),
            None => settings,
        };
        Self::try_new(&settings)
    }

    /// Whether what this address says about a client is believed.
    pub fn is_trusted(&self, address: std::net::IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(address))
    }

    /// Whether this client may load and unload models.
    pub fn takes_orders_from(&self, address: std::net::IpAddr) -> bool {
        self.orders_from.iter().any(|network| network.contains(address))
    }

    /// Checks settings and fills in the defaults.
    pub fn try_new(settings: &Settings) -> Result<Self, ConfigError> {
        let sources = sources(settings)?;
        let spawn = spawn(settings, sources.is_empty())?;
        let threads = settings.threads.or_else(|| std::thread::available_parallelism().ok());
        let access_log = settings
            .access_log
            .clone()
            .map(|path| (path, settings.access_log_format.unwrap_or_default()));
        let config = Self {
            listen: settings.listen.unwrap_or((Ipv4Addr::UNSPECIFIED, 5000).into()),
            admin: settings.admin.unwrap_or((Ipv4Addr::LOCALHOST, 9900).into()),
            sources,
            spawn,
            policy: settings.policy.unwrap_or_default(),
            hash_header: hash_header(settings.hash_header.as_deref())?,
            threads: threads.map_or(1, NonZeroUsize::get).min(1024),
            timeouts: timeouts(settings)?,
            bounds: bounds(settings)?,
            probing: probing(settings)?,
            pool: pool(settings)?,
            retry_percent: settings.retry_percent.unwrap_or(20).min(100),
            hedge: settings.hedge.unwrap_or_default(),
            access_log,
            trusted_proxies: settings.trusted_proxy.clone(),
            orders_from: orders_from(settings),
            proxy_protocol: proxy_protocol(settings)?,
            tls: tls(settings)?,
            dns_server: settings.dns_server,
            h2c: settings.h2c.unwrap_or_default(),
            log: settings.log.clone().unwrap_or_else(|| "info".to_owned()),
        };
        Ok(config)
    }
}

/// Only this machine, where nobody else is named.
fn orders_from(settings: &Settings) -> Vec<Network> {
    if settings.orders_from.is_empty() {
        Network::LOOPBACK.to_vec()
    } else {
        settings.orders_from.clone()
    }
}

fn proxy_protocol(settings: &Settings) -> Result<bool, ConfigError> {
    let is_wanted = settings.proxy_protocol.unwrap_or_default();
    if is_wanted && settings.trusted_proxy.is_empty() {
        let text = "proxy-protocol needs to know whom to believe: add --trusted-proxy ADDRESS";
        return Err(ConfigError::Invalid(text.to_owned()));
    }
    Ok(is_wanted)
}

fn tls(settings: &Settings) -> Result<Option<Arc<Tls>>, ConfigError> {
    match (settings.tls_cert.clone(), settings.tls_key.clone()) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            Ok(Some(Arc::new(Tls::load(Files { certificate, key })?)))
        }
        _ => {
            let text = "tls-cert and tls-key go together: give both, or neither";
            Err(ConfigError::Invalid(text.to_owned()))
        }
    }
}

fn hash_header(name: Option<&str>) -> Result<Option<http::HeaderName>, ConfigError> {
    name.map(|name| {
        name.parse()
            .map_err(|_| ConfigError::Invalid(format!("hash-header {name:?} is not a header name")))
    })
    .transpose()
}

fn timeouts(settings: &Settings) -> Result<Timeouts, ConfigError> {
    let positive = |name: &str, value: Option<Duration>, default: u64| match value {
        Some(Duration::ZERO) => Err(ConfigError::Invalid(format!("{name} must be longer than 0"))),
        Some(value) => Ok(value),
        None => Ok(Duration::from_secs(default)),
    };
    Ok(Timeouts {
        request: positive("request-timeout", settings.request_timeout, 30)?,
        queue: settings.queue_timeout.unwrap_or(Duration::from_secs(2)),
        connect: positive("connect-timeout", settings.connect_timeout, 1)?,
        header: positive("header-timeout", settings.header_timeout, 10)?,
        body: positive("body-timeout", settings.body_timeout, 10)?,
        keep_alive: positive("keep-alive", settings.keep_alive, 75)?,
        drain: settings.drain_timeout.unwrap_or(Duration::from_secs(30)),
    })
}

fn bounds(settings: &Settings) -> Result<Bounds, ConfigError> {
    let body = settings.max_body_bytes.unwrap_or(10_000_000);
    let bodies = settings.max_bodies_bytes.unwrap_or(128_000_000);
    if bodies < body {
        let text = format!("max-bodies-bytes ({bodies}) must be at least max-body-bytes ({body})");
        return Err(ConfigError::Invalid(text));
    }
    Ok(Bounds {
        body,
        bodies,
        connections: settings.max_connections.unwrap_or(20_000).max(1),
        connections_per_ip: settings.max_connections_per_ip.unwrap_or(0),
        queue: settings.max_queue.unwrap_or(1024),
        in_flight: settings.max_in_flight.unwrap_or(0),
        body_rate: settings.min_body_rate.unwrap_or(1_000),
    })
}

fn probing(settings: &Settings) -> Result<Probing, ConfigError> {
    let path = settings.probe_path.clone().unwrap_or_else(|| wire::path::READY.to_owned());
    if !path.is_empty() && path.parse::<http::uri::PathAndQuery>().is_err() {
        return Err(ConfigError::Invalid(format!("probe-path {path:?} is not a path")));
    }
    let interval = settings.probe_interval.unwrap_or(Duration::from_secs(2));
    let timeout = settings.probe_timeout.unwrap_or(Duration::from_secs(1));
    if interval < Duration::from_millis(10) || timeout.is_zero() {
        let text = "probe-interval must be at least 10ms and probe-timeout longer than 0";
        return Err(ConfigError::Invalid(text.to_owned()));
    }
    Ok(Probing { path, interval, timeout })
}

fn pool(settings: &Settings) -> Result<upstream::Settings, ConfigError> {
    let defaults = upstream::Settings::default();
    let panic_percent = settings.panic_percent.unwrap_or(defaults.panic_percent);
    if panic_percent > 100 {
        return Err(ConfigError::Invalid("panic-percent must be from 0 to 100".to_owned()));
    }
    Ok(upstream::Settings {
        panic_percent,
        slow_start: settings.slow_start.unwrap_or(defaults.slow_start),
        is_probed: settings.probe_path.as_deref() != Some(""),
        ..defaults
    })
}

/// Reads a file of the configuration.
pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
