//! `client rtt`: how long one request takes, by the size of its picture.
//!
//! One request at a time, so requests wait only for the service. The pictures alternate, round by
//! round, so that a slow minute of the machine affects all sizes alike. A picture with metadata is
//! also sent without, since some 20 kB of camera metadata would hide the cost of its pixels.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::builder::BoolishValueParser;
use plot::{Axis, Chart, Point, Scale, Series, Stroke};
use serde::{Deserialize, Serialize};

use crate::driver::Destination;
use crate::error::Error;
use crate::experiment::{Options, Protocol, Trial};
use crate::load::verdict;
use crate::progress::{self, Shown};
use crate::record::{Folder, Journal, Manifest, Row};
use crate::report::{Table, errors, exact, milliseconds, number};
use crate::sample::Sample;
use crate::schedule::Arrivals;
use crate::stats::{
    Distribution, Interval, Line, Pick, bootstrap, line_of_medians, sound_quantile_of,
};
use crate::workload::pictures::Picture;
use crate::workload::{Item, Reading, Workload, generated, metadata, pictures};

const EXAMPLES: &str = "\
Examples:
  client rtt                                   pictures made here, 16 to 2000 px
  client rtt --images photos --repeat 50       your own, each 50 times
  client rtt --images photos --servers 4 --repeat 100   as the original's test_rtt";

/// Flags of `client rtt`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of pictures, or one picture. Default: square pictures of 16 to 2000 px, made here.
    #[arg(long, env = "CLIENT_IMAGES", value_name = "PATH")]
    pub images: Option<PathBuf>,
    /// Measured requests for each picture.
    #[arg(long, env = "CLIENT_REPEAT", default_value_t = 20, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub repeat: u64,
    /// Rounds over all pictures that come first and do not count.
    #[arg(long, env = "CLIENT_WARM_UP_ROUNDS", default_value_t = 2, value_name = "N")]
    pub warm_up_rounds: u64,
    /// Use the first N endpoints only (form field `number_backend_servers`). Default: all.
    #[arg(long, env = "CLIENT_NUMBER_BACKEND_SERVERS", value_name = "N")]
    pub servers: Option<u32>,
    /// Do not send the pictures a second time without their metadata.
    #[arg(long, env = "CLIENT_NO_TWINS", value_parser = BoolishValueParser::new())]
    pub no_twins: bool,
    /// Flags of every experiment.
    #[command(flatten)]
    pub options: Options,
}

/// Results for one picture.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PictureTimes {
    /// The picture's file name.
    pub image: String,
    /// Whether it was sent without its metadata.
    pub stripped: bool,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Size of the file.
    pub bytes: usize,
    /// Round-trip times in milliseconds; `None` if no request succeeded.
    pub rtt_ms: Option<Distribution>,
    /// 95 % interval of the median; `None` if there are too few values.
    pub p50_interval: Option<Interval>,
    /// Requests that failed, by class.
    pub errors: String,
}

/// The straight line through the medians of all pictures, as a function of file size.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Growth {
    /// Milliseconds for an empty file, by the fitted line.
    pub base_ms: f64,
    /// Additional milliseconds per 100 kB.
    pub per_100_kb_ms: f64,
    /// 95 % interval of the slope.
    pub interval: Interval,
}

impl Growth {
    fn of(lines: &[PictureTimes], times: &[Vec<f64>], seed: u64) -> Option<Self> {
        const UNIT: f64 = 100e3;
        let sizes: Vec<f64> = lines.iter().map(|line| line.bytes as f64 / UNIT).collect();
        let (line, interval) = line_of_medians(&sizes, times, seed)?;
        Some(Self { base_ms: line.base, per_100_kb_ms: line.slope, interval })
    }

    fn line(&self) -> Line {
        Line { base: self.base_ms, slope: self.per_100_kb_ms / 100e3 }
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [slope, low, high] =
            [self.per_100_kb_ms, self.interval.low, self.interval.high].map(|n| number(Some(n)));
        write!(f, "{slope} ms more per 100 kB ({low} to {high})")
    }
}

/// The round-trip times by picture.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Findings {
    /// One line per picture, smallest first.
    pub lines: Vec<PictureTimes>,
    /// How the time grows with the file size; `None` if all files have the same size, or if fewer
    /// than two pictures have enough values for a median.
    #[serde(default)]
    pub growth: Option<Growth>,
    /// Answers per second, with requests in sequence.
    pub throughput: f64,
    /// Reasons why the times reflect this client more than the service; normally empty.
    #[serde(default)]
    pub generator: Vec<String>,
    /// Whether Ctrl-C ended the run before all pictures were measured.
    pub interrupted: bool,
}

/// Measures, writes the results folder and prints the summary.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    let pictures = pictures_to_send(args)?;
    let destination = args.options.destination(Protocol::Http1)?;
    let folder = Folder::of(&args.options, "rtt")?;
    let findings = measure(args, &pictures, &destination, &folder)?;
    if args.options.json {
        serde_json::to_writer_pretty(&mut *out, &findings).context("writing JSON")?;
        writeln!(out)?;
    } else {
        write!(out, "{}", table(&findings, number))?;
        if let Some(growth) = &findings.growth {
            writeln!(out, "\n{growth}, 95 % interval")?;
        }
        writeln!(out, "\n{} answers/s one after another", number(Some(findings.throughput)))?;
        for reason in &findings.generator {
            writeln!(out, "this client fell short: {reason}")?;
        }
        writeln!(out, "results in {}", folder.path().display())?;
    }
    if findings.lines.iter().all(|line| line.rtt_ms.is_none()) {
        let reason = findings.lines.first().map(|line| line.errors.clone()).unwrap_or_default();
        return Err(Error::NothingSucceeded(reason).into());
    }
    folder.all_kept()
}

/// A picture, and whether it is the copy without metadata.
pub(crate) type Sent = (Picture, bool);

pub(crate) fn pictures_to_send(args: &Args) -> anyhow::Result<Vec<Sent>> {
    let originals = match &args.images {
        Some(path) => pictures::read(path)?,
        None => generated::pictures(&generated::SIDES)?,
    };
    let mut sent = Vec::new();
    for picture in originals {
        let twin = metadata::stripped(&picture.bytes).filter(|_| !args.no_twins);
        let stripped = twin.map(|bytes| Picture { bytes, ..picture.clone() });
        sent.push((picture, false));
        sent.extend(stripped.map(|twin| (twin, true)));
    }
    Ok(sent)
}

/// Runs the trial and writes everything but the table.
pub(crate) fn measure(
    args: &Args,
    sent: &[Sent],
    destination: &Destination,
    folder: &Folder,
) -> anyhow::Result<Findings> {
    let item = |(picture, stripped): &Sent| {
        let suffix = if *stripped { " (stripped)" } else { "" };
        Item::picture(&format!("{}{suffix}", picture.name), &picture.bytes, args.servers)
    };
    let items: Vec<Item> = sent.iter().map(item).collect();
    let rounds = items.len() as u64;
    let workload = Arc::new(Workload::try_new(
        &args.options.target,
        wire::path::SUBMIT,
        items,
        Reading::Label,
    )?);
    let mut trial = Trial::new(&args.options, Arrivals::Closed { users: 1, think: Duration::ZERO });
    trial.warm_up_requests = args.warm_up_rounds.saturating_mul(rounds);
    trial.requests =
        Some(args.repeat.saturating_mul(rounds).saturating_add(trial.warm_up_requests));
    let settings = serde_json::json!({ "trial": &trial, "servers": args.servers });
    folder.write_json("manifest.json", &Manifest::collect("rtt", &args.options, settings))?;
    let mut journal = Journal::create(folder)?;
    let shown = Shown { label: "rtt", trial: "rtt", journal: &mut journal, metrics: None };
    let observed = progress::run(&trial, destination, &workload, shown)?;
    let samples = &observed.run.samples;
    let rows = samples.iter().map(|s| Row::new("rtt", s, &workload));
    if folder.keep(folder.write_csv("samples.csv", rows)) {
        folder.keep(journal.remove());
    }
    let times: Vec<Vec<f64>> = (0..sent.len()).map(|item| times_of(item, samples)).collect();
    let line = |(item, sent): (usize, &Sent)| line(sent, (item, &times[item]), samples, trial.seed);
    let lines: Vec<PictureTimes> = sent.iter().enumerate().map(line).collect();
    let findings = Findings {
        growth: Growth::of(&lines, &times, trial.seed),
        lines,
        throughput: observed.run.tally.throughput(),
        generator: verdict::fell_short(&trial, &observed.run).collect(),
        interrupted: observed.interrupted,
    };
    folder.keep(folder.write_json("summary.json", &findings));
    folder.keep(folder.write_csv("summary.csv", table(&findings, exact).rows()));
    for (name, chart) in charts(&findings) {
        folder.keep(folder.write(name, chart.to_svg().as_bytes()));
    }
    Ok(findings)
}

fn measured_of(item: usize, samples: &[Sample]) -> impl Iterator<Item = &Sample> {
    samples.iter().filter(move |sample| sample.item == item && sample.is_measured())
}

/// Service times in milliseconds of the successful requests for one picture.
fn times_of(item: usize, samples: &[Sample]) -> Vec<f64> {
    measured_of(item, samples)
        .filter(|sample| sample.outcome.is_success())
        .filter_map(|sample| sample.service_time().map(milliseconds))
        .collect()
}

fn line(
    (picture, stripped): &Sent,
    (item, times): (usize, &[f64]),
    samples: &[Sample],
    seed: u64,
) -> PictureTimes {
    let mut outcomes = std::collections::BTreeMap::new();
    for sample in measured_of(item, samples) {
        *outcomes.entry(sample.outcome).or_default() += 1;
    }
    PictureTimes {
        image: picture.name.clone(),
        stripped: *stripped,
        width: picture.width,
        height: picture.height,
        bytes: picture.bytes.len(),
        rtt_ms: Distribution::of(times),
        p50_interval: bootstrap(times, |resample| sound_quantile_of(resample, 0.5), seed),
        errors: errors(&outcomes),
    }
}

pub(crate) fn table(findings: &Findings, format: fn(Option<f64>) -> String) -> Table {
    let mut table = Table::new(&[
        "image", "pixels", "bytes", "n", "mean ms", "p50 ms", "p95 ms", "p99 ms", "errors",
    ]);
    for line in &findings.lines {
        let value = |pick: Pick| format(line.rtt_ms.as_ref().and_then(pick));
        table.push(vec![
            format!("{}{}", line.image, if line.stripped { " (stripped)" } else { "" }),
            format!("{}x{}", line.width, line.height),
            line.bytes.to_string(),
            line.rtt_ms.map_or(0, |summary| summary.count).to_string(),
            value(|s| Some(s.mean)),
            value(|s| s.p50),
            value(|s| s.p95),
            value(|s| s.p99),
            line.errors.clone(),
        ]);
    }
    table
}

/// Median round-trip time against pixels and against bytes.
pub(crate) fn charts(findings: &Findings) -> [(&'static str, Chart); 2] {
    let pixels: fn(&PictureTimes) -> f64 = |line| f64::from(line.width) * f64::from(line.height);
    let bytes: fn(&PictureTimes) -> f64 = |line| line.bytes as f64;
    let mut by_bytes = chart(findings, Axis::new("size of the file (bytes)", Scale::Linear), bytes);
    if let Some(growth) = &findings.growth {
        let largest = findings.lines.iter().map(bytes).fold(0.0, f64::max);
        let line = growth.line();
        by_bytes.subtitle = format!("medians with 95 % bootstrap intervals; line: {growth}");
        by_bytes.series.push(Series {
            name: "straight line".to_owned(),
            points: [0.0, largest].map(|x| Point { x, y: line.at(x), bar: None }).into(),
            stroke: Stroke::Theory,
        });
    }
    let by_pixels = Axis::new("size of the picture (pixels)", Scale::Log);
    [("rtt-by-pixels.svg", chart(findings, by_pixels, pixels)), ("rtt-by-bytes.svg", by_bytes)]
}

fn chart(findings: &Findings, axis: Axis, x: fn(&PictureTimes) -> f64) -> Chart {
    let series = |name: &str, stripped: bool| {
        let mut points: Vec<Point> = findings
            .lines
            .iter()
            .filter(|line| line.stripped == stripped)
            .filter_map(|line| {
                let bar = line.p50_interval.map(|interval| (interval.low, interval.high));
                Some(Point { x: x(line), y: line.rtt_ms?.p50?, bar })
            })
            .collect();
        points.sort_by(|one, other| one.x.total_cmp(&other.x));
        Series { name: name.to_owned(), points, stroke: Stroke::Measured }
    };
    let mut all = vec![series("as it is", false)];
    all.extend(Some(series("without metadata", true)).filter(|twin| !twin.points.is_empty()));
    Chart {
        title: "Round-trip time by picture size".to_owned(),
        subtitle: "one request at a time; median with its 95 % bootstrap interval".to_owned(),
        x: axis,
        y: Axis::new("round-trip time (ms)", Scale::Linear),
        series: all,
    }
}

#[cfg(test)]
mod tests {
    use super::{Growth, PictureTimes, Sent, line};
    use crate::workload::pictures::Picture;

    /// Times of each picture.
    type Times = Vec<Vec<f64>>;

    fn found(repeats: u32) -> (Vec<PictureTimes>, Times) {
        let sent = |bytes: usize| -> Sent {
            let (name, label) = (bytes.to_string(), None);
            (Picture { name, bytes: vec![0; bytes].into(), width: 1, height: 1, label }, false)
        };
        let times: Times = [1.0, 2.0]
            .iter()
            .map(|base| (0..repeats).map(|number| base + f64::from(number % 3) / 10.0).collect())
            .collect();
        let lines = times
            .iter()
            .enumerate()
            .map(|(item, times)| line(&sent(100_000 * (item + 1)), (item, times), &[], 1));
        (lines.collect(), times)
    }

    #[test]
    fn of_two_repeats_neither_median_nor_growth_has_an_interval() {
        for repeats in [2, 19] {
            let (lines, times) = found(repeats);
            assert!(lines.iter().all(|line| line.p50_interval.is_none()), "{lines:?}");
            assert!(Growth::of(&lines, &times, 1).is_none(), "{repeats}");
        }
        let (lines, times) = found(20);
        assert!(lines.iter().all(|line| line.p50_interval.is_some()), "{lines:?}");
        let growth = Growth::of(&lines, &times, 1).unwrap();
        assert!((growth.per_100_kb_ms - 1.0).abs() < 1e-9, "{growth}");
    }
}
