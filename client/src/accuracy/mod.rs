//! `client accuracy`: how many pixels recognition needs.
//!
//! As in the original: crop each photo to a square, downsample it, enlarge it again to the model's
//! input size, and classify it. Here the service itself classifies it, not a separate model, and
//! shares come with Wilson intervals, since a few dozen photos prove less than they seem to.

mod degrade;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use plot::{Axis, Chart, Point, Scale, Series, Stroke};
use serde::{Deserialize, Serialize};

use crate::driver::Destination;
use crate::error::Error;
use crate::experiment::{Options, Protocol, Trial};
use crate::progress::{self, Shown};
use crate::record::{Folder, Journal, Manifest, Row};
use crate::report::{Table, errors, exact, number};
use crate::sample::Sample;
use crate::schedule::Arrivals;
use crate::stats::{Interval, wilson};
use crate::workload::pictures::{self, Picture};
use crate::workload::{Item, Reading, Workload, same_label};

const EXAMPLES: &str = "\
Examples:
  client accuracy --images photos              photos/labels.csv has the columns file and label
  client accuracy --images photos --sizes 32,224 --users 4

The service must serve a model that knows the labels: see `worker pull mobilenet_v2`.";

/// Accuracy in percent that the original project reports for 500 `ImageNet` photos, by side.
pub const ORIGINAL: [(u32, f64); 6] =
    [(16, 2.2), (32, 17.0), (64, 42.0), (96, 53.8), (128, 61.0), (224, 69.8)];

/// Flags of `client accuracy`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of photos with a labels.csv (columns file and label).
    #[arg(long, env = "CLIENT_IMAGES", value_name = "DIR")]
    pub images: PathBuf,
    /// Sides in pixels to downsample to.
    #[arg(long, env = "CLIENT_SIZES", value_delimiter = ',', default_value = "16,32,64,96,128,224",
          value_name = "LIST", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub sizes: Vec<u32>,
    /// Concurrent requests.
    #[arg(long, env = "CLIENT_USERS", default_value_t = 2, value_name = "N")]
    pub users: usize,
    /// Flags of every experiment.
    #[command(flatten)]
    pub options: Options,
}

/// Results for one size.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SizeAccuracy {
    /// Side of the reduced picture in pixels.
    pub side: u32,
    /// Photos that were answered.
    pub answered: u64,
    /// Answers whose best label was correct.
    pub top_1: u64,
    /// 95 % interval of that share.
    pub top_1_interval: Interval,
    /// Answers with the correct label among the best five.
    pub top_5: u64,
    /// 95 % interval of that share.
    pub top_5_interval: Interval,
    /// Requests that failed, by class.
    pub errors: String,
}

impl SizeAccuracy {
    /// Share of answers whose best label was correct.
    pub fn top_1_share(&self) -> Option<f64> {
        (self.answered > 0).then(|| self.top_1 as f64 / self.answered as f64)
    }

    fn top_5_share(&self) -> Option<f64> {
        (self.answered > 0).then(|| self.top_5 as f64 / self.answered as f64)
    }
}

/// The accuracy at each size of picture.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Findings {
    /// One line per size, smallest first.
    pub lines: Vec<SizeAccuracy>,
    /// Whether Ctrl-C ended the run before all sizes were measured.
    pub interrupted: bool,
}

/// Measures, writes the results folder and prints the summary.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    let photos = labelled(args)?;
    let destination = args.options.destination(Protocol::Http1)?;
    let folder = Folder::of(&args.options, "accuracy")?;
    let findings = measure(args, &photos, &destination, &folder)?;
    if args.options.json {
        serde_json::to_writer_pretty(&mut *out, &findings).context("writing JSON")?;
        writeln!(out)?;
    } else {
        write!(out, "{}", findings.table(number))?;
        writeln!(out, "\nresults in {}", folder.path().display())?;
    }
    if findings.lines.iter().all(|line| line.answered == 0) {
        let reason = findings.lines.first().map(|line| line.errors.clone()).unwrap_or_default();
        return Err(Error::NothingSucceeded(reason).into());
    }
    folder.all_kept()
}

/// The labelled photos of the folder.
pub(crate) fn labelled(args: &Args) -> anyhow::Result<Vec<Picture>> {
    let mut photos = pictures::read(&args.images)?;
    photos.retain(|photo| photo.label.is_some());
    if photos.is_empty() {
        let folder = args.images.display();
        return Err(Error::Usage(format!("{folder}: no labels.csv that labels a photo")).into());
    }
    Ok(photos)
}

/// Runs the trial and writes everything but the table.
pub(crate) fn measure(
    args: &Args,
    photos: &[Picture],
    destination: &Destination,
    folder: &Folder,
) -> anyhow::Result<Findings> {
    let mut sizes = args.sizes.clone();
    sizes.sort_unstable();
    sizes.dedup();
    let mut items = Vec::with_capacity(sizes.len() * photos.len());
    for photo in photos {
        let square = degrade::square(&photo.bytes).with_context(|| photo.name.clone())?;
        for side in &sizes {
            let degraded = degrade::degraded(&square, *side).with_context(|| photo.name.clone())?;
            let item = Item::picture(&format!("{}@{side}", photo.name), &degraded, None);
            items.push(Item { expected: photo.label.clone(), ..item });
        }
    }
    let users = args.users.clamp(1, items.len());
    let closed = Arrivals::Closed { users, think: Duration::ZERO };
    let mut trial = Trial::new(&args.options, closed);
    trial.requests = Some(items.len() as u64);
    let target = &args.options.target;
    let workload = Workload::try_new(target, wire::path::SUBMIT, items, Reading::Prediction)?;
    let workload = Arc::new(workload);
    let settings = serde_json::json!({ "trial": &trial, "sizes": sizes, "photos": photos.len() });
    folder.write_json("manifest.json", &Manifest::collect("accuracy", &args.options, settings))?;
    let mut journal = Journal::create(folder)?;
    let shown =
        Shown { label: "accuracy", trial: "accuracy", journal: &mut journal, metrics: None };
    let observed = progress::run(&trial, destination, &workload, shown)?;
    let samples = &observed.run.samples;
    let rows = samples.iter().map(|s| Row::new("accuracy", s, &workload));
    if folder.keep(folder.write_csv("samples.csv", rows)) {
        folder.keep(journal.remove());
    }
    let line = |(number, side): (usize, &u32)| {
        let of_side = |sample: &&Sample| sample.item % sizes.len() == number;
        let samples: Vec<&Sample> = samples.iter().filter(of_side).collect();
        condense(*side, &samples, &workload)
    };
    let lines = sizes.iter().enumerate().map(line).collect();
    let findings = Findings { lines, interrupted: observed.interrupted };
    folder.keep(folder.write_json("summary.json", &findings));
    folder.keep(folder.write_csv("summary.csv", findings.table(exact).rows()));
    folder.keep(folder.write("accuracy.svg", findings.chart().to_svg().as_bytes()));
    Ok(findings)
}

fn condense(side: u32, samples: &[&Sample], workload: &Workload) -> SizeAccuracy {
    let answered = || samples.iter().filter(|sample| sample.outcome.is_success());
    let is_among = |sample: &Sample, best: usize| {
        let expected = workload.items()[sample.item].expected.as_deref().unwrap_or_default();
        sample.labels.iter().take(best).any(|label| same_label(label, expected))
    };
    let right = |best: usize| answered().filter(|sample| is_among(sample, best)).count() as u64;
    let (n, top_1, top_5) = (answered().count() as u64, right(1), right(5));
    let mut outcomes = std::collections::BTreeMap::new();
    for sample in samples {
        *outcomes.entry(sample.outcome).or_default() += 1;
    }
    SizeAccuracy {
        side,
        answered: n,
        top_1,
        top_1_interval: wilson(top_1, n),
        top_5,
        top_5_interval: wilson(top_5, n),
        errors: errors(&outcomes),
    }
}

impl Findings {
    /// The findings as a table, with numbers written by `format`.
    pub(crate) fn table(&self, format: fn(Option<f64>) -> String) -> Table {
        let mut table = Table::new(&[
            "side px",
            "n",
            "top-1 %",
            "top-1 from",
            "top-1 to",
            "top-5 %",
            "top-5 from",
            "top-5 to",
            "errors",
        ]);
        for line in &self.lines {
            let percent = |share: Option<f64>| format(share.map(|share| 100.0 * share));
            table.push(vec![
                line.side.to_string(),
                line.answered.to_string(),
                percent(line.top_1_share()),
                percent(Some(line.top_1_interval.low)),
                percent(Some(line.top_1_interval.high)),
                percent(line.top_5_share()),
                percent(Some(line.top_5_interval.low)),
                percent(Some(line.top_5_interval.high)),
                line.errors.clone(),
            ]);
        }
        table
    }

    pub(crate) fn chart(&self) -> Chart {
        let point = |line: &SizeAccuracy, share: Option<f64>, interval: Interval| {
            let bar = Some((100.0 * interval.low, 100.0 * interval.high));
            Some(Point { x: f64::from(line.side), y: 100.0 * share?, bar })
        };
        let series = |name: &str, points: Vec<Point>, stroke| Series {
            name: name.to_owned(),
            points,
            stroke,
        };
        let top_1 = |line| point(line, line.top_1_share(), line.top_1_interval);
        let top_5 = |line| point(line, line.top_5_share(), line.top_5_interval);
        let original = |&(side, y): &(u32, f64)| Point { x: f64::from(side), y, bar: None };
        Chart {
            title: "Accuracy by resolution".to_owned(),
            subtitle: "cropped to a square, downsampled, enlarged; bars: 95 % Wilson intervals"
                .to_owned(),
            x: Axis::new("side after downsampling (pixels)", Scale::Log),
            y: Axis::new("right answers (%)", Scale::Linear),
            series: vec![
                series("top-1", self.lines.iter().filter_map(top_1).collect(), Stroke::Measured),
                series("top-5", self.lines.iter().filter_map(top_5).collect(), Stroke::Measured),
                series("original, top-1", ORIGINAL.iter().map(original).collect(), Stroke::Theory),
            ],
        }
    }
}
