//! The schedule of a measured run, replayed for a simulated fleet.
//!
//! A comparison of a simulation with a measurement is then about the fleet, not about the luck of
//! two different draws.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::scenario::Scenario;

/// When the requests of a run were due, warm-up included.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    instants: Arc<[u64]>,
    warm_up: usize,
}

/// How many requests a load run measured, if its summary states it.
fn requests(folder: &Path) -> Option<u64> {
    #[derive(Deserialize)]
    struct Summary {
        requests: u64,
    }
    let text = std::fs::read(folder.join("summary.json")).ok()?;
    serde_json::from_slice(&text).ok().map(|summary: Summary| summary.requests)
}

impl Replay {
    /// Reads the run from `folder/samples.csv`.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Row {
            warm_up: bool,
            scheduled_us: u64,
        }
        let file = folder.join("samples.csv");
        let shown = file.display().to_string();
        let mut reader = csv::Reader::from_path(&file).with_context(|| shown.clone())?;
        let rows: Vec<Row> =
            reader.deserialize().collect::<Result<_, _>>().with_context(|| shown.clone())?;
        let instants: Arc<[u64]> = rows.iter().map(|row| row.scheduled_us * 1000).collect();
        ensure!(instants.len() >= 2, "{shown}: too few requests");
        ensure!(instants.is_sorted(), "{shown}: more than one trial");
        let warm_up = rows.iter().filter(|row| row.warm_up).count();
        let kept = (rows.len() - warm_up) as u64;
        if let Some(requests) = requests(folder) {
            ensure!(
                requests <= kept,
                "{shown}: only {kept} of {requests} requests were kept, and their arrivals are those of a \
                 lower rate; keep all of them (client load --keep-samples)"
            );
        }
        Ok(Self { instants, warm_up })
    }

    /// `scenario` with these arrivals.
    pub(crate) fn of(&self, scenario: Scenario) -> Scenario {
        let (count, last) = (self.instants.len(), self.instants.last().copied().unwrap_or(1));
        Scenario {
            requests: count as u64,
            rate: count as f64 / (last as f64 / 1e9),
            // Half a request more, so that rounding down leaves exactly the warm-up.
            warm_up: (self.warm_up as f64 + 0.5) / count as f64,
            removes_transient: false,
            instants: Some(Arc::clone(&self.instants)),
            ..scenario
        }
    }
}
