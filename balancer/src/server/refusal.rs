//! Requests that cannot be parsed, because what came is not HTTP.
//!
//! The parser answers and closes by itself; here it is counted and logged like every other request
//! that was refused, so that an operator sees what a client sees.

use http::StatusCode;

use crate::access_log::End;
use crate::lane::{Client, Lane};
use crate::metrics::Flag;

/// Notes that the parser refused what `client` sent.
pub(super) fn note(lane: &Lane, client: &Client, status: StatusCode, reason: &str) {
    let flag = Flag::Refused;
    lane.shared.traffic.record(flag);
    let address = String::from_utf8_lossy(client.origin.forwarded_for.as_bytes());
    tracing::debug!(client = %address, status = status.as_u16(), reason, "request refused");
    if let Some(log) = &lane.log {
        let end = End { now: lane.outbox.now(), status, bytes_out: 0, flag };
        log.borrow_mut().add_unread(&client.origin.forwarded_for, end, reason);
    }
}
