//! A scriptable worker, and a balancer in front of it.
//!
//! The stub speaks raw HTTP/1.1 over a socket, so that it can also break off, hang and lie. It
//! records every request byte by byte. Everything listens on port 0.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use balancer::config::{Config, Settings};
use balancer::{Bound, Surroundings, run};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;

pub type Http2 = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

/// What a stub does with a request.
#[derive(Debug, Clone)]
pub enum Act {
    /// Answers with status, extra header lines and a body.
    Answer(u16, &'static str, String),
    /// Answers 200 with these bytes as they are.
    Raw(Vec<u8>),
    /// Sends these bytes as they are, and closes.
    Cut(&'static str),
    /// Closes without an answer.
    Close,
    /// Never answers.
    Hang,
    /// Does this once the gate lets it pass.
    After(Gate, Box<Act>),
}

/// Holds stubs back until they may continue; once open, it also lets later ones pass.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub fn let_one_pass(&self) {
        self.0.add_permits(1);
    }

    pub fn open(&self) {
        self.0.close();
    }

    async fn pass(&self) {
        // A gate that is open for all gives no permits.
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

impl Act {
    pub fn ok(body: &str) -> Self {
        Self::Answer(200, "", body.to_owned())
    }
}

/// A request as the stub saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
    pub connection: u64,
}

impl Seen {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

type Script = dyn Fn(&Seen) -> Act + Send + Sync;

struct State {
    script: Box<Script>,
    ready: Mutex<Act>,
    models: Mutex<String>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicU64,
    is_closing: Notify,
}

/// A scriptable worker.
pub struct Stub {
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stub {
    /// A stub that is ready, and runs `script` for every request but probes.
    #[expect(clippy::unused_async, reason = "it needs a runtime, and says so by being async")]
    pub async fn start(script: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        // With the default backlog of 128, some clients of a crowd would have to try again.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("set");
        socket.bind((own_host(), 0).into()).expect("bound");
        Self::on(socket.listen(1024).expect("listening"), script)
    }

    pub fn on(
        listener: TcpListener,
        script: impl Fn(&Seen) -> Act + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State {
            script: Box::new(script),
            ready: Mutex::new(Act::ok("{\"ready\":true}")),
            models: Mutex::new("[]".to_owned()),
            seen: Mutex::default(),
            connections: AtomicU64::new(0),
            is_closing: Notify::new(),
        });
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = serving.is_closing.notified() => break,
                };
                let Ok((stream, _)) = accepted else { break };
                tasks.spawn(connection(Arc::clone(&serving), stream));
            }
            drop(listener);
            while tasks.join_next().await.is_some() {}
        });
        Self { address, state, task }
    }

    /// Stops accepting connections; open ones continue.
    pub fn stop_listening(&self) {
        self.state.is_closing.notify_one();
    }

    /// A stub that answers everything with its own name.
    pub async fn named(name: &'static str) -> Self {
        Self::start(move |_| Act::ok(name)).await
    }

    pub fn set_ready(&self, act: Act) {
        *self.state.ready.lock().expect("not poisoned") = act;
    }

    pub fn set_models(&self, models: &[(&str, &str)]) {
        let entry = |(name, state): &(&str, &str)| {
            format!(r#"{{"name":"{name}","version":"1","state":"{state}","reason":""}}"#)
        };
        let list: Vec<String> = models.iter().map(entry).collect();
        *self.state.models.lock().expect("not poisoned") = format!("[{}]", list.join(","));
    }

    /// Sets its response to a request for its models.
    pub fn set_models_to(&self, text: &str) {
        text.clone_into(&mut self.state.models.lock().expect("not poisoned"));
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("not poisoned").clone()
    }

    /// Waits until `count` requests have arrived.
    pub async fn has_seen(&self, count: usize) {
        let seen = async {
            while self.seen().len() < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await.expect("they arrive");
    }

    pub fn connections(&self) -> u64 {
        self.seen()
            .iter()
            .map(|seen| seen.connection)
            .collect::<std::collections::HashSet<_>>()
            .len() as u64
    }
}

async fn connection(state: Arc<State>, mut stream: TcpStream) {
    let number = state.connections.fetch_add(1, Ordering::Relaxed);
    let mut buffer = Vec::new();
    while let Some(mut seen) = read_request(&mut stream, &mut buffer).await {
        seen.connection = number;
        let mut act = if seen.line().contains("/v2/health/ready") {
            state.ready.lock().expect("not poisoned").clone()
        } else if seen.line().contains("/v2/repository/index") {
            Act::ok(&state.models.lock().expect("not poisoned").clone())
        } else {
            let act = (state.script)(&seen);
            state.seen.lock().expect("not poisoned").push(seen);
            act
        };
        while let Act::After(gate, next) = act {
            gate.pass().await;
            act = *next;
        }
        let bytes = match act {
            Act::Answer(status, extra, body) => {
                let length = body.len();
                format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{extra}\r\n{body}")
                    .into_bytes()
            }
            Act::Raw(bytes) => bytes,
            Act::Cut(text) => return drop(stream.write_all(text.as_bytes()).await),
            Act::Close => return,
            Act::Hang | Act::After(..) => std::future::pending().await,
        };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let seen = Seen { head, body: Vec::new(), connection: 0 };
            let length: usize =
                seen.header("content-length").map_or(0, |v| v.parse().expect("a length"));
            let whole = end + 4 + length;
            while buffer.len() < whole {
                if stream.read_buf(buffer).await.ok()? == 0 {
                    return None;
                }
            }
            let body = buffer[end + 4..whole].to_vec();
            buffer.drain(..whole);
            return Some(Seen { body, ..seen });
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// A running balancer.
pub struct Running {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<anyhow::Result<()>>,
    pub reload: Arc<Notify>,
}

/// A worker that reads and writes as the test specifies, on every connection. It answers no probes.
pub struct RawWorker {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for RawWorker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RawWorker {
    pub async fn start<W>(work: impl Fn(TcpStream) -> W + Send + 'static) -> Self
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((own_host(), 0)).await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn(work(stream));
            }
        });
        Self { address, task }
    }

    /// Settings for a balancer in front of it, without probes, so that it counts as up.
    pub fn settings(&self) -> Settings {
        Settings { probe_path: Some(String::new()), ..settings(&[self.address]) }
    }
}

/// An address of this machine for one test: a port alone can be taken as soon as it is free again.
fn own_host() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(0);
    if cfg!(not(target_os = "linux")) {
        return Ipv4Addr::LOCALHOST;
    }
    // Tests that run at the same time are far less than 256 stubs or 32,768 processes apart.
    let (count, process) = (COUNT.fetch_add(1, Ordering::Relaxed), std::process::id() & 0x7fff);
    let [_, _, high, low] = process.to_be_bytes();
    Ipv4Addr::new(127, 64 + count % 128, high | (count & 128), low)
}

/// An address where nothing listens.
pub fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind((own_host(), 0)).expect("bound");
    listener.local_addr().expect("bound")
}

/// Settings for tests: quick probes, one thread, free ports.
pub fn settings(workers: &[SocketAddr]) -> Settings {
    let named = |(number, address): (usize, &SocketAddr)| format!("worker{}={address}", number + 1);
    Settings {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        admin: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        worker: workers.iter().enumerate().map(named).collect(),
        threads: std::num::NonZeroUsize::new(1),
        probe_interval: Some(Duration::from_millis(50)),
        probe_timeout: Some(Duration::from_millis(500)),
        ..Settings::default()
    }
}

impl Running {
    /// Starts a balancer and waits until it is ready.
    pub async fn start(settings: Settings) -> Self {
        let running = Self::start_unready(&settings);
        running.until(|fleet| fleet["ready"] == true).await;
        running
    }

    pub async fn before(stubs: &[&Stub]) -> Self {
        let addresses: Vec<SocketAddr> = stubs.iter().map(|stub| stub.address).collect();
        let running = Self::start(settings(&addresses)).await;
        let all_up = move |fleet: &serde_json::Value| {
            fleet["endpoints"]
                .as_array()
                .is_some_and(|all| all.iter().all(|one| one["state"] == "available"))
        };
        running.until(all_up).await;
        running
    }

    pub fn start_unready(settings: &Settings) -> Self {
        let config = Config::try_new(settings).expect("valid settings");
        let bound = Bound::new(&config).expect("free ports");
        let address = bound.address().expect("bound");
        let admin = bound.admin.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let surroundings = Surroundings::new(&config, None).expect("a log that can be written");
        let reload = Arc::clone(&surroundings.reload);
        let shutdown = async { drop(stopped.await) };
        let task = tokio::spawn(run(config, bound, shutdown, surroundings));
        Self { address, admin, stop: Some(stop), task, reload }
    }

    /// Waits until the state of the fleet is as wanted.
    pub async fn until(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let limit = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                let fleet = self.fleet().await;
                if wanted(&fleet) {
                    return fleet;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        limit.await.expect("the fleet gets there")
    }

    pub async fn fleet(&self) -> serde_json::Value {
        let answer = self.ask_admin("GET", "/fleet.json", "").await;
        serde_json::from_str(&answer.body).expect("JSON")
    }

    pub async fn metrics(&self) -> String {
        self.ask_admin("GET", "/metrics", "").await.body
    }

    pub async fn verb(&self, path: &str) -> Answer {
        self.ask_admin("POST", path, "").await
    }

    /// Sends a request to the admin port, with additional header lines.
    pub async fn ask_admin(&self, method: &str, path: &str, fields: &str) -> Answer {
        let host = self.admin;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 0\r\n{fields}\r\n"
        );
        exchange(host, &request).await
    }

    /// Loads or unloads a model as an operator, with additional header lines.
    pub async fn order(&self, verb: &str, fields: &str) -> Answer {
        let host = self.address;
        let request = format!(
            "POST /v2/repository/models/mnist/{verb} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 0\r\n{fields}\r\n"
        );
        exchange(host, &request).await
    }

    /// Tells it to stop, without waiting.
    pub fn tell_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has stopped.
    pub async fn stopped(self) {
        tokio::time::timeout(Duration::from_secs(20), self.task)
            .await
            .expect("it stops")
            .expect("no panic")
            .expect("no error");
    }

    pub async fn get(&self, path: &str) -> Answer {
        exchange(
            self.address,
            &format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
        )
        .await
    }

    pub async fn post(&self, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        );
        exchange(self.address, &request).await
    }
}

/// A response, read to the end of the connection.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut answer = Self { status, head: head.to_owned(), body: body.to_owned() };
        if answer.header("transfer-encoding").is_some() {
            answer.body = unchunk(body);
        }
        answer
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn error(&self) -> String {
        let value: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        value["error"].as_str().unwrap_or_default().to_owned()
    }
}

fn unchunk(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a chunk length");
        whole += &after[..length];
        rest = after.get(length + 2..).unwrap_or_default();
    }
    whole
}

/// Sends bytes and reads to the end of the connection.
pub async fn exchange(address: SocketAddr, request: &str) -> Answer {
    exchange_bytes(address, request.as_bytes()).await
}

pub async fn exchange_bytes(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    // The answer may arrive, and the connection close, before everything is sent.
    let send = async {
        drop(writer.write_all(request).await);
        std::future::pending::<()>().await;
    };
    let receive = tokio::time::timeout(Duration::from_secs(20), reader.read_to_end(&mut answer));
    tokio::select! {
        () = send => {}
        read = receive => drop(read.expect("an end")),
    }
    Answer::parse(&String::from_utf8_lossy(&answer))
}

/// An HTTP/2 client without TLS with a flow-control window of this size for each answer.
pub async fn http2(balancer: &Running, window: u32) -> Http2 {
    let stream = TcpStream::connect(balancer.address).await.expect("connected");
    let client = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream));
    let (sender, connection) = client.await.expect("a connection");
    tokio::spawn(connection);
    sender
}

/// A multipart body of text fields, and its header.
pub fn form(fields: &[(&str, &str)]) -> (&'static str, String) {
    let part = |(name, value): &(&str, &str)| {
        format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let body: String = fields.iter().map(part).collect();
    ("content-type: multipart/form-data; boundary=XX\r\n", body + "--XX--\r\n")
}
