//! Joins fleets: periodically reports this worker's address to each balancer, until it leaves.
//!
//! Each balancer has its own thread, so that one that does not respond delays no other. The
//! messages are in [`wire::join`]. A restarted balancer learns about this worker with the next
//! renewal; a request that fails or is refused is repeated every second.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::Rng;
use ureq::Agent;
use ureq::http::{StatusCode, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use wire::join::{JOIN, LEAVE, Lease, Member};

use crate::Error;
use crate::repository::file;

/// Time limit for a balancer's response, after which the request is repeated.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time before the next request to a balancer that did not admit this worker.
const PAUSE: Duration = Duration::from_secs(1);
/// Least and most time between two renewals, whatever the balancer requests.
const RENEWALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_mins(1));
/// Maximum size of a balancer's response, in bytes.
const MAX_ANSWER: u64 = 4096;
/// Maximum size of the token file, in bytes.
const MAX_TOKEN: u64 = 64 << 10;
/// Maximum length of the host in a name, before the port.
const MAX_HOST: usize = 58;

/// The fleets to join.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Join the fleet of this balancer, which runs with --accept-joins: HOST:PORT or https://HOST:PORT; repeat for more.
    #[arg(long = "join", env = "WORKER_JOIN", value_name = "BALANCER", value_delimiter = ',', value_parser = balancer)]
    pub balancers: Vec<Uri>,
    /// File with the token for joining.
    #[arg(long = "join-token-file", env = "WORKER_JOIN_TOKEN_FILE", value_name = "FILE")]
    pub token: Option<PathBuf>,
    /// Trust the certificate authorities in this file (PEM) for the balancer's certificate, instead of the
    /// public ones.
    #[arg(long = "join-cacert", env = "WORKER_JOIN_CACERT", value_name = "FILE")]
    pub authorities: Option<PathBuf>,
    /// Name of this worker in the fleet [default: HOST-PORT].
    #[arg(long, env = "WORKER_NAME", value_name = "NAME", value_parser = name)]
    pub name: Option<String>,
    /// Where balancers reach this worker [default: where they see it, at the port of --listen].
    #[arg(long, env = "WORKER_ADVERTISE", value_name = "ADDR:PORT")]
    pub advertise: Option<SocketAddr>,
}

/// The fleets to join, validated.
#[derive(Debug, Clone)]
pub struct Joining {
    balancers: Vec<Uri>,
    token: PathBuf,
    authorities: RootCerts,
    name: Option<String>,
    advertise: Option<SocketAddr>,
}

impl Joining {
    /// Checks the arguments. `None` if there is nothing to join.
    pub fn new(args: &Args) -> Result<Option<Self>, Error> {
        if args.balancers.is_empty() {
            return Ok(None);
        }
        let token = args.token.clone().ok_or_else(|| {
            let text = "--join needs --join-token-file FILE, with the token of the balancer's --join-token-file";
            Error::Invalid(text.to_owned())
        })?;
        read_token(&token)?;
        let authorities = match &args.authorities {
            Some(path) => RootCerts::Specific(Arc::new(certificates(path)?)),
            None => RootCerts::WebPki,
        };
        let (balancers, name) = (args.balancers.clone(), args.name.clone());
        Ok(Some(Self { balancers, token, authorities, name, advertise: args.advertise }))
    }

    /// Joins as a worker that listens on `address`.
    pub fn start(self, address: SocketAddr) -> Result<Membership, Error> {
        let port = address.port();
        let member = Member {
            name: self.name.unwrap_or_else(|| name_of(&host(), port)),
            instance: format!("{:016x}", rand::rng().next_u64()),
            address: self.advertise,
            port,
        };
        let tls = TlsConfig::builder().root_certs(self.authorities).build();
        let config = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .tls_config(tls)
            .max_redirects(0)
            .http_status_as_error(false)
            // The token must not pass through a proxy.
            .proxy(None)
            // A kept connection would stay with a balancer process that is being replaced.
            .max_idle_connections(0)
            .user_agent(concat!("imagefleet/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent = Agent::new_with_config(config);
        let mut membership = Membership::default();
        for balancer in self.balancers {
            let renewal = Renewal {
                agent: agent.clone(),
                balancer,
                token: self.token.clone(),
                member: member.clone(),
            };
            let (stop, stopped) = channel();
            let thread = std::thread::Builder::new().name("join".to_owned());
            membership.threads.push((stop, thread.spawn(move || renewal.keep(&stopped))?));
        }
        Ok(membership)
    }
}

/// The sender that makes a thread leave, and the thread.
type Keeper = (Sender<()>, JoinHandle<()>);

/// The fleets that this worker has joined or is trying to join.
#[derive(Debug, Default)]
pub struct Membership {
    threads: Vec<Keeper>,
}

impl Membership {
    /// Tells every balancer that this worker is leaving. Blocks until they have responded, which is
    /// bounded, and the token has been read, which is not: the file system may hang.
    pub fn leave(self) {
        let threads: Vec<_> = self.threads.into_iter().map(|(_told, thread)| thread).collect();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread that joins a fleet panicked");
            }
        }
    }
}

/// Keeps this worker in the fleet of one balancer.
struct Renewal {
    agent: Agent,
    balancer: Uri,
    token: PathBuf,
    member: Member,
}

impl Renewal {
    /// Renews the membership until it is `stopped`, then leaves.
    fn keep(&self, stopped: &Receiver<()>) {
        let mut trouble = None;
        let mut is_in = false;
        loop {
            let pause = match self.join() {
                Ok(lease) => {
                    if !is_in {
                        let (balancer, address) = (&self.balancer, lease.address);
                        tracing::info!(%balancer, name = self.member.name, %address, "joined the fleet");
                    }
                    (is_in, trouble) = (true, None);
                    Duration::from_millis(lease.renew_ms).clamp(RENEWALS.0, RENEWALS.1)
                }
                Err(reason) => {
                    if trouble.as_ref() != Some(&reason) {
                        let balancer = &self.balancer;
                        tracing::warn!(%balancer, reason, "not in the fleet, trying again");
                    }
                    (is_in, trouble) = (false, Some(reason));
                    PAUSE
                }
            };
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
        // Even if the last renewal got no answer, the balancer may still list this worker.
        if let Err(reason) = self.say(LEAVE)
            && is_in
        {
            tracing::warn!(balancer = %self.balancer, reason, "balancer not told that this worker leaves");
        }
    }

    fn join(&self) -> Result<Lease, String> {
        let answer = self.say(JOIN)?;
        serde_json::from_slice(&answer).map_err(|error| format!("the answer is no lease: {error}"))
    }

    /// Sends this worker's identity to `path` of the balancer. The token is read each time, so that
    /// it can be replaced.
    fn say(&self, path: &str) -> Result<Vec<u8>, String> {
        let token = read_token(&self.token).map_err(|error| error.to_string())?;
        let base = self.balancer.to_string();
        let request = self.agent.post(format!("{}{path}", base.trim_end_matches('/')));
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        let body = serde_json::to_vec(&self.member).map_err(|error| error.to_string())?;
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let mut response = request.send(&body[..]).map_err(|error| reason(&error.to_string()))?;
        let answer = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        let answer = answer.map_err(|error| error.to_string())?;
        match response.status() {
            StatusCode::OK => Ok(answer),
            status => Err(match serde_json::from_slice::<wire::ErrorBody>(&answer) {
                Ok(wire::ErrorBody { error }) => error,
                Err(_) => format!("the balancer answers {status}"),
            }),
        }
    }
}

/// Why a balancer could not be reached, and what to do about it.
fn reason(error: &str) -> String {
    if error.contains("CaUsedAsEndEntity") {
        return "its certificate is an authority's, and no server's: make it with \
                openssl req -x509 -addext basicConstraints=critical,CA:FALSE"
            .to_owned();
    }
    if error.contains("UnknownIssuer") {
        return "its certificate comes from no authority that is known here: --join-cacert FILE"
            .to_owned();
    }
    error.strip_prefix("io: ").unwrap_or(error).to_owned()
}

fn read_token(path: &Path) -> Result<String, Error> {
    let text = file::read_text(path, MAX_TOKEN)?;
    let token = text.lines().map(str::trim).find(|line| !line.is_empty());
    match token {
        Some(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(token.to_owned()),
        Some(_) | None => Err(Error::Invalid(format!("there is no token in {}", path.display()))),
    }
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let text = std::fs::read(path).map_err(Error::file(path))?;
    let mut found = Vec::new();
    for item in parse_pem(&text) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(error) => {
                return Err(Error::Invalid(format!("{}: {error}", path.display())));
            }
        }
    }
    if found.is_empty() {
        return Err(Error::Invalid(format!("there is no certificate in {}", path.display())));
    }
    Ok(found)
}

/// Reads `HOST:PORT`, `http://HOST:PORT` or `https://HOST:PORT`.
fn balancer(text: &str) -> Result<Uri, String> {
    let wrong = "write HOST:PORT or https://HOST:PORT, for example 10.0.0.1:5000";
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri: Uri = full.parse().map_err(|_| wrong.to_owned())?;
    let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
    let has_place = uri.host().is_some_and(|host| !host.is_empty())
        && uri.port_u16().is_some_and(|port| port > 0);
    let is_bare = uri.path() == "/" && uri.query().is_none();
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if is_known && has_place && is_bare && !has_user { Ok(uri) } else { Err(wrong.to_owned()) }
}

fn name(text: &str) -> Result<String, String> {
    let wrong = "a name has 1 to 64 letters, digits, dots, dashes and underscores";
    if wire::join::is_name(text) { Ok(text.to_owned()) } else { Err(wrong.to_owned()) }
}

/// The name of this machine.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of a worker that was not given one.
fn name_of(host: &str, port: u16) -> String {
    let is_allowed =
        |character: char| character.is_ascii_alphanumeric() || ".-_".contains(character);
    let plain = host.chars().map(|character| if is_allowed(character) { character } else { '-' });
    format!("{}-{port}", plain.take(MAX_HOST).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn balancers_are_understood_or_refused_with_an_example() {
        for (text, expected) in [
            ("10.0.0.1:5000", "http://10.0.0.1:5000/"),
            ("balancer:80", "http://balancer:80/"),
            ("[::1]:5000", "http://[::1]:5000/"),
            ("https://balancer.example:443/", "https://balancer.example:443/"),
        ] {
            assert_eq!(balancer(text).expect(text).to_string(), expected);
        }
        for text in ["", "balancer", ":5000", "balancer:0", "ftp://b:1", "b:1/x", "u:p@b:1", "b:x"]
        {
            assert!(balancer(text).expect_err(text).contains("10.0.0.1:5000"), "{text}");
        }
    }

    #[test]
    fn a_worker_without_a_name_is_called_by_its_machine_and_port() {
        assert_eq!(name_of("node 1", 8501), "node-1-8501");
        assert!(wire::join::is_name(&name_of(&"ä".repeat(80), 65535)));
        assert!(wire::join::is_name(&name_of(&host(), 1)));
    }

    fn joining(balancer_at: SocketAddr, token: &Path) -> Joining {
        let args = Args {
            balancers: vec![balancer(&balancer_at.to_string()).expect("an address")],
            token: Some(token.to_owned()),
            authorities: None,
            name: Some("a".to_owned()),
            advertise: None,
        };
        Joining::new(&args).expect("valid").expect("a balancer")
    }

    fn token() -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"\nsecret\n").expect("written");
        file
    }

    /// Answers one request on a new connection, and returns its path, token and body.
    fn take(listener: &TcpListener, status: &str, answer: &str) -> (String, String, Member) {
        let (stream, _) = listener.accept().expect("a worker");
        let mut stream = BufReader::new(stream);
        let line = |stream: &mut BufReader<_>| {
            let mut line = String::new();
            stream.read_line(&mut line).expect("a line");
            line.trim().to_owned()
        };
        let first = line(&mut stream);
        let (mut token, mut length) = (String::new(), 0);
        loop {
            let field = line(&mut stream);
            let Some((name, value)) = field.split_once(": ") else { break };
            match name {
                "authorization" => value.clone_into(&mut token),
                "content-length" => length = value.parse().expect("a number"),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("a body");
        let length = answer.len();
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        stream.get_mut().write_all(format!("{head}{answer}").as_bytes()).expect("sent");
        let path = first.split(' ').nth(1).expect("a path").to_owned();
        (path, token, serde_json::from_slice(&body).expect("a member"))
    }

    #[test]
    fn a_worker_joins_renews_and_leaves() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let token = token();
        let joining = joining(listener.local_addr().expect("bound"), token.path());
        let membership = joining.start(([0, 0, 0, 0], 8501).into()).expect("started");
        let lease = r#"{"address":"127.0.0.1:8501","lease_ms":5000,"renew_ms":0}"#;
        let refused = take(&listener, "409 Conflict", r#"{"error":"a has joined already"}"#);
        let joined = take(&listener, "200 OK", lease);
        assert_eq!(refused, joined, "it asks again");
        let (path, sent, member) = joined;
        assert_eq!((path.as_str(), sent.as_str()), (JOIN, "Bearer secret"));
        assert_eq!((member.name.as_str(), member.port, member.address), ("a", 8501, None));
        std::fs::write(token.path(), "other").expect("written");
        let renewed = take(&listener, "200 OK", lease);
        assert_eq!(renewed, (JOIN.to_owned(), "Bearer other".to_owned(), member.clone()));
        let leaving = std::thread::spawn(|| membership.leave());
        let left = std::iter::from_fn(|| Some(take(&listener, "200 OK", lease)))
            .find(|(path, ..)| path != JOIN)
            .expect("it leaves");
        assert_eq!(left, (LEAVE.to_owned(), "Bearer other".to_owned(), member));
        leaving.join().expect("left");
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_told_with_what_helps() {
        let told = reason("io: invalid peer certificate: UnknownIssuer");
        assert!(told.contains("--join-cacert"), "{told}");
        let told = reason("io: invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))");
        assert!(told.contains("CA:FALSE"), "{told}");
        assert_eq!(reason("io: Connection refused"), "Connection refused");
    }

    #[test]
    fn a_worker_that_joins_needs_a_token() {
        let args = Args {
            balancers: vec![balancer("10.0.0.1:5000").expect("an address")],
            token: None,
            authorities: None,
            name: None,
            advertise: None,
        };
        let error = Joining::new(&args).expect_err("no token").to_string();
        assert!(error.contains("--join-token-file"), "{error}");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let empty = Args { token: Some(file.path().to_owned()), ..args.clone() };
        let error = Joining::new(&empty).expect_err("empty").to_string();
        assert!(error.contains("there is no token"), "{error}");
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if made.is_ok_and(|status| status.success()) {
            let piped = Args { token: Some(pipe), ..args.clone() };
            let error = Joining::new(&piped).expect_err("a pipe").to_string();
            assert!(error.contains("not a regular file"), "{error}");
        }
        let token = token();
        let path = Some(token.path().to_owned());
        let args = Args { token: path.clone(), authorities: path, ..args };
        let error = Joining::new(&args).expect_err("no certificate").to_string();
        assert!(error.contains("there is no certificate"), "{error}");
    }
}
