//! The samples of a run that goes on, so that being killed does not lose them.

use std::fs::File;
use std::path::PathBuf;

use anyhow::Context;

use super::{Folder, JOURNAL, Row};

/// The samples of a run that has not ended: written as they come, and removed when all of them have
/// been written in order.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// Nothing after a failure to write.
    writer: Option<csv::Writer<File>>,
}

impl Journal {
    /// An empty one in `folder`.
    pub fn create(folder: &Folder) -> anyhow::Result<Self> {
        let path = folder.path().join(JOURNAL);
        let file = File::create_new(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, writer: Some(csv::Writer::from_writer(file)) })
    }

    /// One that begins with `rows`, in place of an earlier one.
    pub(crate) fn resume(folder: &Folder, rows: &[Row]) -> anyhow::Result<Self> {
        let path = folder.path().join(JOURNAL);
        let shown = || path.display().to_string();
        // Written beside it first, so that being killed now loses nothing.
        let new = folder.path().join(format!(".{JOURNAL}.new"));
        let file = File::create(&new).with_context(shown)?;
        let mut writer = csv::Writer::from_writer(file);
        rows.iter().try_for_each(|row| writer.serialize(row)).with_context(shown)?;
        writer.flush().with_context(shown)?;
        std::fs::rename(&new, &path).with_context(shown)?;
        Ok(Self { path, writer: Some(writer) })
    }

    /// Adds what has come, and sees that it is on disk.
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

    /// The samples stand elsewhere now.
    pub fn remove(self) -> anyhow::Result<()> {
        drop(self.writer);
        std::fs::remove_file(&self.path).with_context(|| self.path.display().to_string())
    }
}
