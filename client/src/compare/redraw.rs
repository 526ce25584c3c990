//! Draws the plots and the report of a run again, from what it wrote down.
//!
//! A plot is never measured twice: a newer version of this program, or another taste, needs no new
//! run. Raw data and summaries are only read.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::groups::{rows, samples_of};
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
    let experiment = manifest["experiment"].as_str().unwrap_or_default();
    // A load run is drawn from its samples, which it leaves even if it was killed.
    let summaries: &[&str] = match experiment {
        "load" => &[],
        "reproduce" => &["rtt/summary.json", "scaling/summary.json"],
        _ => &["summary.json"],
    };
    if !summaries.iter().all(|file| folder.path().join(file).is_file()) {
        tracing::warn!(folder = %folder.path().display(), "the run did not end: nothing to draw");
        return Ok(());
    }
    match experiment {
        "rtt" => draw(&folder, rtt::charts(&folder.read_json("summary.json")?)),
        "scaling" => draw(&folder, scaling::charts(&folder.read_json("summary.json")?)),
        "accuracy" => {
            let findings: accuracy::Findings = folder.read_json("summary.json")?;
            draw(&folder, [("accuracy.svg", findings.chart())])
        }
        "load" => {
            let arrivals = &manifest["settings"]["trial"]["arrivals"];
            draw(&folder, load::charts(&samples(&folder)?, arrivals["rate"].as_f64()))
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
    let file = samples_of(folder.path()).context("the folder holds no samples")?;
    let (mut tally, mut samples) = (Tally::new(), Vec::new());
    let mut rows = rows(&file)?;
    rows.sort_by_key(|row| row.scheduled_us);
    for (index, row) in (0..).zip(&rows) {
        let sample = sample(index, row);
        tally.record(&sample, None);
        samples.push(sample);
    }
    Ok(Run { tally, samples, cap: None })
}

fn sample(index: u64, row: &Row) -> Sample {
    Sample {
        index,
        item: 0,
        warm_up: row.warm_up,
        scheduled: Duration::from_micros(row.scheduled_us),
        dispatched: Duration::from_micros(row.dispatched_us),
        sent: row.sent_us.map(Duration::from_micros),
        first_byte: Duration::from_micros(row.first_byte_us),
        done: Duration::from_micros(row.done_us),
        outcome: row.outcome.parse().unwrap_or(Outcome::Failed(Failure::Malformed)),
        bytes: row.bytes,
        endpoint: row.endpoint.as_deref().map(Arc::from),
        timings: None,
        labels: row.label.iter().cloned().collect(),
        correct: row.correct,
    }
}
