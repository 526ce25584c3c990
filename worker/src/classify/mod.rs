//! `worker classify`: labels images without a server.
//!
//! The same limits, the same preprocessing and the same network as behind `/predict`, on the calling
//! thread. An image that cannot be read does not keep the others from being labelled; the command
//! then ends with 1.

mod source;

use crate::Error;
use crate::config::{Largest, all_cores};
use crate::model::{self, Model, rank};
use crate::preprocess::{ImageError, contain, decode_to_fit, prepare};
use crate::repository::{Found, Input, Version, scan};
use candle_core::{Device, Tensor};
use serde::Serialize;
use source::{Source, sources};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;
use wire::{Prediction, Timings};

const EXAMPLES: &str = "\
Examples:
  worker classify photo.jpg                      the five best labels of the default model
  worker classify --model mnist --top 1 *.png    digits, one line each
  worker classify --json photos/ | jq .label     all images of a folder, one JSON object a line
  curl -s https://example.com/a.jpg | worker classify -
  worker classify https://example.com/a.jpg      ... or by its address";

/// Arguments of `worker classify`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Images (JPEG, PNG, WebP, GIF, BMP or TIFF): files, folders, http and https addresses, or - for
    /// standard input.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<OsString>,
    /// What an image may have.
    #[command(flatten)]
    pub largest: Largest,
    /// Model repository: `<model>/<version>/model.toml`.
    #[arg(long, env = "WORKER_MODELS", default_value = "models", value_name = "DIR")]
    pub models: PathBuf,
    /// The model to ask; `mobilenet_v2` if it is there, else `mnist`, else the first.
    #[arg(long, env = "WORKER_MODEL", value_name = "NAME")]
    pub model: Option<String>,
    /// The version to ask; default: the newest.
    #[arg(long = "model-version", env = "WORKER_MODEL_VERSION", value_name = "N")]
    pub model_version: Option<u64>,
    /// Labels to print per file.
    #[arg(long, env = "WORKER_TOP", default_value = "5", value_name = "K")]
    pub top: NonZeroUsize,
    /// How networks run.
    #[command(flatten)]
    pub engine: engine::Flags,
    /// One JSON object per line instead of a table.
    #[arg(long, env = "WORKER_JSON")]
    pub json: bool,
}

/// One line of `--json`.
#[derive(Debug, Serialize)]
struct Line<'a> {
    file: &'a str,
    #[serde(flatten)]
    prediction: Prediction,
}

/// A version to load.
struct Chosen {
    name: String,
    number: u64,
    folder: PathBuf,
}

/// A loaded model.
struct Classifier {
    name: String,
    number: u64,
    version: Version,
    input: Input,
    network: Box<dyn Model>,
}

/// Runs `worker classify`.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    args.largest.check()?;
    let classifier = Classifier::load(args)?;
    let (mut seen, mut failed) = (0, 0);
    for source in args.images.iter().flat_map(|image| sources(image)) {
        seen += 1;
        match classifier.classify(&source, args) {
            Ok(prediction) => print(&source.name(), prediction, args.json, out)?,
            Err(error) => {
                failed += 1;
                tracing::error!(image = source.name(), "{error}");
            }
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::Invalid(format!("{failed} of {seen} images not labelled"))),
    }
}

impl Classifier {
    fn load(args: &Args) -> Result<Self, Error> {
        let found = scan(&args.models).map_err(Error::file(&args.models))?;
        let Chosen { name, number, folder } = choose(args, &found)?;
        let version = Version::read(&folder)?;
        let Some(input) = version.manifest.input.clone() else {
            return Err(Error::Invalid(format!("model {name} takes rows of columns, not images")));
        };
        let options = engine::Options::new(&args.engine, all_cores());
        let network = model::load(&version, &options)?;
        Ok(Self { name, number, version, input, network })
    }

    fn classify(&self, source: &Source, args: &Args) -> Result<Prediction, Error> {
        let begun = Instant::now();
        let bytes = source.read(args.largest.body)?;
        let limits = args.largest.picture_of(bytes.len());
        let read = Instant::now();
        let unusable = |error: ImageError| Error::Invalid(error.to_string());
        let picture = decode_to_fit(&bytes, &limits, &|| false, &self.input).map_err(unusable)?;
        let decoded = Instant::now();
        let features = contain(|| prepare(&picture, &self.input)).map_err(unusable)?;
        let prepared = Instant::now();
        let mut shape = vec![1];
        shape.extend(self.version.row_shape());
        let batch = Tensor::from_vec(features, shape, &Device::Cpu)?;
        let logits = self.network.forward(&batch)?.flatten_all()?.to_vec1()?;
        let timings_ms = Timings {
            decode: ms(decoded - read),
            preprocess: ms(prepared - decoded),
            queue: 0.0,
            compute: ms(prepared.elapsed()),
            total: ms(begun.elapsed()),
        };
        let top_k = rank(&self.version.labels, logits, args.top.get());
        let best = top_k[0].clone();
        Ok(Prediction {
            label: best.label,
            index: best.index,
            confidence: best.confidence,
            top_k,
            model: self.name.clone(),
            version: self.number.to_string(),
            endpoint: None,
            timings_ms,
            input: None,
        })
    }
}

/// The model and version that the arguments name, or the defaults.
fn choose(args: &Args, found: &BTreeMap<String, Found>) -> Result<Chosen, Error> {
    let default = || {
        let known = ["mobilenet_v2", "mnist"].into_iter().find(|name| found.contains_key(*name));
        known.map(str::to_owned).or_else(|| found.keys().next().cloned())
    };
    let root = args.models.display().to_string();
    let name = args.model.clone().or_else(default).ok_or(Error::NoModel(root))?;
    let versions = &found.get(&name).ok_or_else(|| Error::NoModel(name.clone()))?.versions;
    let chosen = match args.model_version {
        Some(number) => versions.get_key_value(&number),
        None => versions.last_key_value(),
    };
    let (number, version) = chosen.ok_or_else(|| {
        Error::NoModel(format!("{name}/{}", args.model_version.unwrap_or_default()))
    })?;
    Ok(Chosen { name, number: *number, folder: version.folder.clone() })
}

fn print(file: &str, prediction: Prediction, json: bool, out: &mut dyn Write) -> Result<(), Error> {
    if json {
        serde_json::to_writer(&mut *out, &Line { file, prediction })?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(out, "{file}")?;
    for candidate in &prediction.top_k {
        writeln!(out, "{:>7.2} %  {}", candidate.confidence * 100.0, candidate.label)?;
    }
    Ok(())
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
