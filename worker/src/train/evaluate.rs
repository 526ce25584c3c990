//! `worker eval mnist`: accuracy of the digit model on the test images.
//!
//! The model is loaded from the repository exactly as a server loads it, so the figure is that of
//! what is served.

use super::mnist::dataset::{CLASSES, Dataset, PIXELS, SIDE, Split};

use crate::{
    Error,
    config::all_cores,
    model,
    repository::{Version, scan},
};
use candle_core::{Device, Tensor};
use serde::Serialize;
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

const EXAMPLES: &str = "\
Examples:
  worker eval mnist --data DIR                        the newest version of models/mnist
  worker eval mnist --data DIR --folder other/mnist/7 --json";

/// Where the digit model lies unless a folder is named.
const MODELS: &str = "models";
const MODEL: &str = "mnist";
/// Images in one forward pass.
const BATCH: usize = 50;

/// Arguments of `worker eval mnist`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of MNIST's IDX files, plain or gzipped.
    #[arg(long, env = "WORKER_DATA", default_value = "data/mnist", value_name = "DIR")]
    data: PathBuf,
    /// The version folder to evaluate [default: the newest version in models/mnist].
    #[arg(long, env = "WORKER_FOLDER", value_name = "DIR")]
    folder: Option<PathBuf>,
    /// How networks run.
    #[command(flatten)]
    engine: engine::Flags,
    /// Print JSON instead of a table.
    #[arg(long, env = "WORKER_JSON")]
    json: bool,
}

/// How often each digit was read as each digit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// How many images of one digit were read as another: `counts[actual][predicted]`.
    pub counts: [[usize; CLASSES]; CLASSES],
}

#[derive(Serialize)]
struct Report {
    images: usize,
    correct: usize,
    accuracy: f64,
    /// Wilson's 95 % interval.
    interval: [f64; 2],
    digits: Vec<Digit>,
    confusion: Confusion,
}

#[derive(Serialize)]
struct Digit {
    name: usize,
    images: usize,
    precision: f64,
    recall: f64,
}

/// Runs `worker eval mnist`.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    let images = Dataset::load(&args.data, Split::Test)?;
    let confusion = confusion(args, &images)?;
    let report = Report::new(confusion);
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        return Ok(writeln!(out)?);
    }
    Ok(report.print(out)?)
}

/// The folder of the newest version of the digit model.
fn newest() -> Result<PathBuf, Error> {
    let mut found = scan(Path::new(MODELS)).map_err(Error::file(Path::new(MODELS)))?;
    let newest = found.remove(MODEL).and_then(|mut found| found.versions.pop_last());
    newest.map(|(_, version)| version.folder).ok_or_else(|| Error::NoModel(MODEL.to_owned()))
}

fn confusion(args: &Args, images: &Dataset) -> Result<Confusion, Error> {
    let folder = match &args.folder {
        Some(folder) => folder.clone(),
        None => newest()?,
    };
    let version = Version::read(&folder)?;
    let options = engine::Options::new(&args.engine, all_cores());
    let network = model::load(&version, &options)?;
    let mut confusion = Confusion { counts: [[0; CLASSES]; CLASSES] };
    for first in (0..images.len()).step_by(BATCH) {
        let batch = first..(first + BATCH).min(images.len());
        let pixels: Vec<f32> = batch.clone().flat_map(|i| images.normalised(i)).collect();
        debug_assert_eq!(pixels.len(), batch.len() * PIXELS, "every image has its pixels");
        let input = Tensor::from_vec(pixels, (batch.len(), 1, SIDE, SIDE), &Device::Cpu)?;
        let logits = network.forward(&input)?.to_vec2::<f32>()?;
        for (i, row) in batch.zip(&logits) {
            let predicted = model::top_k(row, 1).first().copied().unwrap_or(0);
            if predicted >= CLASSES {
                return Err(super::invalid(&folder, "the model has more than ten classes"));
            }
            confusion.counts[images.label(i)][predicted] += 1;
        }
    }
    Ok(confusion)
}

impl Report {
    fn new(confusion: Confusion) -> Self {
        let counts = &confusion.counts;
        let images: usize = counts.iter().flatten().sum();
        let correct: usize = (0..CLASSES).map(|digit| counts[digit][digit]).sum();
        let ratio = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        let digits = (0..CLASSES)
            .map(|digit| {
                let predicted = counts.iter().map(|row| row[digit]).sum();
                let images = counts[digit].iter().sum();
                let hits = counts[digit][digit];
                let (precision, recall) = (ratio(hits, predicted), ratio(hits, images));
                Digit { name: digit, images, precision, recall }
            })
            .collect();
        let (accuracy, interval) = (ratio(correct, images), wilson(correct, images));
        Self { images, correct, accuracy, interval, digits, confusion }
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let [low, high] = self.interval.map(|bound| 100.0 * bound);
        writeln!(
            out,
            "accuracy {:.2} % ({} of {} images; 95 % interval {low:.2} to {high:.2} %)\n",
            100.0 * self.accuracy,
            self.correct,
            self.images
        )?;
        writeln!(out, "digit  images  precision   recall")?;
        for Digit { name, images, precision, recall } in &self.digits {
            let (precision, recall) = (100.0 * precision, 100.0 * recall);
            writeln!(out, "{name:>5}  {images:>6}  {precision:>7.2} %  {recall:>5.2} %")?;
        }
        write!(out, "\nactual \\ read as")?;
        (0..CLASSES).try_for_each(|digit| write!(out, "{digit:>6}"))?;
        writeln!(out)?;
        for (digit, row) in self.confusion.counts.iter().enumerate() {
            write!(out, "{digit:>16}")?;
            row.iter().try_for_each(|count| match count {
                0 => write!(out, "     ."),
                count => write!(out, "{count:>6}"),
            })?;
            writeln!(out)?;
        }
        Ok(())
    }
}

/// Wilson's score interval at 95 % (1927): honest near 100 %, where a normal one is not.
fn wilson(hits: usize, trials: usize) -> [f64; 2] {
    const Z: f64 = 1.96;
    if trials == 0 {
        return [0.0, 1.0];
    }
    let (n, p) = (trials as f64, hits as f64 / trials as f64);
    let centre = p + Z * Z / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [(centre - spread) / scale, ((centre + spread) / scale).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_counts_rows_as_actual_and_columns_as_predicted() {
        let mut counts = [[0; CLASSES]; CLASSES];
        counts[3][3] = 8;
        counts[3][5] = 2;
        counts[5][5] = 10;
        let report = Report::new(Confusion { counts });
        assert_eq!((report.images, report.correct), (20, 18));
        assert!((report.digits[3].recall - 0.8).abs() < 1e-12);
        assert!((report.digits[5].precision - 10.0 / 12.0).abs() < 1e-12);
        let mut text = Vec::new();
        report.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("accuracy 90.00 % (18 of 20 images"), "{text}");
    }

    #[test]
    fn the_interval_is_wilsons() {
        let [low, high] = wilson(9, 10);
        assert!((low - 0.5958).abs() < 1e-3 && (high - 0.9821).abs() < 1e-3, "{low} {high}");
        assert!(wilson(0, 0)[0] <= 0.0 && wilson(0, 0)[1] >= 1.0);
        assert!(wilson(10, 10)[1] <= 1.0);
    }
}
