//! `worker bench`: measures inference on this machine.
//!
//! A forward pass is timed from tensor to tensor, as the executor runs it, after a warm-up. In
//! addition to milliseconds it reports the share of the cores' peak arithmetic, because the clock
//! speed of a rented core varies and the share does not.

mod report;
mod subject;

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use engine::{Flags, Options, peak_gflops};
use report::Report;
use subject::Subject;
use tokio::time::Instant;

use crate::{Error, config::all_cores};

const EXAMPLES: &str = "\
Examples:
  worker bench --threads 1                       the photo model on one core
  worker bench --threads 1 --precision f32 --layers
  worker bench --batch 8 --json | jq .images_per_second
  worker bench --isa avx2                        as a CPU without AVX-512 would

Without the model in the repository the same network runs with made-up weights: speed does not
depend on their values.";

/// Arguments of `worker bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model to run: `mobilenet_v2`, `mnist`, or another of the repository.
    #[arg(long, env = "WORKER_MODEL", default_value = "mobilenet_v2", value_name = "NAME")]
    pub model: String,
    /// Model repository: `<model>/<version>/model.toml`.
    #[arg(long, env = "WORKER_MODELS", default_value = "models", value_name = "DIR")]
    pub models: PathBuf,
    /// Images per forward pass.
    #[arg(long, env = "WORKER_BATCH", default_value = "1", value_name = "N")]
    pub batch: NonZeroUsize,
    /// Cores to use; default: all.
    #[arg(long, env = "WORKER_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// How networks run.
    #[command(flatten)]
    pub engine: Flags,
    /// How long to measure.
    #[arg(long, env = "WORKER_SECONDS", default_value = "2", value_name = "S")]
    pub seconds: f64,
    /// The time of each block as well.
    #[arg(long, env = "WORKER_LAYERS")]
    pub layers: bool,
    /// One line of JSON instead of a table.
    #[arg(long, env = "WORKER_JSON")]
    pub json: bool,
}

/// The largest batch, as in a manifest.
const MAX_BATCH: usize = 1024;
/// The longest measurement.
const MAX_SECONDS: f64 = 3600.0;
/// Number of warm-up passes.
const WARM_UP: usize = 5;

/// Runs `worker bench`.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    if args.batch.get() > MAX_BATCH {
        return Err(Error::Invalid("--batch must be at most 1024".to_owned()));
    }
    if !(0.0..=MAX_SECONDS).contains(&args.seconds) {
        return Err(Error::Invalid("--seconds must be 0 to 3600".to_owned()));
    }
    let threads = args.threads.unwrap_or_else(all_cores);
    let subject = Subject::load(args, &Options::new(&args.engine, threads))?;
    let passes = measure(&subject, args)?;
    let (precision, isa) = subject.names();
    let report = Report {
        model: &args.model,
        has_made_up_weights: subject.has_made_up_weights,
        batch: args.batch.get(),
        threads: threads.get(),
        precision,
        isa,
        flops: subject.flops(),
        peak_gflops: peak_gflops(isa, precision).map(|peak| peak * threads.get() as f64),
        layers: if args.layers { passes.layers } else { Vec::new() },
        times: passes.times,
    };
    if args.json { report.json(out) } else { report.table(out) }
}

/// The measured times.
struct Passes {
    times: Vec<Duration>,
    /// Name of each stage and its time per pass.
    layers: Vec<(String, Duration)>,
}

fn measure(subject: &Subject, args: &Args) -> Result<Passes, Error> {
    let batch = subject.batch(args.batch.get())?;
    for _ in 0..WARM_UP {
        subject.forward(&batch)?;
    }
    let before = subject.laps();
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || begun.elapsed().as_secs_f64() < args.seconds {
        let started = Instant::now();
        subject.forward(&batch)?;
        times.push(started.elapsed());
    }
    let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
    let layers = before.into_iter().zip(subject.laps());
    let layers =
        layers.map(|((name, before), (_, after))| (name, after.saturating_sub(before) / count));
    Ok(Passes { layers: layers.collect(), times })
}
