//! Gets the labels of some images from an imagefleet service, over one connection.
//!
//! ```sh
//! cargo run -p example -- localhost:5000 docs/seven.png
//! ```
//!
//! The paths and the JSON types come from the crate `wire`, which the programs themselves use.
#![forbid(unsafe_code)]

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use wire::{ErrorBody, Prediction};

/// How long an answer is worth waiting for.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "localhost:5000".to_owned());
    let paths: Vec<String> = arguments.collect();

    let stream = TcpStream::connect(&address).await.with_context(|| address.clone())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The connection is driven alongside the requests, and ends when `sender` is dropped.
    let connection = tokio::spawn(connection);

    let mut out = std::io::stdout();
    for path in paths {
        let image = std::fs::read(&path).with_context(|| path.clone())?;
        let answer =
            tokio::time::timeout(PATIENCE, classify(&mut sender, &address, image)).await??;
        writeln!(out, "{path}: {} ({:.1} %)", answer.label, 100.0 * answer.confidence)?;
    }
    drop(sender);
    connection.await??;
    Ok(())
}

async fn classify(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    host: &str,
    image: Vec<u8>,
) -> anyhow::Result<Prediction> {
    // The picture decides between the model for photos and the one for handwritten digits.
    let request = Request::post(format!("{}?{}=auto", wire::path::PREDICT, wire::field::MODEL))
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(wire::header::TIMEOUT_MS, PATIENCE.as_millis().to_string())
        .body(Full::new(Bytes::from(image)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        let ErrorBody { error } = serde_json::from_slice(&body)?;
        bail!("{status}: {error}");
    }
    Ok(serde_json::from_slice(&body)?)
}
