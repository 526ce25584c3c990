//! Why a fleet has its current size, worded for operators.

use std::fmt::{self, Display};
use std::time::Duration;

/// Why there will be more workers, fewer, or as many as before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reason {
    /// This many requests wait, on average.
    Queue(f64),
    /// Workers are busy for this share of the time.
    Utilisation(f64),
    /// 95 % of the requests take up to this long, which is too long.
    Latency(Duration),
    /// There are fewer than the minimum.
    BelowMinimum,
    /// Fewer are enough.
    Enough {
        /// How many are left.
        workers: usize,
        /// How busy they will be.
        utilisation: f64,
    },
    /// The maximum is reached.
    AtMaximum,
    /// The minimum is reached.
    AtMinimum,
    /// This many were started a moment ago.
    Starting(usize),
    /// A worker fails to start.
    NoStart,
    /// One is about to stop.
    Stopping,
    /// Fewer are enough; one is stopped if that is still so in a while.
    Calm {
        /// Time until then.
        left: Duration,
    },
    /// No worker takes requests.
    NoneAvailable,
}

impl Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Queue(waiting) => write!(out, "{waiting:.0} requests wait"),
            Self::Utilisation(share) => write!(out, "workers are {:.0} % busy", share * 100.0),
            Self::Latency(latency) => {
                write!(out, "95 % of the requests take up to {} ms", latency.as_millis())
            }
            Self::BelowMinimum => write!(out, "there are fewer workers than the minimum"),
            Self::Enough { workers, utilisation } => {
                let noun = if workers == 1 { "worker is" } else { "workers are" };
                write!(out, "{workers} {noun} enough, {:.0} % busy", utilisation * 100.0)
            }
            Self::AtMaximum => write!(out, "more workers are needed, and there may be no more"),
            Self::AtMinimum => write!(out, "the minimum is enough"),
            Self::Starting(1) => write!(out, "a worker is starting"),
            Self::Starting(count) => write!(out, "{count} workers are starting"),
            Self::NoStart => write!(out, "more workers are needed, and one does not start"),
            Self::Stopping => write!(out, "a worker is stopping"),
            Self::Calm { left } => {
                let seconds = left.as_secs_f64().ceil();
                write!(
                    out,
                    "fewer workers are enough; one stops in {seconds:.0} s if that stays so"
                )
            }
            Self::NoneAvailable => write!(out, "no worker is available"),
        }
    }
}
