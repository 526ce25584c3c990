//! A server on a free port with models made for the test, and a client that returns raw answers.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use candle_core::{Device, Result, Tensor};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use worker::api::{self, App};
use worker::config::{Config, FetchRules, RequestLimits};
use worker::connection::Server;
use worker::metrics::Metrics;
use worker::model::Model;
use worker::patient::Patience;
use worker::preprocess::Limits;
use worker::repository::{Manifest, Resize, Version};
use worker::serving::{Entry, Served, Snapshot, State, Status};

/// Ten classes; always answers "7".
pub struct Seven;

impl Model for Seven {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        let rows = batch.dim(0)?;
        let row = [0f32, 0., 0., 0., 0., 0., 0., 9., 3., 0.];
        Tensor::from_vec(row.repeat(rows), (rows, 10), &Device::Cpu)
    }
}

/// Holds every batch while it is closed. It starts open, so that the warm-up passes go through.
#[derive(Clone, Default)]
pub struct Gate(Arc<Door>);

#[derive(Default)]
struct Door {
    state: Mutex<GateState>,
    moved: Condvar,
}

#[derive(Default)]
struct GateState {
    closed: bool,
    waiting: usize,
}

impl Gate {
    pub fn close(&self) {
        self.0.state.lock().unwrap().closed = true;
    }

    pub fn open(&self) {
        self.0.state.lock().unwrap().closed = false;
        self.0.moved.notify_all();
    }

    /// Blocks until a batch is waiting at the closed gate.
    pub fn wait_for_batch(&self) {
        let state = self.0.state.lock().unwrap();
        drop(self.0.moved.wait_while(state, |state| state.waiting == 0).unwrap());
    }

    /// Waits here while the gate is closed.
    pub fn pass(&self) {
        let mut state = self.0.state.lock().unwrap();
        state.waiting += 1;
        self.0.moved.notify_all();
        state = self.0.moved.wait_while(state, |state| state.closed).unwrap();
        state.waiting -= 1;
    }
}

/// [`Seven`] behind a [`Gate`].
pub struct Gated(pub Gate);

impl Model for Gated {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        self.0.pass();
        Seven.forward(batch)
    }
}

pub fn digits() -> Version {
    let manifest = "architecture = 'mnist_cnn'
        queue_capacity = 2
        max_batch_size = 2
        [input]
        width = 28
        height = 28
        resize = { mode = 'squash', filter = 'bilinear' }
        mean = [0.1307]
        std = [0.3081]";
    Version {
        folder: PathBuf::new(),
        manifest: Manifest::parse(manifest).unwrap(),
        labels: (0..10).map(|digit| digit.to_string()).collect(),
    }
}

/// Like [`digits`], for a model that searches the picture for the digit.
pub fn handwriting() -> Version {
    let mut version = digits();
    version.manifest.input.as_mut().unwrap().resize = Resize::Digit;
    version
}

/// A table of two number columns and a text.
pub fn flowers() -> Version {
    let manifest = "architecture = 'linear'
        max_batch_size = 4
        [table]
        label = 'species'
        task = 'classification'
        columns = [
            { name = 'width', type = 'number', mean = 1.0, std = 2.0 },
            { name = 'length', type = 'number', mean = 0.0, std = 1.0 },
            { name = 'colour', type = 'text', values = ['red', 'blue'] },
        ]";
    Version {
        folder: PathBuf::new(),
        manifest: Manifest::parse(manifest).unwrap(),
        labels: vec!["rose".to_owned(), "iris".to_owned()],
    }
}

/// Logits 0 and the sum of the features; one output, the sum, for a regression.
pub struct Sum(pub usize);

impl Model for Sum {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        let sum = batch.sum_keepdim(1)?;
        if self.0 == 1 { Ok(sum) } else { Tensor::cat(&[&sum.zeros_like()?, &sum], 1) }
    }
}

/// The price of a house by its size.
pub fn houses() -> Version {
    let manifest = "architecture = 'linear'
        [table]
        label = 'price'
        task = 'regression'
        columns = [{ name = 'size', type = 'number', mean = 0.0, std = 1.0 }]";
    let manifest = Manifest::parse(manifest).unwrap();
    Version { folder: PathBuf::new(), manifest, labels: Vec::new() }
}

/// Serves any version with any network.
pub fn serving(
    (model, number): (&str, u64),
    version: Version,
    network: impl Model + 'static,
) -> Arc<Served> {
    let load = move || Ok(Box::new(network) as Box<dyn Model>);
    Arc::new(Served::start((model, number), version, load, &Metrics::new()).unwrap().0)
}

pub fn served(
    model: &str,
    number: u64,
    network: impl Model + 'static,
) -> (Arc<Served>, std::thread::JoinHandle<()>) {
    let load = move || Ok(Box::new(network) as Box<dyn Model>);
    let (served, thread) = Served::start((model, number), digits(), load, &Metrics::new()).unwrap();
    (Arc::new(served), thread)
}

pub fn config() -> Config {
    Config {
        engine: engine::Options::default(),
        listen: "127.0.0.1:0".parse().unwrap(),
        models: PathBuf::new(),
        threads: 2.try_into().unwrap(),
        supervised: false,
        max_connections: 64,
        drain_timeout: Duration::from_secs(10),
        patience: Patience { head: Duration::from_secs(20), write: Duration::from_secs(10) },
        joining: None,
        poll: None,
        max_model_memory: worker::model::MAX_MEMORY,
        allows_model_control: true,
        fetch: FetchRules { enabled: true, allowed: Vec::new() },
        request: RequestLimits {
            max_body: 1 << 20,
            max_memory: 32 << 20,
            memory: 64 << 20,
            min_rate: 500,
            body_idle: Duration::from_secs(10),
            deadline: Duration::from_secs(20),
            picture: Limits { max_pixels: 1_000_000, max_bytes: 8 << 20 },
        },
    }
}

/// A running worker; dropping it shuts it down without waiting.
pub struct Worker {
    pub address: SocketAddr,
    pub app: Arc<App>,
    leave: Option<oneshot::Sender<()>>,
    ended: JoinHandle<()>,
}

impl Worker {
    pub async fn start(models: Vec<Arc<Served>>) -> Self {
        Self::with(config(), models).await
    }

    pub async fn with(config: Config, models: Vec<Arc<Served>>) -> Self {
        let mut snapshot = Snapshot { models: BTreeMap::new(), settled: true };
        for served in models {
            let entry: &mut Entry = snapshot.models.entry(served.model.clone()).or_default();
            let status = Status { state: State::Ready, reason: String::new() };
            entry.states.insert(served.number, status);
            entry.ready.insert(served.number, served);
        }
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let app = Arc::new(App::new(&config, snapshot, Arc::new(Metrics::new())));
        let listener = TcpListener::bind(config.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(&config, api::router(Arc::clone(&app)));
        let (leave, left) = oneshot::channel();
        let ended = tokio::spawn(async move {
            let left = async { drop(left.await) };
            server.run(listener, left).await.unwrap();
        });
        Self { address, app, leave: Some(leave), ended }
    }

    /// Drains and waits for the end.
    pub async fn stop(mut self) {
        drop(self.leave.take());
        self.ended.await.unwrap();
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        send(self.address, request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Full::default()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Request::post(path).body(Full::new(body.into())).unwrap()).await
    }
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: Response<()>,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.head.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The message of an error answer; panics unless the body is JSON with this field only.
    pub fn error(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        let json = self.json();
        assert_eq!(json.as_object().unwrap().len(), 1, "{json}");
        json["error"].as_str().unwrap().to_owned()
    }
}

pub async fn send(address: SocketAddr, mut request: Request<Full<Bytes>>) -> Answer {
    request.headers_mut().entry("host").or_insert("worker".parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    drop(sender);
    drop(connection);
    Answer { status: head.status.as_u16(), head: Response::from_parts(head, ()), body }
}

/// A small valid PNG: a white bar on black.
pub fn png() -> Vec<u8> {
    let mut pixels = image::GrayImage::new(30, 20);
    (4..16).for_each(|y| pixels.put_pixel(15, y, image::Luma([255])));
    let mut bytes = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Name and value of one part of a form.
pub type Part<'a> = (&'a str, &'a [u8]);

/// A form with one part of each name, and its content type.
pub fn form(parts: &[Part<'_>]) -> (&'static str, Vec<u8>) {
    let mut body = Vec::new();
    for (name, value) in parts {
        let head = format!("--xx\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(value);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--xx--\r\n");
    ("multipart/form-data; boundary=xx", body)
}
