//! The end of a connection on which the client may still be sending.
//!
//! To close a socket while bytes come in resets the connection, and a reset overtakes the answer:
//! the client would never see why it was refused. So the balancer first ends its own side, and then
//! takes in and forgets what the client still sends until the client ends its side too, within
//! limits.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};

use super::connection::{Transport, guarded};
use crate::lane::{Client, Lane};

/// Most bytes that are taken in.
const MAX_DISCARDED: usize = 64_000_000;
/// Read at a time.
const PIECE: usize = 16 * 1024;

/// Ends this side of a connection as its protocol wants it, without waiting for anything.
pub(super) async fn hang_up<S: Transport>(stream: &mut S) {
    poll_fn(|context| {
        drop(Pin::new(&mut *stream).poll_shutdown(context));
        Poll::Ready(())
    })
    .await;
}

/// Waits for the end of `stream`, whose other direction has ended.
pub(super) async fn linger<S: Transport>(lane: &Lane, client: &Client, stream: &mut S) {
    client.linger(lane.waits.now());
    let mut piece = vec![0; PIECE];
    let mut discarded = 0;
    let end = poll_fn(|context| {
        while discarded < MAX_DISCARDED {
            match ready!(stream.poll_discard(context, &mut piece)) {
                Ok(count @ 1..) => discarded += count,
                Ok(0) | Err(_) => break,
            }
        }
        Poll::Ready(())
    });
    guarded(client, end).await;
}
