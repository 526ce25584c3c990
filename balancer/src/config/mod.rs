//! From flags, environment and file to one validated [`Config`].
//!
//! [`Settings`] is what a user wrote, with every field optional; flags and environment override the
//! file, and the file overrides the defaults. [`Config`] is what the program uses: once it exists,
//! nothing can fail because of the configuration. Errors name the rule and how to follow it.

mod addresses;
mod default_model;
mod effective;
mod limits;
mod network;
mod settings;
mod sources;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use default_model::DefaultModel;
use fleet::policy::Kind;
use limits::{FOREVER, at_most, count, positive};
pub use network::Network;
pub use settings::{Check, Cli, Command, Healthcheck, Settings, Top};
pub use sources::{Source, Spawn, parse_worker};
use sources::{sources, spawn};

use crate::descriptors;
pub use crate::error::ConfigError;
use crate::joins::Joins;
use crate::permission::{Permission, TokenFile};
use crate::tls::{Files, Tls};

/// More than any machine or request needs; larger values are mistakes, or would not fit a counter.
const MAX_THREADS: usize = 1024;
const MAX_CLIENTS: usize = 10_000_000;
const MAX_BODY: usize = 1 << 30;
const MAX_BODIES: usize = 1 << 40;
const MAX_QUEUE: usize = 1_000_000;
const MAX_IN_FLIGHT: u32 = 1_000_000;
/// Crates whose log lines can be enabled.
const LOG_TARGETS: [&str; 7] =
    ["balancer", "hyper", "hyper_util", "h2", "hickory_net", "hickory_proto", "hickory_resolver"];

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

/// Limits on sizes and counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of one request body.
    pub body: usize,
    /// Bytes of all request bodies that are in memory at the same time.
    pub bodies: usize,
    /// Bytes of all answers that wait to be read by their clients.
    pub answers: usize,
    /// Open client connections.
    pub connections: usize,
    /// Client connections from one address; 0 for no limit.
    pub connections_per_ip: usize,
    /// Requests that wait for an endpoint.
    pub queue: usize,
    /// Requests in flight per endpoint; 0 to use the worker's own limit.
    pub in_flight: u32,
    /// Minimum average rate of a request body, in bytes per second.
    pub body_rate: usize,
}

/// How endpoints are probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probing {
    /// Path that probes request; empty to disable probes.
    pub path: String,
    /// Time between two probes.
    pub interval: Duration,
    /// Time limit for an answer.
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
    /// Time, client, request, status, bytes, duration, worker and outcome, for people.
    Text,
}

/// How events are logged.
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
pub enum EventFormat {
    /// Time, level, message and name=value, for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The validated configuration.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Config {
    /// Address of the public port.
    pub listen: SocketAddr,
    /// Address of the admin port.
    pub admin: SocketAddr,
    /// Where endpoints come from, in the order of the list.
    pub sources: Vec<Source>,
    /// Workers that joined by themselves, if that is allowed.
    pub joins: Option<Arc<Joins>>,
    /// Local workers to start and keep alive, if any.
    pub spawn: Option<Spawn>,
    /// The model of requests that do not name one; `None` leaves the choice to the fleet.
    pub default_model: Option<DefaultModel>,
    /// How an endpoint is chosen for a request.
    pub policy: Kind,
    /// The header whose value is the key of the hash policy; `None` to hash the body.
    pub hash_header: Option<http::HeaderName>,
    /// Threads that handle requests.
    pub threads: usize,
    /// Time limits of requests and connections.
    pub timeouts: Timeouts,
    /// Limits on sizes and counts.
    pub bounds: Bounds,
    /// How endpoints are probed.
    pub probing: Probing,
    /// Health, panic mode, slow start and queue of the pool.
    pub pool: fleet::Settings,
    /// Retries allowed, in percent of the active requests.
    pub retry_percent: u32,
    /// Whether slow requests are sent to a second endpoint.
    pub hedge: bool,
    /// File and format of the access log; `None` writes none.
    pub access_log: Option<(PathBuf, LogFormat)>,
    /// Proxies whose `X-Forwarded-*` fields are trusted.
    pub trusted_proxies: Vec<Network>,
    /// Clients that may load and unload models; empty if the token is sufficient.
    pub model_control_from: Vec<Network>,
    /// How requests of operators are authorised.
    pub permission: Permission,
    /// Whether trusted proxies begin each connection with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// The certificate, if clients connect over TLS.
    pub tls: Option<Arc<Tls>>,
    /// The name server to use; `None` for those of the system.
    pub dns_server: Option<SocketAddr>,
    /// Whether clients without TLS may speak HTTP/2.
    pub h2c: bool,
    /// Whether operators may kill spawned workers.
    pub has_lessons: bool,
    /// Whether the public page shows individual workers.
    pub is_fleet_public: bool,
    /// What to log, in the syntax of `tracing_subscriber`.
    pub log: String,
    /// The format of the event log.
    pub log_format: EventFormat,
    /// Advice for each setting given by a deprecated name, naming its replacement.
    pub deprecated: Vec<&'static str>,
}

impl Config {
    /// Reads the file that `settings` name, if any, and checks everything.
    pub fn load(settings: Settings) -> Result<Self, ConfigError> {
        Self::try_new(&settings.with_file()?)
    }

    /// Whether this address is a trusted proxy.
    pub fn is_trusted(&self, address: std::net::IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(address))
    }

    /// Whether this client's address allows it to load and unload models.
    pub fn allows_model_control_from(&self, address: std::net::IpAddr) -> bool {
        self.model_control_from.is_empty()
            || self.model_control_from.iter().any(|network| network.contains(address))
    }

    /// Checks settings and fills in the defaults.
    pub fn try_new(settings: &Settings) -> Result<Self, ConfigError> {
        let sources = sources(settings)?;
        let joins = joins(settings)?;
        let (listen, admin) = sockets(settings)?;
        let threads = threads(settings)?;
        let (timeouts, bounds) = (timeouts(settings)?, bounds(settings, threads)?);
        let spawn = spawn(settings, sources.is_empty() && joins.is_none(), timeouts.drain)?;
        let (queue, queue_time, in_flight) = (bounds.queue, timeouts.queue, bounds.in_flight);
        let pool = fleet::Settings { queue, queue_time, in_flight, ..pool(settings)? };
        let access_log = settings
            .access_log
            .clone()
            .map(|path| (path, settings.access_log_format.unwrap_or_default()));
        let config = Self {
            listen,
            admin,
            sources,
            joins,
            spawn,
            default_model: settings.default_model.as_deref().map(DefaultModel::new).transpose()?,
            policy: settings.policy.unwrap_or_default(),
            hash_header: hash_header(settings.hash_header.as_deref())?,
            threads,
            timeouts,
            bounds,
            probing: probing(settings)?,
            pool,
            retry_percent: count("retry-percent", settings.retry_percent, 20, 0..=100)?,
            hedge: settings.hedge.unwrap_or_default(),
            access_log,
            trusted_proxies: settings.trusted_proxy.clone(),
            model_control_from: model_control_from(settings),
            deprecated: deprecated(settings),
            permission: permission(settings)?,
            proxy_protocol: proxy_protocol(settings)?,
            tls: tls(settings)?,
            dns_server: settings.dns_server,
            h2c: settings.h2c.unwrap_or_default(),
            has_lessons: settings.lessons.unwrap_or_default(),
            is_fleet_public: !settings.no_public_fleet.unwrap_or_default(),
            log: log_filter(settings)?,
            log_format: settings.log_format.unwrap_or_default(),
        };
        Ok(config)
    }
}

/// Only this machine, if no network is given and there is no token.
fn model_control_from(settings: &Settings) -> Vec<Network> {
    let named = [settings.model_control_from.as_slice(), &settings.orders_from].concat();
    if named.is_empty() && settings.admin_token_file.is_none() {
        return Network::LOOPBACK.to_vec();
    }
    named
}

fn deprecated(settings: &Settings) -> Vec<&'static str> {
    let advice = "orders-from is called model-control-from";
    if settings.orders_from.is_empty() { Vec::new() } else { vec![advice] }
}

/// Workers may join only with a token.
fn joins(settings: &Settings) -> Result<Option<Arc<Joins>>, ConfigError> {
    match (settings.accept_joins.unwrap_or_default(), &settings.join_token_file) {
        (false, None) => Ok(None),
        (true, Some(file)) => Ok(Some(Arc::new(Joins::load(file)?))),
        _ => {
            let text = "accept-joins and join-token-file go together: give both, or neither; make a token with: openssl rand -hex 32";
            Err(ConfigError::Invalid(text.to_owned()))
        }
    }
}

fn proxy_protocol(settings: &Settings) -> Result<bool, ConfigError> {
    let is_wanted = settings.proxy_protocol.unwrap_or_default();
    if is_wanted && settings.trusted_proxy.is_empty() {
        let text = "proxy-protocol needs a proxy to trust: add --trusted-proxy ADDRESS";
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
    Ok(Timeouts {
        request: positive("request-timeout", settings.request_timeout, 30)?,
        queue: at_most("queue-timeout", settings.queue_timeout, 2)?,
        connect: positive("connect-timeout", settings.connect_timeout, 1)?,
        header: positive("header-timeout", settings.header_timeout, 10)?,
        body: positive("body-timeout", settings.body_timeout, 10)?,
        keep_alive: positive("keep-alive", settings.keep_alive, 75)?,
        drain: at_most("drain-timeout", settings.drain_timeout, 30)?,
    })
}

fn bounds(settings: &Settings, threads: usize) -> Result<Bounds, ConfigError> {
    let body = count("max-body-bytes", settings.max_body_bytes, 10_000_000, 1..=MAX_BODY)?;
    let all = settings.max_bodies_bytes;
    let bodies = count("max-bodies-bytes", all, 128_000_000.max(body), 1..=MAX_BODIES)?;
    if bodies < body {
        let text = format!("max-bodies-bytes ({bodies}) must be at least max-body-bytes ({body})");
        return Err(ConfigError::Invalid(text));
    }
    let per_ip = settings.max_connections_per_ip;
    Ok(Bounds {
        body,
        bodies,
        answers: count(
            "max-answers-bytes",
            settings.max_answers_bytes,
            128_000_000,
            0..=MAX_BODIES,
        )?,
        connections: connections(settings.max_connections, threads)?,
        connections_per_ip: count("max-connections-per-ip", per_ip, 0, 0..=MAX_CLIENTS)?,
        queue: count("max-queue", settings.max_queue, 1024, 0..=MAX_QUEUE)?,
        in_flight: count("max-in-flight", settings.max_in_flight, 0, 0..=MAX_IN_FLIGHT)?,
        body_rate: count("min-body-rate", settings.min_body_rate, 1_000, 0..=MAX_BODY)?,
    })
}

/// The limit on client connections, if there are enough descriptors for it.
fn connections(wanted: Option<usize>, threads: usize) -> Result<usize, ConfigError> {
    let limit = descriptors::raise();
    let fitting = descriptors::clients(limit, threads);
    let wanted = count("max-connections", wanted, fitting.min(20_000), 1..=MAX_CLIENTS)
        .map_err(|error| if fitting == 0 { too_few_files(limit, 1, threads) } else { error })?;
    if wanted > fitting { Err(too_few_files(limit, wanted, threads)) } else { Ok(wanted) }
}

fn too_few_files(limit: u64, wanted: usize, threads: usize) -> ConfigError {
    ConfigError::Invalid(format!(
        "max-connections {wanted} with {threads} threads needs {} open files and the system allows {limit}: raise its limit (ulimit -Hn, LimitNOFILE=) or lower max-connections",
        descriptors::needed(wanted, threads)
    ))
}

fn threads(settings: &Settings) -> Result<usize, ConfigError> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let wanted = settings.threads.map(NonZeroUsize::get);
    count("threads", wanted, cores.min(MAX_THREADS), 1..=MAX_THREADS)
}

/// The two listening addresses, checked: they differ, and an admin port that is reachable from
/// other machines has a token.
fn sockets(settings: &Settings) -> Result<(SocketAddr, SocketAddr), ConfigError> {
    let (listen, admin) = (settings.listen_address(), settings.admin_address());
    let overlap =
        listen.ip() == admin.ip() || listen.ip().is_unspecified() || admin.ip().is_unspecified();
    if listen.port() == admin.port() && listen.port() != 0 && overlap {
        return Err(ConfigError::Invalid(format!(
            "listen ({listen}) and admin ({admin}) are the same port: clients and operators need one each"
        )));
    }
    if !admin.ip().to_canonical().is_loopback() && settings.admin_token_file.is_none() {
        return Err(ConfigError::Invalid(format!(
            "admin {admin} can be reached from other machines: add --admin-token-file FILE, or use an address of this machine alone such as 127.0.0.1:9900"
        )));
    }
    Ok((listen, admin))
}

fn permission(settings: &Settings) -> Result<Permission, ConfigError> {
    let token = settings.admin_token_file.as_deref().map(TokenFile::load).transpose()?;
    Ok(Permission { hosts: settings.admin_host.clone(), token: token.map(Arc::new) })
}

/// The log filter, checked.
fn log_filter(settings: &Settings) -> Result<String, ConfigError> {
    let filter = settings.log.as_deref().unwrap_or("info");
    wire::log_filter::check(filter, &LOG_TARGETS)
        .map_err(|error| ConfigError::Invalid(format!("log: {error}")))?;
    Ok(filter.to_owned())
}

fn probing(settings: &Settings) -> Result<Probing, ConfigError> {
    let path = settings.probe_path.clone().unwrap_or_else(|| wire::path::READY.to_owned());
    if !path.is_empty() && path.parse::<http::uri::PathAndQuery>().is_err() {
        return Err(ConfigError::Invalid(format!("probe-path {path:?} is not a path")));
    }
    let interval = positive("probe-interval", settings.probe_interval, 2)?;
    let timeout = positive("probe-timeout", settings.probe_timeout, 1)?;
    if interval < Duration::from_millis(10) {
        return Err(ConfigError::Invalid("probe-interval must be at least 10ms".to_owned()));
    }
    Ok(Probing { path, interval, timeout })
}

fn pool(settings: &Settings) -> Result<fleet::Settings, ConfigError> {
    let defaults = fleet::Settings::default();
    let percent = settings.panic_percent;
    let panic_percent = count("panic-percent", percent, defaults.panic_percent, 0..=100)?;
    let slow_start = settings.slow_start.unwrap_or(defaults.slow_start);
    if slow_start > FOREVER {
        return Err(limits::too_long("slow-start"));
    }
    let path = settings.probe_path.as_deref().unwrap_or(wire::path::READY);
    Ok(fleet::Settings {
        panic_percent,
        slow_start,
        is_probed: !path.is_empty(),
        asks_readiness: path == wire::path::READY,
        ..defaults
    })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
