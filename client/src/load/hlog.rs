//! Latencies as an interval log, the file format of `HdrHistogram`'s own tools and of those that
//! read jHiccup's logs: a histogram for each second of the run, stored in nanoseconds and shown
//! in milliseconds.
//!
//! A request counts in the second in which it ended. If not every request was kept as a sample, the
//! whole run is one interval: quantiles are right that way, and nothing is thinned out.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use crate::driver::{Run, Times};

const INTERVAL: Duration = Duration::from_secs(1);
const NANOS_PER_MILLISECOND: f64 = 1e6;

/// The whole file, for a run that started at this time.
pub(super) fn text(run: &Run, started: &str) -> Result<Vec<u8>> {
    let started = humantime::parse_rfc3339(started).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut text = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .with_start_time(started)
        .with_base_time(started)
        .with_max_value_divisor(NANOS_PER_MILLISECOND)
        .begin_log_with(&mut text, &mut serializer)
        .context("writing an interval log")?;
    for (start, length, times) in intervals(run) {
        log.write_histogram(times.histogram(), start, length, None)
            .map_err(|error| anyhow!("writing an interval log: {error}"))?;
    }
    Ok(text)
}

/// The histogram of each second in which requests ended: its start, its length and its latencies.
fn intervals(run: &Run) -> Vec<(Duration, Duration, Times)> {
    let measured = run.samples.iter().filter(|sample| sample.is_measured());
    let mut seconds: BTreeMap<u64, Times> = BTreeMap::new();
    for sample in measured {
        let times = seconds.entry(sample.done.as_secs()).or_insert_with(Times::new);
        let nanos = u64::try_from(sample.latency().as_nanos()).unwrap_or(u64::MAX);
        times.record(nanos);
    }
    let kept: u64 = seconds.values().map(Times::len).sum();
    if kept != run.tally.latency.len() {
        let window = run.tally.window().unwrap_or_default();
        return vec![(window.start, window.length(), run.tally.latency.clone())];
    }
    let interval = |(second, times)| (Duration::from_secs(second), INTERVAL, times);
    seconds.into_iter().map(interval).collect()
}
