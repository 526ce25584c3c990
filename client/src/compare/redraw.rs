//! Draws the plots and the report of a run again, from what it wrote down.
//!
//! A plot is never measured twice: a newer version of this program, or another taste, needs no new
//! run. Raw data and summaries are only read.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use plot::Chart;
use serde::Deserialize;
use serde_json::Value;

use super::groups::{rows, samples_of};
use crate::driver::{Moment, Run, Tally, Timeline};
use crate::record::Folder;
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
            let trial = &manifest["settings"]["trial"];
            let run = samples(&folder)?;
            let moments = moments(&folder, trial, &run)?;
            let counts = worker_counts(&folder)?;
            let rate = trial["arrivals"]["rate"].as_f64();
            let charts = load::charts(&run, &moments, &counts, rate);
            folder.redraw("load-run.svg", load::course(&charts).as_bytes())?;
            draw(&folder, charts)
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

/// How a load run went: as it says itself, or by the samples that it left if it was killed.
fn moments(folder: &Folder, trial: &Value, run: &Run) -> anyhow::Result<Vec<Moment>> {
    if folder.path().join("summary.json").is_file() {
        let summary: Value = folder.read_json("summary.json")?;
        // Older summaries have none.
        if let Some(Ok(moments)) = summary.get("timeline").map(Vec::<Moment>::deserialize) {
            return Ok(moments);
        }
    }
    let end = run.samples.last().map_or(Duration::ZERO, |sample| sample.scheduled);
    let mut timeline = Timeline::new(end);
    for sample in &run.samples {
        timeline.record(sample);
    }
    Ok(timeline.moments(trial["keep_every"].as_f64().unwrap_or(1.0)))
}

/// What the balancer said about its workers meanwhile, if it was asked.
fn worker_counts(folder: &Folder) -> anyhow::Result<Vec<load::WorkerCount>> {
    if !folder.path().join("summary.json").is_file() {
        return Ok(Vec::new());
    }
    let summary: Value = folder.read_json("summary.json")?;
    let counts = summary.get("workers").and_then(|counts| Vec::deserialize(counts).ok());
    Ok(counts.unwrap_or_default())
}

/// The samples that a load run kept.
fn samples(folder: &Folder) -> anyhow::Result<Run> {
    let file = samples_of(folder.path()).context("the folder holds no samples")?;
    let (mut tally, mut samples) = (Tally::new(), Vec::new());
    let mut rows = rows(&file)?;
    rows.sort_by_key(|row| row.scheduled_us);
    for (index, row) in (0..).zip(&rows) {
        let sample = row.to_sample(index);
        tally.record(&sample);
        samples.push(sample);
    }
    Ok(Run { tally, samples, cap: None, generators: Vec::new() })
}
