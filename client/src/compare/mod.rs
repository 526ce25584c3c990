//! `client report`: draws the plots of a run again, or compares two runs.
//!
//! Works on `samples.csv` alone, so runs of different days and machines compare. A difference is
//! called one only if the rank test says so after Holm's correction for looking many times; its
//! size is stated with an interval either way.

mod chart;
mod groups;
mod redraw;

pub use groups::Groups;

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;

use crate::error::Error;
use crate::record::Folder;
use crate::report::{Table, number};
use crate::stats::{Interval, Summary, bootstrap_difference, mann_whitney, quantile, sorted};
use groups::read;

const EXAMPLES: &str = "\
Examples:
  client report results/rtt-before                     its numbers and plots, drawn again
  client report results/rtt-before results/rtt-after   is the second one faster?
  client report results/a results/b --out results/a-b  the same as a page

A folder of `client reproduce` counts as its three experiments.";

/// Flags of `client report`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// One folder of results, or two to compare.
    #[arg(env = "CLIENT_RESULTS", value_name = "DIR", required = true, num_args = 1..=2)]
    pub folders: Vec<PathBuf>,
    /// Folder for the page that compares two runs; must be new or empty. No page without.
    #[arg(long, env = "CLIENT_OUT", value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long, env = "CLIENT_JSON")]
    pub json: bool,
    /// Seed of the resampling.
    #[arg(long, env = "CLIENT_SEED", default_value_t = 1, value_name = "N")]
    pub seed: u64,
}

/// A difference is one below this probability of seeing it by chance.
const SIGNIFICANT: f64 = 0.05;

/// How two runs differ in one group of requests.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// What the requests have in common.
    pub group: String,
    /// First run, latency in ms.
    pub a: Summary,
    /// Second run, latency in ms.
    pub b: Summary,
    /// Median of the second less median of the first (ms).
    pub median_change: f64,
    /// Its 95 % interval.
    pub interval: Option<Interval>,
    /// How probable so large a difference is without any (two-sided).
    pub p_value: f64,
    /// Whether it is one, after Holm's correction.
    pub is_significant: bool,
}

/// Prints a summary and draws its plots again, or prints a comparison.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    let groups: Vec<Groups> =
        args.folders.iter().map(|folder| read(folder)).collect::<anyhow::Result<_>>()?;
    if let [a, b] = groups.as_slice() {
        let differences = compare(a, b, args.seed);
        if differences.is_empty() {
            return Err(Error::Usage("the two runs have no requests in common".into()).into());
        }
        if let Some(path) = &args.out {
            let folder = Folder::create(Some(path), "report")?;
            folder.write_json("differences.json", &differences)?;
            folder.write("compare.svg", chart::medians(&differences).to_svg().as_bytes())?;
            folder.write("report.html", chart::page(&args.folders, &differences).as_bytes())?;
        }
        if args.json {
            serde_json::to_writer_pretty(&mut *out, &differences).context("writing JSON")?;
            writeln!(out)?;
        } else {
            write!(out, "{}", difference_table(&differences))?;
        }
        return Ok(());
    }
    for folder in &args.folders {
        redraw::redraw(folder)?;
    }
    let summaries: Vec<(String, Summary)> = groups
        .iter()
        .flatten()
        .filter_map(|(group, times)| Some((group.clone(), Summary::of(times)?)))
        .collect();
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &summaries).context("writing JSON")?;
        writeln!(out)?;
    } else {
        write!(out, "{}", summary_table(&summaries))?;
    }
    Ok(())
}

/// The differences in every group that both runs have.
pub fn compare(a: &Groups, b: &Groups, seed: u64) -> Vec<Difference> {
    let median = |values: &[f64]| quantile(&sorted(values), 0.5);
    let mut differences: Vec<Difference> = a
        .iter()
        .filter_map(|(group, ours)| {
            let theirs = b.get(group)?;
            Some(Difference {
                group: group.clone(),
                a: Summary::of(ours)?,
                b: Summary::of(theirs)?,
                median_change: median(theirs)? - median(ours)?,
                interval: bootstrap_difference(ours, theirs, median, seed),
                p_value: mann_whitney(ours, theirs)?.p_value,
                is_significant: false,
            })
        })
        .collect();
    holm(&mut differences);
    differences
}

/// Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979).
fn holm(differences: &mut [Difference]) {
    let count = differences.len();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|one, other| differences[*one].p_value.total_cmp(&differences[*other].p_value));
    for (rank, index) in order.into_iter().enumerate() {
        if differences[index].p_value > SIGNIFICANT / (count - rank) as f64 {
            break;
        }
        differences[index].is_significant = true;
    }
}

fn difference_table(differences: &[Difference]) -> Table {
    let mut table = Table::new(&[
        "group",
        "n",
        "A p50 ms",
        "B p50 ms",
        "change ms",
        "from",
        "to",
        "A p99",
        "B p99",
        "p",
        "verdict",
    ]);
    for difference in differences {
        let Difference { a, b, interval, .. } = difference;
        let verdict = match (difference.is_significant, difference.median_change < 0.0) {
            (false, _) => "no difference shown",
            (true, true) => "B is faster",
            (true, false) => "B is slower",
        };
        table.push(vec![
            difference.group.clone(),
            format!("{}+{}", a.count, b.count),
            number(Some(a.p50)),
            number(Some(b.p50)),
            number(Some(difference.median_change)),
            number(interval.map(|interval| interval.low)),
            number(interval.map(|interval| interval.high)),
            number(Some(a.p99)),
            number(Some(b.p99)),
            format!("{:.2e}", difference.p_value),
            verdict.to_owned(),
        ]);
    }
    table
}

fn summary_table(summaries: &[(String, Summary)]) -> Table {
    let mut table = Table::new(&["group", "n", "mean ms", "p50 ms", "p95 ms", "p99 ms", "max ms"]);
    for (group, s) in summaries {
        let values = [s.mean, s.p50, s.p95, s.p99, s.max].map(|value| number(Some(value)));
        let cells = [group.clone(), s.count.to_string()];
        table.push(cells.into_iter().chain(values).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{compare, groups::Groups};

    fn run(shift: f64) -> Groups {
        let times = (0..60).map(|n| 10.0 + f64::from(n % 13) + shift).collect();
        Groups::from([("rtt".to_owned(), times)])
    }

    #[test]
    fn a_clear_shift_is_a_difference_of_its_size() {
        let found = &compare(&run(0.0), &run(5.0), 1)[0];
        assert!(found.is_significant && (found.median_change - 5.0).abs() < 1e-9);
        let interval = found.interval.unwrap();
        assert!(interval.low > 0.0 && interval.low <= 5.0 && 5.0 <= interval.high);
    }

    #[test]
    fn the_same_run_twice_is_no_difference() {
        assert!(!compare(&run(0.0), &run(0.0), 1)[0].is_significant);
    }
}
