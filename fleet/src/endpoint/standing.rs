//! Whether an endpoint takes requests, and what operators are told about that.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use tokio::time::Instant;

use super::Endpoint;
use crate::state::{Event, Limits, Outlier, Probe, State};

/// The outcome of the last probe.
#[derive(Debug, Clone)]
pub struct LastProbe {
    /// When the probe ended.
    pub at: Instant,
    /// What was wrong with the answer, if anything was.
    pub fault: Option<Arc<str>>,
}

/// The state of an endpoint, as reported to operators.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Why it takes no requests; empty while it does, or while that is not known.
    pub reason: Arc<str>,
    /// When its availability last changed.
    pub since: Instant,
    /// The last probe, if there was one.
    pub probe: Option<LastProbe>,
}

impl Endpoint {
    /// The state as of now.
    pub fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies an event; returns the states before and after it.
    pub fn apply(&self, event: Event, now: Instant, limits: &Limits) -> (State, State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *state;
        *state = before.next(event, now, limits);
        if event == Event::ProbePassed {
            self.set_mute(false);
        }
        self.is_troubled.store(state.outlier != Outlier::Admitted { failures: 0 }, Relaxed);
        self.is_down.store(matches!(state.probe, Probe::Down { .. }), Relaxed);
        (before, *state)
    }

    /// Its state, as reported to operators.
    pub fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes why its availability has changed.
    pub(crate) fn set_reason(&self, reason: &str, now: Instant) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        (standing.reason, standing.since) = (reason.into(), now);
    }

    /// Notes what was wrong with the answer to a probe, if anything was.
    pub fn set_probed(&self, fault: Option<&str>, now: Instant) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.probe = Some(LastProbe { at: now, fault: fault.map(Arc::from) });
    }

    /// Notes whether its probes get no sign of life; see [`crate::Pool::record_failed_probe`].
    pub(crate) fn set_mute(&self, is_mute: bool) {
        self.is_mute.store(is_mute, Relaxed);
    }

    /// Whether its probes get no sign of life, whatever its state.
    pub fn is_mute(&self) -> bool {
        self.is_mute.load(Relaxed)
    }

    /// Whether it is down without any sign of life, so that its answers may never come. An endpoint
    /// that reports not to be ready, or refuses connections, may well finish its requests.
    #[inline]
    pub fn is_silent(&self) -> bool {
        self.is_down.load(Relaxed) && self.is_mute.load(Relaxed)
    }

    /// Whether the next success has to be applied as an event.
    #[inline]
    pub fn is_troubled(&self) -> bool {
        self.is_troubled.load(Relaxed)
    }

    /// Requests an early probe.
    pub(crate) fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// Waits until an early probe is requested.
    pub async fn doubted(&self) {
        self.doubts.notified().await;
    }

    /// Notes that its process is not running (then no probe passes), or is running again.
    pub fn set_absent(&self, is_absent: bool) {
        self.is_absent.store(is_absent, Relaxed);
    }

    /// Whether its process is known not to be running.
    pub fn is_absent(&self) -> bool {
        self.is_absent.load(Relaxed)
    }
}
