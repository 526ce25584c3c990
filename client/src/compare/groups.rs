//! The samples of a results folder, sorted into groups that may be compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::record::{JOURNAL, PARTS, Row, SAMPLES, read_rows};
use crate::sample::Outcome;
use crate::stats::{Distribution, Time};

/// The measured requests that have something in common, in the order in which they were due.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    /// Latency in ms of each, however it ended.
    pub latencies: Vec<f64>,
    /// 1 for each that failed, 0 for each other one.
    pub failures: Vec<f64>,
    /// Whether each was given up, so that its latency is a least value.
    pub given_up: Vec<bool>,
}

impl Group {
    /// Adds one request of a run.
    pub fn push(&mut self, latency_ms: f64, outcome: Outcome) {
        self.latencies.push(latency_ms);
        self.failures.push(f64::from(u8::from(!outcome.is_success())));
        self.given_up.push(outcome.is_unanswered());
    }

    /// The latencies in one line; nothing of no request.
    pub(super) fn latency(&self) -> Option<Distribution> {
        let times = self.latencies.iter().zip(&self.given_up);
        Distribution::of_times(times.map(|(&value, &at_least)| Time { value, at_least }))
    }

    /// Latencies of those that did not fail.
    pub fn succeeded(&self) -> Vec<f64> {
        let all = self.latencies.iter().zip(&self.failures);
        all.filter(|(_, failed)| **failed == 0.0).map(|(latency, _)| *latency).collect()
    }
}

/// Groups by what their requests have in common.
pub type Groups = BTreeMap<String, Group>;

/// Reads the samples of `folder`, or those of the folders inside.
pub(super) fn read(folder: &Path) -> anyhow::Result<Groups> {
    let mut files: Vec<PathBuf> = samples_of(folder).into_iter().collect();
    if files.is_empty() {
        files = PARTS.iter().filter_map(|part| samples_of(&folder.join(part))).collect();
    }
    if files.is_empty() {
        let shown = folder.display();
        return Err(Error::Usage(format!("{shown}: no samples.csv in this folder")).into());
    }
    let mut groups = Groups::new();
    for file in files {
        for row in rows(&file)?.iter().filter(|row| !row.warm_up) {
            groups.entry(group(row)).or_default().push(row.latency_ms, row.outcome());
        }
    }
    Ok(groups)
}

/// The samples of a run, in part if it was killed.
pub(super) fn samples_of(folder: &Path) -> Option<PathBuf> {
    [SAMPLES, JOURNAL].map(|name| folder.join(name)).into_iter().find(|file| file.is_file())
}

/// Reads every row of a file of samples, and says if they are not all that there were to be.
pub(super) fn rows(file: &Path) -> anyhow::Result<Vec<Row>> {
    if file.ends_with(JOURNAL) {
        let shown = file.display();
        tracing::warn!(file = %shown, "the run was killed; these are the samples that it left");
    }
    read_rows(file)
}

/// Trials of one cell belong together; so do requests for one picture at one resolution.
fn group(row: &Row) -> String {
    let cell = row.trial.split(" trial=").next().unwrap_or_default();
    let item = match row.trial.as_str() {
        "rtt" => row.item.as_str(),
        "accuracy" => row.item.rsplit_once('@').map_or("", |(_, side)| side),
        _ => "",
    };
    format!("{cell} {item}").trim_end().to_owned()
}
