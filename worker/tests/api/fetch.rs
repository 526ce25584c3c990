//! Images by URL: fetched from permitted hosts, and no connection is made to any other.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::Full;
use hyper::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::{Answer, Seven, Worker, config, png, served};

/// A server that sends the same answer on every connection and counts the connections.
struct Site {
    address: SocketAddr,
    visits: Arc<AtomicUsize>,
}

impl Site {
    async fn start(answer: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let visits = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&visits);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                seen.fetch_add(1, Ordering::SeqCst);
                let mut head = [0; 2048];
                let _read = stream.read(&mut head).await;
                // The client hangs up on an answer that is too long for it.
                let _sent = stream.write_all(&answer).await;
            }
        });
        Self { address, visits }
    }

    async fn with_body(body: &[u8]) -> Self {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        Self::start([head.as_bytes(), body].concat()).await
    }

    async fn redirecting(location: &str) -> Self {
        let answer = format!(
            "HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        Self::start(answer.into_bytes()).await
    }

    fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }
}

async fn worker(allowed: &[&Site]) -> Worker {
    let mut config = config();
    config.fetch.allowed = allowed.iter().map(|site| site.address.to_string()).collect();
    Worker::with(config, vec![served("mnist", 1, Seven).0]).await
}

async fn ask(worker: &Worker, url: &str) -> Answer {
    let request =
        Request::post("/home").header("content-type", "application/x-www-form-urlencoded");
    let body = format!("IMAGE_URL={}", url.replace('&', "%26"));
    worker.send(request.body(Full::new(body.into())).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_from_an_allowed_host_is_classified_through_redirects() {
    let site = Site::with_body(&png()).await;
    let door = Site::redirecting(&format!("http://{}/7.png", site.address)).await;
    let worker = worker(&[&site, &door]).await;
    let answer = ask(&worker, &format!("http://{}/", door.address)).await;
    assert_eq!((answer.status, answer.text()), (200, "\"7\"\n"));
    assert_eq!((door.visits(), site.visits()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_is_never_connected_to() {
    let site = Site::with_body(&png()).await;
    let port = site.address.port();
    let door = Site::redirecting(&format!("http://localhost:{port}/")).await;
    let worker = worker(&[&door]).await;
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://0.0.0.0:{port}/"),
        format!("http://{}/", door.address),
    ] {
        let answer = ask(&worker, &url).await;
        assert_eq!(answer.status, 400, "{url}: {}", answer.error());
    }
    assert_eq!((door.visits(), site.visits()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_trouble_has_its_status() {
    let large = Site::with_body(&vec![0; 2 << 20]).await;
    let text = Site::with_body(b"no image").await;
    let round = Site::redirecting("/again").await;
    let file = Site::redirecting("file:///etc/passwd").await;
    let worker = worker(&[&large, &text, &round, &file]).await;
    for (url, status) in [
        (format!("http://{}/", large.address), 413),
        (format!("http://{}/", text.address), 415),
        (format!("http://{}/", round.address), 400),
        (format!("http://{}/", file.address), 400),
        ("file:///etc/passwd".to_owned(), 400),
        ("nonsense".to_owned(), 400),
    ] {
        let answer = ask(&worker, &url).await;
        assert_eq!(answer.status, status, "{url}: {}", answer.error());
    }
    assert_eq!(round.visits(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packed_answer_is_bounded_by_what_it_unpacks_to() {
    let site = |plain: Vec<u8>| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, &plain).unwrap();
        let body = encoder.finish().unwrap();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        Site::start([head.as_bytes(), &body].concat())
    };
    let (bomb, sound) = (site(vec![0; 64 << 20]).await, site(png()).await);
    let worker = worker(&[&bomb, &sound]).await;
    let answer = ask(&worker, &format!("http://{}/", bomb.address)).await;
    assert_eq!(answer.status, 413, "{}", answer.error());
    let answer = ask(&worker, &format!("http://{}/", sound.address)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_ends_at_the_deadline_of_its_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = Site { address: listener.local_addr().unwrap(), visits: Arc::default() };
    let worker = worker(&[&silent]).await;
    let request = Request::post("/home")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("x-imagefleet-timeout-ms", "50");
    let body = format!("IMAGE_URL=http://{}/", silent.address);
    let answer = worker.send(request.body(Full::new(body.into())).unwrap()).await;
    assert_eq!(answer.status, 504, "{}", answer.error());
}

#[tokio::test]
async fn a_worker_may_be_told_not_to_fetch() {
    let mut config = config();
    config.fetch.enabled = false;
    let worker = Worker::with(config, vec![served("mnist", 1, Seven).0]).await;
    let answer = ask(&worker, "http://example.org/").await;
    assert_eq!(answer.error(), "images by address are turned off here");
}
