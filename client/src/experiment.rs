//! Settings of a run of the driver, validated so that later code cannot fail on them.
//!
//! [`Options`] are the flags that every experiment shares; [`Trial`] is one arrival process against
//! one workload up to a limit. An experiment is a list of trials.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::BoolishValueParser;
use serde::{Deserialize, Serialize};

use crate::driver::Destination;
use crate::error::Error;
use crate::schedule::Arrivals;
use crate::target::{self, Target};
use crate::tls::Trust;

/// Flags that every experiment shares.
#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Options {
    /// The service to measure.
    #[arg(
        long,
        env = "CLIENT_TARGET",
        default_value = target::DEFAULT,
        value_name = "URL"
    )]
    pub target: Target,
    /// Folder for tables, samples and plots; must be new or empty.
    /// Default: `results/<experiment>-<time>`.
    #[arg(long, env = "CLIENT_OUT", value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Replace the results of an earlier run in that folder, finished or not.
    #[arg(long, env = "CLIENT_FORCE", value_parser = BoolishValueParser::new())]
    pub force: bool,
    /// Print the summary as JSON instead of a table.
    #[arg(long, env = "CLIENT_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
    /// Seed of every random choice: same seed, same schedule.
    #[arg(long, env = "CLIENT_SEED", default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// A request that has no answer this long after it was due has failed.
    #[arg(long, env = "CLIENT_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub timeout: Duration,
    /// Limit on concurrent connections.
    #[arg(long, env = "CLIENT_CONNECTIONS", default_value = "1000", value_name = "N")]
    pub connections: NonZeroUsize,
    /// Accept any certificate of an https service.
    #[arg(long, env = "CLIENT_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,
    /// Trust the certificate authorities in this file (PEM) instead of the public ones.
    #[arg(long, env = "CLIENT_CACERT", value_name = "FILE", conflicts_with = "insecure")]
    pub cacert: Option<PathBuf>,
    /// Name of the slice that this runs in; set by `client slice run`.
    #[arg(long, env = "CLIENT_WITHIN_SLICE", value_name = "NAME", hide = true)]
    pub within_slice: Option<String>,
}

impl Options {
    /// Where to send requests over `protocol`. Fails unless the server speaks it.
    pub fn destination(&self, protocol: Protocol) -> anyhow::Result<Destination> {
        self.target.destination(protocol, &self.trust())
    }

    /// Which certificates of the service to trust.
    pub(crate) fn trust(&self) -> Trust {
        match (&self.cacert, self.insecure) {
            (Some(file), _) => Trust::File(file.clone()),
            (None, true) => Trust::Any,
            (None, false) => Trust::Public,
        }
    }
}

/// Version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, one request at a time on a connection.
    #[value(name = "http1")]
    Http1,
    /// HTTP/2: agreed upon by TLS where the target is https, without asking where it is http.
    #[value(name = "h2")]
    H2,
}

/// What happens to a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reuse {
    /// It carries the next request.
    KeepAlive,
    /// It is closed, so that every request pays for a handshake.
    Close,
}

/// Default limit on the samples that a trial keeps individually.
pub(crate) const KEPT_SAMPLES: usize = 1_000_000;

/// One run of the driver.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trial {
    /// When requests are due.
    pub arrivals: Arrivals,
    /// Seed of the schedule.
    pub seed: u64,
    /// Ends after this many requests ...
    pub requests: Option<u64>,
    /// ... or with the last request due in this time, whichever is first.
    pub duration: Option<Duration>,
    /// Requests at the beginning that are not counted.
    pub warm_up_requests: u64,
    /// Requests due within this time of the start are not counted.
    pub warm_up: Duration,
    /// Version of HTTP.
    pub protocol: Protocol,
    /// What happens to a connection after an answer.
    pub reuse: Reuse,
    /// Limit on connections.
    pub connections: NonZeroUsize,
    /// Limit on requests that wait for a connection, over all threads. Requests beyond it are not
    /// sent and count as failed.
    pub backlog: usize,
    /// A request that has no answer this long after it was due has failed.
    pub timeout: Duration,
    /// Sender threads, each with its share of connections and of the schedule.
    pub threads: NonZeroUsize,
    /// Limit on samples that are kept individually; quantiles always cover all requests.
    pub keep_samples: usize,
    /// Only one sample in this many, drawn at random, is a candidate for being kept.
    pub keep_every: NonZeroU64,
}

impl Trial {
    /// A trial with the shared flags: one thread, HTTP/1.1 with keep-alive, every sample kept.
    pub fn new(options: &Options, arrivals: Arrivals) -> Self {
        Self {
            arrivals,
            seed: options.seed,
            requests: None,
            duration: None,
            warm_up_requests: 0,
            warm_up: Duration::ZERO,
            protocol: Protocol::Http1,
            reuse: Reuse::KeepAlive,
            connections: options.connections,
            backlog: 100_000,
            timeout: options.timeout,
            threads: NonZeroUsize::MIN,
            keep_samples: KEPT_SAMPLES,
            keep_every: NonZeroU64::MIN,
        }
    }

    /// The same trial with at most `cap` connections, if given, and at most as many threads.
    pub(crate) fn within(&self, cap: Option<NonZeroUsize>) -> Self {
        let connections = cap.map_or(self.connections, |cap| self.connections.min(cap));
        Self { connections, threads: self.threads.min(connections), ..self.clone() }
    }

    /// Checks that the fields are consistent with each other.
    pub fn validate(&self) -> Result<(), Error> {
        self.arrivals.schedule(self.seed)?;
        if self.requests.is_none() && self.duration.is_none() {
            return Err(Error::Usage("a trial needs an end: requests or duration".into()));
        }
        if self.requests.is_some_and(|requests| requests <= self.warm_up_requests)
            || self.duration.is_some_and(|duration| duration <= self.warm_up)
        {
            return Err(Error::Usage("the warm-up leaves nothing to measure".into()));
        }
        if self.threads > self.connections {
            return Err(Error::Usage("every sender thread needs a connection".into()));
        }
        if self.timeout.is_zero() {
            return Err(Error::Usage("a timeout of zero lets no request succeed".into()));
        }
        Ok(())
    }
}
