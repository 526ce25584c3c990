//! Carries out what the [`Dispatch`] of a request decides, until there is an answer or an error.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use fleet::{Dispatch, MAX_TRIES, Step, Why};
use tokio::time::Instant;

use super::attempt::{PreparedRequest, Reply};
use super::hedge;
use super::request_log::RequestLog;
use crate::error::ProxyError;

impl PreparedRequest<'_> {
    /// Drives a dispatch until the request has an answer or an error.
    pub(super) async fn run(
        &self,
        mut now: Instant,
        request_log: &mut RequestLog,
    ) -> Result<Box<Reply>, ProxyError> {
        let view = &self.shard.view;
        let dispatch = Dispatch::new(self.deadline, MAX_TRIES);
        let mut step = dispatch.admit(view, &self.wanted, now);
        loop {
            step = match step {
                Step::Send(permit, why) => {
                    self.note(why, request_log);
                    if let Some(entry) = &mut request_log.entry {
                        entry.endpoint = Some(Arc::clone(permit.endpoint()));
                    }
                    let step = hedge::attempt(self, permit, now, &dispatch, request_log).await;
                    now = self.shard.write_queue.now();
                    step
                }
                Step::Wait(waiter, until) => {
                    let turn = Box::pin(self.wait_for_room(waiter, until)).await;
                    now = self.shard.write_queue.now();
                    dispatch.admitted(view, &self.wanted, turn, now)
                }
                Step::Pending => unreachable!("a race ends with its last attempt"),
                Step::End(result) => {
                    if dispatch.was_denied() {
                        self.shard.shared.traffic.retries_denied.fetch_add(1, Relaxed);
                    }
                    return result.map_err(|lost| ProxyError::lost(lost, self.wanted.model));
                }
            }
        }
    }

    /// Notes that an attempt begins, alone or in parallel with another.
    pub(super) fn note(&self, why: Why, request_log: &mut RequestLog) {
        if let Some(entry) = &mut request_log.entry {
            entry.tries += u32::from(why != Why::Reconnect);
        }
        let traffic = &self.shard.shared.traffic;
        let counter = match why {
            Why::First => return,
            Why::Reconnect => &traffic.reconnects,
            Why::Hedge => &traffic.hedges,
            Why::Retry | Why::Rescue | Why::Detour => &traffic.retries,
        };
        counter.fetch_add(1, Relaxed);
    }
}
