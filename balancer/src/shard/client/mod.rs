//! One client connection: its phase, and the time limit of that phase.
//!
//! A connection is new (header limit), waits for a request (keep-alive limit), receives its head
//! (header limit), is busy with it (then the request has its own limits, except that the client
//! must take what it is sent) or is being closed. All of this is recorded with a few stores; once
//! per second the sweep of [`super::Clients`] checks what is due.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::task::{AbortHandle, Id};
use tokio::time::Instant;

use crate::config::Timeouts;
use crate::headers::Origin;

/// A client that takes nothing of its answer for this long is given up.
const MAX_BLOCKED: Duration = Duration::from_secs(30);
/// hyper's buffers are released after this long without a request.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// They are released after this long if other connections need some.
pub(super) const RESTED: Duration = Duration::from_millis(20);

/// On shutdown a client that keeps a connection open has this long for one more request. Hanging up
/// immediately would cross with requests that are on their way.
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// A client that knows that its connection ends, and sends nothing for this long, is disconnected.
const MAX_LINGER: Duration = Duration::from_secs(10);

/// A client that ends its side of the connection within this time after its request still wants the
/// answer; later it may have given up. Both look the same on the wire, but no client gives up so
/// soon.
const ENDS_WITH_REQUEST: Duration = Duration::from_millis(2);

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Accepted; no request has arrived yet.
    New,
    /// Waiting for another request.
    Idle,
    /// Receiving the head of one.
    Head,
    /// Answering a request.
    Busy,
    /// Everything was sent; what the client still sends is discarded.
    Lingering,
}

/// How much of the request being answered has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// No request is being answered.
    None,
    /// Its head.
    Head,
    /// Its head, and nothing more will come.
    Cut,
    /// The whole request.
    Whole,
    /// The whole request, and with it the end of the client's input.
    Last,
}

/// What the sweep wants a connection to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SweepAction {
    /// Nothing: the connection continues.
    #[default]
    None,
    /// Release the buffers.
    Park,
    /// Close in the way that the protocol provides.
    Close,
    /// Close without a goodbye.
    Abort,
}

/// What to do when the client's input ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndOfInput {
    /// It ends the connection.
    Counts,
    /// Not known before the request has been polled once more.
    Uncertain,
    /// The client waits for its answer; the connection ends after it.
    Waits,
    /// The client has probably given up. It still gets an answer that comes very soon.
    MayWait,
}

/// One client connection, as seen by the thread that serves it.
#[derive(Debug)]
pub struct Client {
    /// Address and protocol of the client.
    pub origin: Origin,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    active: Cell<u32>,
    /// When the request had arrived.
    arrived: Cell<Instant>,
    /// When the last answer ended.
    answered: Cell<Option<Instant>>,
    arrival: Cell<Arrival>,
    /// Whether the end of the client's input is held back until the answer is given.
    is_ending: Cell<bool>,
    /// Whether a request was answered before all of it had arrived.
    is_unread: Cell<bool>,
    /// Whether the connection ends after this request.
    is_last: Cell<bool>,
    is_blocked: Cell<bool>,
    is_parked: Cell<bool>,
    /// Whether it is listed among those that may have buffers.
    is_warm: Cell<bool>,
    /// Whether it carries many requests concurrently, whose bytes cannot be told apart here.
    is_multiplexed: Cell<bool>,
    /// When the client was told that it may send no further request.
    told: Cell<Option<Instant>>,
    /// Requests that the client has cancelled since the last sweep.
    pub(super) cancelled: Cell<u32>,
    pub(super) order: Cell<SweepAction>,
    /// Whether it was told to close to make room for another.
    is_giving_way: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// The tasks that carry its requests, if it carries many concurrently.
    streams: RefCell<HashMap<Id, AbortHandle>>,
}

impl Client {
    /// A newly accepted connection.
    pub fn new(origin: Origin, now: Instant) -> Self {
        Self {
            origin,
            phase: Cell::new(Phase::New),
            since: Cell::new(now),
            active: Cell::new(0),
            arrived: Cell::new(now),
            answered: Cell::new(None),
            arrival: Cell::new(Arrival::None),
            is_ending: Cell::new(false),
            is_unread: Cell::new(false),
            is_last: Cell::new(false),
            is_blocked: Cell::new(false),
            is_parked: Cell::new(true),
            is_warm: Cell::new(false),
            is_multiplexed: Cell::new(false),
            told: Cell::new(None),
            cancelled: Cell::new(0),
            order: Cell::default(),
            is_giving_way: Cell::new(false),
            waker: RefCell::default(),
            streams: RefCell::default(),
        }
    }

    /// Notes that the head of a request has arrived; `is_all` if that is the whole request.
    pub fn head_arrived(&self, is_all: bool, now: Instant) {
        self.arrived.set(now);
        self.arrival.set(if is_all { Arrival::Whole } else { Arrival::Head });
    }

    /// Notes that all of a request has arrived.
    pub fn body_arrived(&self, now: Instant) {
        self.arrived.set(now);
        if !self.is_multiplexed.get() {
            self.arrival.set(Arrival::Whole);
        }
    }

    /// Notes that the connection must not carry another request.
    pub fn set_last(&self) {
        // In HTTP/2 nothing follows the request on its stream.
        self.is_last.set(!self.is_multiplexed.get());
    }

    /// Whether the connection must not carry another request.
    pub fn is_last(&self) -> bool {
        self.is_last.get()
    }

    /// Whether a part of the request may still be on its way.
    pub fn is_arriving(&self) -> bool {
        matches!(self.arrival.get(), Arrival::Head | Arrival::Cut)
    }

    /// Notes that a request begins.
    pub fn begin(&self) {
        self.active.set(self.active.get() + 1);
        self.phase.set(Phase::Busy);
    }

    /// Notes when the latest of several requests began.
    pub fn begin_at(&self, now: Instant) {
        if self.is_multiplexed.get() {
            self.since.set(now);
        }
        if self.phase.get() == Phase::New {
            self.phase.set(Phase::Idle);
        }
    }

    /// Whether there was ever a request, over HTTP/2.
    pub fn has_asked(&self) -> bool {
        self.phase.get() != Phase::New
    }

    /// Notes that a request has been answered.
    pub fn end(&self, now: Instant) {
        self.active.set(self.active.get().saturating_sub(1));
        if self.active.get() == 0 {
            self.phase.set(Phase::Idle);
            self.since.set(now);
            self.answered.set(Some(now));
        }
        if self.is_arriving() {
            self.is_unread.set(true);
            // hyper does not notice by itself that the body is no longer read.
            self.wake();
        }
        self.arrival.set(Arrival::None);
        if self.is_ending.take() {
            self.wake();
        }
    }

    /// Notes that the client did not wait for an answer.
    pub fn cancel(&self) {
        self.cancelled.set(self.cancelled.get() + 1);
    }

    /// Marks it as a connection that carries many requests concurrently.
    pub fn set_multiplexed(&self) {
        self.is_multiplexed.set(true);
    }

    /// Whether many requests share the connection.
    pub fn is_multiplexed(&self) -> bool {
        self.is_multiplexed.get()
    }

    /// Runs `work` as the task that carries one of many requests, so that it can be
    /// ended on its own.
    pub fn carry(self: &Rc<Self>, work: impl Future<Output = ()> + 'static) {
        let client = Rc::clone(self);
        let task = tokio::task::spawn_local(async move {
            work.await;
            if let Some(id) = tokio::task::try_id() {
                client.streams.borrow_mut().remove(&id);
            }
        });
        self.streams.borrow_mut().insert(task.id(), task.abort_handle());
    }

    /// Ends one of many requests, whose answer the client does not take; or the connection, if it
    /// carries nothing else or only has bytes of that answer left.
    pub fn reset(&self, stream: Option<Id>) {
        let task = stream.and_then(|id| self.streams.borrow_mut().remove(&id));
        if let Some(task) = task {
            task.abort();
        } else {
            self.order.set(SweepAction::Abort);
            self.wake();
        }
    }

    /// Whether a request was answered before all of it had arrived.
    pub fn is_unread(&self) -> bool {
        self.is_unread.get()
    }

    /// Notes that bytes from the client were received.
    pub fn received(&self, now: Instant) {
        if self.is_multiplexed.get() {
            return;
        }
        match self.phase.get() {
            // Its time limit has been running since it was accepted.
            Phase::New => self.phase.set(Phase::Head),
            Phase::Idle => {
                self.phase.set(Phase::Head);
                self.since.set(now);
            }
            Phase::Head | Phase::Busy | Phase::Lingering => {}
        }
    }

    /// Notes that the client sends nothing more; returns what to do about it.
    pub fn ended(&self, now: Instant) -> EndOfInput {
        match self.arrival.get() {
            Arrival::Head => {
                self.arrival.set(Arrival::Cut);
                EndOfInput::Uncertain
            }
            Arrival::Whole => {
                let is_first = !self.is_ending.replace(true);
                let age = now.saturating_duration_since(self.arrived.get());
                if is_first && age <= ENDS_WITH_REQUEST {
                    self.arrival.set(Arrival::Last);
                    return EndOfInput::Waits;
                }
                EndOfInput::MayWait
            }
            Arrival::Last => EndOfInput::Waits,
            Arrival::None | Arrival::Cut => EndOfInput::Counts,
        }
    }

    /// Notes that what was received turned out to be nothing.
    pub fn received_nothing(&self) {
        if self.phase.get() == Phase::Head
            && let Some(answered) = self.answered.get()
        {
            self.phase.set(Phase::Idle);
            self.since.set(answered);
        }
    }

    /// Notes that bytes were sent, or could not be.
    pub fn sent(&self, is_blocked: bool, now: Instant) {
        if !is_blocked || !self.is_blocked.get() {
            self.is_blocked.set(is_blocked);
            if self.phase.get() == Phase::Busy && !self.is_multiplexed.get() {
                self.since.set(now);
            }
        }
    }

    /// Notes that everything was sent: the client gets a while to read it.
    pub fn linger(&self, now: Instant) {
        self.phase.set(Phase::Lingering);
        self.since.set(now);
    }

    /// Notes that the client was told to send no further request.
    pub fn tell(&self, now: Instant) {
        if self.told.get().is_none() {
            self.told.set(Some(now));
        }
    }

    /// Notes whether hyper's buffers are released.
    pub fn set_parked(&self, is_parked: bool) {
        self.is_parked.set(is_parked);
    }

    /// Notes that it gets buffers; true if it has to be added to the list of those that have some.
    pub(super) fn warm_up(&self) -> bool {
        self.is_parked.set(false);
        !self.is_warm.replace(true)
    }

    /// Releases the buffers if it rests; false if it keeps them.
    pub(super) fn cool_down(&self, now: Instant) -> bool {
        let is_parked = self.is_parked.get();
        let rests = self.phase.get() == Phase::Idle
            && self.order.get() == SweepAction::None
            && now.saturating_duration_since(self.since.get()) >= RESTED
            && self.may_park();
        if rests {
            self.order.set(SweepAction::Park);
            self.wake();
        }
        self.is_warm.set(!rests && !is_parked);
        rests || is_parked
    }

    /// Whether there are buffers, with nothing in them that the client has yet to take.
    fn may_park(&self) -> bool {
        !self.is_parked.get() && !self.is_blocked.get()
    }

    /// Stores the waker of the connection's task.
    pub fn set_waker(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if known.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// Forgets the waker: while a closed connection is still listed, its task should not be kept.
    pub(super) fn forget_waker(&self) {
        self.waker.take();
    }

    /// Takes what the sweep wants.
    pub fn take_order(&self) -> SweepAction {
        self.order.take()
    }

    /// Whether a request may be on its way (the connection is new, or part of a head has arrived),
    /// and since when the connection has waited. `None` while a request is being answered, or if
    /// the connection gives way already.
    pub(super) fn waiting_since(&self) -> Option<(bool, Instant)> {
        let has_begun = match self.phase.get() {
            Phase::Busy => return None,
            Phase::New | Phase::Idle | Phase::Head if self.is_giving_way.get() => return None,
            Phase::Idle | Phase::Lingering => false,
            Phase::New | Phase::Head => true,
        };
        Some((has_begun, self.since.get()))
    }

    /// Whether no request is being answered and the connection has not been told to give way.
    pub fn is_awaited(&self) -> bool {
        self.waiting_since().is_some()
    }

    /// Whether any request is being answered.
    pub fn is_busy(&self) -> bool {
        self.active.get() > 0
    }

    /// Whether the client does not take what it is sent.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }

    /// Tells the connection to close to make room for another.
    pub(super) fn give_way(&self) {
        self.is_giving_way.set(true);
        self.order.set(SweepAction::Close);
        self.wake();
    }

    /// Whether it closes to make room for another: then its goodbye has to be short.
    pub fn is_giving_way(&self) -> bool {
        self.is_giving_way.get()
    }

    /// What is due at a sweep.
    pub(super) fn due(&self, now: Instant, timeouts: &Timeouts, is_draining: bool) -> SweepAction {
        let order = self.due_by_phase(now, timeouts, is_draining);
        let Some(told) = self.told.get() else { return order };
        let age = now.saturating_duration_since(told);
        // Requests that crossed with the goodbye are still answered.
        let is_done =
            age >= LAST_REQUEST && (self.active.get() == 0 || order == SweepAction::Close);
        if is_done || age >= timeouts.request + MAX_BLOCKED { SweepAction::Abort } else { order }
    }

    fn due_by_phase(&self, now: Instant, timeouts: &Timeouts, is_draining: bool) -> SweepAction {
        let age = now.saturating_duration_since(self.since.get());
        match self.phase.get() {
            Phase::New | Phase::Idle | Phase::Lingering if is_draining && age >= LAST_REQUEST => {
                SweepAction::Close
            }
            Phase::Idle if age >= timeouts.keep_alive => SweepAction::Close,
            Phase::New | Phase::Head if age >= timeouts.header => SweepAction::Close,
            Phase::New | Phase::Idle | Phase::Head if age >= PARK_AFTER && self.may_park() => {
                SweepAction::Park
            }
            Phase::Busy if self.is_multiplexed.get() => {
                // One of the clients of these requests may not take its answer.
                if age >= timeouts.request + MAX_BLOCKED {
                    SweepAction::Close
                } else {
                    SweepAction::None
                }
            }
            Phase::Busy if self.is_blocked.get() && age >= MAX_BLOCKED => SweepAction::Close,
            Phase::Lingering if age >= MAX_LINGER => SweepAction::Close,
            Phase::New | Phase::Idle | Phase::Head | Phase::Busy | Phase::Lingering => {
                SweepAction::None
            }
        }
    }

    /// Wakes the connection's task to check its state.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
