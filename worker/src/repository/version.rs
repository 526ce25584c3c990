//! The files of one version, read and checked; everything but the weights.

use std::io;
use std::path::{Path, PathBuf};

use super::file::{self, Digest, MAX_TEXT, MAX_WEIGHTS};
use super::{Features, Manifest, Task};
use crate::Error;

/// Bytes of a labels file.
const MAX_LABELS: u64 = 16 << 20;
/// Bytes of one label.
const MAX_LABEL: usize = 4096;
/// Labels of a model.
const MAX_CLASSES: usize = 65_536;

/// One version on disk.
#[derive(Debug, Clone)]
pub struct Version {
    /// The folder that holds the files of the version.
    pub folder: PathBuf,
    /// The contents of its `model.toml`.
    pub manifest: Manifest,
    /// Class names; empty for a regression.
    pub labels: Vec<String>,
}

impl Version {
    /// Reads the manifest and the labels of a version.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let manifest = read_manifest(folder)?;
        let labels = read_labels(folder, &manifest)?;
        Ok(Self { folder: folder.to_owned(), manifest, labels })
    }

    /// The SHA-256 of each file of a version, which tells versions apart.
    pub(crate) fn digests(folder: &Path) -> Result<Vec<Digest>, Error> {
        let manifest = read_manifest(folder)?;
        let mut files = vec![("model.toml", MAX_TEXT), (manifest.weights.as_str(), MAX_WEIGHTS)];
        if !is_regression(&manifest) {
            files.push((manifest.labels.as_str(), MAX_LABELS));
        }
        files.into_iter().map(|(name, limit)| file::digest(&folder.join(name), limit)).collect()
    }

    /// Shape of one input row: `[channels, height, width]` or `[features]`.
    pub fn row_shape(&self) -> Vec<usize> {
        match self.manifest.features() {
            Features::Image(input) => vec![input.channels(), input.height, input.width],
            Features::Table(table) => vec![table.width()],
        }
    }

    /// Its weights file.
    pub(crate) fn weights(&self) -> PathBuf {
        self.folder.join(&self.manifest.weights)
    }

    /// Number of outputs per row.
    pub fn output_width(&self) -> usize {
        self.labels.len().max(1)
    }

    /// Whether the output is a value rather than logits.
    pub fn is_regression(&self) -> bool {
        is_regression(&self.manifest)
    }
}

fn read_manifest(folder: &Path) -> Result<Manifest, Error> {
    let path = folder.join("model.toml");
    let text = file::read_text(&path, MAX_TEXT)?;
    Manifest::parse(&text).map_err(|source| Error::Manifest { path, source })
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
    let text = file::read_text(&path, MAX_LABELS)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let unusable = |reason: String| {
        let source = io::Error::new(io::ErrorKind::InvalidData, reason);
        Err(Error::File { path: path.clone(), source })
    };
    if text.lines().nth(MAX_CLASSES).is_some() {
        return unusable(format!("more than {MAX_CLASSES} labels"));
    }
    // Spaces are part of a name: two names may differ by nothing else.
    let labels: Vec<String> = text.lines().map(str::to_owned).collect();
    if labels.is_empty() {
        return unusable("no labels".to_owned());
    }
    if let Some(at) = labels.iter().position(|label| label.len() > MAX_LABEL) {
        let line = at + 1;
        return unusable(format!("line {line} is longer than {MAX_LABEL} bytes"));
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MANIFEST: &str = "architecture = 'mnist_cnn'
        [input]
        width = 28
        height = 28
        resize = { mode = 'digit' }
        mean = [0.1307]
        std = [0.3081]";

    #[test]
    fn labels_are_bounded_in_number_and_length() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.toml"), MANIFEST).unwrap();
        let read = |labels: &str| {
            fs::write(folder.path().join("labels.txt"), labels).unwrap();
            Version::read(folder.path()).map(|version| version.labels.len())
        };
        assert_eq!(read("\u{feff}a\r\nb\n").unwrap(), 2);
        let many = read(&"a\n".repeat(65_537)).unwrap_err().to_string();
        assert!(many.contains("more than 65536 labels"), "{many}");
        let long = read(&format!("a\n{}\n", "b".repeat(4097))).unwrap_err().to_string();
        assert!(long.contains("line 2 is longer than 4096 bytes"), "{long}");
        assert!(read("").unwrap_err().to_string().contains("no labels"));
    }

    #[test]
    fn every_file_of_a_version_counts_for_its_digests_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            fs::write(folder.path().join(name), content).unwrap();
            Version::digests(folder.path()).ok()
        };
        assert_eq!(write("model.toml", MANIFEST), None);
        write("weights.safetensors", "1");
        let whole = write("labels.txt", "a");
        assert!(whole.is_some());
        assert_eq!(write("notes", "n"), whole);
        for (name, content) in
            [("model.toml", &format!("{MANIFEST} ")[..]), ("weights.safetensors", "2")]
        {
            assert_ne!(write(name, content), whole);
        }
        assert_ne!(write("labels.txt", "b"), whole);
    }
}
