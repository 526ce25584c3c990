//! Puts a new version into the repository: whole, loadable and under a number of its own, or not at
//! all.
//!
//! A server may be watching, and others may install at the same time. Files are written into a
//! folder that no reader takes for a version, flushed, and loaded there as a server would; only
//! then does a rename give the folder its number. No existing version is ever replaced.
//!
//! The folder's name is unique even among installers in several containers, whose processes may
//! have the same ID. It is locked while its installer lives; the next installer removes folders
//! that have been left behind for a day and are not locked.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use candle_core::{Device, Tensor};
use rand::Rng;

use super::Version;
use super::scan::version_number;
use crate::{Error, model};

/// Prefix of the name of a folder being filled: a dot and not a number, which readers of the
/// repository skip.
const STAGING: &str = ".installing-";
/// Not every file system shares locks between machines. No installer takes this long.
const ABANDONED: Duration = Duration::from_hours(24);

/// The name of a new version's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// One more than the newest version.
    Next,
    /// This name; an error if it is taken.
    Exactly(&'a str),
}

/// A file of a version: its name and contents.
pub(crate) type Named<'a> = (&'a str, &'a [u8]);

/// Writes `files` as a version of the model in `folder` and returns where they are.
pub(crate) fn install(
    folder: &Path,
    name: Name<'_>,
    files: &[Named<'_>],
) -> Result<PathBuf, Error> {
    fs::create_dir_all(folder).map_err(Error::file(folder))?;
    let staging = Staging::new(folder)?;
    for (name, content) in files {
        let path = staging.folder.join(name);
        write(&path, content).map_err(Error::file(&path))?;
    }
    sync_folder(&staging.folder).map_err(Error::file(&staging.folder))?;
    try_out(&staging.folder)?;
    let target = staging.publish(folder, name)?;
    sync_folder(folder).map_err(Error::file(folder))?;
    Ok(target)
}

/// The newest version of the model in `folder`, usable or not.
pub(crate) fn newest(folder: &Path) -> Result<Option<u64>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file(folder)(error)),
    };
    let mut newest = None;
    for entry in entries {
        let name = entry.map_err(Error::file(folder))?.file_name();
        newest = newest.max(name.to_str().and_then(version_number));
    }
    Ok(newest)
}

/// Loads what was written and computes a row with it.
fn try_out(folder: &Path) -> Result<(), Error> {
    let unusable = |reason: &dyn std::fmt::Display| {
        Error::Invalid(format!("what would be installed cannot be served: {reason}"))
    };
    let version = Version::read(folder).map_err(|error| unusable(&error))?;
    let network = model::load(&version, &engine::Options::default())?;
    let mut shape = vec![1];
    shape.extend(version.row_shape());
    let row = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu)?;
    let outputs: Vec<f32> = network.forward(&row)?.flatten_all()?.to_vec1()?;
    if outputs.len() != version.output_width() {
        let (found, wanted) = (outputs.len(), version.output_width());
        return Err(unusable(&format!("{found} outputs for {wanted} labels")));
    }
    if !outputs.iter().all(|output| output.is_finite()) {
        return Err(unusable(&"its outputs are not finite"));
    }
    Ok(())
}

/// A folder that is removed when this is dropped, unless it was published.
struct Staging {
    folder: PathBuf,
    /// `None` on a file system without locks; nothing is swept there.
    _lock: Option<File>,
}

impl Staging {
    fn new(folder: &Path) -> Result<Self, Error> {
        if let Err(error) = sweep(folder) {
            tracing::warn!(folder = %folder.display(), %error, "abandoned installations stay");
        }
        let staging = folder.join(format!("{STAGING}{:016x}", rand::rng().next_u64()));
        // An error if it exists: it belongs to another installer.
        fs::create_dir(&staging).map_err(Error::file(&staging))?;
        let lock = lock(&staging).ok();
        Ok(Self { folder: staging, _lock: lock })
    }

    /// Renames the folder to its final name. A rename replaces no folder that is not empty, so of
    /// two installers that want the same number, one gets an error and takes the next.
    fn publish(&self, folder: &Path, name: Name<'_>) -> Result<PathBuf, Error> {
        loop {
            let target = match name {
                Name::Exactly(name) => folder.join(name),
                Name::Next => folder.join(next(folder)?.to_string()),
            };
            match fs::rename(&self.folder, &target) {
                Ok(()) => return Ok(target),
                Err(error) if is_taken(&error) && name == Name::Next => {}
                Err(error) => return Err(Error::file(&target)(error)),
            }
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.folder.exists()
            && let Err(error) = fs::remove_dir_all(&self.folder)
        {
            tracing::warn!(folder = %self.folder.display(), %error, "folder left behind");
        }
    }
}

/// Removes what killed installers have left behind.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let staging = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(STAGING) {
            continue;
        }
        let Ok(Some(_locked)) = abandoned(&staging) else { continue };
        match fs::remove_dir_all(&staging) {
            Ok(()) => tracing::info!(folder = %staging.display(), "abandoned installation removed"),
            Err(error) => {
                tracing::warn!(folder = %staging.display(), %error, "folder left behind");
            }
        }
    }
    Ok(())
}

/// A lock on a folder whose installer is gone.
fn abandoned(staging: &Path) -> io::Result<Option<File>> {
    let about = fs::symlink_metadata(staging)?;
    let age = SystemTime::now().duration_since(about.modified()?).unwrap_or_default();
    if about.is_dir() && age > ABANDONED { lock(staging).map(Some) } else { Ok(None) }
}

/// Locks a folder for as long as the file is open.
fn lock(folder: &Path) -> io::Result<File> {
    let opened = File::open(folder)?;
    opened.try_lock()?;
    Ok(opened)
}

fn next(folder: &Path) -> Result<u64, Error> {
    let number = newest(folder)?.map_or(Some(1), |newest| newest.checked_add(1));
    // The largest number that readers take for a version.
    number.filter(|number| i64::try_from(*number).is_ok()).ok_or_else(|| {
        Error::Invalid(format!("{}: no number is left for another version", folder.display()))
    })
}

fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | NotADirectory)
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes names durable, where folders can be flushed.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const MANIFEST: &str = "architecture = 'linear'
        [table]
        label = 'y'
        task = 'regression'
        columns = [{ name = 'x', type = 'number', mean = 0.0, std = 1.0 }]";

    fn weights(bias: f32) -> Vec<u8> {
        let tensor = |values: &[f32], shape: &[usize]| {
            Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
        };
        let tensors =
            HashMap::from([("weight", tensor(&[2.0], &[1, 1])), ("bias", tensor(&[bias], &[1]))]);
        safetensors::serialize(&tensors, None).unwrap()
    }

    fn put(folder: &Path, name: Name<'_>, bias: f32) -> Result<String, String> {
        let weights = weights(bias);
        let files =
            [("model.toml", MANIFEST.as_bytes()), ("weights.safetensors", weights.as_slice())];
        let target = install(folder, name, &files).map_err(|error| error.to_string())?;
        Ok(target.file_name().unwrap().to_string_lossy().into_owned())
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn each_version_gets_the_next_number_and_none_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("price");
        assert_eq!(newest(&folder).unwrap(), None);
        assert_eq!(put(&folder, Name::Next, 1.0), Ok("1".to_owned()));
        fs::create_dir_all(folder.join("7/kept")).unwrap();
        fs::write(folder.join("9"), "a file").unwrap();
        assert_eq!(put(&folder, Name::Next, 2.0), Ok("10".to_owned()));
        assert!(put(&folder, Name::Exactly("1"), 3.0).unwrap_err().contains("price/1: "));
        assert!(put(&folder, Name::Exactly("7"), 3.0).is_err());
        assert_eq!(put(&folder, Name::Exactly("8"), 3.0), Ok("8".to_owned()));
        assert_eq!(names(&folder), ["1", "10", "7", "8", "9"]);
    }

    #[test]
    fn what_cannot_be_served_is_not_installed_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let error = put(root.path(), Name::Next, f32::NAN).unwrap_err();
        assert!(error.contains("bias"), "{error}");
        let files = [("model.toml", MANIFEST.as_bytes()), ("weights.safetensors", &[][..])];
        assert!(install(root.path(), Name::Next, &files).is_err());
        assert!(install(root.path(), Name::Next, &[]).is_err());
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn the_last_number_is_followed_by_none() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(i64::MAX.to_string())).unwrap();
        assert!(put(root.path(), Name::Next, 1.0).unwrap_err().contains("no number is left"));
    }

    #[test]
    fn versions_installed_at_once_all_arrive() {
        let root = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| put(root.path(), Name::Next, 1.0).unwrap());
            }
        });
        assert_eq!(names(root.path()), ["1", "2", "3", "4"]);
    }

    #[cfg(unix)]
    #[test]
    fn only_what_dead_installers_have_left_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let left = |name: &str, age: Duration| {
            let folder = root.path().join(format!("{STAGING}{name}"));
            fs::create_dir_all(folder.join("kept")).unwrap();
            File::open(&folder).unwrap().set_modified(SystemTime::now() - age).unwrap();
            folder
        };
        let long = ABANDONED + Duration::from_mins(1);
        // As made by an installer in another container whose process has the same ID.
        let fresh = left(&format!("{}-0", std::process::id()), Duration::ZERO);
        let (locked, dead) = (left("locked", long), left("dead", long));
        let held = lock(&locked).unwrap();
        assert_eq!(put(root.path(), Name::Next, 1.0), Ok("1".to_owned()));
        assert!(fresh.join("kept").exists() && locked.join("kept").exists() && !dead.exists());
        drop(held);
        assert_eq!(put(root.path(), Name::Next, 1.0), Ok("2".to_owned()));
        assert!(fresh.join("kept").exists() && !locked.exists());
    }

    #[test]
    fn a_folder_is_locked_while_it_is_filled() {
        let root = tempfile::tempdir().unwrap();
        let staging = Staging::new(root.path()).unwrap();
        let (other, found) = (Staging::new(root.path()).unwrap(), names(root.path()));
        assert!(
            found.len() == 2 && found.iter().all(|name| name.starts_with(STAGING)),
            "{found:?}"
        );
        if cfg!(unix) {
            assert_eq!(lock(&staging.folder).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        drop((staging, other));
        assert!(names(root.path()).is_empty());
    }
}
