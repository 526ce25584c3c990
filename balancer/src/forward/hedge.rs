//! A second attempt in parallel with a slow one; the first good answer counts.
//!
//! The [`Dispatch`] decides when and where. The first attempt always continues, since it may still
//! be answered. The loser is dropped: its connection closes, and the worker, which sees that its
//! client is gone, need not finish.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use fleet::{Dispatch, Endpoint, EndpointId, Hedging, Permit, Step, Why};
use tokio::time::{Instant, Sleep};

use super::attempt::{Attempted, PreparedRequest, Reply};
use super::request_log::RequestLog;

/// Why, and on which endpoint, there is a second attempt.
enum Second {
    /// The first is slow, and this endpoint has room for another.
    Beside(Permit, Why),
    /// The first endpoint is silent; this step finds another.
    Rescue(Step<Box<Reply>>),
}

/// Attempts to get an answer, from two endpoints if the first is slow or falls silent; returns
/// the next step.
pub(super) async fn attempt(
    prepared: &PreparedRequest<'_>,
    permit: Permit,
    now: Instant,
    dispatch: &Dispatch<Box<Reply>>,
    request_log: &mut RequestLog,
) -> Step<Box<Reply>> {
    let hedging = prepared.shard.view.fleet().hedging.as_ref();
    let endpoint = Arc::clone(permit.endpoint());
    let mut due = Due {
        was_silent: endpoint.is_silent(),
        connect: None,
        later: hedging
            .and_then(Hedging::begin)
            .map(|delay| Box::pin(tokio::time::sleep_until(now + delay))),
    };
    let mut first = pin!(prepared.attempt(permit, now, dispatch));
    let alone = poll_fn(|context| match first.as_mut().poll(context) {
        Poll::Ready(answer) => Poll::Ready(Ok(answer)),
        Poll::Pending if due.is_nothing_due(&endpoint, dispatch) => Poll::Pending,
        Poll::Pending => due.poll(context, prepared, &endpoint, dispatch).map(Err),
    });
    let step = match alone.await {
        Ok(attempted) => prepared.ended(dispatch, endpoint.id(), attempted),
        Err(second) => {
            let first = Runner { attempt: first, endpoint: endpoint.id() };
            Box::pin(race(prepared, first, second, dispatch, request_log)).await
        }
    };
    if let Some(hedging) = hedging
        && matches!(step, Step::End(Ok(_)))
    {
        hedging.observe(prepared.shard.write_queue.now().saturating_duration_since(now));
    }
    step
}

/// An attempt in progress, and its endpoint.
struct Runner<'a, F> {
    attempt: Pin<&'a mut F>,
    endpoint: EndpointId,
}

/// When a second attempt is due.
struct Due {
    was_silent: bool,
    /// Set while the first attempt is connecting.
    connect: Option<Pin<Box<Sleep>>>,
    later: Option<Pin<Box<Sleep>>>,
}

impl Due {
    /// Whether there is nothing to poll, as for almost every request.
    #[inline]
    fn is_nothing_due(&self, endpoint: &Endpoint, dispatch: &Dispatch<Box<Reply>>) -> bool {
        self.later.is_none()
            && dispatch.connect_due().is_none()
            && (self.was_silent || !endpoint.is_silent())
    }

    #[inline(never)]
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        prepared: &PreparedRequest<'_>,
        endpoint: &Endpoint,
        dispatch: &Dispatch<Box<Reply>>,
    ) -> Poll<Second> {
        let (view, wanted) = (&prepared.shard.view, &prepared.wanted);
        if !self.was_silent
            && endpoint.is_silent()
            && let Some(step) = dispatch.rescue(view, wanted, prepared.shard.write_queue.now())
        {
            return Poll::Ready(Second::Rescue(step));
        }
        if let Some(due) = dispatch.connect_due() {
            let connect =
                self.connect.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if connect.as_mut().poll(context).is_ready() {
                self.connect = None;
                let now = prepared.shard.write_queue.now();
                if let Some(permit) = dispatch.detour(view, wanted, endpoint.id(), now) {
                    return Poll::Ready(Second::Beside(permit, Why::Detour));
                }
            }
        }
        let Some(later) = &mut self.later else { return Poll::Pending };
        std::task::ready!(later.as_mut().poll(context));
        self.later = None;
        let hedge = dispatch.hedge(view, wanted, endpoint.id(), prepared.shard.write_queue.now());
        hedge.map_or(Poll::Pending, |permit| Poll::Ready(Second::Beside(permit, Why::Hedge)))
    }
}

/// Runs the first attempt and a second one in parallel; the first good answer counts.
async fn race(
    prepared: &PreparedRequest<'_>,
    mut first: Runner<'_, impl Future<Output = Attempted>>,
    second: Second,
    dispatch: &Dispatch<Box<Reply>>,
    request_log: &mut RequestLog,
) -> Step<Box<Reply>> {
    let is_hedge = matches!(second, Second::Beside(_, Why::Hedge));
    let taken_by: RefCell<Option<Arc<Endpoint>>> = RefCell::default();
    let mut second = Box::pin(run_second(prepared, second, dispatch, &taken_by, request_log));
    let (mut is_first_over, mut is_second_over) = (false, false);
    let (step, is_second) = poll_fn(|context| {
        if !is_first_over && let Poll::Ready(attempted) = first.attempt.as_mut().poll(context) {
            is_first_over = true;
            let step = prepared.ended(dispatch, first.endpoint, attempted);
            if !matches!(step, Step::Pending) {
                return Poll::Ready((step, false));
            }
        }
        if !is_second_over && let Poll::Ready(step) = second.as_mut().poll(context) {
            is_second_over = true;
            if !matches!(step, Step::Pending) {
                return Poll::Ready((step, true));
            }
        }
        Poll::Pending
    })
    .await;
    drop(second);
    if is_second && matches!(step, Step::End(Ok(_))) {
        if is_hedge {
            prepared.shard.shared.traffic.hedges_won.fetch_add(1, Relaxed);
        }
        if let Some(entry) = &mut request_log.entry {
            entry.endpoint = taken_by.take();
        }
    }
    step
}

/// Finds room for the second attempt, if necessary, and makes it.
async fn run_second(
    prepared: &PreparedRequest<'_>,
    second: Second,
    dispatch: &Dispatch<Box<Reply>>,
    taken_by: &RefCell<Option<Arc<Endpoint>>>,
    request_log: &mut RequestLog,
) -> Step<Box<Reply>> {
    let step = match second {
        Second::Beside(permit, why) => Step::Send(permit, why),
        Second::Rescue(Step::Wait(waiter, until)) => {
            let turn = prepared.wait_for_room(waiter, until).await;
            dispatch.admitted(
                &prepared.shard.view,
                &prepared.wanted,
                turn,
                prepared.shard.write_queue.now(),
            )
        }
        Second::Rescue(step) => step,
    };
    let Step::Send(permit, why) = step else { return step };
    prepared.note(why, request_log);
    let endpoint = Arc::clone(permit.endpoint());
    taken_by.replace(Some(Arc::clone(&endpoint)));
    let attempted = prepared.attempt(permit, prepared.shard.write_queue.now(), dispatch).await;
    prepared.ended(dispatch, endpoint.id(), attempted)
}
