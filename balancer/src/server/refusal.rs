//! Requests that cannot be parsed, because the bytes are not HTTP or end within the head.
//!
//! The parser answers and closes by itself; here such a request is counted and logged like any
//! other, so that an operator sees what a client sees. A connection without any bytes is not a
//! request: browsers open spare ones.

use http::StatusCode;

use crate::access_log::End;
use crate::shard::{Client, Shard};
use crate::traffic::Flag;

/// Counts and logs what `client` sent, which was not a request.
pub(super) fn note(shard: &Shard, client: &Client, status: StatusCode, flag: Flag, reason: &str) {
    shard.shared.traffic.record(flag);
    let address = String::from_utf8_lossy(client.origin.forwarded_for.as_bytes());
    tracing::debug!(client = %address, status = status.as_u16(), reason, "no request");
    if let Some(log) = &shard.log {
        let end = End { now: shard.write_queue.now(), status, bytes_out: 0, flag };
        log.borrow_mut().add_unread(&client.origin.forwarded_for, end, reason);
    }
}
