//! `client reproduce`: the original project's three experiments in one go, and a report.
//!
//! Each experiment is that of its own command, with settings for the available time. The report is
//! one self-contained HTML file that compares the findings of the original with those of this run.

mod html;
mod in_slice;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use clap::builder::BoolishValueParser;
pub use in_slice::InSlice;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::driver::Destination;
use crate::error::Error;
use crate::experiment::{Options, Protocol};
use crate::record::{Folder, MANIFEST, Manifest};
use crate::report::{Style, number};
use crate::workload::fingerprint;
use crate::{accuracy, conditions, rtt, scaling};

const EXAMPLES: &str = "\
Examples:
  client reproduce --quick                                 about four minutes
  sudo client reproduce --quick --slice                    the same in a slice of six nodes
  sudo client reproduce --quick --slice --all              loss, bandwidth and dying workers as well
  client reproduce --photos photos --rtt-images photos/rtt accuracy too, over your own photos
  client reproduce --full --photos photos                  about half an hour, narrow intervals";

/// How much time is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Effort {
    Quick,
    Normal,
    Full,
}

/// Flags of `client reproduce`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Args {
    /// Few repetitions: minutes, wide intervals.
    #[arg(long, env = "CLIENT_QUICK", value_parser = BoolishValueParser::new(),
          conflicts_with = "full")]
    pub quick: bool,
    /// Many repetitions: narrow intervals.
    #[arg(long, env = "CLIENT_FULL", value_parser = BoolishValueParser::new())]
    pub full: bool,
    /// Pictures for round-trip times. Default: 16 to 2000 px, made here.
    #[arg(long, env = "CLIENT_RTT_IMAGES", value_name = "PATH")]
    pub rtt_images: Option<PathBuf>,
    /// Photos with a labels.csv for accuracy. Without it, accuracy is left out.
    #[arg(long, env = "CLIENT_PHOTOS", value_name = "DIR")]
    pub photos: Option<PathBuf>,
    /// Numbers of servers to compare.
    #[arg(long, env = "CLIENT_SERVERS", value_delimiter = ',', default_value = "1,2,4",
          value_name = "LIST", value_parser = clap::value_parser!(u32).range(1..))]
    pub servers: Vec<u32>,
    /// Model repository whose weights are named by hash in the manifest, if it is on this machine.
    #[arg(long, env = "CLIENT_MODELS", default_value = "models", value_name = "DIR")]
    pub models: PathBuf,
    /// Length of each trial of the scaling grid, and with --all of the others, instead of what --quick or
    /// --full choose.
    #[arg(long, env = "CLIENT_TRIAL_TIME", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub trial_time: Option<Duration>,
    /// Continue the run in --out that was killed or ended early: what was finished counts.
    #[arg(long, env = "CLIENT_RESUME", value_parser = BoolishValueParser::new(), requires = "out",
          conflicts_with = "force")]
    pub resume: bool,
    /// Also measure loss and bandwidth of the client's link, and workers that die, each in a slice of its
    /// own (client loss, bandwidth, churn); with --slice only.
    #[arg(long, env = "CLIENT_ALL", value_parser = BoolishValueParser::new(), requires = "slice")]
    pub all: bool,
    /// A slice around all of it.
    #[command(flatten)]
    pub in_slice: InSlice,
    /// Flags of every experiment.
    #[command(flatten)]
    pub options: Options,
}

/// The findings of all experiments.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    rtt: rtt::Findings,
    scaling: scaling::Findings,
    accuracy: Option<accuracy::Findings>,
}

/// Runs everything and writes the report, in a slice if requested.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    if args.wants_slice() {
        return args.run_in_slice(out);
    }
    measure(args, out).map(|()| ExitCode::SUCCESS)
}

fn measure(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    let effort = match (args.quick, args.full) {
        (true, _) => Effort::Quick,
        (_, true) => Effort::Full,
        _ => Effort::Normal,
    };
    let (rtt_args, scaling_args) = (rtt_args(args, effort), scaling_args(args, effort));
    let accuracy_args = accuracy_args(args);
    // All errors in the flags are detected before the first request.
    let pictures = rtt::pictures_to_send(&rtt_args)?;
    scaling::plan(&scaling_args)?;
    let photos = accuracy_args.as_ref().map(accuracy::labelled).transpose()?;
    let destination = args.options.destination(Protocol::Http1)?;
    let settings = serde_json::json!({
        "effort": effort, "servers": args.servers, "models": model_hashes(&args.models)?,
        "trial_seconds": args.trial_time.map(|time| time.as_secs_f64()),
        "timeout_seconds": args.options.timeout.as_secs_f64(),
        "connections": args.options.connections,
        "rtt_pictures": fingerprint::of_pictures(pictures.iter().map(|(picture, _)| picture)),
        "photos": photos.as_ref().map(fingerprint::of_pictures),
    });
    let (folder, manifest) = folder_of(args, settings)?;
    let rtt = if let Some(found) = finished(&folder, "rtt")? {
        found
    } else {
        let folder = folder.inside_anew("rtt")?;
        let found = rtt::measure(&rtt_args, &pictures, &destination, &folder)?;
        folder.all_kept()?;
        found
    };
    stop_if(rtt.interrupted)?;
    let scaling = match finished(&folder, "scaling")? {
        Some(found) => found,
        None => measure_scaling(scaling_args, args.resume, &destination, &folder)?,
    };
    stop_if(scaling.interrupted)?;
    let accuracy = match (&accuracy_args, &photos) {
        (Some(args), Some(photos)) => Some(if let Some(found) = finished(&folder, "accuracy")? {
            found
        } else {
            let folder = folder.inside_anew("accuracy")?;
            let found = accuracy::measure(args, photos, &destination, &folder)?;
            folder.all_kept()?;
            found
        }),
        _ => None,
    };
    let results = Results { rtt, scaling, accuracy };
    let others = conditions::sections(&folder)?;
    folder.write("report.html", html::page(&manifest, &results, &others).as_bytes())?;
    if args.options.json {
        serde_json::to_writer_pretty(&mut *out, &results).context("writing JSON")?;
        writeln!(out)?;
    } else {
        print(&results, out)?;
        writeln!(out, "\nreport in {}", folder.path().join("report.html").display())?;
    }
    if results.rtt.lines.iter().all(|line| line.rtt_ms.is_none()) {
        let reason = results.rtt.lines.first().map(|line| line.errors.clone());
        return Err(Error::NothingSucceeded(reason.unwrap_or_default()).into());
    }
    Ok(())
}

/// The folder and its manifest, new or existing: a run can only be resumed with its own settings.
fn folder_of(args: &Args, settings: serde_json::Value) -> anyhow::Result<(Folder, Manifest)> {
    let manifest = Manifest::collect("reproduce", &args.options, settings);
    let Some(out) = args.options.out.as_ref().filter(|_| args.resume) else {
        let folder = Folder::of(&args.options, "reproduce")?;
        folder.write_json(MANIFEST, &manifest)?;
        return Ok((folder, manifest));
    };
    let folder = Folder::open(out);
    let earlier: Manifest = folder.read_json(MANIFEST)?;
    let is_same = earlier.experiment == manifest.experiment
        && earlier.settings == manifest.settings
        && (earlier.seed, &earlier.target) == (manifest.seed, &manifest.target);
    if !is_same {
        let text = "holds a run with other settings, or of another service";
        return Err(Error::Usage(format!("--resume: {} {text}", out.display())).into());
    }
    folder.remove_conclusions()?;
    Ok((folder, earlier))
}

/// The findings of a part of the run, if it was completed.
fn finished<T: DeserializeOwned>(folder: &Folder, part: &str) -> anyhow::Result<Option<T>> {
    let part = Folder::open(&folder.path().join(part));
    if !part.path().join("summary.json").is_file() {
        return Ok(None);
    }
    let found: serde_json::Value = part.read_json("summary.json")?;
    let has_ended = found["interrupted"] != true;
    has_ended.then(|| serde_json::from_value(found)).transpose().context("reading a summary")
}

/// Measures scaling from the beginning, or from where it was interrupted.
fn measure_scaling(
    args: scaling::Args,
    resumes: bool,
    destination: &Destination,
    folder: &Folder,
) -> anyhow::Result<scaling::Findings> {
    let path = folder.path().join("scaling");
    let resume = resumes && path.join(MANIFEST).is_file();
    let folder = if resume { Folder::open(&path) } else { folder.inside_anew("scaling")? };
    let found = scaling::measure(&scaling::Args { resume, ..args }, destination, &folder)?;
    folder.all_kept()?;
    Ok(found)
}

fn print(results: &Results, out: &mut dyn Write) -> std::io::Result<()> {
    write!(out, "{}", rtt::table(&results.rtt, number))?;
    write!(out, "\n{}", results.scaling.table(Style::People))?;
    write!(out, "\n{}", results.scaling.capacity_table(number))?;
    for remark in results.scaling.remarks() {
        writeln!(out, "\nthe client fell short: {remark}")?;
    }
    if let Some(accuracy) = &results.accuracy {
        write!(out, "\n{}", accuracy.table(number))?;
    }
    Ok(())
}

/// Redraws the report of a run.
pub(crate) fn redraw(folder: &Folder) -> anyhow::Result<()> {
    let inside = |name: &str| Folder::open(&folder.path().join(name));
    let accuracy = inside("accuracy");
    let results = Results {
        rtt: inside("rtt").read_json("summary.json")?,
        scaling: inside("scaling").read_json("summary.json")?,
        accuracy: if accuracy.path().is_dir() {
            Some(accuracy.read_json("summary.json")?)
        } else {
            None
        },
    };
    let others = conditions::sections(folder)?;
    let page = html::page(&folder.read_json("manifest.json")?, &results, &others);
    folder.redraw("report.html", page.as_bytes())
}

fn stop_if(interrupted: bool) -> anyhow::Result<()> {
    anyhow::ensure!(!interrupted, "ended early: no report, but what was measured is kept");
    Ok(())
}

fn rtt_args(args: &Args, effort: Effort) -> rtt::Args {
    rtt::Args {
        images: args.rtt_images.clone(),
        repeat: match effort {
            // Fewer are not enough for a median.
            Effort::Quick => 20,
            Effort::Normal => 50,
            Effort::Full => 100,
        },
        warm_up_rounds: 2,
        servers: args.servers.iter().max().copied(),
        no_twins: false,
        options: args.options.clone(),
    }
}

fn scaling_args(args: &Args, effort: Effort) -> scaling::Args {
    // The speed-up is the point of the experiment, so capacity gets more trials than a cell. A full
    // server answers in batches, so each trial is long enough for many of them.
    let (seconds, trials, capacity, capacity_trials) = match effort {
        Effort::Quick => (2, 2, 5, 6),
        Effort::Normal => (8, 3, 8, 6),
        Effort::Full => (30, 5, 20, 8),
    };
    scaling::Args {
        servers: args.servers.clone(),
        // The original's waits; `knee` adds those around the knees of the lines.
        waits: vec![0.5, 0.1, 0.01],
        knee: true,
        image: None,
        // A trial at a high rate lasts as long as one at a low rate.
        requests: u64::MAX,
        duration: args.trial_time.unwrap_or(Duration::from_secs(seconds)),
        trials,
        capacity: args.trial_time.unwrap_or(Duration::from_secs(capacity)),
        capacity_trials: Some(args.trial_time.map_or(capacity_trials, |_| trials)),
        original: false,
        resume: false,
        options: args.options.clone(),
    }
}

fn accuracy_args(args: &Args) -> Option<accuracy::Args> {
    Some(accuracy::Args {
        images: args.photos.clone()?,
        sizes: accuracy::ORIGINAL.iter().map(|(side, _)| *side).collect(),
        users: 2,
        options: args.options.clone(),
    })
}

/// SHA-256 of every weights file of a model repository, by folder; empty without the repository.
fn model_hashes(models: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let folders = |path: &Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut hashes = BTreeMap::new();
    for version in folders(models).iter().flat_map(|model| folders(model)) {
        let weights = version.join("weights.safetensors");
        if weights.is_file() {
            let bytes = std::fs::read(&weights).with_context(|| weights.display().to_string())?;
            let hash = fingerprint::sha256(&bytes);
            let name = version.strip_prefix(models).unwrap_or(&version).display().to_string();
            hashes.insert(name, hash);
        }
    }
    Ok(hashes)
}
