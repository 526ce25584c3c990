//! The end of a connection on which the client may still be sending.
//!
//! Closing a socket while bytes arrive resets the connection, and a reset overtakes the answer: the
//! client would never see why it was refused. So the balancer first ends its own side, and then
//! reads and discards what the client still sends until the client ends its side too, within
//! limits. The limits are the same for clients, for HTTP/2 streams and for operators.

use std::future::poll_fn;
use std::io::Error;
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::transport::{Transport, guarded};
use crate::forward::collect::{MAX_DISCARDED, MAX_PAUSE, MAX_TIME};
use crate::shard::{Client, Shard};

/// Bytes read at a time.
const PIECE: usize = 16 * 1024;

/// Ends this side of a connection as its protocol requires, without waiting for anything.
pub(super) async fn hang_up<S: Transport>(stream: &mut S) {
    poll_fn(|context| {
        drop(Pin::new(&mut *stream).poll_shutdown(context));
        Poll::Ready(())
    })
    .await;
}

/// Waits for the client to end its side of `stream`; the balancer's own side has ended.
pub(super) async fn linger<S: Transport>(shard: &Shard, client: &Client, stream: &mut S) {
    let start = shard.waits.now();
    client.linger(start);
    let mut piece = vec![0; PIECE];
    let mut discarded = 0;
    let end = poll_fn(|context| {
        while discarded < MAX_DISCARDED {
            match ready!(stream.poll_discard(context, &mut piece)) {
                Ok(count @ 1..) => discarded += count,
                Ok(0) | Err(_) => break,
            }
            let now = shard.waits.now();
            if now.saturating_duration_since(start) >= MAX_TIME {
                break;
            }
            if !shard.is_draining.get() {
                client.linger(now);
            }
        }
        Poll::Ready(())
    });
    guarded(client, end).await;
}

/// Ends this side of a connection that no shard watches, and waits for the other.
pub(crate) async fn see_off(mut stream: TcpStream) {
    let end = async {
        stream.shutdown().await?;
        let mut piece = vec![0; PIECE];
        let mut discarded = 0;
        while discarded < MAX_DISCARDED {
            match timeout(MAX_PAUSE, stream.read(&mut piece)).await?? {
                0 => break,
                count => discarded += count,
            }
        }
        Ok::<(), Error>(())
    };
    // However it ended, it is over.
    drop(timeout(MAX_TIME, end).await);
}
