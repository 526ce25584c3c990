//! Turns the arguments of `worker serve` into a configuration that later code cannot fail on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::Error;
use crate::join::{self, Joining};
use crate::memory_limit::memory_limit;
use crate::model::MAX_MEMORY;
use crate::patient::Patience;
use crate::preprocess::Limits;

const EXAMPLES: &str = "\
Examples:
  worker serve                                    every model under ./models on port 8501
  worker serve --listen 127.0.0.1:0 --threads 1   a free port, one core
  curl --data-binary @7.png http://localhost:8501/predict
  curl -H 'Accept: application/json' -F image=@cat.jpg 'http://localhost:8501/predict?top_k=3'";

/// Arguments of `worker serve`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Args {
    /// Where it answers.
    #[command(flatten)]
    pub address: Address,
    /// Model repository: `<model>/<version>/model.toml`.
    #[arg(long, env = "WORKER_MODELS", default_value = "models", value_name = "DIR")]
    pub models: PathBuf,
    /// Cores to use; default: all.
    #[arg(long, env = "WORKER_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// How networks run.
    #[command(flatten)]
    pub engine: engine::Flags,
    /// Drain and exit when stdin closes, so that the worker never outlives its supervisor.
    #[arg(long, env = "WORKER_SUPERVISED")]
    pub supervised: bool,
    /// Memory limit for the weights and the largest batch of a version of a model, in bytes; one that
    /// needs more is not loaded.
    #[arg(long, env = "WORKER_MAX_MODEL_MEMORY", default_value_t = MAX_MEMORY, value_name = "BYTES")]
    pub max_model_memory: u64,
    /// What a body and a picture may have; more is answered 413.
    #[command(flatten)]
    pub largest: Largest,
    /// Limit on open connections; more wait in the kernel.
    #[arg(long, env = "WORKER_MAX_CONNECTIONS", default_value = "2048", value_name = "N")]
    pub max_connections: NonZeroUsize,
    /// Time limit per answer, if the request sets none.
    #[arg(long, env = "WORKER_DEADLINE", default_value = "30s", value_name = "TIME")]
    pub deadline: humantime::Duration,
    /// How long open requests may take to finish after SIGTERM.
    #[arg(long, env = "WORKER_DRAIN_TIMEOUT", default_value = "30s", value_name = "TIME")]
    pub drain_timeout: humantime::Duration,
    /// Refuse requests that give an image by its URL.
    #[arg(long, env = "WORKER_NO_FETCH")]
    pub no_fetch: bool,
    /// Hosts that images may be fetched from even though they are private, as `name` or `name:port`.
    #[arg(long, env = "WORKER_FETCH_ALLOW", value_name = "HOST", value_delimiter = ',')]
    pub fetch_allow: Vec<String>,
    /// Refuse requests to load or unload models; only the repository's folders decide.
    #[arg(long, env = "WORKER_NO_MODEL_CONTROL")]
    pub no_model_control: bool,
    /// The former name of `--no-model-control`.
    #[arg(long, env = "WORKER_NO_ORDERS", hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub no_orders: Option<bool>,
    /// Fleets to join.
    #[command(flatten)]
    pub join: join::Args,
    /// How often the model repository is scanned; 0s: only on SIGHUP.
    #[arg(long, env = "WORKER_POLL", default_value = "1s", value_name = "TIME")]
    pub poll: humantime::Duration,
}

/// The address of a worker: one definition for the worker and for its health check.
#[derive(Debug, Clone, clap::Args)]
pub struct Address {
    /// Address and port to listen on; port 0 picks a free one and prints it [default: 0.0.0.0:8501]
    #[arg(long, env = "WORKER_LISTEN", value_parser = listen, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Port only, used if --listen is not set: container platforms pass it this way.
    #[arg(long, env = "PORT", value_name = "PORT")]
    pub port: Option<u16>,
}

impl Address {
    /// The requested address, or the default.
    pub fn listen(&self) -> SocketAddr {
        self.listen.unwrap_or(SocketAddr::new(LISTEN.ip(), self.port.unwrap_or(LISTEN.port())))
    }
}

/// The default address.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8501);

/// Limits on the images that are accepted, by a server and without one.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Largest {
    /// The largest image or request body, in bytes.
    #[arg(long = "max-body", env = "WORKER_MAX_BODY", default_value_t = 10 << 20, value_name = "BYTES")]
    pub body: usize,
    /// The largest picture, in pixels.
    #[arg(long = "max-pixels", env = "WORKER_MAX_PIXELS", default_value_t = Limits::default().max_pixels, value_name = "PIXELS")]
    pub pixels: u64,
    /// Memory limit for one request, from its body to its answer, or for one image without a server, in bytes;
    /// a server answers 413 to requests that need more.
    #[arg(long = "max-request-memory", env = "WORKER_MAX_REQUEST_MEMORY", default_value_t = 64 << 20, value_name = "BYTES")]
    pub memory: usize,
}

impl Largest {
    /// Rejects values that later code cannot work with.
    pub fn check(&self) -> Result<(), Error> {
        if !(1..=1 << 30).contains(&self.body) {
            return Err(Error::Invalid("--max-body must be 1 to 1073741824 bytes".to_owned()));
        }
        if !(1..=MOST_PIXELS).contains(&self.pixels) {
            return Err(Error::Invalid(format!("--max-pixels must be 1 to {MOST_PIXELS}")));
        }
        let least = self.body;
        if !(least..=1 << 36).contains(&self.memory) {
            return Err(Error::Invalid(format!(
                "--max-request-memory must be at least --max-body ({least}) and at most 68719476736 bytes"
            )));
        }
        Ok(())
    }

    /// Limits on decoding a picture.
    pub fn picture(&self) -> Limits {
        Limits { max_pixels: self.pixels, ..Limits::default() }
    }

    /// Limits on decoding if a file of this many bytes is the whole request.
    pub fn picture_of(&self, bytes: usize) -> Limits {
        let left = most_memory(bytes, self.memory).saturating_sub(bytes);
        let limits = self.picture();
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        Limits { max_bytes: limits.max_bytes.min(left), ..limits }
    }
}

fn listen(text: &str) -> Result<SocketAddr, wire::address::AddressError> {
    wire::address::listen(text, LISTEN)
}

/// The validated configuration of `worker serve`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Root of the model repository.
    pub models: PathBuf,
    /// Cores to use.
    pub threads: NonZeroUsize,
    /// How networks run.
    pub engine: engine::Options,
    /// Whether to shut down when stdin ends.
    pub supervised: bool,
    /// Maximum number of open connections.
    pub max_connections: usize,
    /// Longest time to finish open requests.
    pub drain_timeout: Duration,
    /// How long a client may keep its connection waiting.
    pub patience: Patience,
    /// Fleets to join.
    pub joining: Option<Joining>,
    /// How often the repository is scanned; only on request if `None`.
    pub poll: Option<Duration>,
    /// Bytes that the weights and the largest batch of one model version may take.
    pub max_model_memory: u64,
    /// Whether clients may load and unload models.
    pub allows_model_control: bool,
    /// Limits of a single request.
    pub request: RequestLimits,
    /// Which hosts images may be fetched from.
    pub fetch: FetchRules,
}

/// Whether clients may give images by URL, and which private hosts are allowed.
#[derive(Debug, Clone, Default)]
pub struct FetchRules {
    /// If false, such requests are refused.
    pub enabled: bool,
    /// Hosts, as `name` or `name:port`, that need not be public.
    pub allowed: Vec<String>,
}

/// Limits of a single request.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Maximum size of a body in bytes, both before and after decompression.
    pub max_body: usize,
    /// Memory that one request may take, from its body to its answer.
    pub max_memory: usize,
    /// Memory of all requests together.
    pub memory: usize,
    /// Bytes per second that an upload must reach, after [`RequestLimits::body_idle`].
    pub min_rate: u32,
    /// Longest silence during an upload.
    pub body_idle: Duration,
    /// Time limit per answer, if the request sets none.
    pub deadline: Duration,
    /// Limits on decoding a picture.
    pub picture: Limits,
}

/// Memory that any request may take, however small: 32 MB, minus what is not worth counting ...
pub(crate) const ANY_REQUEST: usize = 31 << 20;
/// ... plus this much for each of its bytes.
const EACH_BYTE: usize = 40;

/// Memory that a request of this many bytes may take, at most `each`.
pub(crate) fn most_memory(received: usize, each: usize) -> usize {
    ANY_REQUEST.saturating_add(received.saturating_mul(EACH_BYTE)).min(each)
}

/// Number of concurrent requests that may each take the largest amount of memory.
const LARGEST_REQUESTS: usize = 4;
/// Slowest upload, in bytes per second.
const MIN_RATE: u32 = 500;
/// Smallest memory limit for models: a batch of digits takes a few megabytes.
const MIN_MODEL_MEMORY: u64 = 1 << 20;
/// Longest time that any flag accepts.
const LONGEST: Duration = Duration::from_hours(24);
/// Most connections, threads and pixels that flags accept.
const MOST_CONNECTIONS: usize = 1_000_000;
const MOST_THREADS: usize = 1024;
const MOST_PIXELS: u64 = 1_000_000_000;

impl TryFrom<&Args> for Config {
    type Error = Error;

    fn try_from(args: &Args) -> Result<Self, Error> {
        args.check()?;
        let poll = Duration::from(args.poll);
        let threads = args.threads.unwrap_or_else(all_cores);
        let (max_memory, memory) = request_memory(args.largest.memory, memory_limit());
        Ok(Self {
            listen: args.address.listen(),
            models: args.models.clone(),
            threads,
            engine: engine::Options::new(&args.engine, threads),
            supervised: args.supervised,
            max_connections: args.max_connections.get(),
            drain_timeout: args.drain_timeout.into(),
            patience: Patience { head: Duration::from_secs(20), write: Duration::from_mins(1) },
            joining: Joining::new(&args.join)?,
            poll: (!poll.is_zero()).then_some(poll),
            max_model_memory: args.max_model_memory,
            allows_model_control: !(args.no_model_control || args.no_orders == Some(true)),
            fetch: FetchRules { enabled: !args.no_fetch, allowed: args.fetch_allow.clone() },
            request: RequestLimits {
                max_body: args.largest.body,
                max_memory,
                memory,
                min_rate: MIN_RATE,
                body_idle: Duration::from_secs(10),
                deadline: args.deadline.into(),
                picture: args.largest.picture(),
            },
        })
    }
}

impl Args {
    /// Rejects values that later code cannot work with.
    fn check(&self) -> Result<(), Error> {
        let invalid = |text: String| Err(Error::Invalid(text));
        self.largest.check()?;
        if !(MIN_MODEL_MEMORY..=1 << 46).contains(&self.max_model_memory) {
            return invalid(format!(
                "--max-model-memory must be {MIN_MODEL_MEMORY} to 70368744177664 bytes"
            ));
        }
        if self.max_connections.get() > MOST_CONNECTIONS {
            return invalid(format!("--max-connections must be at most {MOST_CONNECTIONS}"));
        }
        if self.threads.is_some_and(|threads| threads.get() > MOST_THREADS) {
            return invalid(format!("--threads must be at most {MOST_THREADS}"));
        }
        if self.deadline.is_zero() {
            return invalid("--deadline must be above zero".to_owned());
        }
        for (flag, time) in [
            ("--deadline", self.deadline),
            ("--drain-timeout", self.drain_timeout),
            ("--poll", self.poll),
        ] {
            if Duration::from(time) > LONGEST {
                return invalid(format!("{flag} must be at most {}h", LONGEST.as_secs() / 3600));
            }
        }
        Ok(())
    }
}

/// Memory limits of one request and of all requests together. If the kernel sets a limit, half of
/// it is reserved for the models and for what is not counted.
fn request_memory(each: usize, limit: Option<u64>) -> (usize, usize) {
    let half = limit.map_or(usize::MAX, |limit| usize::try_from(limit / 2).unwrap_or(usize::MAX));
    (each.min(half), each.saturating_mul(LARGEST_REQUESTS).min(half))
}

/// The number of cores that this process may run on.
pub fn all_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{Config, request_memory};
    use crate::cli::{Cli, Command};

    fn config(flags: &[&str]) -> Result<Config, String> {
        let line = [&["worker", "serve"], flags].concat();
        let cli = Cli::try_parse_from(line).map_err(|error| error.to_string())?;
        let Command::Serve(args) = cli.command else { unreachable!("the command is serve") };
        Config::try_from(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_too_large_to_work_with_is_refused_by_name() {
        config(&[]).unwrap();
        for (flag, value, limit) in [
            ("--deadline", "1000000y", "at most 24h"),
            ("--deadline", "0s", "above zero"),
            ("--drain-timeout", "25h", "at most 24h"),
            ("--poll", "18446744073709551615s", "at most 24h"),
            ("--max-connections", "18446744073709551615", "at most 1000000"),
            ("--max-body", "0", "1 to 1073741824"),
            ("--max-request-memory", "1000", "at least --max-body"),
            ("--max-request-memory", "18446744073709551615", "at most 68719476736"),
            ("--max-model-memory", "1000", "1048576 to"),
            ("--max-pixels", "18446744073709551615", "1 to 1000000000"),
            ("--threads", "18446744073709551615", "at most 1024"),
        ] {
            let error = config(&[flag, value]).unwrap_err();
            assert!(error.contains(flag) && error.contains(limit), "{flag} {value}: {error}");
        }
    }

    #[test]
    fn the_port_that_a_platform_gives_counts_where_no_address_is_given() {
        for (flags, expected) in [
            (&[][..], "0.0.0.0:8501"),
            (&["--port", "8080"], "0.0.0.0:8080"),
            (&["--port", "8080", "--listen", "127.0.0.1:9"], "127.0.0.1:9"),
        ] {
            assert_eq!(config(flags).unwrap().listen.to_string(), expected);
        }
        assert!(config(&["--port", "70000"]).unwrap_err().contains("70000"));
    }

    #[test]
    fn the_memory_of_all_requests_is_that_of_a_few_large_ones() {
        let limits = config(&["--max-request-memory", "20000000"]).unwrap().request;
        assert_eq!((limits.max_memory, limits.memory), (20_000_000, 80_000_000));
    }

    #[test]
    fn requests_take_half_of_what_a_container_may_have_at_most() {
        let mb = 1 << 20;
        assert_eq!(request_memory(64 * mb, None), (64 * mb, 256 * mb));
        assert_eq!(request_memory(64 * mb, Some(512 << 20)), (64 * mb, 256 * mb));
        assert_eq!(request_memory(64 * mb, Some(256 << 20)), (64 * mb, 128 * mb));
        assert_eq!(request_memory(64 * mb, Some(64 << 20)), (32 * mb, 32 * mb));
    }
}
