//! The files of one version, read and checked; everything but the weights.

use super::{Features, Manifest, Task};
use crate::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// One version on disk.
#[derive(Debug, Clone)]
pub struct Version {
    /// Its folder.
    pub folder: PathBuf,
    /// Its `model.toml`.
    pub manifest: Manifest,
    /// Class names; empty for a regression.
    pub labels: Vec<String>,
}

impl Version {
    /// Reads the manifest and the labels of a version.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("model.toml");
        let text = fs::read_to_string(&path).map_err(Error::file(&path))?;
        let manifest = Manifest::parse(&text).map_err(|source| Error::Manifest { path, source })?;
        let labels = read_labels(folder, &manifest)?;
        Ok(Self { folder: folder.to_owned(), manifest, labels })
    }

    /// Shape of one input row: `[channels, height, width]` or `[features]`.
    pub fn row_shape(&self) -> Vec<usize> {
        match self.manifest.features() {
            Features::Image(input) => vec![input.channels(), input.height, input.width],
            Features::Table(table) => vec![table.width()],
        }
    }

    /// Outputs of one row.
    pub fn output_width(&self) -> usize {
        self.labels.len().max(1)
    }

    /// Whether the outputs are a value and not logits.
    pub fn is_regression(&self) -> bool {
        is_regression(&self.manifest)
    }
}

fn is_regression(manifest: &Manifest) -> bool {
    match manifest.features() {
        Features::Image(_) => false,
        Features::Table(table) => table.task == Task::Regression,
    }
}

fn read_labels(folder: &Path, manifest: &Manifest) -> Result<Vec<String>, Error> {
    if is_regression(manifest) {
        return Ok(Vec::new());
    }
    let path = folder.join(&manifest.labels);
    let text = fs::read_to_string(&path).map_err(Error::file(&path))?;
    // Spaces are part of a name: two names may differ by nothing else.
    let labels: Vec<String> = text.lines().map(str::to_owned).collect();
    if labels.is_empty() {
        return Err(Error::Invalid(format!("{}: no labels", path.display())));
    }
    Ok(labels)
}
