//! Writes a version into the model repository so that no reader ever sees half of it.

use super::checkpoint::Checkpoint;
use crate::Error;
use std::fs;
use std::path::Path;

/// Where a checkpoint ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) version: u64,
    pub(super) is_new: bool,
}

/// Installs as the next version of `folder`, unless the newest holds the same weights.
pub(super) fn install(
    folder: &Path,
    checkpoint: &Checkpoint,
    labels: &str,
) -> Result<Installed, Error> {
    fs::create_dir_all(folder).map_err(Error::file(folder))?;
    let newest = newest_version(folder)?;
    let manifest = checkpoint.manifest()?;
    if let Some(version) = newest {
        let weights = folder.join(version.to_string()).join(&manifest.weights);
        if fs::read(weights).is_ok_and(|weights| weights == checkpoint.weights) {
            return Ok(Installed { version, is_new: false });
        }
    }
    let version = newest.map_or(1, |version| version + 1);
    // The name starts with a dot, which readers of the repository skip.
    let staging = staging_in(folder)?;
    let manifest_text =
        toml::to_string(&manifest).map_err(|error| Error::Invalid(error.to_string()))?;
    let files = [
        (manifest.weights.as_str(), checkpoint.weights.as_slice()),
        (manifest.labels.as_str(), labels.as_bytes()),
        ("model.toml", manifest_text.as_bytes()),
    ];
    for (name, content) in files {
        let path = staging.join(name);
        fs::write(&path, content).map_err(Error::file(&path))?;
    }
    let target = folder.join(version.to_string());
    fs::rename(&staging, &target).map_err(Error::file(&target))?;
    Ok(Installed { version, is_new: true })
}

/// An empty folder of this process; what an earlier one with the same number left is removed.
fn staging_in(folder: &Path) -> Result<std::path::PathBuf, Error> {
    let staging = folder.join(format!(".installing-{}", std::process::id()));
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(Error::file(&staging))?;
    }
    fs::create_dir(&staging).map_err(Error::file(&staging))?;
    Ok(staging)
}

fn newest_version(folder: &Path) -> Result<Option<u64>, Error> {
    let mut newest = None;
    for entry in fs::read_dir(folder).map_err(Error::file(folder))? {
        let name = entry.map_err(Error::file(folder))?.file_name();
        let version = name.to_str().and_then(|name| name.parse::<u64>().ok());
        newest = newest.max(version);
    }
    Ok(newest)
}
