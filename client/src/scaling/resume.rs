//! Continues a run that was killed or ended early. Finished trials count as they are; the
//! interrupted one is repeated from its beginning, with the same schedule.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;

use super::{Args, settings};
use crate::driver::{Run, Tally, planned_end};
use crate::error::Error;
use crate::experiment::Trial;
use crate::record::{Folder, JOURNAL, Journal, MANIFEST, Manifest, Row, SAMPLES, read_rows};
use crate::sample::Sample;
use crate::workload::pictures::Picture;

/// What an earlier run left behind.
pub(super) struct Left {
    /// Its waits; those around the knee are found only once.
    pub(super) waits: Vec<f64>,
    /// The samples of the finished trials, by name of the trial.
    pub(super) trials: BTreeMap<String, Vec<Row>>,
    /// The journal, to which these samples were written again.
    pub(super) journal: Journal,
}

/// Takes over the run in `folder`, if it has the settings of `args`.
pub(super) fn take(args: &Args, picture: &Picture, folder: &Folder) -> anyhow::Result<Left> {
    let path = folder.path();
    let refuse = |text: &str| Error::Usage(format!("--resume: {} {text}", path.display()));
    if !path.join(MANIFEST).is_file() {
        return Err(refuse("holds no run").into());
    }
    let manifest: Manifest = folder.read_json(MANIFEST)?;
    let waits = serde_json::from_value(manifest.settings["waits"].clone());
    let waits: Vec<f64> = waits.map_err(|_| refuse("holds no run of `scaling`"))?;
    let asked = settings(&Args { waits: waits.clone(), ..args.clone() }, picture);
    let is_same = manifest.settings == asked
        && (args.knee || waits == args.waits)
        && manifest.seed == args.options.seed
        && manifest.target == args.options.target.to_string();
    if !is_same {
        return Err(refuse("holds a run with other settings, or of another service").into());
    }
    let [samples, journal] = [SAMPLES, JOURNAL].map(|name| path.join(name));
    let rows = if journal.is_file() { rows(&journal)? } else { rows(&samples)? };
    let trials = finished(rows);
    let all: Vec<Row> = trials.values().flatten().cloned().collect();
    folder.remove_conclusions()?;
    let journal = Journal::resume(folder, &all)?;
    if samples.is_file() {
        std::fs::remove_file(&samples).with_context(|| samples.display().to_string())?;
    }
    Ok(Left { waits, trials, journal })
}

/// The rows of a file; empty if the run was killed before its first answer.
fn rows(file: &Path) -> anyhow::Result<Vec<Row>> {
    if file.is_file() { read_rows(file) } else { Ok(Vec::new()) }
}

/// All trials except the last one begun, which may be incomplete, and those with more requests than
/// samples, whose figures cannot be recomputed.
fn finished(rows: Vec<Row>) -> BTreeMap<String, Vec<Row>> {
    let last = rows.last().map(|row| row.trial.clone());
    let mut trials: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows {
        if Some(&row.trial) != last.as_ref() {
            trials.entry(row.trial.clone()).or_default().push(row);
        }
    }
    trials.retain(|_, rows| {
        let last = rows.iter().filter_map(|row| row.index).max();
        last.is_none_or(|last| last < rows.len() as u64)
    });
    trials
}

/// Reconstructs the run that left these rows.
pub(super) fn run(trial: &Trial, rows: &[Row]) -> anyhow::Result<Run> {
    let end = planned_end(trial)?;
    let mut tally = Tally::of(trial);
    let samples: Vec<Sample> = (0..).zip(rows).map(|(index, row)| row.to_sample(index)).collect();
    for sample in &samples {
        tally.record(sample);
    }
    tally.close(end);
    Ok(Run { tally, samples, cap: None, generators: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::finished;
    use crate::record::Row;

    #[test]
    fn a_trial_of_which_not_every_request_was_kept_is_repeated() {
        let head = "trial,item,warm_up,scheduled_us,dispatched_us,sent_us,first_byte_us,done_us,latency_ms,service_time_ms,outcome,bytes,endpoint,label,correct,worker_ms,queue_ms,compute_ms,index";
        let trials = [
            ("whole", "1"),
            ("whole", "0"),
            ("thinned", "0"),
            ("thinned", "2"),
            ("of an older version", ""),
            ("last", "0"),
        ];
        let lines = trials.map(|(trial, index)| {
            format!("{trial},a,false,0,0,0,0,0,1.0,1.0,200,1,,,,,,,{index}\n")
        });
        let text = format!("{head}\n{}", lines.concat());
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows: Vec<Row> = reader.deserialize().map(Result::unwrap).collect();
        assert_eq!(
            finished(rows).into_keys().collect::<Vec<_>>(),
            ["of an older version", "whole"]
        );
    }
}
