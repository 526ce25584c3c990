//! Results on disk: one folder per run, with every sample, a summary, plots and a manifest.
//!
//! Measurements are never overwritten unless the user asks for it. During a run its samples are in
//! a [`Journal`], so that a run that was killed can still be read and resumed. The [`Manifest`]
//! contains what is needed to repeat a run and to decide whether two runs are comparable: settings,
//! seed, commit, processor, kernel.

mod journal;
mod manifest;
mod row;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Context;
pub use journal::Journal;
pub use manifest::Manifest;
pub use row::Row;
pub(crate) use row::read_rows;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::experiment::Options;
use crate::workload::generated::GENERATED;

/// A folder with the results of one run.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    /// The first error in writing something that was measured.
    unsaved: Arc<OnceLock<String>>,
}

impl Folder {
    /// Creates the folder that the flags name, by default `results/<experiment>-<time>`. Refuses a
    /// folder that is not empty, unless it contains results of an earlier run that may be replaced.
    pub fn of(options: &Options, experiment: &str) -> anyhow::Result<Self> {
        if let (Some(path), true) = (&options.out, options.force) {
            remove_results(path).with_context(|| path.display().to_string())?;
        }
        let created = Self::create(options.out.as_deref(), experiment);
        created.map_err(|error| match error.downcast() {
            // Results were removed above, so the remaining files are something else.
            Ok(Error::ResultsExist(path)) if options.force => Error::NotOurs(path).into(),
            Ok(other) => other.into(),
            Err(other) => other,
        })
    }

    /// Where results go by default: `results/<experiment>-<time>`.
    pub(crate) fn fresh(experiment: &str) -> PathBuf {
        Path::new("results").join(format!("{experiment}-{}", now_in_a_name()))
    }

    /// Creates the folder, by default [`Self::fresh`]. Refuses a folder that is not empty.
    pub fn create(out: Option<&Path>, experiment: &str) -> anyhow::Result<Self> {
        let path = out.map_or_else(|| Self::fresh(experiment), Path::to_owned);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        let is_empty =
            std::fs::read_dir(&path).with_context(|| path.display().to_string())?.next().is_none();
        if is_empty { Ok(Self::open(&path)) } else { Err(Error::ResultsExist(path).into()) }
    }

    /// Creates a folder inside this one.
    pub fn inside(&self, name: &str) -> anyhow::Result<Self> {
        Self::create(Some(&self.path.join(name)), name)
    }

    /// Creates a folder inside this one, after removing the results of an earlier run there.
    pub fn inside_anew(&self, name: &str) -> anyhow::Result<Self> {
        let path = self.path.join(name);
        if path.is_dir() {
            remove_results(&path).with_context(|| path.display().to_string())?;
        }
        self.inside(name)
    }

    /// Removes everything derived from the samples; keeps the samples and the manifest.
    pub(crate) fn remove_conclusions(&self) -> anyhow::Result<()> {
        let is_kept = |name: &str| [MANIFEST, SAMPLES, JOURNAL].contains(&name);
        remove_files(&self.path, |name| !is_kept(name))
            .with_context(|| self.path.display().to_string())
    }

    /// A folder that already contains results.
    pub fn open(path: &Path) -> Self {
        Self { path: path.to_owned(), unsaved: Arc::default() }
    }

    /// Reads one file as JSON.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<T> {
        let path = self.path.join(name);
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(&path).with_context(|| shown.clone())?;
        serde_json::from_str(&text).with_context(|| shown)
    }

    /// Writes a file that is derived from others, replacing its previous version.
    pub fn redraw(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let (path, new) = (self.path.join(name), self.path.join(format!(".{name}.new")));
        std::fs::write(&new, content)
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| path.display().to_string())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one file that must not exist yet.
    pub fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = self.path.join(name);
        let shown = || path.display().to_string();
        let mut file = File::create_new(&path).with_context(shown)?;
        let written = file.write_all(content).inspect_err(|_| {
            // A partial file would be taken for a complete one. If it cannot be removed, it stays.
            let _either = std::fs::remove_file(&path);
        });
        written.with_context(shown)
    }

    /// Logs and remembers a failure to write something that was measured, so that the caller can
    /// continue: other files may still fit on the disk. Returns whether it was written.
    pub(crate) fn keep(&self, written: anyhow::Result<()>) -> bool {
        let Err(error) = written else { return true };
        tracing::error!("not saved: {error:#}");
        // The first error is kept.
        let _later = self.unsaved.set(format!("{error:#}"));
        false
    }

    /// Returns an error if something was not written, for the end of a command.
    pub(crate) fn all_kept(&self) -> anyhow::Result<()> {
        match self.unsaved.get() {
            None => Ok(()),
            Some(error) => Err(anyhow::anyhow!("the results are not complete: {error}")),
        }
    }

    /// Writes `value` as indented JSON.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(value).context("writing JSON")?;
        text.push(b'\n');
        self.write(name, &text)
    }

    /// Writes rows as CSV with a header row.
    pub fn write_csv(
        &self,
        name: &str,
        rows: impl IntoIterator<Item = impl Serialize>,
    ) -> anyhow::Result<()> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in rows {
            writer.serialize(row).context("writing CSV")?;
        }
        self.write(name, &writer.into_inner().context("writing CSV")?)
    }
}

/// The files that a run writes besides plots.
const FILES: [&str; 11] = [
    MANIFEST,
    SAMPLES,
    JOURNAL,
    "summary.json",
    "summary.csv",
    "capacity.csv",
    "differences.json",
    "latency.hgrm",
    "latency.hlog",
    SECTION,
    "report.html",
];
/// The file with the settings of a run.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The file with the samples of a run.
pub(crate) const SAMPLES: &str = "samples.csv";
/// The file with an experiment's section for a combined report.
pub(crate) const SECTION: &str = "section.json";
/// The file with the samples of a run in progress.
pub(crate) const JOURNAL: &str = "samples.part.csv";
/// The experiments whose results may be inside those of another one.
pub(crate) const PARTS: [&str; 6] = ["rtt", "scaling", "accuracy", "loss", "bandwidth", "churn"];

/// Whether a folder of that name is part of an experiment: one of its parts, or a single trial.
fn is_part(name: &str) -> bool {
    PARTS.contains(&name) || name == "pilot" || name.contains("-trial=")
}

/// Removes the results of an earlier run in `path`, and nothing else; does nothing
/// without a manifest.
fn remove_results(path: &Path) -> std::io::Result<()> {
    if !path.join(MANIFEST).is_file() {
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let part = entry?.path();
        let name = part.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_part(name) && part.is_dir() {
            remove_results(&part)?;
            // The folder stays if it contains other files.
            let _kept = std::fs::remove_dir(&part);
        }
    }
    // The manifest goes last: without it the rest would not be recognised as results.
    remove_files(path, |name| name != MANIFEST)?;
    std::fs::remove_file(path.join(MANIFEST))
}

/// Removes the result files in `path` that `is_meant` selects.
fn remove_files(path: &Path, is_meant: impl Fn(&str) -> bool) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_plot = file.extension().is_some_and(|extension| extension == "svg");
        let is_picture = name.starts_with(GENERATED);
        if is_meant(name) && (is_plot || is_picture || FILES.contains(&name)) {
            std::fs::remove_file(&file)?;
        }
    }
    Ok(())
}

/// `2026-01-31T12-30-00Z`: sorts by time and is a legal file name everywhere.
fn now_in_a_name() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string().replace(':', "-")
}

#[cfg(test)]
mod tests {
    use super::{Folder, remove_results};

    #[test]
    fn only_results_are_removed_to_make_room_for_others() {
        let parent = tempfile::tempdir().unwrap();
        let file = |name: &str| parent.path().join(name);
        for folder in ["rtt", "loss/loss=0.1-trial=0", "mine"] {
            std::fs::create_dir_all(file(folder)).unwrap();
        }
        for name in ["loss/manifest.json", "loss/section.json", "loss/generated_224.jpg"] {
            std::fs::write(file(name), "").unwrap();
        }
        for name in ["loss/loss=0.1-trial=0/manifest.json", "mine/manifest.json"] {
            std::fs::write(file(name), "").unwrap();
        }
        for name in ["samples.csv", "load-tail.svg", "notes.txt", "rtt/thesis.tex"] {
            std::fs::write(file(name), "").unwrap();
        }
        remove_results(parent.path()).unwrap();
        assert!(file("samples.csv").exists(), "without a manifest these are not known as results");
        std::fs::write(file("manifest.json"), "{}").unwrap();
        remove_results(parent.path()).unwrap();
        let left = ["samples.csv", "load-tail.svg", "manifest.json", "notes.txt", "rtt/thesis.tex"];
        assert_eq!(left.map(|name| file(name).exists()), [false, false, false, true, true]);
        assert!(!file("loss").exists() && file("mine/manifest.json").exists());
    }

    #[test]
    fn what_cannot_be_written_is_remembered_and_leaves_no_half_of_a_file() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create(Some(&parent.path().join("run")), "rtt").unwrap();
        assert!(folder.keep(folder.write("a.txt", b"one")) && folder.all_kept().is_ok());
        assert!(!folder.keep(folder.write("a.txt", b"two")));
        assert!(folder.keep(folder.write("b.txt", b"three")), "the others have their chance");
        let error = folder.all_kept().unwrap_err().to_string();
        assert!(error.contains("a.txt"), "{error}");
    }

    #[test]
    fn a_folder_with_results_is_never_written_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        let folder = Folder::create(Some(&path), "rtt").unwrap();
        folder.write("a.txt", b"one").unwrap();
        assert!(folder.write("a.txt", b"two").is_err());
        let error = Folder::create(Some(&path), "rtt").unwrap_err().to_string();
        assert!(error.contains("already holds results"), "{error}");
        assert_eq!(std::fs::read(path.join("a.txt")).unwrap(), b"one");
    }
}
