//! Draws the plots and the report of a run again, from what it wrote down.
//!
//! A plot is never measured twice: a newer version of this program, or another taste, needs no new
//! run. Raw data and summaries are only read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::driver::{Run, Tally};
use crate::plot::Chart;
use crate::record::{Folder, Row};
use crate::sample::{Failure, Outcome, Sample};
use crate::{accuracy, load, reproduce, rtt, scaling};

/// Everything of the run in `folder`; nothing if it has no manifest.
pub(super) fn redraw(folder: &Path) -> anyhow::Result<()> {
    let folder = Folder::open(folder);
    if !folder.path().join("manifest.json").is_file() {
        return Ok(());
    }
    let manifest: Value = folder.read_json("manifest.json")?;
    match manifest["experiment"].as_str().unwrap_or_default() {
        "rtt" => draw(&folder, rtt::charts(&folder.read_json("summary.json")?)),
        "scaling" => draw(&folder, scaling::charts(&folder.read_json("summary.json")?)),
        "accuracy" => {
            let findings: accuracy::Findings = folder.read_json("summary.json")?;
            draw(&folder, [("accuracy.svg", findings.chart())])
        }
        "load" => {
            let summary: Value = folder.read_json("summary.json")?;
            draw(&folder, load::charts(&samples(&folder)?, summary["offered_rate"].as_f64()))
        }
        "reproduce" => {
            for part in ["rtt", "scaling", "accuracy"] {
                redraw(&folder.path().join(part))?;
            }
            reproduce::redraw(&folder)
        }
        _ => Ok(()),
    }
}

fn draw(
    folder: &Folder,
    charts: impl IntoIterator<Item = (&'static str, Chart)>,
) -> anyhow::Result<()> {
    for (name, chart) in charts {
        folder.redraw(name, chart.to_svg().as_bytes())?;
    }
    Ok(())
}

/// The samples that a load run kept.
fn samples(folder: &Folder) -> anyhow::Result<Run> {
    let file = folder.path().join("samples.csv");
    let shown = file.display().to_string();
    let mut reader = csv::Reader::from_path(&file).with_context(|| shown.clone())?;
    let (mut tally, mut samples) = (Tally::new(), Vec::new());
    for (index, row) in (0..).zip(reader.deserialize::<Row>()) {
        let sample = sample(index, &row.with_context(|| shown.clone())?);
        tally.record(&sample);
        samples.push(sample);
    }
    Ok(Run { tally, samples })
}

fn sample(index: u64, row: &Row) -> Sample {
    let failures =
        [Failure::Connect, Failure::Timeout, Failure::Closed, Failure::Malformed, Failure::Unsent];
    let by_name: BTreeMap<String, Outcome> = failures
        .map(|failure| (Outcome::Failed(failure).to_string(), Outcome::Failed(failure)))
        .into();
    let answered = row.outcome.parse().ok().map(Outcome::Answered);
    let known = by_name.get(&row.outcome).copied();
    Sample {
        index,
        item: 0,
        warm_up: row.warm_up,
        scheduled: Duration::from_micros(row.scheduled_us),
        dispatched: Duration::from_micros(row.dispatched_us),
        sent: Duration::from_micros(row.sent_us),
        first_byte: Duration::from_micros(row.first_byte_us),
        done: Duration::from_micros(row.done_us),
        outcome: answered.or(known).unwrap_or(Outcome::Failed(Failure::Malformed)),
        bytes: row.bytes,
        endpoint: row.endpoint.as_deref().map(Arc::from),
        timings: None,
        labels: row.label.iter().cloned().collect(),
        correct: row.correct,
    }
}
