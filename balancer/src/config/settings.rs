//! What a user can set: every flag is also an environment variable and a key of the file.
//!
//! One struct is read by both clap and serde, so the three cannot drift apart. Every field is
//! optional; defaults are filled in later, when it is known which settings are unset.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use fleet::elastic::WorkerRange;
use fleet::policy::Kind;
use serde::Deserialize;
use wire::operator::HostName;

use super::{ConfigError, EventFormat, LogFormat, Network, addresses};
use crate::files;

const EXAMPLES: &str = "\
Examples:
  balancer                                         two local workers or more, page on port 5000
  balancer --spawn 4 --policy p2c                  four local workers
  balancer --worker 10.0.0.7:8501 --worker 10.0.0.8:8501
  balancer --accept-joins --join-token-file token  workers come by themselves: worker serve --join
  balancer --rspec rspec/image_class.rspec         the workers of a slice
  balancer --tls-cert cert.pem --tls-key key.pem   HTTPS, HTTP/2 included
  balancer --config balancer.toml                  keys are the names of the flags
  balancer check balancer.toml                     is this file right? Without one: are these settings?

  curl -F model=mnist -F image=@digit.png http://localhost:5000/submit
  curl http://127.0.0.1:9900/fleet.json

Times are written like 500ms, 2s or 1m. SIGTERM drains, a second one ends at once;
SIGHUP reads the worker list again and opens the access log again, SIGUSR1 only the latter.
A second balancer with the same --listen takes the sockets over: start it, then stop the first.";

/// Spreads image recognition requests over workers.
#[derive(Debug, Parser)]
#[command(name = "balancer", version = env!("IMAGEFLEET_VERSION"), about, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(disable_help_flag = true, arg = manual::help())]
pub struct Cli {
    /// What to do instead of balancing.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to balance, and how.
    #[command(flatten)]
    pub settings: Settings,
}

/// What the program can do besides balancing.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Become another program, which ends with the process PARENT.
    #[command(hide = true)]
    Launch {
        /// Id of the process that it ends with.
        parent: u32,
        /// The program to become.
        program: PathBuf,
        /// Arguments of that program.
        #[arg(last = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Ask a running balancer whether it is ready, and print its address for clients.
    Healthcheck(Box<Healthcheck>),
    /// Show the fleet of a running balancer in the terminal.
    Top(Box<Top>),
    /// Check these settings, or a configuration file alone, and report what is wrong with them.
    Check(Box<Check>),
    /// Completions and manual pages.
    #[command(flatten)]
    Manual(manual::Command),
}

/// What is asked of a running balancer.
#[derive(Debug, Clone, Args)]
pub struct Healthcheck {
    /// Accept an answer from this process only
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Check liveness instead of readiness
    #[arg(long)]
    pub live: bool,
    /// The settings that it runs with.
    #[command(flatten)]
    pub settings: Settings,
}

/// What is checked before a balancer is started.
#[derive(Debug, Clone, Args)]
pub struct Check {
    /// Check this file alone, without flags and variables
    #[arg(value_name = "CONFIG")]
    pub file: Option<PathBuf>,
    /// The settings that it would run with.
    #[command(flatten)]
    pub settings: Settings,
}

/// What is shown of a running balancer.
#[derive(Debug, Clone, Args)]
pub struct Top {
    /// Show it once, without waiting for changes
    #[arg(long)]
    pub once: bool,
    /// The settings that it runs with.
    #[command(flatten)]
    pub settings: Settings,
}

impl Top {
    /// The token that the balancer requires, if any.
    pub(crate) fn token(settings: &Settings) -> Result<Option<String>, ConfigError> {
        let file = settings.admin_token_file.as_deref();
        let file = file.map(crate::permission::TokenFile::load).transpose()?;
        Ok(file.and_then(|file| file.first()))
    }
}

macro_rules! settings {
    ($($(#[$attribute:meta])* $name:ident: $kind:ty,)*) => {
        /// The settings given by a user, from any source.
        #[derive(Debug, Clone, Default, Args, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Settings {
            $($(#[$attribute])* pub $name: $kind,)*
        }

        impl Settings {
            /// These settings, with unset ones taken from `other`.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                Self { $($name: Layer::or(self.$name, other.$name),)* }
            }
        }
    };
}

settings! {
    /// Where clients connect [default: 0.0.0.0:5000]
    #[arg(long, env = "BALANCER_LISTEN", value_parser = addresses::listen, value_name = "ADDR:PORT")]
    #[serde(deserialize_with = "addresses::read_listen")]
    listen: Option<SocketAddr>,
    /// Port only, used if listen is not set: container platforms pass it this way
    #[arg(long, env = "PORT", value_name = "PORT")]
    port: Option<u16>,
    /// Where operators connect: /metrics, /fleet.json [default: 127.0.0.1:9900]
    #[arg(long, env = "BALANCER_ADMIN", value_parser = addresses::admin, value_name = "ADDR:PORT")]
    #[serde(deserialize_with = "addresses::read_admin")]
    admin: Option<SocketAddr>,
    /// Another name by which operators reach this machine, besides localhost and its address; repeat for more
    #[arg(long, env = "BALANCER_ADMIN_HOST", value_name = "NAME", value_delimiter = ',')]
    admin_host: Vec<HostName>,
    /// Operators must send a token from this file as `Authorization: Bearer TOKEN`; required unless --admin is a loopback address
    #[arg(long, env = "BALANCER_ADMIN_TOKEN_FILE", value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// A worker: HOST:PORT, NAME=HOST:PORT, dns:NAME:PORT (all its addresses) or dns+srv:NAME; repeat for more
    #[arg(long, env = "BALANCER_WORKER", value_name = "WORKER", value_delimiter = ',')]
    worker: Vec<String>,
    /// Name server for dns: and dns+srv: workers; port 53 if none is given [default: those of the system]
    #[arg(long, env = "BALANCER_DNS_SERVER", value_parser = addresses::name_server, value_name = "ADDR:PORT")]
    #[serde(deserialize_with = "addresses::read_name_server")]
    dns_server: Option<SocketAddr>,
    /// Use the workers server1, server2, ... of an RSpec request
    #[arg(long, env = "BALANCER_RSPEC", value_name = "FILE")]
    rspec: Option<PathBuf>,
    /// Read the workers from a file, one per line; the file is watched for changes
    #[arg(long, env = "BALANCER_WORKERS_FILE", value_name = "FILE")]
    workers_file: Option<PathBuf>,
    /// Let workers join by themselves (`worker serve --join`) if they know a token of --join-token-file
    #[arg(long, env = "BALANCER_ACCEPT_JOINS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    accept_joins: Option<bool>,
    /// The tokens that workers join with, one per line
    #[arg(long, env = "BALANCER_JOIN_TOKEN_FILE", value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// Start N local workers and restart those that exit; with MIN..MAX as many as the load needs [default if no worker is given: one per core, at least 2]
    #[arg(long, env = "BALANCER_SPAWN", value_name = "N|MIN..MAX")]
    spawn: Option<WorkerRange>,
    /// With --spawn MIN..MAX: how long fewer workers must have been enough before one is stopped [default: 30s]
    #[arg(long, env = "BALANCER_SPAWN_SHRINK_AFTER", value_parser = humantime::parse_duration, value_name = "TIME")]
    #[serde(with = "humantime_serde")]
    spawn_shrink_after: Option<Duration>,
    /// With --spawn MIN..MAX: start another worker also while more than 5 % of the requests take longer than this
    #[arg(long, env = "BALANCER_SPAWN_LATENCY", value_parser = humantime::parse_duration, value_name = "TIME")]
    #[serde(with = "humantime_serde")]
    spawn_latency: Option<Duration>,
    /// The program that --spawn starts [default: `worker` beside this program]
    #[arg(long, env = "BALANCER_WORKER_BIN", value_name = "FILE")]
    worker_bin: Option<PathBuf>,
    /// The models that spawned workers serve [default: models]
    #[arg(long, env = "BALANCER_MODELS", value_name = "DIR")]
    models: Option<PathBuf>,
    /// The model of requests that name none; `auto` leaves it to the picture [default: the photo model where it is served, else the digit model]
    #[arg(long, env = "BALANCER_DEFAULT_MODEL", value_name = "NAME")]
    default_model: Option<String>,
    /// Threads of each spawned worker [default: cores / workers, of MAX workers]
    #[arg(long, env = "BALANCER_WORKER_THREADS", value_name = "N")]
    worker_threads: Option<NonZeroUsize>,
    /// Which worker takes the next request [default: random]
    #[arg(long, env = "BALANCER_POLICY", value_enum)]
    policy: Option<Kind>,
    /// Header whose value the hash policy hashes [default: the body]
    #[arg(long, env = "BALANCER_HASH_HEADER", value_name = "NAME")]
    hash_header: Option<String>,
    /// Threads that carry requests [default: one per core]
    #[arg(long, env = "BALANCER_THREADS", value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Read settings from a TOML file, whose keys are the names of these flags
    #[arg(long, env = "BALANCER_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Time for a whole request [default: 30s]
    #[arg(long, env = "BALANCER_REQUEST_TIMEOUT", value_parser = humantime::parse_duration, value_name = "TIME")]
    #[serde(with = "humantime_serde")]
    request_timeout: Option<Duration>,
    /// How long a request may wait for a worker with capacity; a tenth of that while the queue never empties [default: 2s]
    #[arg(long, env = "BALANCER_QUEUE_TIMEOUT", value_parser = humantime::parse_duration, value_name = "TIME")]
    #[serde(with = "humantime_serde")]
    queue_timeout: Option<Duration>,
    /// Time to connect to a worker [default: 1s]
    #[arg(long, env = "BALANCER_CONNECT_TIMEOUT", value_parser = humantime::parse_duration, value_name = "TIME")]
    #[serde(with = "humantime_serde")]
    connect_timeout: Option<Duration>,
    /// Time limit for the headers of a request to arrive [default: 10s]
    #[arg(long, env = "BALANCER_HEADER_TIMEOUT", value_parser = humantime::parse_duration, value_name = "TIME")]
    #[serde(with = "humantime_serde")]
    header_timeout: Option<Duration>,
    /// Longest pause between parts of a request body [default: 10s]
    #[arg(long, env = "BALANCER_BODY_TIMEOUT", value_parser = humantime::parse_duration, value_name = "TIME")]
    #[serde(with = "humantime_serde")]
    body_timeout: Option<Duration>,
    /// How long a client may keep an idle connection [default: 75s]
    #[arg(long, env = "BALANCER_KEEP_ALIVE", value_parser = humantime::parse_duration, value_name = "TIME")]
    #[serde(with = "humantime_serde")]
    keep_alive: Option<Duration>,
    /// How long requests may take to finish after SIGTERM [default: 30s]
    #[arg(long, env = "BALANCER_DRAIN_TIMEOUT", value_parser = humantime::parse_duration, value_name = "TIME")]
    #[serde(with = "humantime_serde")]
    drain_timeout: Option<Duration>,
    /// Largest request body [default: 10000000]
    #[arg(long, env = "BALANCER_MAX_BODY_BYTES", value_name = "BYTES")]
    max_body_bytes: Option<usize>,
    /// Memory limit for all request bodies together [default: 128000000]
    #[arg(long, env = "BALANCER_MAX_BODIES_BYTES", value_name = "BYTES")]
    max_bodies_bytes: Option<usize>,
    /// Memory limit for all responses that clients have not read yet [default: 128000000]
    #[arg(long, env = "BALANCER_MAX_ANSWERS_BYTES", value_name = "BYTES")]
    max_answers_bytes: Option<usize>,
    /// Minimum average rate of a request body, in bytes per second [default: 1000]
    #[arg(long, env = "BALANCER_MIN_BODY_RATE", value_name = "BYTES")]
    min_body_rate: Option<usize>,
    /// Limit on client connections; at most three quarters of the open-file limit [default: 20000, or as many as fit]
    #[arg(long, env = "BALANCER_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,
    /// Limit on client connections per address; 0 for no limit [default: 0]
    #[arg(long, env = "BALANCER_MAX_CONNECTIONS_PER_IP", value_name = "N")]
    max_connections_per_ip: Option<usize>,
    /// Limit on requests that wait for a worker [default: 1024]
    #[arg(long, env = "BALANCER_MAX_QUEUE", value_name = "N")]
    max_queue: Option<usize>,
    /// Limit on requests in flight per worker; 0 to learn it from the worker [default: 0]
    #[arg(long, env = "BALANCER_MAX_IN_FLIGHT", value_name = "N")]
    max_in_flight: Option<u32>,
    /// Retry budget in percent of the active requests, at least 3 retries [default: 20]
    #[arg(long, env = "BALANCER_RETRY_PERCENT", value_name = "PERCENT")]
    retry_percent: Option<u32>,
    /// Send a request that takes longer than 95 % of the others to a second worker too, at most one in twenty
    #[arg(long, env = "BALANCER_HEDGE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    hedge: Option<bool>,
    /// Path that probes request; empty to turn probes off [default: /v2/health/ready]
    #[arg(long, env = "BALANCER_PROBE_PATH", value_name = "PATH")]
    probe_path: Option<String>,
    /// Interval between probes of a worker [default: 2s]
    #[arg(long, env = "BALANCER_PROBE_INTERVAL", value_parser = humantime::parse_duration, value_name = "TIME")]
    #[serde(with = "humantime_serde")]
    probe_interval: Option<Duration>,
    /// Time limit for a probe [default: 1s]
    #[arg(long, env = "BALANCER_PROBE_TIMEOUT", value_parser = humantime::parse_duration, value_name = "TIME")]
    #[serde(with = "humantime_serde")]
    probe_timeout: Option<Duration>,
    /// Below this percentage of available workers, ejected ones are used too; 0 for never [default: 50]
    #[arg(long, env = "BALANCER_PANIC_PERCENT", value_name = "PERCENT")]
    panic_percent: Option<usize>,
    /// Time over which a recovered worker ramps up to its full share [default: 10s]
    #[arg(long, env = "BALANCER_SLOW_START", value_parser = humantime::parse_duration, value_name = "TIME")]
    #[serde(with = "humantime_serde")]
    slow_start: Option<Duration>,
    /// Write one line per request to this file, or - for standard output; SIGHUP and SIGUSR1 reopen it
    #[arg(long, env = "BALANCER_ACCESS_LOG", value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Format of the access log [default: json]
    #[arg(long, env = "BALANCER_ACCESS_LOG_FORMAT", value_enum)]
    access_log_format: Option<LogFormat>,
    /// A proxy whose X-Forwarded-* headers are trusted: 10.0.0.1 or 10.0.0.0/8; repeat for more
    #[arg(long, env = "BALANCER_TRUSTED_PROXY", value_name = "NETWORK", value_delimiter = ',')]
    trusted_proxy: Vec<Network>,
    /// Who may load and unload models of the fleet: 10.0.0.1 or 10.0.0.0/8; repeat for more [default: this machine]
    #[arg(long, env = "BALANCER_MODEL_CONTROL_FROM", value_name = "NETWORK", value_delimiter = ',')]
    model_control_from: Vec<Network>,
    /// The former name of model-control-from.
    #[arg(long, env = "BALANCER_ORDERS_FROM", value_name = "NETWORK", value_delimiter = ',', hide = true)]
    orders_from: Vec<Network>,
    /// Trusted proxies begin each connection with a PROXY protocol header, version 1 or 2
    #[arg(long, env = "BALANCER_PROXY_PROTOCOL", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    proxy_protocol: Option<bool>,
    /// Certificate chain (PEM): clients connect over TLS; checked for changes every second
    #[arg(long, env = "BALANCER_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, env = "BALANCER_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Accept HTTP/2 without TLS, with prior knowledge
    #[arg(long, env = "BALANCER_H2C", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    h2c: Option<bool>,
    /// What to log: error, warn, info, debug or a filter such as balancer=debug [default: info]
    #[arg(long, env = "BALANCER_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// Operators may kill spawned workers with a button, to see that no request fails
    #[arg(long, env = "BALANCER_LESSONS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    lessons: Option<bool>,
    /// Do not show the single workers on the page, in /status.json and in /status/events
    #[arg(long, env = "BALANCER_NO_PUBLIC_FLEET", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    no_public_fleet: Option<bool>,
    /// How events are logged on standard error [default: text]
    #[arg(long, env = "BALANCER_LOG_FORMAT", value_enum)]
    log_format: Option<EventFormat>,
}

impl Settings {
    /// These settings, completed from the configuration file that they name.
    pub fn with_file(self) -> Result<Self, ConfigError> {
        match self.config.clone() {
            Some(path) => Ok(self.or(Self::read(&path)?)),
            None => Ok(self),
        }
    }

    /// Address of the public port: from `listen`, or from `port` where that is unset.
    pub fn listen_address(&self) -> SocketAddr {
        let port = self.port.unwrap_or(addresses::LISTEN.port());
        self.listen.unwrap_or(SocketAddr::new(addresses::LISTEN.ip(), port))
    }

    /// Address of the admin port.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.unwrap_or(addresses::ADMIN)
    }

    /// Reads a configuration file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(&files::read_text(path)?).map_err(|error| ConfigError::File {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })
    }
}

/// A setting that another layer can fill in.
trait Layer {
    fn or(self, other: Self) -> Self;
}

impl<T> Layer for Option<T> {
    fn or(self, other: Self) -> Self {
        Option::or(self, other)
    }
}

impl<T> Layer for Vec<T> {
    fn or(self, other: Self) -> Self {
        if self.is_empty() { other } else { self }
    }
}
