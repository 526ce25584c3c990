//! Bodies that arrive slowly, on a clock that the tests control.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;

use fleet::Pool;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::config::{Config, Settings};
use crate::shard::Waits;
use crate::shared::Shared;

fn shard() -> Rc<Shard> {
    let settings = Settings { worker: vec!["127.0.0.1:1".to_owned()], ..Settings::default() };
    let config = Config::try_new(&settings).expect("valid");
    let pool = Arc::new(Pool::new(config.pool, Instant::now()));
    Rc::new(Shard::new(Arc::new(Shared::new(config, pool)), None))
}

/// Outcome of a body of `count` pieces of 100 bytes with a pause between them, and the
/// time it took.
async fn send(count: usize, pause: Duration) -> (Result<usize, ProxyError>, Duration) {
    let (shard, outcome) = (shard(), RefCell::new(None));
    let start = Instant::now();
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let service = service_fn(|request: Request<Incoming>| {
        let (shard, outcome) = (&shard, &outcome);
        async move {
            let collected = pieces(shard, 0, &mut request.into_body()).await;
            let length = collected.map(|collected| collected.payload().as_slice().len());
            outcome.replace(Some((length, start.elapsed())));
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(server), service);
    let sending = async {
        let length = 100 * count;
        let head =
            format!("POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.expect("room");
        for _ in 0..count {
            tokio::time::sleep(pause).await;
            client.write_all(&[b'x'; 100]).await.expect("room");
        }
        std::future::pending::<()>().await;
    };
    let sweeping = async {
        loop {
            tokio::time::sleep(Waits::PERIOD).await;
            shard.waits.sweep(Instant::now(), false).await;
        }
    };
    tokio::select! {
        ended = serving => drop(ended),
        () = sending => {}
        () = sweeping => {}
    }
    outcome.take().expect("an outcome")
}

#[tokio::test(start_paused = true)]
async fn a_body_below_the_minimum_rate_is_given_up_soon_although_it_never_pauses() {
    let (outcome, after) = send(1000, Duration::from_millis(200)).await;
    assert_eq!(outcome, Err(ProxyError::RequestTimeout));
    assert!(after > RATE_GRACE && after < RATE_GRACE + Duration::from_secs(1), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_above_the_minimum_rate_may_take_its_time() {
    let (outcome, after) = send(500, Duration::from_millis(60)).await;
    assert_eq!(outcome, Ok(50_000));
    assert!(after > Duration::from_secs(29), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_short_body_may_begin_slowly() {
    let (outcome, _) = send(4, Duration::from_secs(1)).await;
    assert_eq!(outcome, Ok(400));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_given_up_after_the_longest_pause() {
    let (outcome, after) = send(2, Duration::from_mins(1)).await;
    assert_eq!(outcome, Err(ProxyError::RequestTimeout));
    assert!(after < Duration::from_secs(11), "{after:?}");
}

#[test]
fn the_rate_is_an_average_that_counts_after_a_while() {
    let seconds = Duration::from_secs;
    let start = Instant::now();
    assert!(!is_too_slow(0, start, start + seconds(5), 1000));
    assert!(is_too_slow(5_999, start, start + seconds(6), 1000));
    assert!(!is_too_slow(6_000, start, start + seconds(6), 1000));
    assert!(!is_too_slow(0, start, start + seconds(60), 0), "0 is no minimum");
}
