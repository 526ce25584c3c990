//! `client loss`, `client bandwidth` and `client churn`: what users see when the network loses
//! packets, when it is slow, and when workers die.
//!
//! Each experiment builds a slice of its own, as `reproduce --slice` does, and controls it from
//! outside: for every trial it sets up the client's link, or kills and restarts workers. A trial is
//! a `client load` in the node `client`, whose complete results are kept in the folder. Steps are
//! shuffled, so that a slow minute of the machine does not affect one step alone; intervals are
//! Student's over trials. Predictions from theory are shown beside the measurements.

mod bandwidth;
mod churn;
mod loss;
mod section;
mod told;
mod transfer;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
pub use bandwidth::Args as BandwidthArgs;
pub use churn::Args as ChurnArgs;
use clap::builder::BoolishValueParser;
pub use loss::Args as LossArgs;
use plot::{Axis, Chart, Point, Scale, Series, Stroke};
use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;
use rand::seq::SliceRandom;
pub(crate) use section::{Section, sections};
use serde::Serialize;

use crate::error::Error;
use crate::record::{Folder, Manifest, SECTION};
use crate::report::{Style, Table};
use crate::signals;
use crate::slice::{self, OwnSlice, Site};
use crate::stats::{Interval, interval_of_mean, mean};

/// Runs `client loss`: goodput against the loss of the client's link.
pub fn loss(args: &LossArgs, out: &mut dyn Write) -> Result<ExitCode> {
    args.common.experiment("loss", args, out)
}

/// Runs `client bandwidth`: goodput against the capacity of the client's link.
pub fn bandwidth(args: &BandwidthArgs, out: &mut dyn Write) -> Result<ExitCode> {
    args.common.experiment("bandwidth", args, out)
}

/// Runs `client churn`: latency and failures while workers die.
pub fn churn(args: &ChurnArgs, out: &mut dyn Write) -> Result<ExitCode> {
    args.common.experiment("churn", args, out)
}

/// Flags of all three.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// The picture to send, or a folder of pictures; with a labels.csv accuracy is measured too.
    /// Default: one of 224 px, made here.
    #[arg(long, env = "CLIENT_IMAGES", value_name = "PATH")]
    pub images: Option<PathBuf>,
    /// Trials of each step.
    #[arg(long, env = "CLIENT_TRIALS", default_value_t = 3, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub trials: u32,
    /// How long each of them is measured.
    #[arg(long, env = "CLIENT_DURATION", default_value = "10s", value_name = "TIME",
          value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// A request that has no answer this long after it was due has failed.
    #[arg(long, env = "CLIENT_TIMEOUT", default_value = "3s", value_name = "TIME",
          value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Model repository of the workers.
    #[arg(long, env = "CLIENT_MODELS", default_value = "models", value_name = "DIR")]
    pub models: PathBuf,
    /// The slice that the experiment builds for itself.
    #[command(flatten)]
    pub slice: OwnSlice,
    /// Name of the slice, which is built for this and removed. Default: that of the experiment.
    #[arg(long, env = "CLIENT_CONDITIONS_SLICE", value_name = "NAME", help_heading = "Slice",
          value_parser = slice::slice_name)]
    pub slice_name: Option<String>,
    /// Folder for tables, samples and plots; must be new or empty.
    /// Default: `results/<experiment>-<time>`.
    #[arg(long, env = "CLIENT_OUT", value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the summary as JSON instead of a table.
    #[arg(long, env = "CLIENT_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
    /// Seed of every random choice: same seed, same order and same schedules.
    #[arg(long, env = "CLIENT_SEED", default_value_t = 1, value_name = "N")]
    pub seed: u64,
}

/// One of the three experiments.
trait Experiment {
    /// Results of the experiment.
    type Findings: Serialize;

    /// Checks the flags before anything is built.
    fn check(&self) -> Result<(), Error>;

    /// Measures in the slice.
    fn measure(&self, site: &Site<'_>, folder: &Folder) -> Result<Self::Findings>;

    /// The findings as a table.
    fn table(findings: &Self::Findings, style: Style) -> Table;

    /// The charts, with their file names.
    fn charts(findings: &Self::Findings) -> Vec<(&'static str, Chart)>;

    /// The findings in words, how they were measured, and what theory predicts.
    fn words(&self, findings: &Self::Findings) -> Section;

    /// The settings that affect the results.
    fn settings(&self) -> serde_json::Value;
}

impl Common {
    fn experiment<E: Experiment>(
        &self,
        name: &str,
        experiment: &E,
        out: &mut dyn Write,
    ) -> Result<ExitCode> {
        experiment.check()?;
        let slice_name = self.slice_name.as_deref().unwrap_or(name);
        let run = self.slice.run(slice_name, &self.models, Vec::new());
        let site = slice::visit(&run)?;
        let folder = Folder::create(self.out.as_deref(), name)?;
        signals::watch();
        let settings = experiment.settings();
        let manifest =
            Manifest::of_slice(name, self.seed, &site.target, site.record.to_string(), settings);
        folder.write_json("manifest.json", &manifest)?;
        let findings = experiment.measure(&site, &folder);
        let closed = site.close();
        let findings = findings?;
        folder.keep(folder.write_json("summary.json", &findings));
        let rows = E::table(&findings, Style::Programs);
        folder.keep(folder.write_csv("summary.csv", rows.rows()));
        let charts = E::charts(&findings);
        for (name, chart) in &charts {
            folder.keep(folder.write(name, chart.to_svg().as_bytes()));
        }
        let table = E::table(&findings, Style::People);
        let section = experiment.words(&findings).with(&charts, table);
        if !is_over() {
            folder.keep(folder.write_json(SECTION, &section));
        }
        folder.keep(folder.write("report.html", section.page(&manifest).as_bytes()));
        if self.json {
            serde_json::to_writer_pretty(&mut *out, &findings).context("writing JSON")?;
            writeln!(out)?;
        } else {
            write!(out, "{}", E::table(&findings, Style::People))?;
            writeln!(out, "\nresults in {}; the page is report.html", folder.path().display())?;
        }
        closed?;
        folder.all_kept().map(|()| ExitCode::SUCCESS)
    }

    /// The `client load` arguments common to all trials, with results in `folder`.
    fn load(&self, folder: &Path, trial: u32) -> Vec<String> {
        let time = |time: Duration| format!("{}ms", time.as_millis());
        let warm_up = self.duration / 5;
        let seed = self.seed.wrapping_add(u64::from(trial));
        let mut words =
            ["--log", "error", "load", "--json", "--quantile", "0.5"].map(str::to_owned).to_vec();
        for (flag, value) in [
            ("--timeout", time(self.timeout)),
            ("--warm-up", time(warm_up)),
            ("--duration", time(warm_up + self.duration)),
            ("--seed", seed.to_string()),
            ("--out", folder.display().to_string()),
        ] {
            words.extend([flag.to_owned(), value]);
        }
        if let Some(images) = &self.images {
            words.extend(["--images".to_owned(), images.display().to_string()]);
        }
        words
    }
}

/// Every step of every trial, shuffled separately for each trial.
fn order(steps: usize, trials: u32, seed: u64) -> Vec<(usize, u32)> {
    let round = |trial: u32| {
        let mut round: Vec<usize> = (0..steps).collect();
        round.shuffle(&mut ChaCha12Rng::seed_from_u64(seed.wrapping_add(u64::from(trial))));
        round.into_iter().map(move |step| (step, trial))
    };
    (0..trials).flat_map(round).collect()
}

/// A statistic over trials.
#[derive(Debug, Clone, Copy, Serialize)]
struct Figure {
    mean: Option<f64>,
    /// The 95 % interval, if there are at least two trials.
    interval: Option<Interval>,
}

impl Figure {
    /// The statistic of times or rates.
    fn of(trials: impl IntoIterator<Item = Option<f64>>) -> Self {
        Self::up_to(f64::INFINITY, trials)
    }

    /// The statistic of shares, which are at most 1.
    fn of_shares(trials: impl IntoIterator<Item = Option<f64>>) -> Self {
        Self::up_to(1.0, trials)
    }

    fn up_to(highest: f64, trials: impl IntoIterator<Item = Option<f64>>) -> Self {
        let values: Vec<f64> = trials.into_iter().flatten().collect();
        let interval = interval_of_mean(&values).map(|it| it.within(0.0, highest));
        Self { mean: mean(&values), interval }
    }

    /// As a point of a chart.
    fn at(&self, x: f64) -> Option<Point> {
        let bar = self.interval.map(|it| (it.low, it.high));
        Some(Point { x, y: self.mean?, bar })
    }

    /// The same in another unit, such as kilobits for bits.
    fn scaled(&self, x: f64, by: f64) -> Option<Point> {
        let Point { x, y, bar } = self.at(x)?;
        Some(Point { x, y: y * by, bar: bar.map(|(low, high)| (low * by, high * by)) })
    }
}

fn chart(title: &str, subtitle: &str, [x, y]: [Axis; 2], series: Vec<Series>) -> Chart {
    Chart { title: title.to_owned(), subtitle: subtitle.to_owned(), x, y, series }
}

fn series(name: &str, points: impl IntoIterator<Item = Option<Point>>, stroke: Stroke) -> Series {
    Series { name: name.to_owned(), points: points.into_iter().flatten().collect(), stroke }
}

fn linear(name: &str) -> Axis {
    Axis::new(name, Scale::Linear)
}

/// Whether a signal came: what was measured is kept, and nothing more is measured.
fn is_over() -> bool {
    signals::count() > 0
}
