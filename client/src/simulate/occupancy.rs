//! How long each request of a measured run occupied its worker.
//!
//! A worker that handles requests in sequence was free for a request once the previous one was
//! done, or when the request arrived if that was later; from then until the answer the request
//! occupied it (Lindley, "The theory of queues with a single server", 1952, read backwards). This
//! time includes everything that a request costs: computing, reading and writing, a quota that ran
//! out, other work of the machine. With the same arrivals and these costs, what remains to simulate
//! is the simulation's own subject: picks and queues. The effect of the moment is separated from
//! that of the request: see [`super::pace`].

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::pace::{self, Occupied, Pace};
use super::rest::{Rest, Rested};
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
    #[serde(default)]
    item: String,
}

impl Row {
    /// Milliseconds that neither the worker nor its queue accounts for; zero if the worker does not
    /// report its time.
    fn network(&self) -> f64 {
        let inside = self.worker_ms.map(|worker| worker + self.queue_ms.unwrap_or(0.0));
        let network = inside.zip(self.service_time_ms).map(|(inside, all)| (all - inside).max(0.0));
        network.unwrap_or(0.0)
    }
}

/// What a measured run can be simulated with.
#[derive(Debug, Clone)]
pub(crate) struct Replayed {
    /// Seconds that each request costs a worker of usual speed, in the order of the schedule.
    pub(crate) costs: Arc<[f64]>,
    /// How fast the workers were.
    pub(crate) paces: Arc<[Pace]>,
}

/// What requests cost the workers of a run.
#[derive(Debug, Clone)]
pub(crate) struct Occupancy {
    /// The costs on a worker that did not rest before.
    pub(crate) measured: Measured,
    /// The same per request, if known.
    pub(crate) replayed: Option<Replayed>,
    /// What a request saves after a rest, if that makes a difference.
    pub(crate) rest: Option<Rest>,
}

impl From<Measured> for Occupancy {
    fn from(measured: Measured) -> Self {
        Self { measured, replayed: None, rest: None }
    }
}

/// Reads `folder/samples.csv`.
pub(crate) fn read(folder: &Path) -> Result<Occupancy> {
    let file = folder.join("samples.csv");
    let shown = file.display().to_string();
    let mut reader = csv::Reader::from_path(&file).with_context(|| shown.clone())?;
    let rows: Vec<Row> =
        reader.deserialize().collect::<Result<_, _>>().with_context(|| shown.clone())?;
    let (network, mut costs) = costs(&rows);
    let count = costs.iter().flatten().count();
    ensure!(count >= 30, "{shown}: {count} requests succeeded, 30 are needed");
    let rest = without_rests(&rows, &mut costs);
    let times: Vec<f64> = costs.iter().flatten().map(|cost| cost.seconds).collect();
    let replayed = replayed(&rows, &costs);
    let measured = Measured { service: ServiceTime::Measured(times.into()), network };
    Ok(Occupancy { measured, replayed: Some(replayed), rest })
}

/// Converts each cost to that on a worker that did not rest before, and returns the savings found.
fn without_rests(rows: &[Row], costs: &mut [Option<Cost>]) -> Option<Rest> {
    let usual = usual(rows, costs);
    let seen: Vec<Rested> = rows
        .iter()
        .zip(&*costs)
        .filter_map(|(row, cost)| {
            let Cost { seconds, rest, .. } = (*cost)?;
            Some(Rested { rest, excess: seconds - usual(row) })
        })
        .collect();
    let found = Rest::of(&seen)?;
    for cost in costs.iter_mut().flatten() {
        cost.seconds += cost.rest.map_or(0.0, |rest| found.gain(rest));
    }
    Some(found)
}

/// What a request cost.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cost {
    seconds: f64,
    /// How long its worker had rested before, in seconds, if it had.
    rest: Option<f64>,
    /// When its worker began it and was done with it, in seconds into the run.
    begun: f64,
    done: f64,
}

/// The number of a request, and what it cost.
type Numbered = (usize, Cost);

/// The usual cost of a request: the median over requests with the same item.
fn usual<'a>(rows: &'a [Row], costs: &[Option<Cost>]) -> impl Fn(&Row) -> f64 + use<'a> {
    let mut of_item: HashMap<&str, Vec<f64>> = HashMap::new();
    for (row, cost) in rows.iter().zip(costs) {
        of_item.entry(&row.item).or_default().extend(cost.map(|cost| cost.seconds));
    }
    let middle = |times: &Vec<f64>| quantile(&sorted(times), 0.5);
    let usual: HashMap<&str, f64> =
        of_item.iter().filter_map(|(item, times)| Some((*item, middle(times)?))).collect();
    let all: Vec<f64> = costs.iter().flatten().map(|cost| cost.seconds).collect();
    let any = middle(&all).unwrap_or_default();
    move |row| usual.get(&*row.item).copied().unwrap_or(any)
}

/// Separates the effect of the moment from each cost.
fn replayed(rows: &[Row], costs: &[Option<Cost>]) -> Replayed {
    let usual_of = usual(rows, costs);
    let mut of_worker: BTreeMap<&str, Vec<Numbered>> = BTreeMap::new();
    for (number, (row, cost)) in rows.iter().zip(costs).enumerate() {
        let name = row.endpoint.as_deref().unwrap_or_default();
        of_worker.entry(name).or_default().extend(cost.map(|cost| (number, cost)));
    }
    of_worker.retain(|_, requests| !requests.is_empty());
    for requests in of_worker.values_mut() {
        requests.sort_by(|one, other| one.1.done.total_cmp(&other.1.done));
    }
    let logarithms = |requests: &Vec<Numbered>| {
        let of_one = |(number, cost): &Numbered| (cost.seconds / usual_of(&rows[*number])).ln();
        requests.iter().map(of_one).collect()
    };
    let series: Vec<Vec<f64>> = of_worker.values().map(logarithms).collect();
    let moments = pace::moments(&series);

    let mut own: Vec<f64> = rows.iter().map(usual_of).collect();
    let mut paces = Vec::new();
    for (requests, moments) in of_worker.values().zip(moments) {
        let mut seen = Vec::with_capacity(requests.len());
        for ((number, cost), moment) in requests.iter().zip(moments) {
            let slowness = moment.exp();
            own[*number] = cost.seconds / slowness;
            seen.push(Occupied { from: cost.begun, until: cost.done, slowness });
        }
        paces.push(Pace::new(&seen));
    }
    Replayed { costs: own.into(), paces: paces.into() }
}

/// One-way delay of the network, and the cost of each request that succeeded.
fn costs(rows: &[Row]) -> (Duration, Vec<Option<Cost>>) {
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
        let seconds = (done - came.max(before.unwrap_or(0.0))).max(1e-6);
        let rest = Some(came - before.unwrap_or(0.0)).filter(|&rest| rest > 0.0);
        costs[i] = Some(Cost { seconds, rest, begun: done - seconds, done });
    }
    (Duration::from_secs_f64(way), costs)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Row, costs};

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
            item: String::new(),
        }
    }

    #[test]
    fn a_request_that_waited_costs_from_the_answer_before_it() {
        // 2 ms of network: one arrives at 1 and is done at 11; the next arrives at 5, done at 21.
        let rows = [
            row("a", 0, 12_000),
            row("a", 4000, 22_000),
            row("b", 5000, 17_000),
            row("a", 90_000, 97_000),
            Row { outcome: "503".to_owned(), ..row("a", 95_000, 96_000) },
        ];
        let (way, costs) = costs(&rows);
        assert_eq!(way, Duration::from_millis(1));
        let millis: Vec<_> =
            costs.iter().map(|cost| cost.map(|it| (it.seconds * 1e3).round())).collect();
        assert_eq!(millis, [Some(10.0), Some(10.0), Some(10.0), Some(5.0), None]);
    }
}
