//! Why a probe failed, as it is logged.

use std::fmt;

use fleet::Fault;
use http::StatusCode;

/// Longest accepted answer to a probe, in bytes, and most model versions in it. Those of every
/// endpoint are kept, and looked at whenever one of them comes or goes.
pub(super) const MAX_ANSWER: usize = 2 * 1024 * 1024;
pub(super) const MAX_VERSIONS: usize = 10_000;

/// Why a probe failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The connection failed or broke.
    Fault(Fault),
    /// No answer came in time.
    TimedOut,
    /// The worker is loading or shutting down.
    NotReady,
    /// A status that no worker would send.
    Status(StatusCode),
    /// Another program answers at the address.
    NotAWorker,
    /// It lists more models than are accepted.
    TooManyModels,
    /// Its process is known not to run, even if something else answers.
    NotRunning,
}

impl Reason {
    /// Whether this process cannot probe, so that nothing is known about the endpoint.
    pub(super) fn is_own(self) -> bool {
        self == Self::Fault(Fault::Exhausted)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::NotReady => f.write_str("not ready (status 503)"),
            Self::Status(status) => write!(f, "status {}", status.as_u16()),
            Self::NotAWorker => f.write_str("not a worker: it tells no models"),
            Self::TooManyModels => write!(
                f,
                "it lists too many models: at most {MAX_VERSIONS} versions in {} MiB are read",
                MAX_ANSWER >> 20
            ),
            Self::NotRunning => f.write_str("its process does not run"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_in_words() {
        let words = |reason: Reason| reason.to_string();
        assert_eq!(words(Reason::Fault(Fault::Refused)), "connection refused");
        assert_eq!(words(Reason::Status(StatusCode::NOT_FOUND)), "status 404");
        assert!(words(Reason::NotAWorker).starts_with("not a worker"));
        let too_many = "it lists too many models: at most 10000 versions in 2 MiB are read";
        assert_eq!(words(Reason::TooManyModels), too_many);
    }

    #[test]
    fn only_what_this_process_lacks_is_its_own() {
        assert!(Reason::Fault(Fault::Exhausted).is_own());
        assert!(!Reason::Fault(Fault::Refused).is_own() && !Reason::TimedOut.is_own());
    }
}
