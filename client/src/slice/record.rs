//! What is kept of a slice between two commands: its RSpec and what could not be applied.
//!
//! Written before the first namespace is made, and again when the last is finished. Removal does
//! not depend on it: `down` works by name.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context, Result, bail, ensure};
use rspec::Rspec;
use serde::{Deserialize, Serialize};

use super::Which;
use super::layout::Layout;

/// One slice that was built here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the slice.
    pub name: String,
    /// The request, as the text of a file.
    pub rspec: String,
    /// CPUs of each worker; `None` where the kernel cannot limit them.
    pub worker_cpus: Option<f64>,
    /// Whether our own relay delays packets instead of the kernel.
    #[serde(default)]
    pub emulates_latency: bool,
    /// Properties that this kernel could not apply.
    pub not_applied: Vec<String>,
    /// Whether all of it was built; an interrupted program leaves a part.
    #[serde(default = "yes")]
    pub is_built: bool,
}

/// The default for records of older versions, which lack the field.
fn yes() -> bool {
    true
}

/// Folder of a slice: its record and its logs.
pub(crate) fn folder(which: &Which) -> PathBuf {
    which.state_dir.join("slice").join(&which.name)
}

/// The file with the request of the slice, for programs that read it.
pub(crate) fn rspec_file(which: &Which) -> PathBuf {
    folder(which).join("slice.rspec")
}

fn file(which: &Which) -> PathBuf {
    folder(which).join("slice.json")
}

impl Record {
    /// Writes the record, whole or not at all.
    pub(crate) fn save(&self, which: &Which) -> Result<()> {
        let folder = folder(which);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        replace(&rspec_file(which), &self.rspec)?;
        replace(&file(which), &serde_json::to_string_pretty(self)?)
    }

    /// Reads the record of a slice, which must be there and complete.
    pub(crate) fn load(which: &Which) -> Result<Self> {
        let record = Self::read(which)?;
        ensure!(
            record.is_built,
            "slice `{0}` was not finished; `client slice down --name {0}` removes it",
            which.name
        );
        Ok(record)
    }

    /// Reads the record of a slice, which may be only partly built.
    pub(crate) fn read(which: &Which) -> Result<Self> {
        let file = file(which);
        match fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).with_context(|| {
                format!("{} is damaged; `client slice down` removes it", file.display())
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("there is no slice `{}`: build it with `client slice up`", which.name)
            }
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
        }
    }

    /// Whether a slice of that name has a record.
    pub(crate) fn exists(which: &Which) -> bool {
        file(which).exists()
    }

    /// The layout of the request on this machine.
    pub(crate) fn layout(&self) -> Result<Layout> {
        let layout = Layout::new(&self.name, &Rspec::parse(&self.rspec)?)?;
        Ok(if self.emulates_latency { layout.with_latency_emulated() } else { layout })
    }
}

/// One line for the manifest of an experiment in the slice.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(cpus) = self.worker_cpus {
            write!(f, ", {cpus} CPUs a worker")?;
        }
        if self.emulates_latency {
            write!(f, ", latency emulated")?;
        }
        for property in &self.not_applied {
            write!(f, ", without {property}")?;
        }
        Ok(())
    }
}

fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, file))
        .with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_and_a_damaged_one_says_how_to_go_on() {
        let state = tempfile::tempdir().expect("folder");
        let which = Which { name: "s".to_owned(), state_dir: state.path().to_owned() };
        let missing = Record::load(&which).expect_err("none yet").to_string();
        assert!(missing.contains("build it with `client slice up`"), "{missing}");
        let rspec = rspec::image_class(rspec::REPOSITORY).to_xml();
        let record = Record {
            name: "s".to_owned(),
            rspec,
            worker_cpus: Some(0.25),
            emulates_latency: true,
            not_applied: vec![],
            is_built: true,
        };
        record.save(&which).expect("saved");
        assert_eq!(Record::load(&which).expect("loaded"), record);
        let mut older = serde_json::to_value(&record).expect("JSON");
        older.as_object_mut().expect("an object").remove("is_built");
        fs::write(file(&which), older.to_string()).expect("written");
        assert_eq!(Record::load(&which).expect("of an older version"), record);
        let part = Record { is_built: false, ..record };
        part.save(&which).expect("saved");
        assert_eq!(Record::read(&which).expect("read"), part);
        let refused = Record::load(&which).expect_err("a part").to_string();
        assert!(refused.contains("was not finished; `client slice down --name s`"), "{refused}");
        fs::write(file(&which), "{").expect("damaged");
        let damaged = Record::load(&which).expect_err("damaged").to_string();
        assert!(damaged.contains("`client slice down` removes it"), "{damaged}");
    }
}
