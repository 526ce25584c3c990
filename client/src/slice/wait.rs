//! `slice wait`: polls a URL until it answers 200. The addresses of a slice can only be reached
//! from inside its nodes, so this is a command that runs there rather than a function of `run`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Uri;
use tokio::time::Instant;

const PAUSE: Duration = Duration::from_millis(50);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Arguments of `slice wait`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An `http://ADDRESS:PORT/PATH` URL.
    pub url: Uri,
    /// When to give up.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, env = "CLIENT_SLICE_WITHIN")]
    pub within: Duration,
    /// Open this many connections, and print how many microseconds the fastest took.
    #[arg(long, env = "CLIENT_SLICE_BEST_OF", value_name = "N")]
    pub best_of: Option<u32>,
}

pub(crate) async fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    let authority = args.url.authority().context("the URL names no address")?;
    let address: SocketAddr = authority.as_str().parse().context("the URL needs ADDRESS:PORT")?;
    if let Some(count) = args.best_of {
        let mut best = ANSWER_WITHIN;
        for _ in 0..count {
            let start = Instant::now();
            TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
            best = best.min(start.elapsed());
        }
        writeln!(out, "{}", best.as_micros())?;
        return Ok(());
    }
    let deadline = Instant::now() + args.within;
    loop {
        let last = match status(address, args.url.path()) {
            Ok(200) => return Ok(()),
            Ok(other) => format!("it answers {other}"),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            bail!("{} is not ready after {:?}: {last}", args.url, args.within);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The status of one GET. Blocks, which is fine for a program that does nothing else.
fn status(address: SocketAddr, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    // `HTTP/1.1 200`
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    let text = String::from_utf8_lossy(&start[9..]);
    text.parse().map_err(|_| std::io::Error::other("not an HTTP answer"))
}
