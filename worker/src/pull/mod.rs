//! `worker pull`: fetches a published model into the model repository.
//!
//! [`download`] fetches the file, complete and verified or not at all; [`checkpoint`] determines
//! what it is and which input it needs, whatever its bytes; [`install`] writes a version that a
//! running worker may pick up immediately. No file is parsed before its digest is checked. A file
//! that is already installed is recognised, so the command can be repeated.

mod checkpoint;
mod download;
mod install;
mod partial;
mod pytorch;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use checkpoint::Checkpoint;
use clap::ValueEnum;
pub(crate) use download::agent;

use crate::Error;
use crate::repository::file;

/// What torchvision's own code downloads (BSD-3-Clause); the name ends with the start of its SHA-256.
const MOBILENET_V2: &str = "https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth";

/// Largest checkpoint in bytes: the published one has 14 MB, one from training three times that.
const MAX_BYTES: u64 = 256 << 20;
/// Bytes of a file of labels.
const MAX_LABELS: u64 = 16 << 20;

const EXAMPLES: &str = "\
Examples:
  worker pull mobilenet_v2                          download torchvision's weights (14 MB)
  worker pull mobilenet_v2 --from weights.pth       install a checkpoint that is here already
  worker pull mobilenet_v2 --from model.safetensors --models /srv/models

The file must be a MobileNetV2 of width 1.0, as torchvision's state dict or with batch norm folded.
A safetensors file may say `padding` (symmetric, tf_same), `mean` and `std` in its metadata.";

/// Arguments of `worker pull`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The published model to fetch.
    pub model: Published,
    /// Model repository to write into.
    #[arg(long, env = "WORKER_MODELS", default_value = "models", value_name = "DIR")]
    pub models: PathBuf,
    /// Take this checkpoint (.pth or .safetensors) instead of downloading.
    #[arg(long, env = "WORKER_FROM", value_name = "FILE", conflicts_with = "url")]
    pub from: Option<PathBuf>,
    /// Download from here instead of download.pytorch.org; an interrupted download is resumed only if the
    /// server says by its entity tag, or a digest at the end, that it is the same file.
    #[arg(long, env = "WORKER_URL", value_name = "URL")]
    pub url: Option<String>,
    /// The SHA-256 of the file, or its first digits; by default the digits in the name of the file.
    #[arg(long, env = "WORKER_SHA256", value_name = "HEX", value_parser = parse_digest)]
    pub sha256: Option<String>,
    /// Names of the classes, one per line, if they are not ImageNet's thousand.
    #[arg(long, env = "WORKER_LABELS", value_name = "FILE")]
    pub labels: Option<PathBuf>,
}

/// Models that can be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Published {
    /// Photos, in the thousand classes of ImageNet.
    #[value(name = "mobilenet_v2")]
    MobilenetV2,
}

impl Published {
    fn name(self) -> &'static str {
        match self {
            Self::MobilenetV2 => "mobilenet_v2",
        }
    }

    fn url(self) -> &'static str {
        match self {
            Self::MobilenetV2 => MOBILENET_V2,
        }
    }
}

/// Runs `worker pull`.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    let name = args.model.name();
    let folder = args.models.join(name);
    let (bytes, origin) = match &args.from {
        Some(file) => (read(file, args.sha256.as_deref())?, file.display().to_string()),
        None => fetch(args)?,
    };
    let checkpoint =
        Checkpoint::read(bytes).map_err(|error| Error::Invalid(format!("{origin}: {error}")))?;
    let labels = labels(args.labels.as_deref(), checkpoint.classes)?;
    let installed = install::install(&folder, &checkpoint, &labels)?;
    let verb = if installed.is_new { "installed as" } else { "is already installed as" };
    let path = installed.folder;
    let version = path.file_name().unwrap_or_default().display();
    writeln!(out, "{name} {verb} version {version} in {}", path.display())?;
    writeln!(out, "{} layout, {} classes, {}", checkpoint.layout_name(), checkpoint.classes, {
        checkpoint.padding_name()
    })?;
    Ok(())
}

/// Number of classes of a checkpoint's network, or why it is not a checkpoint.
pub fn classes(checkpoint: Vec<u8>) -> Result<usize, Error> {
    Ok(Checkpoint::read(checkpoint)?.classes)
}

/// The bytes of a local checkpoint.
fn read(path: &Path, sha256: Option<&str>) -> Result<Vec<u8>, Error> {
    let bytes = File::open(path).and_then(|file| file::bounded(file, MAX_BYTES));
    let bytes = bytes.map_err(Error::file(path))?;
    if sha256.is_some() {
        download::check(&bytes, sha256)
            .map_err(|error| Error::Invalid(format!("{}: {error}", path.display())))?;
    }
    Ok(bytes)
}

/// Bytes and their origin.
type Fetched = (Vec<u8>, String);

/// The bytes of a published checkpoint and their origin. Partial downloads are kept in a hidden
/// folder of the repository, where an interrupted one waits to be resumed.
fn fetch(args: &Args) -> Result<Fetched, Error> {
    let url = args.url.as_deref().unwrap_or(args.model.url());
    let folder = args.models.join(".downloads");
    fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    let expected = args.sha256.clone().or_else(|| digest_in_name(url));
    let target = folder.join(file_name(url));
    let bytes = download::download(url, &target, expected.as_deref(), MAX_BYTES)?;
    Ok((bytes, url.to_owned()))
}

/// The last part of an address, reduced to characters that are safe in a file name.
fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    let is_safe = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let safe: String = last.chars().filter(is_safe).collect();
    if safe.trim_matches('.').is_empty() { "checkpoint".to_owned() } else { safe }
}

/// `7ebf99e0` of `mobilenet_v2-7ebf99e0.pth`: torchvision's convention.
fn digest_in_name(url: &str) -> Option<String> {
    let name = file_name(url);
    let stem = name.split('.').next()?;
    let (_, digits) = stem.rsplit_once('-')?;
    parse_digest(digits).ok()
}

fn parse_digest(text: &str) -> Result<String, String> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex && (8..=64).contains(&text.len()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a SHA-256 has 64 hexadecimal digits; give at least the first 8".to_owned())
    }
}

fn labels(file: Option<&Path>, classes: usize) -> Result<String, Error> {
    let text = match file {
        Some(file) => {
            let bytes = File::open(file).and_then(|opened| file::bounded(opened, MAX_LABELS));
            String::from_utf8(bytes.map_err(Error::file(file))?)
                .map_err(|_| Error::Invalid(format!("{}: not UTF-8", file.display())))?
        }
        None => include_str!("imagenet_labels.txt").to_owned(),
    };
    let lines = text.lines().count();
    if lines == classes {
        return Ok(text);
    }
    Err(Error::Invalid(format!(
        "the network has {classes} classes and there are {lines} labels: name them with --labels FILE"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_read_from_torchvisions_file_names() {
        assert_eq!(digest_in_name(MOBILENET_V2).as_deref(), Some("7ebf99e0"));
        assert_eq!(digest_in_name("http://host/model.safetensors"), None);
        assert_eq!(digest_in_name("http://host/photo-album.pth"), None);
    }

    #[test]
    fn a_file_name_never_leaves_the_folder() {
        assert_eq!(file_name("http://host/a/b.pth?x=../y"), "b.pth");
        assert_eq!(file_name("http://host/.."), "checkpoint");
        assert_eq!(file_name("http://host/%2e%2e%2fetc"), "2e2e2fetc");
    }

    #[test]
    fn there_are_a_thousand_labels() {
        assert_eq!(labels(None, 1000).unwrap().lines().nth(281), Some("tabby"));
        assert!(labels(None, 10).is_err());
    }
}
