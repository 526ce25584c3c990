//! How long each request of a measured run kept its worker from the next one.
//!
//! A worker that answers one request after another was free for a request when the one before it
//! was done, or when the request came if that was later; from then to its answer it was occupied
//! with it (Lindley, "The theory of queues with a single server", 1952, read backwards). That holds
//! all that a request costs: computing, reading and writing, a quota that ran out, other work of
//! the machine. Given back to the same arrivals, the costs leave to the simulation what it is for:
//! picks and queues.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::service::{Measured, ServiceTime};
use crate::stats::{quantile, sorted};

/// A row of `samples.csv`.
#[derive(Debug, Deserialize)]
struct Row {
    sent_us: Option<u64>,
    done_us: u64,
    service_time_ms: Option<f64>,
    outcome: String,
    endpoint: Option<String>,
    worker_ms: Option<f64>,
    #[serde(default)]
    queue_ms: Option<f64>,
}

impl Row {
    /// Milliseconds that neither the worker nor its queue accounts for; zero if it does not say.
    fn network(&self) -> f64 {
        let inside = self.worker_ms.map(|worker| worker + self.queue_ms.unwrap_or(0.0));
        let network = inside.zip(self.service_time_ms).map(|(inside, all)| (all - inside).max(0.0));
        network.unwrap_or(0.0)
    }
}

/// Seconds of each request, in the order of the schedule.
pub(crate) type Costs = Arc<[f64]>;

/// Reads `folder/samples.csv`: the distribution, the network, and the cost of each request.
pub(crate) fn read(folder: &Path) -> Result<(Measured, Costs)> {
    let file = folder.join("samples.csv");
    let shown = file.display().to_string();
    let mut reader = csv::Reader::from_path(&file).with_context(|| shown.clone())?;
    let rows: Vec<Row> =
        reader.deserialize().collect::<Result<_, _>>().with_context(|| shown.clone())?;
    let (network, costs) = costs(&rows);
    let times: Vec<f64> = costs.iter().copied().flatten().collect();
    ensure!(times.len() >= 30, "{shown}: {} requests succeeded, 30 are needed", times.len());
    let middle = quantile(&sorted(&times), 0.5).unwrap_or_default();
    let costs = costs.into_iter().map(|cost| cost.unwrap_or(middle)).collect();
    Ok((Measured { service: ServiceTime::Measured(times.into()), network }, costs))
}

/// One way of the network, and the seconds of each request that succeeded.
fn costs(rows: &[Row]) -> (Duration, Vec<Option<f64>>) {
    let mut answered: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].outcome == "200").collect();
    let mut networks: Vec<f64> = answered.iter().map(|&i| rows[i].network()).collect();
    networks.sort_unstable_by(f64::total_cmp);
    let way = networks.get(networks.len() / 2).map_or(0.0, |both| both / 2.0 / 1e3);
    answered.sort_unstable_by_key(|&i| rows[i].done_us);
    let mut free: HashMap<&str, f64> = HashMap::new();
    let mut costs = vec![None; rows.len()];
    for i in answered {
        let row = &rows[i];
        let Some(sent) = row.sent_us else { continue };
        let (came, done) = (sent as f64 / 1e6 + way, row.done_us as f64 / 1e6 - way);
        let before = free.insert(row.endpoint.as_deref().unwrap_or_default(), done);
        // A microsecond is the resolution of the file.
        costs[i] = Some((done - came.max(before.unwrap_or(0.0))).max(1e-6));
    }
    (Duration::from_secs_f64(way), costs)
}

#[cfg(test)]
mod tests {
    use super::{Row, costs};
    use std::time::Duration;

    fn row(endpoint: &str, sent_us: u64, done_us: u64) -> Row {
        let service_time_ms = (done_us - sent_us) as f64 / 1e3;
        Row {
            sent_us: Some(sent_us),
            done_us,
            service_time_ms: Some(service_time_ms),
            outcome: "200".to_owned(),
            endpoint: Some(endpoint.to_owned()),
            worker_ms: Some(service_time_ms - 2.0),
            queue_ms: Some(0.0),
        }
    }

    #[test]
    fn a_request_that_waited_costs_from_the_answer_before_it() {
        // 2 ms of network: one comes at 1 and is done at 11; the next came at 5 and is done at 21.
        let rows = [
            row("a", 0, 12_000),
            row("a", 4000, 22_000),
            row("b", 5000, 17_000),
            row("a", 90_000, 97_000),
            Row { outcome: "503".to_owned(), ..row("a", 95_000, 96_000) },
        ];
        let (way, costs) = costs(&rows);
        assert_eq!(way, Duration::from_millis(1));
        let millis: Vec<_> = costs.iter().map(|cost| cost.map(|s| (s * 1e3).round())).collect();
        assert_eq!(millis, [Some(10.0), Some(10.0), Some(10.0), Some(5.0), None]);
    }
}
