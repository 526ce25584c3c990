//! Whether an endpoint may be picked: one value and one pure transition function.
//!
//! Two facts are kept apart. The active probe says whether the worker answers (`Up`, `Down`); the
//! passive outlier detection says whether its answers to real requests can be trusted (`Admitted`,
//! `Ejected`, `Probation`). Two more come from outside: `draining` is set by an operator, `leaving`
//! when the worker is about to be stopped. An endpoint is available when all agree. No clock and no
//! lock is used here: `now` and the limits are arguments.

use std::time::Duration;

use tokio::time::Instant;

/// What the active probe last established.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Has never passed a probe: it takes no requests yet.
    New,
    /// Passes; `failures` in a row have been counted against it.
    Up {
        /// Failed probes since the last one that passed.
        failures: u32,
    },
    /// Fails; `passes` in a row have been counted in its favour.
    Down {
        /// Passed probes since the last one that failed.
        passes: u32,
    },
}

/// What the outcomes of real requests have established.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlier {
    /// Trusted; `failures` in a row have been counted against it.
    Admitted {
        /// Failed requests since the last one that succeeded.
        failures: u32,
    },
    /// Takes no requests until then.
    Ejected {
        /// When it may be tried again.
        until: Instant,
        /// Passed probes that end it earlier; 0 if only time does.
        passes: u32,
    },
    /// Back on trial after an ejection: one failure ejects it again.
    Probation,
}

/// What kind of failure a request met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Communication with the endpoint failed. A probe would notice that too, and a crashed process
    /// is often back before an ejection ends, so passing probes end it. Each ejection requires one
    /// more of them, so that a crash loop is left alone for longer and longer.
    Connection,
    /// Its answer was a failure, or came too late. A probe cannot tell.
    Request,
    /// It left so many requests unanswered for so long that no answer can be expected.
    Silence,
}

/// Something that happened to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A probe passed.
    ProbePassed,
    /// A probe failed.
    ProbeFailed,
    /// A probe found that nothing listens there any more: the next answer comes from another
    /// process.
    ProbeRefused,
    /// The worker itself reported to a probe that it is not ready. That ends no ejection.
    ProbeNotReady,
    /// The worker is known to be gone, for example because its process exited.
    Gone,
    /// A request was answered, or refused because the endpoint is busy, which is not a fault.
    Succeeded,
    /// A request failed by the endpoint's fault.
    Failed {
        /// What kind of failure it was.
        cause: Cause,
        /// Whether the rest of the pool can spare it.
        may_eject: bool,
    },
    /// Time passed; ends an ejection that is over.
    Tick,
    /// An operator takes it out.
    Drain,
    /// An operator puts it back.
    Undrain,
    /// It finishes its requests and is then stopped for good.
    Leave,
}

/// The parameters of the transitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Passed probes in a row that bring an endpoint back.
    pub rise: u32,
    /// Failed probes in a row that take it out.
    pub fall: u32,
    /// Failed requests in a row that eject it.
    pub consecutive_failures: u32,
    /// Abandoned requests eject it only after this much waiting without any answer.
    pub silence: Duration,
    /// Length of the first ejection; the n-th lasts n times as long.
    pub ejection: Duration,
    /// The longest ejection.
    pub max_ejection: Duration,
    /// An endpoint that behaves for this long is forgiven one ejection.
    pub forgive_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rise: 2,
            fall: 3,
            consecutive_failures: 5,
            silence: Duration::from_millis(500),
            ejection: Duration::from_secs(30),
            max_ejection: Duration::from_mins(5),
            forgive_after: Duration::from_mins(5),
        }
    }
}

/// Why an endpoint is or is not available, in the words of logs, metrics and the fleet page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It takes requests.
    Available,
    /// It has not passed a probe yet.
    New,
    /// Its probes fail.
    Down,
    /// Its answers failed.
    Ejected,
    /// An operator took it out.
    Draining,
}

impl Availability {
    /// Its name in logs, metrics and the fleet page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::New => "new",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
        }
    }
}

/// Everything that decides on the availability of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The active probe's view.
    pub probe: Probe,
    /// The requests' view.
    pub outlier: Outlier,
    /// The operator's view.
    pub draining: bool,
    /// Whether it is about to be stopped for good.
    pub leaving: bool,
    /// Ejections that are not forgiven yet.
    pub ejections: u32,
    /// When the latest ejection ended, while any is remembered.
    pub readmitted: Option<Instant>,
}

impl State {
    /// A new endpoint, which must pass a probe first.
    pub fn new() -> Self {
        Self {
            probe: Probe::New,
            outlier: Outlier::Admitted { failures: 0 },
            draining: false,
            leaving: false,
            ejections: 0,
            readmitted: None,
        }
    }

    /// An endpoint that is not probed and therefore taken to be up.
    pub fn up() -> Self {
        Self { probe: Probe::Up { failures: 0 }, ..Self::new() }
    }

    /// Whether it may be picked, and if not, why.
    pub fn availability(&self) -> Availability {
        match (self.is_withdrawn(), self.probe, self.outlier) {
            (true, _, _) => Availability::Draining,
            (_, Probe::New, _) => Availability::New,
            (_, Probe::Down { .. }, _) => Availability::Down,
            (_, _, Outlier::Ejected { .. }) => Availability::Ejected,
            (_, _, Outlier::Admitted { .. } | Outlier::Probation) => Availability::Available,
        }
    }

    /// Whether requests are deliberately kept away from it.
    pub fn is_withdrawn(&self) -> bool {
        self.draining || self.leaving
    }

    /// Whether it may be picked.
    pub fn is_available(&self) -> bool {
        self.availability() == Availability::Available
    }

    /// The state after `event`.
    #[must_use]
    pub fn next(self, event: Event, now: Instant, limits: &Limits) -> Self {
        let state = self.after_time(now, limits);
        match event {
            Event::Tick => state,
            Event::ProbePassed => state.probe_passed(now, limits),
            Event::ProbeFailed => state.probe_failed(limits),
            Event::ProbeRefused => Self { probe: failed(state.probe, limits), ..state.on_trial() },
            // As far as is known this is still the same process.
            Event::ProbeNotReady => Self { probe: not_ready(state.probe, limits), ..state },
            Event::Gone => {
                Self { probe: Probe::Down { passes: limits.rise - 1 }, ..state.on_trial() }
            }
            Event::Succeeded => state.succeeded(),
            Event::Failed { cause, may_eject } => state.failed(cause, may_eject, now, limits),
            Event::Drain => Self { draining: true, ..state },
            Event::Undrain => Self { draining: false, ..state },
            Event::Leave => Self { leaving: true, ..state },
        }
    }

    /// Applies the changes that time alone brings.
    fn after_time(self, now: Instant, limits: &Limits) -> Self {
        match self.outlier {
            Outlier::Ejected { until, .. } if until <= now => {
                Self { outlier: Outlier::Probation, readmitted: Some(until), ..self }
            }
            Outlier::Ejected { .. } => self,
            Outlier::Admitted { .. } | Outlier::Probation => match self.readmitted {
                Some(since) if now.saturating_duration_since(since) >= limits.forgive_after => {
                    let ejections = self.ejections.saturating_sub(1);
                    Self { ejections, readmitted: (ejections > 0).then_some(now), ..self }
                }
                Some(_) | None => self,
            },
        }
    }

    fn succeeded(self) -> Self {
        match self.outlier {
            Outlier::Admitted { .. } | Outlier::Probation => {
                Self { outlier: Outlier::Admitted { failures: 0 }, ..self }
            }
            // A late answer to an old request does not end an ejection.
            Outlier::Ejected { .. } => self,
        }
    }

    /// Passing probes end an ejection whose cause probes can see: each counts, once it is up.
    fn probe_passed(self, now: Instant, limits: &Limits) -> Self {
        let probe = passed(self.probe, limits);
        let readmitted = Self { probe, outlier: Outlier::Probation, readmitted: Some(now), ..self };
        match self.outlier {
            Outlier::Ejected { passes: 1, .. } if matches!(probe, Probe::Up { .. }) => readmitted,
            Outlier::Ejected { until, passes } if matches!(probe, Probe::Up { .. }) => {
                let passes = passes.saturating_sub(1);
                Self { probe, outlier: Outlier::Ejected { until, passes }, ..self }
            }
            Outlier::Ejected { .. } | Outlier::Admitted { .. } | Outlier::Probation => {
                Self { probe, ..self }
            }
        }
    }

    /// An endpoint that went down by its probes is another process or has recovered once it is up.
    fn probe_failed(self, limits: &Limits) -> Self {
        let probe = failed(self.probe, limits);
        let goes_down = matches!((self.probe, probe), (Probe::Up { .. }, Probe::Down { .. }));
        Self { probe, ..if goes_down { self.on_trial() } else { self } }
    }

    /// Whatever answers next is not judged by earlier answers: as after [`Cause::Connection`],
    /// passing probes end the ejection.
    fn on_trial(self) -> Self {
        let outlier = match self.outlier {
            Outlier::Ejected { until, passes: 0 } => {
                Outlier::Ejected { until, passes: self.ejections.max(1) }
            }
            Outlier::Ejected { .. } | Outlier::Admitted { .. } | Outlier::Probation => self.outlier,
        };
        Self { outlier, ..self }
    }

    fn failed(self, cause: Cause, may_eject: bool, now: Instant, limits: &Limits) -> Self {
        let failures = match (self.outlier, cause) {
            (Outlier::Ejected { .. }, _) => return self,
            (_, Cause::Silence) | (Outlier::Probation, _) => limits.consecutive_failures,
            (Outlier::Admitted { failures }, _) => failures.saturating_add(1),
        };
        if failures < limits.consecutive_failures || !may_eject {
            return Self { outlier: Outlier::Admitted { failures }, ..self };
        }
        let ejections = self.ejections.saturating_add(1);
        let length = limits.ejection.saturating_mul(ejections).min(limits.max_ejection);
        let passes = match cause {
            Cause::Connection => ejections,
            // Requests sent before it went down say nothing about it when it is up again.
            Cause::Request | Cause::Silence if matches!(self.probe, Probe::Down { .. }) => {
                ejections
            }
            Cause::Request | Cause::Silence => 0,
        };
        Self {
            outlier: Outlier::Ejected { until: now + length, passes },
            ejections,
            readmitted: None,
            ..self
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

fn passed(probe: Probe, limits: &Limits) -> Probe {
    match probe {
        Probe::New | Probe::Up { .. } => Probe::Up { failures: 0 },
        Probe::Down { passes } if passes + 1 >= limits.rise => Probe::Up { failures: 0 },
        Probe::Down { passes } => Probe::Down { passes: passes + 1 },
    }
}

fn failed(probe: Probe, limits: &Limits) -> Probe {
    match probe {
        Probe::New => Probe::New,
        Probe::Up { failures } if failures + 1 >= limits.fall => Probe::Down { passes: 0 },
        Probe::Up { failures } => Probe::Up { failures: failures + 1 },
        Probe::Down { .. } => Probe::Down { passes: 0 },
    }
}

/// The worker's own report needs no repetition.
fn not_ready(probe: Probe, limits: &Limits) -> Probe {
    match probe {
        Probe::New => Probe::New,
        Probe::Up { .. } => Probe::Down { passes: limits.rise - 1 },
        Probe::Down { .. } => Probe::Down { passes: 0 },
    }
}

#[cfg(test)]
mod tests;
