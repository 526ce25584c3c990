//! Writes files that appear whole or not at all, and installs the version that a training run
//! ends with.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use candle_core::Tensor;

use super::invalid;
use crate::Error;
use crate::repository::{self, Manifest, Name, Named};

/// Installs manifest and tensors, with `others` beside them, as a version of the model in `folder`.
pub(crate) fn install_model(
    folder: &Path,
    name: Name<'_>,
    manifest: &Manifest,
    tensors: &HashMap<String, Tensor>,
    others: &[Named<'_>],
) -> Result<PathBuf, Error> {
    let text = toml::to_string(manifest).map_err(|error| invalid(folder, error))?;
    let weights = safetensors::serialize(tensors, None).map_err(|error| invalid(folder, error))?;
    let mut files = vec![(manifest.weights.as_str(), weights.as_slice())];
    files.extend_from_slice(others);
    files.push(("model.toml", text.as_bytes()));
    repository::install(folder, name, &files)
}

/// Writes a file and flushes it to the disk.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(Error::file(path))
}

/// Replaces the file at `path` in one step, so that a killed process leaves either the old file or
/// the new one.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fresh = sibling(path, "new");
    write_file(&fresh, bytes)?;
    fs::rename(&fresh, path).map_err(Error::file(path))
}

fn sibling(path: &Path, kind: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{kind}"))
}
