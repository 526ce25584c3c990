//! `worker eval mnist`: accuracy of the digit model on the test images.
//!
//! The model is loaded from the repository exactly as a server loads it, so the figure is that of
//! the model as served: on the pixels as they are, or on the output of the search for a digit in
//! each image.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use serde::Serialize;

use super::mnist::dataset::{CLASSES, Dataset, PIXELS, SIDE, Split};
use crate::{
    Error,
    config::all_cores,
    model,
    preprocess::{ImageError, Picture, prepare},
    repository::{Input, Version, scan},
};

const EXAMPLES: &str = "\
Examples:
  worker eval mnist --data DIR                        the newest version of models/mnist
  worker eval mnist --data DIR --prepared             ... of images as a server prepares them
  worker eval mnist --data DIR --folder other/mnist/7 --json";

/// Where the digit model is unless a folder is given.
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
    /// Prepare each image as a server prepares an upload of its 28x28 pixels.
    #[arg(long, env = "WORKER_PREPARED")]
    prepared: bool,
    /// Print JSON instead of a table.
    #[arg(long, env = "WORKER_JSON")]
    json: bool,
}

/// How often each digit was read as each digit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// How many images of one digit were read as another: `counts[actual][predicted]`.
    pub counts: [[usize; CLASSES]; CLASSES],
    /// Images of each digit in which no digit was found.
    pub not_found: [usize; CLASSES],
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
    let prepared = if args.prepared { version.manifest.input.as_ref() } else { None };
    if args.prepared && prepared.is_none() {
        return Err(super::invalid(&folder, "the model does not take images"));
    }
    let mut confusion = Confusion { counts: [[0; CLASSES]; CLASSES], not_found: [0; CLASSES] };
    for first in (0..images.len()).step_by(BATCH) {
        let (mut batch, mut pixels) = (Vec::new(), Vec::new());
        for i in first..(first + BATCH).min(images.len()) {
            match prepared.map(|input| as_served(images.image(i), input)) {
                None => pixels.extend(images.normalised(i)),
                Some(Ok(features)) => pixels.extend(features),
                Some(Err(ImageError::NoDigit)) => {
                    confusion.not_found[images.label(i)] += 1;
                    continue;
                }
                Some(Err(error)) => return Err(Error::Invalid(error.to_string())),
            }
            batch.push(i);
        }
        if batch.is_empty() {
            continue;
        }
        debug_assert_eq!(pixels.len(), batch.len() * PIXELS, "every image has its pixels");
        let input = Tensor::from_vec(pixels, (batch.len(), 1, SIDE, SIDE), &Device::Cpu)?;
        let logits = network.forward(&input)?.to_vec2::<f32>()?;
        for (i, row) in batch.into_iter().zip(&logits) {
            let predicted = model::top_k(row, 1).first().copied().unwrap_or(0);
            if predicted >= CLASSES {
                return Err(super::invalid(&folder, "the model has more than ten classes"));
            }
            confusion.counts[images.label(i)][predicted] += 1;
        }
    }
    Ok(confusion)
}

/// The features that a server extracts from an upload with these pixels.
fn as_served(image: &[u8], input: &Input) -> Result<Vec<f32>, ImageError> {
    const WIDTH: u32 = 28;
    let image = image::GrayImage::from_raw(WIDTH, WIDTH, image.to_vec());
    prepare(&Picture::from_gray(image.expect("an image has 28x28 pixels")), input)
}

impl Report {
    fn new(confusion: Confusion) -> Self {
        let (counts, not_found) = (&confusion.counts, &confusion.not_found);
        let images = counts.iter().flatten().chain(not_found).sum();
        let correct: usize = (0..CLASSES).map(|digit| counts[digit][digit]).sum();
        let ratio = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        let digits = (0..CLASSES)
            .map(|digit| {
                let predicted = counts.iter().map(|row| row[digit]).sum();
                let images = counts[digit].iter().sum::<usize>() + not_found[digit];
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
        let not_found: usize = self.confusion.not_found.iter().sum();
        if not_found > 0 {
            writeln!(out, "no digit found in {not_found} of them\n")?;
        }
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

/// Wilson's score interval at 95 % (1927): honest near 100 %, where a normal interval is not.
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
        let report = Report::new(Confusion { counts, not_found: [0; CLASSES] });
        assert_eq!((report.images, report.correct), (20, 18));
        assert!((report.digits[3].recall - 0.8).abs() < 1e-12);
        assert!((report.digits[5].precision - 10.0 / 12.0).abs() < 1e-12);
        let mut text = Vec::new();
        report.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("accuracy 90.00 % (18 of 20 images"), "{text}");
    }

    #[test]
    fn an_image_without_a_digit_counts_as_one_that_was_not_read() {
        let (mut counts, mut not_found) = ([[0; CLASSES]; CLASSES], [0; CLASSES]);
        (counts[4][4], not_found[4]) = (3, 1);
        let report = Report::new(Confusion { counts, not_found });
        assert_eq!((report.images, report.correct, report.digits[4].images), (4, 3, 4));
        let mut text = Vec::new();
        report.print(&mut text).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("no digit found in 1 of them"));
    }

    #[test]
    fn the_interval_is_wilsons() {
        let [low, high] = wilson(9, 10);
        assert!((low - 0.5958).abs() < 1e-3 && (high - 0.9821).abs() < 1e-3, "{low} {high}");
        assert!(wilson(0, 0)[0] <= 0.0 && wilson(0, 0)[1] >= 1.0);
        assert!(wilson(10, 10)[1] <= 1.0);
    }
}
