//! The samples of a run in progress, so that killing it does not lose them.

use std::fs::File;
use std::path::PathBuf;

use anyhow::Context;

use super::{Folder, JOURNAL, Row};

/// The samples of an unfinished run: written as they arrive, and removed once all of them have been
/// written in order.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// `None` after a write has failed.
    writer: Option<csv::Writer<File>>,
}

impl Journal {
    /// Creates an empty journal in `folder`.
    pub fn create(folder: &Folder) -> anyhow::Result<Self> {
        let path = folder.path().join(JOURNAL);
        let file = File::create_new(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, writer: Some(csv::Writer::from_writer(file)) })
    }

    /// Replaces an earlier journal with one that begins with `rows`.
    pub(crate) fn resume(folder: &Folder, rows: &[Row]) -> anyhow::Result<Self> {
        let path = folder.path().join(JOURNAL);
        let shown = || path.display().to_string();
        // Written to a new file first, so that being killed now loses nothing.
        let new = folder.path().join(format!(".{JOURNAL}.new"));
        let file = File::create(&new).with_context(shown)?;
        let mut writer = csv::Writer::from_writer(file);
        rows.iter().try_for_each(|row| writer.serialize(row)).with_context(shown)?;
        writer.flush().with_context(shown)?;
        std::fs::rename(&new, &path).with_context(shown)?;
        Ok(Self { path, writer: Some(writer) })
    }

    /// Appends `rows` and flushes them to the file.
    pub(crate) fn append(&mut self, rows: impl IntoIterator<Item = Row>) {
        let Some(writer) = &mut self.writer else { return };
        let mut is_new = false;
        let written = rows.into_iter().try_for_each(|row| {
            is_new = true;
            writer.serialize(row)
        });
        let flushed = if is_new { writer.flush().map_err(csv::Error::from) } else { Ok(()) };
        if let Err(error) = written.and(flushed) {
            tracing::warn!(%error, file = %self.path.display(), "samples are not saved during the run");
            self.writer = None;
        }
    }

    /// Removes the journal, once its samples are stored elsewhere.
    pub fn remove(self) -> anyhow::Result<()> {
        drop(self.writer);
        std::fs::remove_file(&self.path).with_context(|| self.path.display().to_string())
    }
}
