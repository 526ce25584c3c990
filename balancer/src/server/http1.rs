//! A client connection that speaks HTTP/1, with requests in sequence.
//!
//! An idle connection is parked: hyper is dropped, and what remains is a socket and a few words of
//! memory. What hyper had read but not used (half of the next head, an empty line) is kept and read
//! again, so parking is never noticed. Only a client that will send nothing more is disconnected
//! immediately; one that may still be sending when its last answer is given gets time to read it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Buf, Bytes};
use http::{Request, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite;

use super::deferred::Deferred;
use super::linger::{hang_up, linger};
use super::refusal;
use super::stream::Watched;
use super::transport::{PREFACE, Transport, guarded};
use crate::forward;
use crate::shard::{Client, Shard, SweepAction};
use crate::traffic::Flag;

/// hyper reads a request head, and pieces of its body, into a buffer of at most this size.
const MAX_BUFFER: usize = 64 * 1024;
/// The answer to a client whose request head takes too long.
const TOO_LATE: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// The answer to a client that speaks HTTP/2 where only HTTP/1 is spoken; hyper gives none.
const WRONG_VERSION: &[u8] =
    b"HTTP/1.1 505 HTTP Version Not Supported\r\nconnection: close\r\ncontent-type: application/json\r\n\
      content-length: 92\r\n\r\n\
      {\"error\":\"this port speaks HTTP/1.1; HTTP/2 needs TLS with ALPN, or a balancer with --h2c\"}\n";

/// Why a connection is no longer served.
enum Pause {
    /// The connection waits for another request.
    Idle,
    /// A time limit is over.
    Overdue,
    /// The connection has ended.
    Over(hyper::Result<()>),
}

/// Serves requests until the connection is over; `before` has already been read.
pub(super) async fn serve<S: Transport + 'static>(
    shard: &Rc<Shard>,
    client: &Rc<Client>,
    stream: S,
    before: Bytes,
) {
    let mut stream = Deferred::new(Watched::new(stream, before, client, shard));
    loop {
        if stream.is_quiet() {
            client.set_parked(true);
            let readable = poll_fn(|context| stream.poll_readable(context));
            match guarded(client, readable).await {
                Some(Ok(())) => {}
                Some(Err(_)) => return,
                None => return hang_up(&mut stream).await,
            }
        }
        shard.clients.unpark(client, shard.write_queue.now());
        // A single future for all of it: each further one would add a cost to every poll of
        // every request.
        let service = service_fn(|request: Request<Incoming>| {
            let (head, body) = request.into_parts();
            client.head_arrived(body.is_end_stream(), shard.write_queue.now());
            forward::answer(Rc::clone(shard), Rc::clone(client), Rc::new(head), body)
        });
        let mut connection = Box::new(
            http1::Builder::new()
                .max_buf_size(MAX_BUFFER)
                // Answers are short: copying them after their heads is cheaper than a
                // list of buffers.
                .writev(false)
                .serve_connection(TokioIo::new(stream), service),
        );
        let pause = poll_fn(|context| {
            client.set_waker(context.waker());
            match client.take_order() {
                SweepAction::Close | SweepAction::Abort => return Poll::Ready(Pause::Overdue),
                SweepAction::Park => return Poll::Ready(Pause::Idle),
                SweepAction::None => {}
            }
            Pin::new(&mut *connection).poll(context).map(Pause::Over)
        })
        .await;
        let parts = connection.into_parts();
        let stopped = stop(shard, client, pause, parts.io.into_inner(), parts.read_buf);
        match Box::pin(stopped).await {
            Some(idle) => stream = idle,
            None => return,
        }
    }
}

/// Returns the stream if the connection is idle, and ends it otherwise. hyper has read `unused` but
/// not used it.
async fn stop<S: Transport + 'static>(
    shard: &Rc<Shard>,
    client: &Rc<Client>,
    pause: Pause,
    mut stream: Deferred<S>,
    unused: Bytes,
) -> Option<Deferred<S>> {
    let unused = without_empty_lines(unused);
    // If no request is being answered, the unused bytes are the beginning of a head.
    let is_head = !unused.is_empty() && client.is_awaited();
    match pause {
        Pause::Idle => {
            if unused.is_empty() {
                client.received_nothing();
            }
            stream.put_back(&unused);
            return Some(stream);
        }
        Pause::Overdue => {
            if is_head {
                let reason = "the head of the request did not come in time";
                let status = StatusCode::REQUEST_TIMEOUT;
                refusal::note(shard, client, status, Flag::Refused, reason);
                say(client, &mut stream, TOO_LATE).await;
            }
            hang_up(&mut stream).await;
            if is_head && !stream.is_at_end() {
                // The client may still be sending, if slowly.
                linger(shard, client, &mut stream).await;
            }
        }
        Pause::Over(Err(error)) if error.is_parse() && unused.starts_with(PREFACE) => {
            let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
            let reason = "the client speaks HTTP/2, which needs TLS here, or --h2c";
            refusal::note(shard, client, status, Flag::Refused, reason);
            say(client, &mut stream, WRONG_VERSION).await;
            hang_up(&mut stream).await;
            linger(shard, client, &mut stream).await;
        }
        Pause::Over(result) => {
            let is_refused = result.is_err_and(|error| note(shard, client, &error, is_head));
            let may_send =
                is_refused || client.is_unread() || client.is_last() || !unused.is_empty();
            if !stream.is_at_end() && (may_send || shard.is_draining.get()) {
                linger(shard, client, &mut stream).await;
            }
        }
    }
    None
}

/// Empty lines before a request line are ignored (RFC 9112, 2.2).
fn without_empty_lines(mut bytes: Bytes) -> Bytes {
    while let Some(count @ 1..) =
        [&b"\r\n"[..], b"\n"].iter().find(|line| bytes.starts_with(line)).map(|line| line.len())
    {
        bytes.advance(count);
    }
    bytes
}

/// Sends `text` without waiting, unless the client has yet to take an answer.
async fn say<S: Transport + 'static>(client: &Client, stream: &mut Deferred<S>, text: &[u8]) {
    if client.is_blocked() {
        return;
    }
    poll_fn(|context| {
        drop(Pin::new(&mut *stream).poll_write(context, text));
        Poll::Ready(())
    })
    .await;
}

/// Counts and logs what the client did wrong; returns whether the client was told. If not, it has
/// left: within the head of a request, if `is_head`.
fn note(shard: &Shard, client: &Client, error: &hyper::Error, is_head: bool) -> bool {
    if !error.is_parse() {
        tracing::debug!(reason = %error, "connection closed");
        if is_head {
            let reason = "the client left within the head of its request";
            refusal::note(shard, client, StatusCode::BAD_REQUEST, Flag::Cancelled, reason);
        }
        return false;
    }
    let status = if error.is_parse_too_large() {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    } else {
        StatusCode::BAD_REQUEST
    };
    refusal::note(shard, client, status, Flag::Refused, &error.to_string());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_lines_before_a_request_are_left_out_and_nothing_else() {
        for (bytes, rest) in
            [("\r\n\n\r\nGET", "GET"), ("\r\n", ""), ("\r", "\r"), ("GET\r\n", "GET\r\n"), ("", "")]
        {
            assert_eq!(without_empty_lines(Bytes::from_static(bytes.as_bytes())), rest);
        }
    }
}
