//! `worker train mnist`: trains the digit network from IDX files.
//!
//! The flow: [`dataset`] is read and part of it held out. For each epoch the [`trainer`] cuts the
//! rest into micro-batches that the [`thread_pool`] augments and differentiates ([`network`]), and
//! the [`optimizer`] steps. [`export`] writes the epoch whose average does best on the held-out
//! images. The test images are used once, at the end, and influence no choice.

mod augment;
mod checkpoint;
mod conv;
mod curves;
pub mod dataset;
mod download;
mod export;
mod idx;
mod network;
mod norm_pool;
mod optimizer;
mod thread_pool;
mod trainer;

use std::{
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    thread,
};

use checkpoint::{Progress, Recipe};
use dataset::{Dataset, Split};
use export::Target;
use thread_pool::ThreadPool;
use trainer::{Score, Trainer};

use crate::Error;

const EXAMPLES: &str = "\
Examples:
  worker train mnist --download                   fetch MNIST into data/mnist, then train
  worker train mnist --data DIR --epochs 2        a quick model, a little less accurate
  worker train mnist --data DIR --resume          go on after an interruption
  worker eval mnist --data DIR                    measure what came out";

/// Arguments of `worker train mnist`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of MNIST's four IDX files, plain or gzipped.
    #[arg(long, env = "WORKER_DATA", default_value = "data/mnist", value_name = "DIR")]
    data: PathBuf,
    /// Fetch the files that are missing there first (11 MB).
    #[arg(long, env = "WORKER_DOWNLOAD")]
    download: bool,
    /// Where --download fetches from.
    #[arg(long, env = "WORKER_MIRROR", default_value = download::MIRROR, value_name = "URL")]
    mirror: String,
    /// The version folder to write [default: the next version in models/mnist]; where it is there
    /// already, the next number beside it is taken.
    #[arg(long, env = "WORKER_OUT", value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where the run keeps its checkpoint, its history and the curves.
    #[arg(long, env = "WORKER_STATE", default_value = "results/train-mnist", value_name = "DIR")]
    state: PathBuf,
    /// Continue from the checkpoint of an interrupted run.
    #[arg(long, env = "WORKER_RESUME")]
    resume: bool,
    /// Computing threads [default: one per core]; the result does not depend on it.
    #[arg(long, env = "WORKER_THREADS", value_name = "N")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    recipe: RecipeArgs,
}

/// What decides the result.
#[derive(Debug, Clone, clap::Args)]
struct RecipeArgs {
    /// Passes over the training images.
    #[arg(long, env = "WORKER_EPOCHS", default_value_t = 20, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    epochs: u32,
    /// Decides every random draw: the same seed gives the same weights.
    #[arg(long, env = "WORKER_SEED", default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Images per step.
    #[arg(long, env = "WORKER_BATCH_SIZE", default_value_t = 128, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch_size: u32,
    /// Training images kept aside to choose the best epoch; 0 takes the last epoch.
    #[arg(long, env = "WORKER_HOLD_OUT", default_value_t = 5000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(0..=50_000))]
    hold_out: u32,
    /// Train on the first N images only; 0 uses all.
    #[arg(long, env = "WORKER_LIMIT", default_value_t = 0, value_name = "N")]
    limit: u32,
    /// Largest learning rate.
    #[arg(long, env = "WORKER_RATE", default_value_t = 0.003, value_name = "R")]
    rate: f32,
    /// How far images are varied: 0 not at all, 1 fully.
    #[arg(long, env = "WORKER_AUGMENT", default_value_t = 1.0, value_name = "S")]
    augment: f32,
}

/// Runs `worker train mnist`.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    let recipe = recipe(&args.recipe)?;
    let target = Target::new(args.out.as_deref())?;
    if args.download {
        download::fetch(&args.mirror, &args.data)?;
    }
    let mut whole = Dataset::load(&args.data, Split::Train)?;
    let test = Dataset::load(&args.data, Split::Test)?;
    if recipe.limit > 0 {
        whole = whole.select(&(0..whole.len().min(recipe.limit)).collect::<Vec<_>>());
    }
    let (training, held_out) = whole.hold_out(recipe.hold_out, recipe.seed);
    if training.is_empty() {
        return Err(Error::Invalid("--hold-out leaves no image to learn from".to_owned()));
    }
    let threads = args.threads.or_else(|| thread::available_parallelism().ok());
    let pool = ThreadPool::new(threads.unwrap_or(NonZeroUsize::MIN))?;
    let mut progress = start(args, &recipe)?;
    let trainer = Trainer { pool: &pool, recipe: &recipe, training: &training };
    train(&trainer, &held_out, &mut progress, &args.state)?;
    let model = export::write(&progress.best, &target)?;
    let score = trainer::score(&pool, &progress.best, &test)?;
    checkpoint::remove(&args.state)?;
    report(out, &model, args, &progress, &score).map_err(Error::Io)
}

fn recipe(args: &RecipeArgs) -> Result<Recipe, Error> {
    let positive = |value: f32| value.is_finite() && value > 0.0;
    if !positive(args.rate) {
        return Err(Error::Invalid("--rate must be above zero".to_owned()));
    }
    if !(0.0..=2.0).contains(&args.augment) {
        return Err(Error::Invalid("--augment must be 0 to 2".to_owned()));
    }
    Ok(Recipe {
        seed: args.seed,
        epochs: args.epochs as usize,
        batch_size: args.batch_size as usize,
        hold_out: args.hold_out as usize,
        limit: args.limit as usize,
        rate: args.rate,
        augment: args.augment,
    })
}

/// A fresh run, or the one that was interrupted. Never discards an interrupted run unasked.
fn start(args: &Args, recipe: &Recipe) -> Result<Progress, Error> {
    let found = checkpoint::load(&args.state)?;
    match (found, args.resume) {
        (None, false) => Ok(Progress::new(recipe)),
        (None, true) => {
            tracing::warn!(state = %args.state.display(), "no checkpoint, starting afresh");
            Ok(Progress::new(recipe))
        }
        (Some((of, progress)), true) if of == *recipe => {
            tracing::info!(epochs = progress.history.len(), "resumed");
            Ok(progress)
        }
        (Some((of, _)), true) => Err(Error::Invalid(format!(
            "the checkpoint in {} belongs to another run: repeat its flags ({of}), or remove it",
            args.state.display()
        ))),
        (Some(_), false) => Err(Error::Invalid(format!(
            "{} holds the checkpoint of an interrupted run: add --resume, or remove it",
            checkpoint::path(&args.state).display()
        ))),
    }
}

fn train(
    trainer: &Trainer<'_>,
    held_out: &Dataset,
    progress: &mut Progress,
    state: &Path,
) -> Result<(), Error> {
    let bar = trainer.progress_bar(progress.history.len());
    while progress.history.len() < trainer.recipe.epochs {
        let number = progress.history.len();
        let mut epoch = trainer.epoch(&mut progress.learner, number, &bar)?;
        if !progress.learner.is_moderate() {
            let reason = "the training diverged: try a smaller --rate".to_owned();
            return Err(Error::Invalid(reason));
        }
        if !held_out.is_empty() {
            let score = trainer::score(trainer.pool, &progress.learner.average, held_out)?;
            epoch.held_out = Some((score.loss, score.accuracy()));
        }
        bar.suspend(|| epoch.log());
        progress.record(epoch);
        checkpoint::save(state, trainer.recipe, progress)?;
        curves::draw(state, &progress.history)?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn report(
    out: &mut dyn Write,
    model: &Path,
    args: &Args,
    progress: &Progress,
    score: &Score,
) -> std::io::Result<()> {
    let seconds: f64 = progress.history.iter().map(|epoch| epoch.seconds).sum();
    writeln!(out, "model            {}", model.display())?;
    writeln!(out, "epoch chosen     {} of {}", progress.best_epoch + 1, progress.history.len())?;
    if let Some((_, accuracy)) = progress.history[progress.best_epoch].held_out {
        writeln!(out, "held-out images  {:.2} %", 100.0 * accuracy)?;
    }
    let (correct, images) = (score.correct, score.labels.len());
    writeln!(out, "test images      {:.2} % ({correct} of {images})", 100.0 * score.accuracy())?;
    writeln!(out, "training time    {:.1} min", seconds / 60.0)?;
    writeln!(out, "curves           {}", args.state.join("*.svg").display())
}
