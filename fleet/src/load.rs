//! Load reports of workers (ORCA), as text in a response header; pure.
//!
//! A worker that receives `endpoint-load-metrics-format: json` responds with
//! `JSON {"named_metrics":{"queue":3,"concurrency":8}}`. Whatever is not understood is ignored: a
//! report is a hint, never a reason to fail a request.

use serde::Deserialize;

/// What a worker reports about itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Queued jobs.
    pub queue: Option<u32>,
    /// Jobs that it processes concurrently.
    pub concurrency: Option<u32>,
}

/// Least value of [`LoadReport::limit`], for a worker that processes one job at a time.
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

    /// The most concurrent requests that the worker should have, if it reports its concurrency:
    /// twice that, so that one batch is being processed while the next one is ready.
    pub fn limit(&self) -> Option<u32> {
        self.concurrency.map(|concurrency| concurrency.saturating_mul(2).max(MIN_LIMIT))
    }
}

/// The number as a count, if it is one.
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
