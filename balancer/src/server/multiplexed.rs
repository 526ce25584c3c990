//! A client connection that speaks HTTP/2.
//!
//! Each stream is a request like any other and takes the same path. What differs is bounded here:
//! how many streams are open concurrently, how large a head is, how much may be sent before it is
//! read, and how many streams a client may cancel as fast as it opens them (rapid reset). hyper
//! refuses broken frames. A connection that is about to end announces it (GOAWAY): the client is
//! told which streams still count, and those are finished.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderValue, StatusCode, request};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::sleep;

use super::refusal;
use super::stream::Watched;
use super::transport::Transport;
use crate::forward;
use crate::shard::{Client, Shard, SweepAction};
use crate::traffic::Flag;

/// Concurrent requests on one connection.
const MAX_STREAMS: u32 = 128;
/// Maximum size of the header fields in bytes, as HPACK counts them (32 more per field). This
/// bounds the memory; the limit for a request is the same in both versions and is checked
/// where both meet.
const MAX_HEAD: u32 = 64 * 1024;
/// Bytes that may be in flight for one request, and for a whole connection.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);
/// Maximum number of streams that were reset before they were accepted.
const MAX_RESET: usize = 20;
/// Maximum number of streams refused or reset by the balancer during a connection. A client that
/// does not know yet how many it may open gets a refusal for each one too many.
const MAX_REFUSED: usize = 4096;
/// A connection that has to make room for another ends this soon, whether or not the client has
/// answered the goodbye.
const SHORT_GOODBYE: Duration = Duration::from_millis(250);

/// Runs the tasks of a connection on the thread that spawns them.
#[derive(Debug, Clone)]
struct Here(Rc<Client>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Here {
    fn execute(&self, task: F) {
        self.0.carry(task);
    }
}

/// Serves requests until the connection is over.
pub(super) async fn serve<S: Transport + 'static>(
    shard: &Rc<Shard>,
    client: &Rc<Client>,
    stream: S,
    before: Bytes,
) {
    client.set_multiplexed();
    let watched = Watched::new(stream, before, client, shard);
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let (mut head, body) = request.into_parts();
        adopt(&mut head);
        client.begin_at(shard.waits.now());
        forward::answer(Rc::clone(shard), Rc::clone(client), Rc::new(head), body)
    });
    let connection = http2::Builder::new(Here(Rc::clone(client)))
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_pending_accept_reset_streams(MAX_RESET)
        .max_local_error_reset_streams(MAX_REFUSED)
        .serve_connection(TokioIo::new(watched), service);
    let mut connection = Box::pin(connection);
    let (mut is_told, mut goodbye) = (false, None);
    poll_fn(|context| {
        client.set_waker(context.waker());
        let order = client.take_order();
        if order == SweepAction::Abort {
            return Poll::Ready(());
        }
        // A client that has waited to be accepted gets one answer: told immediately, it would not
        // send a request.
        let is_last = || shard.is_draining.get() && client.has_asked();
        if !is_told && (order == SweepAction::Close || is_last()) {
            connection.as_mut().graceful_shutdown();
            client.tell(shard.waits.now());
            is_told = true;
        }
        if client.is_giving_way() {
            let goodbye = goodbye.get_or_insert_with(|| Box::pin(sleep(SHORT_GOODBYE)));
            // A request that crossed with the goodbye is still answered.
            if goodbye.as_mut().poll(context).is_ready() && !client.is_busy() {
                return Poll::Ready(());
            }
        }
        let polled = connection.as_mut().poll(context);
        if polled.is_pending() && !is_told && is_last() {
            // The first request has just arrived.
            client.wake();
        }
        polled.map(|ended| {
            if let Err(error) = ended {
                note(shard, client, &error);
            }
        })
    })
    .await;
}

/// Counts and logs what the client did wrong; disconnecting is not wrong.
fn note(shard: &Shard, client: &Client, error: &hyper::Error) {
    let cause = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    match cause {
        Some(cause) if cause.is_go_away() && cause.is_library() => {
            let reason = format!("HTTP/2: {cause}");
            refusal::note(shard, client, StatusCode::BAD_REQUEST, Flag::Refused, &reason);
        }
        Some(_) | None => tracing::debug!(reason = %error, "connection closed"),
    }
}

/// Converts the head of an HTTP/2 request to one that reads the same in HTTP/1.1 (RFC 9113,
/// 8.2 and 8.3).
fn adopt(head: &mut request::Parts) {
    if !head.headers.contains_key(HOST)
        && let Some(host) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(host.as_str())
    {
        head.headers.insert(HOST, host);
    }
    join_cookies(&mut head.headers);
}

/// Cookies may come one per field; a worker expects them in a single field.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_becomes_the_host_and_cookies_become_one() {
        let request = http::Request::builder()
            .uri("https://fleet:8443/submit?x=1")
            .header(COOKIE, "a=1")
            .header(COOKIE, "b=2")
            .body(())
            .expect("valid");
        let (mut head, ()) = request.into_parts();
        adopt(&mut head);
        assert_eq!(head.headers[HOST], "fleet:8443");
        let cookies: Vec<_> = head.headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }
}
