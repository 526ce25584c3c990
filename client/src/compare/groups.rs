//! The samples of a results folder, divided into comparable groups.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::driver::Sieve;
use crate::error::Error;
use crate::experiment::{KEPT_SAMPLES, Trial};
use crate::record::{Folder, JOURNAL, MANIFEST, PARTS, Row, SAMPLES, read_rows};
use crate::sample::Outcome;
use crate::stats::{Distribution, Time};

/// Measured requests with something in common, in the order in which they were due.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    /// Latency of each request in ms, however it ended.
    pub latencies: Vec<f64>,
    /// 1 for each request that failed, 0 for every other.
    pub failures: Vec<f64>,
    /// Whether each request was given up, so that its latency is a lower bound.
    pub given_up: Vec<bool>,
}

impl Group {
    /// Adds one request of a run.
    pub fn push(&mut self, latency_ms: f64, outcome: Outcome) {
        self.latencies.push(latency_ms);
        self.failures.push(f64::from(u8::from(!outcome.is_success())));
        self.given_up.push(outcome.is_unanswered());
    }

    /// Summary of the latencies; `None` if there is no request.
    pub(super) fn latency(&self) -> Option<Distribution> {
        let times = self.latencies.iter().zip(&self.given_up);
        Distribution::of_times(times.map(|(&value, &at_least)| Time { value, at_least }))
    }

    /// Latencies of the requests that did not fail.
    pub fn succeeded(&self) -> Vec<f64> {
        let all = self.latencies.iter().zip(&self.failures);
        all.filter(|(_, failed)| **failed == 0.0).map(|(latency, _)| *latency).collect()
    }
}

/// Groups by what their requests have in common.
pub type Groups = BTreeMap<String, Group>;

/// Reads the samples of `folder`, or those of the experiments inside it.
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
        for row in rows(&file)?.rows.iter().filter(|row| !row.warm_up) {
            groups.entry(group(row)).or_default().push(row.latency_ms, row.outcome());
        }
    }
    Ok(groups)
}

/// The file with the samples of a run; the journal if the run was killed.
pub(super) fn samples_of(folder: &Path) -> Option<PathBuf> {
    [SAMPLES, JOURNAL].map(|name| folder.join(name)).into_iter().find(|file| file.is_file())
}

/// Samples of a run. Each request of a trial had the same chance of being kept.
pub(super) struct Kept {
    pub(super) rows: Vec<Row>,
    /// How many requests each sample stands for, if the run was killed and left no count.
    pub(super) every: Option<f64>,
}

/// Reads the rows of a file of samples, and warns if the run was killed.
pub(super) fn rows(file: &Path) -> anyhow::Result<Kept> {
    let rows = read_rows(file)?;
    if !file.ends_with(JOURNAL) {
        return Ok(Kept { rows, every: None });
    }
    let shown = file.display();
    tracing::warn!(file = %shown, "the run was killed; these are the samples that it left");
    Ok(evenly(rows, &Keeping::of(file)))
}

/// How the samples of each trial of a run were kept.
struct Keeping {
    threads: NonZeroUsize,
    samples: usize,
    every: NonZeroU64,
}

impl Keeping {
    /// As stated by the manifest beside `file`, with the usual settings as a fallback.
    fn of(file: &Path) -> Self {
        let folder = Folder::open(file.parent().unwrap_or(Path::new("")));
        let manifest = folder.read_json::<serde_json::Value>(MANIFEST).unwrap_or_default();
        let trial = Trial::deserialize(&manifest["settings"]["trial"]);
        trial.map_or(
            Self { threads: NonZeroUsize::MIN, samples: KEPT_SAMPLES, every: NonZeroU64::MIN },
            |it| Self { threads: it.threads, samples: it.keep_samples, every: it.keep_every },
        )
    }
}

/// Thins out the samples that a killed run wrote while it ran. Once a thread had reached its
/// limit of samples, it wrote an ever smaller share of the later ones, so earlier ones are
/// dropped to match.
fn evenly(rows: Vec<Row>, keeping: &Keeping) -> Kept {
    let threads = keeping.threads.get();
    let mut trials: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows {
        trials.entry(row.trial.clone()).or_default().push(row);
    }
    let mut kept = Kept { rows: Vec::new(), every: Some(keeping.every.get() as f64) };
    for mut rows in trials.into_values() {
        // Older runs did not record the numbers of the requests.
        if rows.iter().all(|row| row.index.is_some()) {
            let sieve = || Sieve::new(keeping.samples / threads, keeping.every);
            let mut sieves: Vec<Sieve> = std::iter::repeat_with(sieve).take(threads).collect();
            for (index, row) in rows.iter().filter_map(|row| Some((row.index?, row))) {
                let thread = index % threads as u64;
                let sieve = usize::try_from(thread).ok().and_then(|it| sieves.get_mut(it));
                sieve.expect("a remainder").add(row.to_sample(index));
            }
            let sieve = Sieve::join(sieves);
            rows.retain(|row| row.index.is_some_and(|index| sieve.wants(index)));
            kept.every = Some(u64::MAX as f64 / sieve.below().max(1) as f64);
        }
        kept.rows.extend(rows);
    }
    kept
}

/// Groups the trials of one cell, and the requests for one picture or at one resolution.
fn group(row: &Row) -> String {
    let cell = row.trial.split(" trial=").next().unwrap_or_default();
    let item = match row.trial.as_str() {
        "rtt" => row.item.as_str(),
        "accuracy" => row.item.rsplit_once('@').map_or("", |(_, side)| side),
        _ => "",
    };
    format!("{cell} {item}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU64, NonZeroUsize};
    use std::time::Duration;

    use super::{Keeping, evenly};
    use crate::driver::Sieve;
    use crate::record::Row;

    /// A killed run of two threads that may keep 1,000 samples.
    #[test]
    fn what_a_killed_run_left_is_spread_evenly_over_it() {
        const REQUESTS: u64 = 100_000;
        let keeping = Keeping {
            threads: NonZeroUsize::new(2).unwrap(),
            samples: 1000,
            every: NonZeroU64::MIN,
        };
        let mut sieves = [0, 1].map(|_| Sieve::new(500, NonZeroU64::MIN));
        let mut written: Vec<Row> = Vec::new();
        for index in 0..REQUESTS {
            let row = row(index);
            let sieve = &mut sieves[usize::from(index % 2 == 1)];
            if sieve.wants(index) {
                sieve.add(row.to_sample(index));
                written.push(row);
            }
        }
        let early = |rows: &[Row]| {
            let early = rows.iter().filter(|row| row.index < Some(REQUESTS / 10)).count();
            early as f64 / rows.len() as f64
        };
        assert!(early(&written) > 0.4, "at first everything is written: {}", early(&written));
        let kept = evenly(written, &keeping);
        assert!((800..=1000).contains(&kept.rows.len()), "{}", kept.rows.len());
        assert!((0.05..0.15).contains(&early(&kept.rows)), "{}", early(&kept.rows));
        let stands_for = kept.every.unwrap() * kept.rows.len() as f64 / REQUESTS as f64;
        assert!((0.85..1.15).contains(&stands_for), "{stands_for}");
    }

    fn row(index: u64) -> Row {
        let due = u64::try_from(Duration::from_millis(index).as_micros()).unwrap();
        Row {
            trial: "load".to_owned(),
            item: String::new(),
            warm_up: false,
            scheduled_us: due,
            dispatched_us: due,
            sent_us: Some(due),
            first_byte_us: due,
            done_us: due + 5000,
            latency_ms: 5.0,
            service_time_ms: Some(5.0),
            outcome: "200".to_owned(),
            bytes: 1,
            endpoint: None,
            label: None,
            correct: None,
            worker_ms: None,
            queue_ms: None,
            compute_ms: None,
            index: Some(index),
        }
    }
}
