//! `worker classify`: labels images without a server.
//!
//! Uses the same limits, preprocessing and networks as `/predict`, on the calling thread. If an
//! image cannot be read, the others are still labelled, and the command exits with 1.

mod source;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::{Device, Tensor};
use serde::Serialize;
use source::{Source, sources};
use tokio::time::Instant;
use wire::{Prediction, Timings};

use crate::Error;
use crate::config::{Largest, all_cores};
use crate::model::{self, Model, rank};
use crate::preprocess::{ImageError, contain, decode_to_fit, prepare};
use crate::repository::{Found, Input, ModelSettings, Version, VersionPolicy, scan};

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
    /// The version to ask; default: the newest that loads, of those that `serving.toml` names.
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
struct JsonLine<'a> {
    file: &'a str,
    #[serde(flatten)]
    prediction: Prediction,
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
    /// Loads the requested version, or else the newest that loads of those that would be served.
    fn load(args: &Args) -> Result<Self, Error> {
        let found = scan(&args.models).map_err(Error::file(&args.models))?;
        let (name, found) = choose(args, &found)?;
        let mut numbers = numbers(args.model_version, name, found)?.into_iter().peekable();
        while let Some(number) = numbers.next() {
            let folder = &found.versions[&number].folder;
            match Self::load_version(args, name, number, folder) {
                Err(error) if numbers.peek().is_some() => {
                    tracing::error!(model = name, version = number, %error, "model does not load");
                }
                outcome => return outcome,
            }
        }
        Err(Error::NoModel(name.to_owned()))
    }

    fn load_version(args: &Args, name: &str, number: u64, folder: &Path) -> Result<Self, Error> {
        let version = Version::read(folder)?;
        let Some(input) = version.manifest.input.clone() else {
            return Err(Error::Invalid(format!("model {name} takes rows of columns, not images")));
        };
        let options = engine::Options::new(&args.engine, all_cores());
        let network = model::load(&version, &options)?;
        Ok(Self { name: name.to_owned(), number, version, input, network })
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

/// The model that the arguments name, or the default.
fn choose<'a>(
    args: &'a Args,
    found: &'a BTreeMap<String, Found>,
) -> Result<(&'a str, &'a Found), Error> {
    let default = || {
        let known = ["mobilenet_v2", "mnist"].into_iter().find(|name| found.contains_key(*name));
        known.or_else(|| found.keys().next().map(String::as_str))
    };
    let root = args.models.display().to_string();
    let name = args.model.as_deref().or_else(default).ok_or(Error::NoModel(root))?;
    Ok((name, found.get(name).ok_or_else(|| Error::NoModel(name.to_owned()))?))
}

/// The versions to try in sequence: the requested one, or those that `worker serve` would try.
fn numbers(asked: Option<u64>, model: &str, found: &Found) -> Result<Vec<u64>, Error> {
    if let Some(number) = asked {
        let only = found.versions.contains_key(&number).then(|| vec![number]);
        return only.ok_or_else(|| Error::NoModel(format!("{model}/{number}")));
    }
    let policy = match &found.settings {
        Ok(ModelSettings { version_policy: named @ VersionPolicy::Specific(_), .. }) => named,
        // If the newest version does not load, older ones are tried.
        Ok(_) => &VersionPolicy::All,
        Err(error) => {
            tracing::warn!(model, error, "settings not read");
            &VersionPolicy::All
        }
    };
    Ok(policy.select(&found.versions.keys().copied().collect()))
}

fn print(file: &str, prediction: Prediction, json: bool, out: &mut dyn Write) -> Result<(), Error> {
    if json {
        serde_json::to_writer(&mut *out, &JsonLine { file, prediction })?;
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
