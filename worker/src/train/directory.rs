//! Version folders that appear whole or not at all.
//!
//! A server polls the repository while models are written. Files are written into a sibling folder
//! whose name is no version number, flushed, and renamed into place.

use super::invalid;
use crate::Error;
use crate::repository::Manifest;
use candle_core::Tensor;
use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// Fills a fresh folder by `fill` and puts it at `target`, replacing what is there.
pub(crate) fn replace(
    target: &Path,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let fresh = sibling(target, "new");
    let old = sibling(target, "old");
    for leftover in [&fresh, &old] {
        if leftover.exists() {
            fs::remove_dir_all(leftover).map_err(Error::file(leftover))?;
        }
    }
    fs::create_dir_all(&fresh).map_err(Error::file(&fresh))?;
    fill(&fresh)?;
    if target.exists() {
        fs::rename(target, &old).map_err(Error::file(target))?;
    }
    fs::rename(&fresh, target).map_err(Error::file(target))?;
    if old.exists() {
        fs::remove_dir_all(&old).map_err(Error::file(&old))?;
    }
    Ok(())
}

/// The manifest and the weights file that it names.
pub(crate) fn write_model(
    dir: &Path,
    manifest: &Manifest,
    tensors: &HashMap<String, Tensor>,
) -> Result<(), Error> {
    let path = dir.join("model.toml");
    let text = toml::to_string(manifest).map_err(|e| invalid(&path, e.to_string()))?;
    write_file(&path, text.as_bytes())?;
    let path = dir.join(&manifest.weights);
    let bytes = safetensors::serialize(tensors, None).map_err(|e| invalid(&path, e))?;
    write_file(&path, &bytes)
}

/// Writes and flushes to the disk.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(Error::file(path))
}

/// Replaces the file at `path` in one step, so that a killed process leaves the old or the new.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fresh = sibling(path, "new");
    write_file(&fresh, bytes)?;
    fs::rename(&fresh, path).map_err(Error::file(path))
}

fn sibling(path: &Path, kind: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{kind}"))
}
