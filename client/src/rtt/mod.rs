//! `client rtt`: how long one request takes, by the size of its picture.
//!
//! One request at a time, so nothing waits for anything but the service. The pictures take turns,
//! round by round: a slow minute of the machine then hits all sizes alike instead of one. A picture
//! with metadata has a twin without, since some 20 kB of camera metadata hide what pixels cost.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::experiment::{Options, Trial};
use crate::plot::{Axis, Chart, Point, Scale, Series, Stroke};
use crate::progress;
use crate::record::{Folder, Manifest, Row};
use crate::report::{Table, errors, exact, milliseconds, number};
use crate::sample::Sample;
use crate::schedule::Arrivals;
use crate::stats::{Interval, Summary, bootstrap, quantile, sorted};
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
    /// Let the first N endpoints take part (form field `number_backend_servers`). Default: all.
    #[arg(long, env = "CLIENT_SERVERS", value_name = "N")]
    pub servers: Option<u32>,
    /// Do not send the pictures a second time without their metadata.
    #[arg(long, env = "CLIENT_NO_TWINS")]
    pub no_twins: bool,
    /// Flags of every experiment.
    #[command(flatten)]
    pub options: Options,
}

/// What was found for one picture.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// File name.
    pub image: String,
    /// Sent without its metadata.
    pub stripped: bool,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Size of the file.
    pub bytes: usize,
    /// Round-trip times in milliseconds; nothing if no request succeeded.
    pub rtt_ms: Option<Summary>,
    /// 95 % interval of the median.
    pub p50_interval: Option<Interval>,
    /// Requests that failed, by class.
    pub errors: String,
}

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Findings {
    /// One line a picture, smallest first.
    pub lines: Vec<Line>,
    /// Answers a second, one request after another.
    pub throughput: f64,
    /// Ended by Ctrl-C.
    pub interrupted: bool,
}

/// Measures, writes the results folder, prints the summary.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    let pictures = pictures_to_send(args)?;
    let address = args.options.target.resolve()?;
    let folder = Folder::create(args.options.out.as_deref(), "rtt")?;
    let findings = measure(args, &pictures, address, &folder)?;
    if args.options.json {
        serde_json::to_writer_pretty(&mut *out, &findings).context("writing JSON")?;
        writeln!(out)?;
    } else {
        write!(out, "{}", table(&findings, number))?;
        writeln!(out, "\n{} answers/s one after another", number(Some(findings.throughput)))?;
        writeln!(out, "results in {}", folder.path().display())?;
    }
    if findings.lines.iter().all(|line| line.rtt_ms.is_none()) {
        let reason = findings.lines.first().map(|line| line.errors.clone()).unwrap_or_default();
        return Err(Error::NothingSucceeded(reason).into());
    }
    Ok(())
}

/// A picture and whether it is the twin without metadata.
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
    address: std::net::SocketAddr,
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
    let observed = progress::run(&trial, address, &workload, "rtt")?;
    let samples = &observed.run.samples;
    folder.write_csv("samples.csv", samples.iter().map(|s| Row::new("rtt", s, &workload)))?;
    let findings = Findings {
        lines: sent.iter().enumerate().map(|(i, s)| line(s, i, samples, trial.seed)).collect(),
        throughput: observed.run.tally.throughput(),
        interrupted: observed.interrupted,
    };
    folder.write_json("summary.json", &findings)?;
    folder.write_csv("summary.csv", table(&findings, exact).rows())?;
    for (name, chart) in charts(&findings) {
        folder.write(name, chart.to_svg().as_bytes())?;
    }
    Ok(findings)
}

fn line((picture, stripped): &Sent, item: usize, samples: &[Sample], seed: u64) -> Line {
    let of_item = || samples.iter().filter(|sample| sample.item == item && sample.is_measured());
    let times: Vec<f64> = of_item()
        .filter(|sample| sample.outcome.is_success())
        .map(|sample| milliseconds(sample.service_time()))
        .collect();
    let mut outcomes = std::collections::BTreeMap::new();
    for sample in of_item() {
        *outcomes.entry(sample.outcome).or_default() += 1;
    }
    Line {
        image: picture.name.clone(),
        stripped: *stripped,
        width: picture.width,
        height: picture.height,
        bytes: picture.bytes.len(),
        rtt_ms: Summary::of(&times),
        p50_interval: bootstrap(&times, |resample| quantile(&sorted(resample), 0.5), seed),
        errors: errors(&outcomes),
    }
}

pub(crate) fn table(findings: &Findings, format: fn(Option<f64>) -> String) -> Table {
    let mut table = Table::new(&[
        "image", "pixels", "bytes", "n", "mean ms", "p50 ms", "p95 ms", "p99 ms", "errors",
    ]);
    for line in &findings.lines {
        let value = |pick: fn(&Summary) -> f64| format(line.rtt_ms.as_ref().map(pick));
        table.push(vec![
            format!("{}{}", line.image, if line.stripped { " (stripped)" } else { "" }),
            format!("{}x{}", line.width, line.height),
            line.bytes.to_string(),
            line.rtt_ms.map_or(0, |summary| summary.count).to_string(),
            value(|s| s.mean),
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
    let pixels: fn(&Line) -> f64 = |line| f64::from(line.width) * f64::from(line.height);
    let bytes: fn(&Line) -> f64 = |line| line.bytes as f64;
    [
        ("rtt-by-pixels.svg", chart(findings, "size of the picture (pixels)", pixels)),
        ("rtt-by-bytes.svg", chart(findings, "size of the file (bytes)", bytes)),
    ]
}

fn chart(findings: &Findings, label: &str, x: fn(&Line) -> f64) -> Chart {
    let series = |name: &str, stripped: bool| {
        let mut points: Vec<Point> = findings
            .lines
            .iter()
            .filter(|line| line.stripped == stripped)
            .filter_map(|line| {
                let bar = line.p50_interval.map(|interval| (interval.low, interval.high));
                Some(Point { x: x(line), y: line.rtt_ms?.p50, bar })
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
        x: Axis::new(label, Scale::Log),
        y: Axis::new("round-trip time (ms)", Scale::Linear),
        series: all,
    }
}
