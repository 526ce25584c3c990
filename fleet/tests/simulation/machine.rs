//! A worker, as far as the dispatcher can tell: whether it takes connections, and what it answers.

use std::ops::Range;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;

/// What is wrong with a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing.
    Well,
    /// It answers twenty times slower.
    Slow,
    /// It takes requests but sends nothing any more.
    Frozen,
    /// Its process is not running.
    Dead,
    /// Its host is gone: nothing that is sent there is answered, not even a connection.
    Vanished,
    /// It answers that it is busy, with this status.
    Busy(u16),
    /// Its answers are failures.
    Failing,
    /// It breaks connections instead of answering.
    Resetting,
    /// It breaks connections within its answers.
    Cutting,
    /// It works, but its probes are lost.
    Unprobed,
}

/// A worker.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) models: Vec<&'static str>,
    pub(crate) mode: Mode,
    /// The number of its process; each restart is a new one.
    pub(crate) life: u32,
    pub(crate) is_listed: bool,
    pub(crate) is_drained: bool,
    /// Whether nothing has been wrong with it so far.
    pub(crate) was_always_well: bool,
}

/// The outcome of a request that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// An answer of this status; `is_short` if it is complete immediately.
    Status {
        /// The HTTP status.
        status: u16,
        /// Whether it is complete with its head.
        is_short: bool,
        /// Whether it breaks off.
        is_cut: bool,
    },
    /// The connection breaks.
    Reset,
    /// Nothing, ever.
    Silence,
}

impl Mode {
    /// A random mode that means trouble.
    pub(crate) fn any(rng: &mut SmallRng) -> Self {
        match rng.random_range(0..10) {
            0 => Self::Slow,
            1 => Self::Frozen,
            2 | 3 => Self::Dead,
            4 => Self::Busy(if rng.random() { 429 } else { 503 }),
            5 => Self::Failing,
            6 => Self::Resetting,
            7 => Self::Cutting,
            8 => Self::Vanished,
            _ => Self::Unprobed,
        }
    }

    /// Whether a probe passes, if there is any sign of life.
    pub(crate) fn probe(self) -> Option<bool> {
        match self {
            Self::Well
            | Self::Slow
            | Self::Busy(_)
            | Self::Failing
            | Self::Resetting
            | Self::Cutting => Some(true),
            Self::Dead => Some(false),
            Self::Frozen | Self::Vanished | Self::Unprobed => None,
        }
    }

    /// The outcome of a request, and the time until then.
    pub(crate) fn outcome(self, rng: &mut SmallRng) -> (Outcome, Duration) {
        let good = Outcome::Status { status: 200, is_short: rng.random(), is_cut: false };
        let milliseconds =
            |rng: &mut SmallRng, range: Range<u64>| Duration::from_millis(rng.random_range(range));
        let is_short = rng.random_bool(0.9);
        match self {
            Self::Well | Self::Unprobed => (good, milliseconds(rng, 5..30)),
            Self::Slow => (good, milliseconds(rng, 100..600)),
            Self::Frozen | Self::Dead | Self::Vanished => (Outcome::Silence, Duration::ZERO),
            Self::Busy(status) => {
                (Outcome::Status { status, is_short, is_cut: false }, milliseconds(rng, 1..3))
            }
            Self::Failing => {
                (Outcome::Status { status: 500, is_short, is_cut: false }, milliseconds(rng, 1..9))
            }
            Self::Resetting => (Outcome::Reset, milliseconds(rng, 1..9)),
            Self::Cutting => {
                let cut = Outcome::Status { status: 200, is_short: false, is_cut: true };
                (cut, milliseconds(rng, 5..30))
            }
        }
    }
}
