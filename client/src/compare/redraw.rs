//! Redraws the plots and the report of a run from its files.
//!
//! A plot never needs a second measurement: a newer version of this program can redraw it. Raw data
//! and summaries are only read.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use plot::Chart;
use serde::Deserialize;
use serde_json::Value;

use super::groups::{Kept, rows, samples_of};
use crate::driver::{Moment, Run, Tally, Timeline};
use crate::record::Folder;
use crate::report::number;
use crate::schedule::Arrivals;
use crate::{accuracy, load, reproduce, rtt, scaling};

/// Redraws everything of the run in `folder`; does nothing if it has no manifest.
pub(super) fn redraw(folder: &Path) -> anyhow::Result<()> {
    let folder = Folder::open(folder);
    if !folder.path().join("manifest.json").is_file() {
        return Ok(());
    }
    let manifest: Value = folder.read_json("manifest.json")?;
    let experiment = manifest["experiment"].as_str().unwrap_or_default();
    // A load run is drawn from its samples, which exist even if it was killed.
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
            let settings = &manifest["settings"];
            let Drawn { run, every } = samples(&folder, &settings["trial"])?;
            let moments = moments(&folder, every, &run)?;
            let counts = worker_counts(&folder)?;
            let requests = told_requests(every);
            let charts = load::charts(&run, &moments, &counts, (asked_rate(settings), &requests));
            folder.redraw("load-run.svg", load::course(&charts).as_bytes())?;
            // The tail that the run itself drew covers all requests.
            let is_whole = requests_of(folder.path()).is_none_or(|all| run.tally.requests() >= all);
            draw(&folder, charts.into_iter().filter(|(name, _)| is_whole || *name != load::TAIL))
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

/// Which requests the samples of a load run cover.
fn told_requests(every: f64) -> String {
    if every > 1.0 {
        return format!("one request in {}, drawn at random", number(Some(every)));
    }
    "all requests".to_owned()
}

/// The requested rate of a load run; `None` for a closed loop.
fn asked_rate(settings: &Value) -> Option<f64> {
    // Older runs did not record it.
    let of_arrivals = || Arrivals::deserialize(&settings["trial"]["arrivals"]).ok()?.offered_rate();
    settings["asked_rate"].as_f64().or_else(of_arrivals)
}

/// How many requests a load run measured; `None` if it was killed, and for other experiments.
pub(super) fn requests_of(folder: &Path) -> Option<u64> {
    let summary: Value = Folder::open(folder).read_json("summary.json").ok()?;
    summary["requests"].as_u64()
}

/// The course of a load run: from its summary, or from its samples if it was killed.
fn moments(folder: &Folder, every: f64, run: &Run) -> anyhow::Result<Vec<Moment>> {
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
    Ok(timeline.moments(every))
}

/// Worker counts that the balancer reported during the run, if it was queried.
fn worker_counts(folder: &Folder) -> anyhow::Result<Vec<load::WorkerCount>> {
    if !folder.path().join("summary.json").is_file() {
        return Ok(Vec::new());
    }
    let summary: Value = folder.read_json("summary.json")?;
    let counts = summary.get("workers").and_then(|counts| Vec::deserialize(counts).ok());
    Ok(counts.unwrap_or_default())
}

/// The samples that a load run kept, and how many requests each stands for.
struct Drawn {
    run: Run,
    every: f64,
}

fn samples(folder: &Folder, trial: &Value) -> anyhow::Result<Drawn> {
    let file = samples_of(folder.path()).context("the folder holds no samples")?;
    let (mut tally, mut samples) = (Tally::new(), Vec::new());
    let Kept { mut rows, every } = rows(&file)?;
    rows.sort_by_key(|row| row.scheduled_us);
    for (index, row) in (0..).zip(&rows) {
        let sample = row.to_sample(index);
        tally.record(&sample);
        samples.push(sample);
    }
    let every = every.or(trial["keep_every"].as_f64()).unwrap_or(1.0);
    Ok(Drawn { run: Run { tally, samples, cap: None, generators: Vec::new() }, every })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{asked_rate, told_requests};
    use crate::schedule::{Arrivals, Stages};

    #[test]
    fn only_a_closed_loop_asked_for_no_rate() {
        let older = |arrivals: &Arrivals| {
            asked_rate(&serde_json::json!({ "trial": { "arrivals": arrivals } }))
        };
        let stages: Stages = "10s:100,10s:300".parse().unwrap();
        let changing = Arrivals::Staged { stages, is_uniform: false };
        assert!((older(&changing).unwrap() - 200.0).abs() < 1e-9);
        assert_eq!(older(&Arrivals::SeedCompat { mean_wait: 0.5 }), Some(2.0));
        assert_eq!(older(&Arrivals::Closed { users: 2, think: Duration::ZERO }), None);
        // Recorded instants are not part of a manifest.
        assert_eq!(asked_rate(&serde_json::json!({ "asked_rate": 25.0 })), Some(25.0));
    }

    #[test]
    fn a_part_of_the_requests_is_not_called_all_of_them() {
        assert_eq!(told_requests(1.0), "all requests");
        assert_eq!(told_requests(40.0), "one request in 40.0, drawn at random");
    }
}
