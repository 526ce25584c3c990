//! Fetches an image by its address, without giving the client access to the worker's network.
//!
//! Only http and https are fetched. Every address that a name resolves to must be public, the
//! connection goes to exactly those addresses, and each redirect is checked again. Time and size
//! are bounded (the unpacked size, if a server compresses its response unasked), and a client
//! learns nothing that it could not have found out itself.

mod address;
mod location;

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use address::is_public;
use axum::body::Bytes;
use axum::http::{StatusCode, Uri, header};
use message::Coding;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use ureq::config::Config;
use ureq::http::Response;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body};

use super::inflate::unpack;
use super::memory::{Allowance, Charge};
use super::{Arrival, Problem};
use crate::config::FetchRules;

/// Longest time for all hops together.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most redirects to follow.
const MOST_HOPS: usize = 5;
/// Number of concurrent fetches; each holds a thread.
const AT_ONCE: usize = 4;
/// Number of bytes read at a time.
const PIECE: usize = 64 << 10;

/// Fetches images by their address, from public hosts only.
#[derive(Debug)]
pub(super) struct Fetcher {
    agent: Agent,
    enabled: bool,
    places: Arc<Semaphore>,
    max_bytes: usize,
}

/// Resolves names, and refuses those with private addresses.
#[derive(Debug)]
struct PublicOnly {
    resolver: DefaultResolver,
    allowed: Vec<String>,
}

impl Fetcher {
    pub(super) fn new(rules: &FetchRules, max_bytes: usize) -> Self {
        let config = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            // A proxy from the environment would resolve names for us, unchecked.
            .proxy(None)
            .accept_encoding("identity")
            .user_agent(concat!("imagefleet/", env!("CARGO_PKG_VERSION")))
            .build();
        let resolver =
            PublicOnly { resolver: DefaultResolver::default(), allowed: rules.allowed.clone() };
        Self {
            agent: Agent::with_parts(config, DefaultConnector::default(), resolver),
            enabled: rules.enabled,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            max_bytes,
        }
    }

    /// Fetches the bytes at an address.
    pub(super) async fn fetch(&self, address: &str, arrival: &Arrival) -> Result<Bytes, Problem> {
        if !self.enabled {
            return Err(Problem::Malformed("images by address are turned off here".to_owned()));
        }
        let uri = location::check(address).ok_or_else(|| {
            Problem::Malformed("IMAGE_URL must be an http or https address".to_owned())
        })?;
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Problem::Overloaded(
                "too many images are being fetched, try again".to_owned(),
            ));
        };
        let (agent, max_bytes) = (self.agent.clone(), self.max_bytes);
        let memory = Arc::clone(&arrival.memory);
        let until = arrival.deadline.min(Instant::now() + PATIENCE);
        let work = tokio::task::spawn_blocking(move || {
            let _place = place;
            walk(&agent, uri, until, |answer| take(answer, max_bytes, &memory))
        });
        match timeout_at(arrival.deadline, work).await {
            Ok(Ok(fetched)) => fetched,
            Ok(Err(_)) => Err(Problem::Malformed("IMAGE_URL: the answer is unreadable".to_owned())),
            Err(_) => Err(Problem::Deadline),
        }
    }
}

/// Follows redirects until it reaches an image or fails.
fn walk(
    agent: &Agent,
    mut uri: Uri,
    deadline: Instant,
    take: impl FnOnce(Response<Body>) -> Result<Bytes, Problem>,
) -> Result<Bytes, Problem> {
    for _ in 0..=MOST_HOPS {
        let left = deadline.saturating_duration_since(Instant::now());
        let request = agent.get(&uri).config().timeout_global(Some(left)).build();
        let response = request.call().map_err(|error| failed(told(&error)))?;
        let status = response.status();
        if status.is_redirection() {
            let location = response.headers().get(header::LOCATION);
            let next = location.and_then(|value| location::follow(&uri, value.to_str().ok()?));
            uri = next.ok_or_else(|| failed("the redirect leads nowhere"))?;
            continue;
        }
        if status != StatusCode::OK {
            return Err(failed(&format!("the server answered {}", status.as_u16())));
        }
        return take(response);
    }
    Err(failed("too many redirects"))
}

/// The bytes of a response, decompressed if necessary.
fn take(
    answer: Response<Body>,
    max_bytes: usize,
    memory: &Arc<Allowance>,
) -> Result<Bytes, Problem> {
    let coding = Coding::of(answer.headers())?;
    let mut charge = memory.charge(0)?;
    let bytes = read(&mut answer.into_body().into_reader(), max_bytes, &mut charge)?;
    let Some(coding) = coding else { return Ok(charge.hold(bytes)) };
    let mut charge = memory.charge(0)?;
    let plain = unpack(coding, &bytes, max_bytes, &mut charge)?;
    Ok(charge.hold(plain))
}

fn read(answer: &mut dyn Read, max_bytes: usize, charge: &mut Charge) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        let read =
            answer.read(&mut piece).map_err(|error| failed(told(&ureq::Error::from(error))))?;
        if read == 0 {
            return Ok(bytes);
        }
        if bytes.len() + read > max_bytes {
            return Err(Problem::TooLarge(format!(
                "the image at IMAGE_URL is larger than the {max_bytes} bytes allowed"
            )));
        }
        if bytes.len() + read > bytes.capacity() {
            let more = bytes.capacity().max(read);
            charge.grow(more)?;
            bytes.reserve_exact(bytes.capacity() - bytes.len() + more);
        }
        bytes.extend_from_slice(&piece[..read]);
    }
}

fn failed(why: &str) -> Problem {
    Problem::Malformed(format!("IMAGE_URL: {why}"))
}

/// The error for a client whose image could not be fetched.
fn told(error: &ureq::Error) -> &'static str {
    if matches!(error, ureq::Error::Timeout(_)) {
        return "the server took too long";
    }
    if matches!(error, ureq::Error::HostNotFound) {
        return "no public host of that name";
    }
    "the image could not be fetched"
}

impl PublicOnly {
    fn is_allowed(&self, uri: &Uri) -> bool {
        let Some(authority) = uri.authority() else { return false };
        self.allowed.iter().any(|known| known == authority.host() || known == authority.as_str())
    }
}

impl Resolver for PublicOnly {
    /// The transport connects to these addresses and does not resolve again.
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.resolver.resolve(uri, config, timeout)?;
        let all_public = found.iter().map(SocketAddr::ip).all(is_public);
        if all_public || self.is_allowed(uri) { Ok(found) } else { Err(ureq::Error::HostNotFound) }
    }
}
