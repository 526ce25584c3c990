//! Load reports of workers (ORCA), as text in a response header; pure.
//!
//! A worker that is asked with `endpoint-load-metrics-format: json` answers with
//! `JSON {"named_metrics":{"queue":3,"concurrency":8}}`. Whatever is not understood is ignored: a
//! report is a hint, never a reason to fail a request.

use serde::Deserialize;

/// What a worker says about itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Jobs that wait in it.
    pub queue: Option<u32>,
    /// Jobs that it processes at a time.
    pub concurrency: Option<u32>,
}

/// A worker that processes one job at a time still gets this many requests at a time.
const MIN_LIMIT: u32 = 4;

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    named_metrics: Named,
}

#[derive(Default, Deserialize)]
struct Named {
    queue: Option<f64>,
    concurrency: Option<f64>,
}

impl LoadReport {
    /// Reads a report.
    pub fn parse(report: &str) -> Self {
        let json = report.trim().strip_prefix("JSON").unwrap_or_default();
        serde_json::from_str::<Report>(json).map_or_else(
            |_| Self::default(),
            |report| Self {
                queue: report.named_metrics.queue.and_then(whole),
                concurrency: report.named_metrics.concurrency.and_then(whole),
            },
        )
    }

    /// The most requests that the worker should have at a time, if its report tells: twice as many as
    /// it processes, so that one batch is in work and the next one is ready.
    pub fn limit(&self) -> Option<u32> {
        self.concurrency.map(|concurrency| concurrency.saturating_mul(2).max(MIN_LIMIT))
    }
}

/// A count, if it is one.
fn whole(number: f64) -> Option<u32> {
    format!("{number:.0}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_queue_and_concurrency() {
        let load =
            LoadReport::parse(r#"JSON {"named_metrics":{"queue":3,"concurrency":8,"other":1.5}}"#);
        assert_eq!(load, LoadReport { queue: Some(3), concurrency: Some(8) });
        assert_eq!((load.limit(), LoadReport::default().limit()), (Some(16), None));
    }

    #[test]
    fn what_is_not_understood_says_nothing() {
        for report in [
            "",
            "JSON",
            "TEXT named_metrics.queue=3",
            "JSON {",
            "JSON {\"named_metrics\":{\"queue\":-1}}",
            "JSON []",
        ] {
            assert_eq!(LoadReport::parse(report), LoadReport::default(), "{report}");
        }
    }
}
