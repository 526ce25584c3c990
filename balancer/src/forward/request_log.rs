//! The record of a request, which is logged once: when its answer has been handed over, or when its
//! client has gone.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use tokio::time::Instant;

use crate::access_log::{End, Entry};
use crate::shard::{Client, Shard};
use crate::traffic::Flag;

/// What is known about a request until it is logged.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct RequestLog {
    shard: Rc<Shard>,
    client: Rc<Client>,
    /// The line of the access log, if one is written.
    pub(super) entry: Option<Box<Entry>>,
    pub(super) status: StatusCode,
    pub(super) flag: Flag,
    pub(super) bytes_out: u64,
    pub(super) is_complete: bool,
    pub(super) is_head_request: bool,
    /// Whether its answer is a stream of events, which lasts until the client disconnects: it is not
    /// counted as active, and ends successfully at any time.
    pub(super) is_watching: bool,
    /// When the whole answer had arrived, if it came in one piece.
    pub(super) complete_at: Option<Instant>,
    /// Key of its answer among those that wait for their clients.
    backlog: Option<usize>,
}

impl RequestLog {
    /// Starts the record of a request.
    pub(super) fn new(shard: Rc<Shard>, client: Rc<Client>, entry: Option<Box<Entry>>) -> Self {
        shard.shared.traffic.active.fetch_add(1, Relaxed);
        client.begin();
        Self {
            shard,
            client,
            entry,
            status: StatusCode::OK,
            // Until set otherwise: this is what dropping a request before its answer means.
            flag: Flag::Cancelled,
            bytes_out: 0,
            is_complete: false,
            is_head_request: false,
            is_watching: false,
            complete_at: None,
            backlog: None,
        }
    }

    pub(super) fn client(&self) -> &Rc<Client> {
        &self.client
    }

    pub(super) fn shard(&self) -> &Rc<Shard> {
        &self.shard
    }

    /// Marks the answer as a stream of events.
    pub(super) fn watch(&mut self) {
        self.shard.shared.traffic.active.fetch_sub(1, Relaxed);
        (self.is_watching, self.is_complete) = (true, true);
    }

    /// Adds the answer to the backlog, where it waits for the client and takes up memory;
    /// returns its key.
    pub(super) fn wait_for_client(&mut self, held: usize) -> usize {
        let (shard, client) = (&self.shard, &self.client);
        *self.backlog.get_or_insert_with(|| shard.backlog.add(client, held, shard.waits.now()))
    }

    /// Notes that the client has made room for a piece of the answer.
    pub(super) fn took(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
        if let Some(key) = self.backlog {
            self.shard.backlog.took(key, bytes, self.shard.waits.now());
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let flag = if self.is_complete { self.flag } else { Flag::Cancelled };
        if !self.is_watching {
            self.shard.shared.traffic.active.fetch_sub(1, Relaxed);
        }
        self.shard.shared.traffic.record(flag);
        self.client.end(self.shard.waits.now());
        self.shard.clients.note_idle();
        if let Some(key) = self.backlog {
            self.shard.backlog.remove(key);
        }
        if !self.is_complete {
            self.client.cancel();
        }
        if let (Some(entry), Some(log)) = (self.entry.take(), &self.shard.log) {
            let now = self.complete_at.unwrap_or_else(Instant::now);
            let end = End { now, status: self.status, bytes_out: self.bytes_out, flag };
            log.borrow_mut().add(&entry, &self.client.origin.forwarded_for, end);
            if let Some(head) = Rc::into_inner(entry.head) {
                self.shard.recycle(head.headers);
            }
        }
    }
}
