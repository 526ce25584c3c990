//! What `client load` reported about a trial.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::load::verdict::{Cause, Verdict};

/// The part of the summary that is used here.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Told {
    pub(super) requests: u64,
    pub(super) throughput: f64,
    pub(super) succeeded_ms: Times,
    pub(super) stages_ms: BTreeMap<String, Times>,
    pub(super) accuracy: Option<Accuracy>,
    pub(super) interrupted: bool,
    pub(super) verdict: Verdict,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Times {
    pub(super) count: u64,
    pub(super) mean: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Accuracy {
    pub(super) correct: u64,
}

impl Told {
    /// Parses the summary that a trial printed. A verdict of INVALID because of the service is
    /// left to the trial's own page: on a link that loses half of its packets, requests are
    /// expected to fail.
    pub(super) fn of(output: &std::process::Output) -> Result<Self> {
        let stderr = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("a trial: {}", stderr.trim()))
    }

    /// Reasons why trial `number` measured the client more than its subject.
    pub(super) fn generator(&self, number: u32) -> Vec<String> {
        let own = self.verdict.reasons.iter().filter(|reason| reason.cause == Cause::Generator);
        let reasons: Vec<String> =
            own.map(|reason| format!("trial {number}: {}", reason.text)).collect();
        for reason in &reasons {
            tracing::warn!("the client fell short: {reason}");
        }
        reasons
    }

    /// The share of the requests that were answered in time.
    pub(super) fn succeeded(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.succeeded_ms.count as f64 / self.requests as f64)
    }

    /// The share of all requests that were answered correctly and in time; `None` if the pictures
    /// have no labels. If nothing was answered, no accuracy is reported and the share is 0.
    pub(super) fn right(&self, is_labelled: bool) -> Option<f64> {
        let correct = self.accuracy.as_ref().map_or(0, |accuracy| accuracy.correct);
        (is_labelled && self.requests > 0).then(|| correct as f64 / self.requests as f64)
    }

    /// Seconds that a worker spends on a request.
    pub(super) fn service(&self) -> Option<f64> {
        let mean = |stage: &str| self.stages_ms.get(stage)?.mean;
        let seconds = (mean("total")? - mean("queue").unwrap_or(0.0)) / 1e3;
        (seconds > 0.0).then_some(seconds)
    }
}

/// Why a figure reflects the client more than its subject, for the end of a sentence.
pub(super) fn fell_short(reasons: &[String]) -> String {
    if reasons.is_empty() {
        return String::new();
    }
    format!(" (this client fell short: {})", reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Accuracy, Times, Told};
    use crate::load::verdict::Verdict;

    #[test]
    fn where_nothing_is_answered_nothing_is_right() {
        let nothing = Told {
            requests: 12,
            throughput: 0.0,
            succeeded_ms: Times { count: 0, mean: None },
            stages_ms: BTreeMap::new(),
            accuracy: None,
            interrupted: false,
            verdict: Verdict { is_valid: true, reasons: Vec::new() },
        };
        assert_eq!(nothing.right(true), Some(0.0));
        assert_eq!(nothing.right(false), None, "without labels it is not known");
        let some = Told { accuracy: Some(Accuracy { correct: 3 }), ..nothing };
        assert_eq!(some.right(true), Some(0.25));
    }
}
