//! A request and its attempts, as the balancer would hold them.

use std::cell::Cell;
use std::rc::Rc;

use fleet::{Attempt, Clock, Dispatch, EndpointId, Waiter, Wanted};
use http::StatusCode;
use tokio::time::Instant;

/// The time of a history.
#[derive(Debug, Clone)]
pub(crate) struct VirtualTime(pub(crate) Rc<Cell<Instant>>);

impl Clock for VirtualTime {
    fn now(&self) -> Instant {
        self.0.get()
    }
}

/// An attempt, and the count of attempts on its endpoint, to check the dispatcher's own count.
#[derive(Debug)]
pub(crate) struct Held {
    attempt: Option<Attempt<VirtualTime>>,
    count: Rc<Cell<u32>>,
}

impl Held {
    pub(crate) fn new(attempt: Attempt<VirtualTime>, count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self { attempt: Some(attempt), count: Rc::clone(count) }
    }

    pub(crate) fn attempt(&mut self) -> &mut Attempt<VirtualTime> {
        self.attempt.as_mut().expect("it is there until it is taken apart")
    }

    /// Its place, for the same request.
    pub(crate) fn into_place(mut self) -> Option<fleet::Permit> {
        self.attempt.take().and_then(Attempt::into_place)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
    }
}

/// An answer, with its attempt while it is still arriving.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) on_its_way: Option<Held>,
}

impl fleet::Reply for Answer {
    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).expect("a status")
    }

    fn has_retry_after(&self) -> bool {
        self.status == 429
    }

    fn is_complete(&self) -> bool {
        self.on_its_way.is_none()
    }
}

/// An attempt under way.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) number: u32,
    pub(crate) held: Held,
    pub(crate) endpoint: EndpointId,
    pub(crate) machine: usize,
    pub(crate) began: Instant,
    pub(crate) was_idle: bool,
    pub(crate) was_silent: bool,
    pub(crate) is_sent: bool,
}

/// A place in the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) waiter: Waiter,
    pub(crate) joined: Instant,
    /// The number of this wait among all.
    pub(crate) number: u64,
    /// Endpoints that were tried before.
    pub(crate) avoided: Vec<EndpointId>,
}

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) number: usize,
    pub(crate) model: Option<&'static str>,
    pub(crate) count: usize,
    pub(crate) key: u64,
    pub(crate) deadline: Instant,
    pub(crate) dispatch: Dispatch<Answer>,
    pub(crate) running: Vec<Running>,
    pub(crate) waiting: Option<Waiting>,
    /// Endpoints that it was sent to.
    pub(crate) sent_to: Vec<EndpointId>,
    /// Endpoints on which it failed.
    pub(crate) failed_on: Vec<EndpointId>,
    /// Whether there was another endpoint for it when its latest attempt failed.
    pub(crate) had_untried: bool,
    /// Whether its attempt is charged to the retry budget.
    pub(crate) is_paid: bool,
    pub(crate) has_second: bool,
    pub(crate) has_waited: bool,
    /// Whether a second attempt is running only because the first took long to connect.
    pub(crate) has_detour: bool,
}

impl Request {
    pub(crate) fn wanted(&self) -> Wanted<'static> {
        let key = Some(self.key);
        Wanted { model: self.model, count: self.count, key, avoided: &[] }
    }
}
