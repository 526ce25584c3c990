//! `client report`: draws the plots of a run again, or compares two runs.
//!
//! Works on `samples.csv` alone, so runs from different days and machines can be compared.
//! Failures are compared first: if they differ, latencies mean different things. A difference is
//! reported only if it is significant under a method that accounts for dependence between
//! neighbouring requests, after Holm's correction for multiple comparisons; its size is stated
//! with an interval either way.

mod chart;
mod groups;
mod redraw;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::builder::BoolishValueParser;
use groups::read;
pub use groups::{Group, Groups};
use serde::Serialize;

use crate::error::Error;
use crate::record::Folder;
use crate::report::{Table, bound, number};
use crate::stats::{Change, Distribution, Estimate, Interval, Pick, mean, quantile_of};

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
    /// Folder for the page that compares two runs; must be new or empty. Default: no page.
    #[arg(long, env = "CLIENT_OUT", value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long, env = "CLIENT_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
}

/// Significance level.
const SIGNIFICANT: f64 = 0.05;

/// Result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// More requests of the second run failed.
    FailsMore,
    /// Fewer requests of the second run failed.
    FailsLess,
    /// The second run is faster.
    Faster,
    /// The second run is slower.
    Slower,
    /// What was observed may be chance.
    NoDifference,
    /// Too few requests to say anything.
    TooFew,
}

impl Finding {
    fn text(self) -> &'static str {
        match self {
            Self::FailsMore => "B fails more",
            Self::FailsLess => "B fails less",
            Self::Faster => "B is faster",
            Self::Slower => "B is slower",
            Self::NoDifference => "no difference shown",
            Self::TooFew => "too few samples",
        }
    }

    /// Whether the two runs differ.
    pub fn is_difference(self) -> bool {
        !matches!(self, Self::NoDifference | Self::TooFew)
    }
}

/// How two runs differ in one group of requests.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// What the requests have in common.
    pub group: String,
    /// First run, latency in ms of all requests.
    pub a: Distribution,
    /// Second run, latency in ms of all requests.
    pub b: Distribution,
    /// Share of the requests that failed in the first run.
    pub failed_a: f64,
    /// Share of the requests that failed in the second run.
    pub failed_b: f64,
    /// 95 % interval of the change of that share.
    pub failed_interval: Option<Interval>,
    /// Median of the second run minus median of the first (ms).
    pub median_change: f64,
    /// Its 95 % interval.
    pub interval: Option<Interval>,
    /// Probability of such differences if the runs did not differ.
    pub p_value: f64,
    /// The conclusion, after Holm's correction.
    pub finding: Finding,
}

/// Prints a summary of one run and redraws its plots, or prints a comparison of two.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    if args.folders.len() == 1 && args.out.is_some() {
        let text =
            "--out is for the page that compares two runs; one run is drawn again where it is";
        return Err(Error::Usage(text.to_owned()).into());
    }
    let groups: Vec<Groups> =
        args.folders.iter().map(|folder| read(folder)).collect::<anyhow::Result<_>>()?;
    let remarks: Vec<String> = args
        .folders
        .iter()
        .zip(&groups)
        .filter_map(|(folder, groups)| remark(folder, groups))
        .collect();
    if args.json {
        for remark in &remarks {
            tracing::warn!("{remark}");
        }
    }
    if let [a, b] = groups.as_slice() {
        let differences = compare(a, b);
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
            remarks.iter().try_for_each(|remark| writeln!(out, "\n{remark}"))?;
        }
        return Ok(());
    }
    if groups.iter().all(Groups::is_empty) {
        return Err(Error::Usage("there is no measured request in this folder".to_owned()).into());
    }
    for folder in &args.folders {
        redraw::redraw(folder)?;
    }
    let summaries: Vec<(String, Distribution)> = groups
        .iter()
        .flatten()
        .filter_map(|(name, group)| Some((name.clone(), group.latency()?)))
        .collect();
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &summaries).context("writing JSON")?;
        writeln!(out)?;
    } else {
        write!(out, "{}", summary_table(&summaries))?;
        remarks.iter().try_for_each(|remark| writeln!(out, "\n{remark}"))?;
    }
    Ok(())
}

/// A remark on a run of which only some samples were kept; `None` if all were.
fn remark(folder: &Path, groups: &Groups) -> Option<String> {
    let kept: usize = groups.values().map(|group| group.latencies.len()).sum();
    let all = redraw::requests_of(folder).filter(|all| *all > kept as u64)?;
    let folder = folder.display();
    Some(format!(
        "{folder}: {kept} of {all} requests were kept one by one, drawn at random, and the figures are \
         theirs; summary.json has those of all"
    ))
}

/// The differences in every group that the two runs have in common.
pub fn compare(a: &Groups, b: &Groups) -> Vec<Difference> {
    let mut differences: Vec<Difference> =
        a.iter().filter_map(|(name, ours)| difference(name, ours, b.get(name)?)).collect();
    holm(&mut differences);
    differences
}

fn difference(name: &str, ours: &Group, theirs: &Group) -> Option<Difference> {
    let median = |values: &[f64]| quantile_of(values, 0.5);
    let (a, b) = (&ours.latencies, &theirs.latencies);
    let failed = change((&ours.failures, &theirs.failures), mean);
    let times = change((a, b), median);
    let (p_value, finding) = judge(failed, times);
    Some(Difference {
        group: name.to_owned(),
        a: ours.latency()?,
        b: theirs.latency()?,
        failed_a: mean(&ours.failures)?,
        failed_b: mean(&theirs.failures)?,
        failed_interval: failed.map(|change| change.interval),
        median_change: median(b)? - median(a)?,
        interval: times.map(|change| change.interval),
        p_value,
        finding,
    })
}

/// How a statistic of the requests changes from the first run to the second.
fn change(
    (ours, theirs): (&[f64], &[f64]),
    statistic: impl Fn(&[f64]) -> Option<f64>,
) -> Option<Change> {
    let a = Estimate::of(ours, &statistic)?;
    Some(a.change_to(&Estimate::of(theirs, &statistic)?))
}

/// Judges one group on its own. A difference in failures decides alone; two changes are tested, so
/// each has half of the level (Bonferroni).
fn judge(failed: Option<Change>, times: Option<Change>) -> Judged {
    let (Some(failed), Some(times)) = (failed, times) else { return (1.0, Finding::TooFew) };
    let looks = 2.0;
    let (by_failures, by_times) = (failed.p_value * looks, times.p_value * looks);
    if by_failures <= SIGNIFICANT {
        let more = failed.value > 0.0;
        return (by_failures, if more { Finding::FailsMore } else { Finding::FailsLess });
    }
    let faster = times.value < 0.0;
    (by_times.min(1.0), if faster { Finding::Faster } else { Finding::Slower })
}

/// A p-value, and the finding if it is small enough.
type Judged = (f64, Finding);

/// Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979).
fn holm(differences: &mut [Difference]) {
    let count = differences.len();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|one, other| differences[*one].p_value.total_cmp(&differences[*other].p_value));
    let is_shown = |(rank, index): (usize, &usize)| {
        differences[*index].p_value <= SIGNIFICANT / (count - rank) as f64
    };
    let shown = order.iter().enumerate().take_while(|it| is_shown(*it)).count();
    for index in order.split_off(shown) {
        if differences[index].finding != Finding::TooFew {
            differences[index].finding = Finding::NoDifference;
        }
    }
}

fn difference_table(differences: &[Difference]) -> Table {
    let mut table = Table::new(&[
        "group",
        "n",
        "A failed %",
        "B failed %",
        "A p50 ms",
        "B p50 ms",
        "change ms",
        "from",
        "to",
        "A p99",
        "B p99",
        "verdict",
    ]);
    let percent = |share: f64| number(Some(100.0 * share));
    for difference in differences {
        let Difference { a, b, interval, .. } = difference;
        table.push(vec![
            difference.group.clone(),
            format!("{}+{}", a.count, b.count),
            percent(difference.failed_a),
            percent(difference.failed_b),
            told(a, "p50", |it| it.p50),
            told(b, "p50", |it| it.p50),
            number(Some(difference.median_change)),
            number(interval.map(|interval| interval.low)),
            number(interval.map(|interval| interval.high)),
            told(a, "p99", |it| it.p99),
            told(b, "p99", |it| it.p99),
            difference.finding.text().to_owned(),
        ]);
    }
    table
}

/// A figure of a summary, marked if it is a lower bound.
fn told(of: &Distribution, figure: &str, pick: Pick) -> String {
    bound(pick(of), of.at_least.contains(figure))
}

fn summary_table(summaries: &[(String, Distribution)]) -> Table {
    let mut table = Table::new(&["group", "n", "mean ms", "p50 ms", "p95 ms", "p99 ms", "max ms"]);
    for (group, s) in summaries {
        let values = [
            told(s, "mean", |it| Some(it.mean)),
            told(s, "p50", |it| it.p50),
            told(s, "p95", |it| it.p95),
            told(s, "p99", |it| it.p99),
            told(s, "max", |it| Some(it.max)),
        ];
        let cells = [group.clone(), s.count.to_string()];
        table.push(cells.into_iter().chain(values).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{Finding, Group, Groups, compare, difference_table, summary_table};
    use crate::sample::{Failure, Outcome};

    const ANSWERED: Outcome = Outcome::Answered(200);

    #[test]
    fn figures_of_requests_that_were_given_up_are_least_values() {
        let run = |outcome: Outcome| {
            let mut group = Group::default();
            (0..2000).for_each(|number| {
                let is_slow = number < 90;
                group.push(
                    if is_slow { 500.0 } else { 5.0 },
                    if is_slow { outcome } else { ANSWERED },
                );
            });
            Groups::from([("rtt".to_owned(), group)])
        };
        let given_up = run(Outcome::Failed(Failure::Timeout));
        let latency = given_up["rtt"].latency().unwrap();
        let table = summary_table(&[("rtt".to_owned(), latency)]);
        assert_eq!(table.rows()[1][2..], ["≥27.3", "5.00", "5.00", "≥500", "≥500"]);
        let differences = compare(&run(Outcome::Answered(503)), &given_up);
        let table = difference_table(&differences);
        let row = &table.rows()[1];
        assert_eq!((row[9].as_str(), row[10].as_str()), ("500", "≥500"), "{row:?}");
        let json = serde_json::to_value(&differences).unwrap();
        assert_eq!(json[0]["b"]["at_least"], serde_json::json!(["mean", "p99", "max"]));
    }

    fn run(change: impl Fn(u32) -> (f64, bool)) -> Groups {
        let mut group = Group::default();
        for number in 0..200 {
            let (shift, failed) = change(number);
            let outcome = if failed { Outcome::Answered(503) } else { ANSWERED };
            group.push(10.0 + f64::from(number * 7 % 13) + shift, outcome);
        }
        Groups::from([("rtt".to_owned(), group)])
    }

    #[test]
    fn a_clear_shift_is_a_difference_of_its_size() {
        let found = &compare(&run(|_| (0.0, false)), &run(|_| (5.0, false)))[0];
        assert_eq!(found.finding, Finding::Slower);
        assert!((found.median_change - 5.0).abs() < 1e-9);
        let interval = found.interval.unwrap();
        assert!(interval.low > 0.0 && interval.low <= 5.0 && 5.0 <= interval.high);
    }

    #[test]
    fn the_same_run_twice_is_no_difference() {
        let run = run(|_| (0.0, false));
        assert_eq!(compare(&run, &run)[0].finding, Finding::NoDifference);
    }

    #[test]
    fn a_run_that_fails_fast_is_not_called_faster() {
        let failing = run(|number| if number % 2 == 0 { (-9.0, true) } else { (0.0, false) });
        let found = &compare(&run(|_| (0.0, false)), &failing)[0];
        assert_eq!(found.finding, Finding::FailsMore);
        assert!((found.failed_b - 0.5).abs() < 1e-9);
        assert_eq!(compare(&failing, &run(|_| (0.0, false)))[0].finding, Finding::FailsLess);
    }

    #[test]
    fn a_few_requests_prove_nothing() {
        let mut few = Group::default();
        (0..10).for_each(|_| few.push(1.0, ANSWERED));
        let few = Groups::from([("rtt".to_owned(), few)]);
        assert_eq!(compare(&few, &run(|_| (90.0, false)))[0].finding, Finding::TooFew);
    }
}
