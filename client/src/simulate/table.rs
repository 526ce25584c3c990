//! The result of `client simulate` as a table, with the results of theory where there are any.

use std::io::Write;

use anyhow::Result;

use super::elastic::Resize;
use super::outcome::SimulatedRun;
use super::scenario::Scenario;
use super::service::ServiceTime;
use super::theory::MarkovQueue;
use crate::report::{Table, number};

/// Maximum number of changes in the number of workers to show.
const MAX_CHANGES: usize = 50;

const HEADS: [&str; 11] = [
    "policy",
    "answers/s",
    "busy %",
    "mean ms",
    "p50",
    "p95",
    "p99",
    "p99.9",
    "errors",
    "retries",
    "ejections",
];

pub(crate) fn write(
    scenario: &Scenario,
    outcomes: &[SimulatedRun],
    out: &mut dyn Write,
) -> Result<()> {
    writeln!(
        out,
        "{} workers x {} executors, service time {}, {:.1} requests/s ({:.0} % of capacity{}), seed {}\n",
        scenario.range(),
        scenario.threads,
        scenario.service,
        scenario.rate,
        scenario.offered_utilisation() * 100.0,
        if scenario.batch.max > 1 { " without batches" } else { "" },
        scenario.seed
    )?;
    let mut table = Table::new(&HEADS);
    for outcome in outcomes {
        // Latency under overload only reflects the length of the run, so it is not shown.
        let times = if outcome.is_overloaded {
            [f64::NAN; 5]
        } else {
            [outcome.mean, outcome.p50, outcome.p95, outcome.p99, outcome.p999]
        };
        let mut cells = row(outcome.policy, Some(outcome.throughput), outcome.utilisation, times);
        cells.extend([outcome.errors(), outcome.retries, outcome.ejections].map(|n| n.to_string()));
        table.push(cells);
    }
    theory(scenario, &mut table);
    write!(out, "{table}")?;
    for outcome in outcomes {
        if let Some(doubt) = &outcome.doubt {
            writeln!(out, "{}: {doubt}", outcome.policy)?;
        }
    }
    if scenario.scaling.is_some() || scenario.elastic.is_some() {
        writeln!(out)?;
        for outcome in outcomes {
            writeln!(out, "{}: {:.1} workers on average", outcome.policy, outcome.mean_workers)?;
            changes(outcome, out)?;
        }
    }
    Ok(())
}

/// When the balancer started and stopped workers, and why.
fn changes(outcome: &SimulatedRun, out: &mut dyn Write) -> Result<()> {
    for Resize { at, from, to, reason } in outcome.changes.iter().take(MAX_CHANGES) {
        writeln!(out, "{at:9.1} s  {from} -> {to}  {reason}")?;
    }
    let more = outcome.changes.len().saturating_sub(MAX_CHANGES);
    if more > 0 {
        writeln!(out, "and {more} more changes; --json has all of them")?;
    }
    Ok(())
}

fn row(name: &str, throughput: Option<f64>, busy: f64, seconds: [f64; 5]) -> Vec<String> {
    let mut cells = vec![name.to_owned(), number(throughput), format!("{:.1}", busy * 100.0)];
    cells.extend(seconds.map(|time| number(Some(time * 1e3))));
    cells
}

/// The two cases that bound every policy for exponential service: a worker that gets no help, and
/// one queue that all workers share.
fn theory(scenario: &Scenario, table: &mut Table) {
    let ServiceTime::Exponential(mean) = scenario.service else { return };
    let is_plain = scenario.batch.max == 1
        && !scenario.uniform
        && scenario.instants.is_none()
        && scenario.costs.is_none()
        && scenario.paces.is_none()
        && scenario.quota.is_none()
        && scenario.slow.is_none()
        && scenario.crashes.is_none()
        && scenario.scaling.is_none()
        && scenario.elastic.is_none();
    if !is_plain || scenario.offered_utilisation() >= 1.0 {
        return;
    }
    let service_rate = 1.0 / mean.as_secs_f64();
    let alone = scenario.rate / scenario.workers as f64;
    let (each, all) = (scenario.threads, scenario.workers * scenario.threads);
    let way = scenario.network.as_secs_f64() * 2.0;
    for (name, arrival_rate, servers) in [
        ("theory: random, M/M/c each", alone, each),
        ("theory: one queue, M/M/c", scenario.rate, all),
    ] {
        let queue = MarkovQueue { arrival_rate, service_rate, servers };
        let quantiles = [0.5, 0.95, 0.99, 0.999].map(|q| queue.quantile(q) + way);
        let [p50, p95, p99, p999] = quantiles;
        let times = [queue.mean() + way, p50, p95, p99, p999];
        table.push(row(name, None, queue.utilisation(), times));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::write;
    use crate::simulate::quota::Quota;
    use crate::simulate::{Scenario, ServiceTime};

    fn shown(scenario: &Scenario) -> String {
        let mut out = Vec::new();
        write(scenario, &[], &mut out).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn theory_stands_in_the_table_only_where_it_holds() {
        let millis = Duration::from_millis;
        let plain = Scenario::new(4, 100.0, ServiceTime::Exponential(millis(20)));
        assert!(shown(&plain).contains("theory: random, M/M/c each"), "{}", shown(&plain));
        let quota = Quota { quota: millis(9), period: millis(10), tick: millis(4) };
        for other in [
            Scenario { quota: Some(quota), ..plain.clone() },
            Scenario { instants: Some([1, 2].into()), ..plain.clone() },
            Scenario { costs: Some([0.02].into()), ..plain.clone() },
            Scenario { uniform: true, ..plain },
        ] {
            assert!(!shown(&other).contains("theory"), "{other:?}");
        }
    }
}
