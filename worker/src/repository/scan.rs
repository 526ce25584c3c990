//! What is in the model repository right now.
//!
//! A scan only looks; it loads nothing, so it is cheap enough for every second. Folders whose name
//! is not a version number belong to other programs and are ignored, as in TF Serving. What cannot
//! be read is reported and does not affect the rest.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::ModelSettings;
use super::file::{self, MAX_TEXT};

/// What a survey of the repository has found.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// Models by name.
    pub models: BTreeMap<String, Found>,
    /// Why folders of the repository could not be read, by name.
    pub unreadable: BTreeMap<String, String>,
}

/// One model's folder.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its `serving.toml`, or why it cannot be used.
    pub settings: Result<ModelSettings, String>,
    /// The versions in the folder, by number.
    pub versions: BTreeMap<u64, FoundVersion>,
}

/// One version's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundVersion {
    /// Where it is.
    pub folder: PathBuf,
    /// Its files: unequal if one of them may have changed.
    pub files: Vec<FoundFile>,
}

/// One file of a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundFile {
    /// Where it is.
    pub path: PathBuf,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// When it was last written, if the file system records it.
    pub modified: Option<SystemTime>,
    /// Which file it is and when anything about it last changed: a copy may keep the time of the
    /// original, but not this.
    identity: Identity,
}

/// What a copy of a file never inherits; zeros where the system has no such thing.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    device: u64,
    file: u64,
    changed_seconds: i64,
    changed_nanoseconds: i64,
}

/// What a name in a folder refers to.
enum Entry {
    Folder,
    /// A file, a pipe, or gone meanwhile.
    Other,
    Unreadable(io::Error),
}

/// Lists the models under `root` by name; logs what cannot be read.
pub fn scan(root: &Path) -> io::Result<BTreeMap<String, Found>> {
    let Survey { models, unreadable } = survey(root)?;
    for reason in unreadable.values() {
        tracing::warn!(reason, "folder skipped");
    }
    Ok(models)
}

/// Looks at every folder under `root`.
pub fn survey(root: &Path) -> io::Result<Survey> {
    let mut survey = Survey::default();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') {
            continue;
        }
        let folder = entry.path();
        let versions = match Entry::of(&folder) {
            Entry::Folder => scan_versions(&folder),
            Entry::Other => continue,
            Entry::Unreadable(error) => Err(error),
        };
        match versions {
            Ok(versions) if versions.is_empty() => {}
            Ok(versions) => {
                let found = Found { settings: read_settings(&folder), versions };
                survey.models.insert(name, found);
            }
            Err(error) => {
                let reason = format!("{name}: {error}");
                survey.unreadable.insert(name, reason);
            }
        }
    }
    Ok(survey)
}

/// The version number that a folder's name stands for, if any.
pub(crate) fn version_number(name: &str) -> Option<u64> {
    let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    let number: i64 = is_number.then(|| name.parse().ok())??;
    u64::try_from(number).ok()
}

fn scan_versions(model: &Path) -> io::Result<BTreeMap<u64, FoundVersion>> {
    let mut folders = BTreeMap::new();
    for entry in fs::read_dir(model)? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(version_number) else { continue };
        let folder = model.join(&name);
        // Of 7 and 007, the shorter name wins.
        let known: &mut PathBuf = folders.entry(number).or_insert_with(|| folder.clone());
        if folder.as_os_str().len() < known.as_os_str().len() {
            *known = folder;
        }
    }
    // An unreadable folder is still a version; loading it reports why it fails.
    folders.retain(|_, folder| !matches!(Entry::of(folder), Entry::Other));
    let look = |(number, folder)| (number, FoundVersion::look(folder));
    Ok(folders.into_iter().map(look).collect())
}

impl Entry {
    fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Self::Folder,
            Ok(_) => Self::Other,
            Err(_) if fs::symlink_metadata(path).is_err_and(|error| is_missing(&error)) => {
                Self::Other
            }
            Err(error) => Self::Unreadable(error),
        }
    }
}

impl FoundVersion {
    /// The files in the folder of a version; none if it cannot be read.
    pub(crate) fn look(folder: PathBuf) -> Self {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries.filter_map(|entry| FoundFile::look(entry.path())).collect();
        files.sort();
        Self { folder, files }
    }
}

impl FoundFile {
    fn look(path: PathBuf) -> Option<Self> {
        // A link's target is what is read; a broken link is listed so that its repair is noticed.
        let metadata = fs::metadata(&path).or_else(|_| fs::symlink_metadata(&path)).ok()?;
        let (bytes, modified) = (metadata.len(), metadata.modified().ok());
        Some(Self { path, bytes, modified, identity: identity(&metadata) })
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    Identity {
        device: metadata.dev(),
        file: metadata.ino(),
        changed_seconds: metadata.ctime(),
        changed_nanoseconds: metadata.ctime_nsec(),
    }
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {
    Identity::default()
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn read_settings(model: &Path) -> Result<ModelSettings, String> {
    let path = model.join("serving.toml");
    if fs::symlink_metadata(&path).is_err_and(|error| is_missing(&error)) {
        return Ok(ModelSettings::default());
    }
    let text = file::read_text(&path, MAX_TEXT).map_err(|error| error.to_string())?;
    ModelSettings::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{scan, survey};

    #[test]
    fn models_and_integer_versions_are_found_and_the_rest_is_ignored() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["iris/1", "iris/20", "iris/backup", ".git/1", "empty", "iris/-3", "iris/+4"]
        {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("iris/5"), "a file, not a folder").unwrap();
        fs::write(root.path().join("README"), "").unwrap();
        let found = scan(root.path()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["iris"]);
        assert_eq!(found["iris"].versions.keys().copied().collect::<Vec<_>>(), [1, 20]);
    }

    #[test]
    fn of_two_names_for_one_number_the_shorter_counts() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["iris/007", "iris/7", "iris/07"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let found = scan(root.path()).unwrap();
        assert_eq!(found["iris"].versions.len(), 1);
        assert!(found["iris"].versions[&7].folder.ends_with("iris/7"));
    }

    #[test]
    fn a_changed_file_makes_a_version_unequal() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("iris/1");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("weights"), "half").unwrap();
        let look = || scan(root.path()).unwrap()["iris"].versions[&1].clone();
        let before = look();
        fs::write(folder.join("weights"), "complete").unwrap();
        assert_ne!(look(), before);
    }

    /// A file of the same length and times takes the place of another.
    #[cfg(unix)]
    #[test]
    fn another_file_with_the_same_length_and_time_makes_a_version_unequal() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("iris/1");
        fs::create_dir_all(&folder).unwrap();
        let (weights, other) = (folder.join("weights"), root.path().join("other"));
        fs::write(&weights, "one").unwrap();
        fs::write(&other, "two").unwrap();
        let look = || scan(root.path()).unwrap()["iris"].versions[&1].clone();
        let before = look();
        let time = fs::metadata(&weights).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
        fs::rename(&other, &weights).unwrap();
        let after = look();
        assert_eq!(after.files[0].modified, before.files[0].modified);
        assert_ne!(after, before);
    }

    #[test]
    fn settings_that_do_not_parse_are_reported() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("iris/1")).unwrap();
        fs::write(root.path().join("iris/serving.toml"), "version_policy = 7").unwrap();
        assert!(scan(root.path()).unwrap()["iris"].settings.is_err());
    }

    #[cfg(unix)]
    #[test]
    fn broken_links_are_said_and_hide_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("iris/1")).unwrap();
        let link = |to: &str, at: &str| {
            std::os::unix::fs::symlink(Path::new(to), root.path().join(at)).unwrap();
        };
        link("nowhere", "gone");
        link("round", "round");
        link("nowhere", "iris/2");
        link("nowhere", "iris/serving.toml");
        let found = survey(root.path()).unwrap();
        assert_eq!(found.unreadable.keys().collect::<Vec<_>>(), ["gone", "round"]);
        assert!(found.unreadable["gone"].contains("gone: "), "{found:?}");
        let iris = &found.models["iris"];
        assert!(iris.settings.as_ref().is_err_and(|error| error.contains("serving.toml")));
        assert_eq!(iris.versions.keys().copied().collect::<Vec<_>>(), [1, 2]);
    }
}
