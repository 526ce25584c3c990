//! ORCA load reports: an answer carries the worker's load if the request asks for it.
//!
//! `endpoint-load-metrics-format: json` gets `endpoint-load-metrics: JSON {"named_metrics":…}`;
//! `text` gets the same as `TEXT named_metrics.queue=3, …`. The balancer corrects its own counts
//! with the number of waiting rows (`queue`), and limits what it sends by the number of rows taken
//! at a time (`concurrency`).

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::serving::Snapshot;

const WANTED: HeaderName = HeaderName::from_static("endpoint-load-metrics-format");
const REPORT: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// The two formats of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Text,
}

/// The report format that a request asks for; `None` if it is not supported.
pub(super) fn wanted(headers: &HeaderMap) -> Option<Format> {
    match headers.get(WANTED)?.to_str().ok()?.to_ascii_lowercase().as_str() {
        "json" => Some(Format::Json),
        "text" => Some(Format::Text),
        _ => None,
    }
}

/// Adds the report to an answer.
pub(super) fn attach(headers: &mut HeaderMap, format: Format, snapshot: &Snapshot) {
    let concurrency = snapshot.concurrency();
    if let Ok(value) = HeaderValue::from_str(&report(format, snapshot.queued(), concurrency)) {
        headers.insert(REPORT, value);
    }
}

fn report(format: Format, queued: usize, concurrency: usize) -> String {
    match format {
        Format::Json => format!(
            "JSON {{\"named_metrics\":{{\"queue\":{queued},\"concurrency\":{concurrency}}}}}"
        ),
        Format::Text => {
            format!("TEXT named_metrics.queue={queued}, named_metrics.concurrency={concurrency}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Format, report};

    #[test]
    fn both_spellings_carry_queue_and_concurrency() {
        let json = r#"JSON {"named_metrics":{"queue":3,"concurrency":16}}"#;
        assert_eq!(report(Format::Json, 3, 16), json);
        let text = "TEXT named_metrics.queue=3, named_metrics.concurrency=16";
        assert_eq!(report(Format::Text, 3, 16), text);
    }
}
