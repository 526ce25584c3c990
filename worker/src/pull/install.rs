//! Installs a checkpoint as a version in the model repository.

use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use crate::Error;
use crate::repository::file::{self, MAX_WEIGHTS};
use crate::repository::{self, Name};

/// Where a checkpoint ended up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) folder: PathBuf,
    pub(super) is_new: bool,
}

/// Installs the next version of `folder`, unless the newest has the same weights and labels.
pub(super) fn install(
    folder: &Path,
    checkpoint: &Checkpoint,
    labels: &str,
) -> Result<Installed, Error> {
    let manifest = checkpoint.manifest()?;
    let files = [
        (manifest.weights.as_str(), checkpoint.weights.as_slice()),
        (manifest.labels.as_str(), labels.as_bytes()),
    ];
    if let Some(version) = repository::newest(folder)? {
        let newest = folder.join(version.to_string());
        let is_there = |(name, content): &(&str, &[u8])| {
            file::read(&newest.join(name), MAX_WEIGHTS).is_ok_and(|bytes| bytes == *content)
        };
        if files.iter().all(is_there) {
            return Ok(Installed { folder: newest, is_new: false });
        }
    }
    let text = toml::to_string(&manifest).map_err(|error| Error::Invalid(error.to_string()))?;
    let [weights, labels] = files;
    let files = [weights, labels, ("model.toml", text.as_bytes())];
    let folder = repository::install(folder, Name::Next, &files)?;
    Ok(Installed { folder, is_new: true })
}
