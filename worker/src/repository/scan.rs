//! What lies in the model repository right now.
//!
//! A scan only looks; it loads nothing, so it is cheap enough for every second. Folders whose name
//! is not a version number are somebody else's and ignored, as TF Serving does.

use super::ModelSettings;
use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// One model's folder.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its `serving.toml`, or why it cannot be used.
    pub settings: Result<ModelSettings, String>,
    /// Its versions.
    pub versions: BTreeMap<u64, FoundVersion>,
}

/// One version's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundVersion {
    /// Where it is.
    pub folder: PathBuf,
    /// Its files: unequal when one of them changed, so that a version that was still being copied is retried.
    pub files: Vec<FoundFile>,
}

/// One file of a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// When it was last written, where the file system says.
    pub modified: Option<SystemTime>,
}

/// Lists the models under `root` by name.
pub fn scan(root: &Path) -> io::Result<BTreeMap<String, Found>> {
    let mut models = BTreeMap::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') || !entry.path().is_dir() {
            continue;
        }
        let versions = scan_versions(&entry.path())?;
        if !versions.is_empty() {
            models.insert(name, Found { settings: read_settings(&entry.path()), versions });
        }
    }
    Ok(models)
}

fn scan_versions(model: &Path) -> io::Result<BTreeMap<u64, FoundVersion>> {
    let mut versions = BTreeMap::new();
    for entry in fs::read_dir(model)? {
        let entry = entry?;
        let Some(number) = version_number(&entry) else { continue };
        let folder = entry.path();
        let files = files(&folder);
        versions.insert(number, FoundVersion { folder, files });
    }
    Ok(versions)
}

fn version_number(entry: &DirEntry) -> Option<u64> {
    let number: i64 = entry.file_name().to_str()?.parse().ok()?;
    let number = u64::try_from(number).ok()?;
    entry.path().is_dir().then_some(number)
}

fn files(folder: &Path) -> Vec<FoundFile> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some(FoundFile {
                path: entry.path(),
                bytes: metadata.len(),
                modified: metadata.modified().ok(),
            })
        })
        .collect();
    files.sort();
    files
}

fn read_settings(model: &Path) -> Result<ModelSettings, String> {
    let path = model.join("serving.toml");
    match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ModelSettings::default()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::scan;
    use std::fs;

    #[test]
    fn models_and_integer_versions_are_found_and_the_rest_is_ignored() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["iris/1", "iris/20", "iris/backup", ".git/1", "empty", "iris/-3"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("iris/5"), "a file, not a folder").unwrap();
        fs::write(root.path().join("README"), "").unwrap();
        let found = scan(root.path()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["iris"]);
        assert_eq!(found["iris"].versions.keys().copied().collect::<Vec<_>>(), [1, 20]);
    }

    #[test]
    fn a_changed_file_makes_a_version_unequal() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("iris/1");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("weights"), "half").unwrap();
        let before = scan(root.path()).unwrap()["iris"].versions[&1].clone();
        fs::write(folder.join("weights"), "complete").unwrap();
        assert_ne!(scan(root.path()).unwrap()["iris"].versions[&1], before);
    }

    #[test]
    fn settings_that_do_not_parse_are_reported() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("iris/1")).unwrap();
        fs::write(root.path().join("iris/serving.toml"), "version_policy = 7").unwrap();
        assert!(scan(root.path()).unwrap()["iris"].settings.is_err());
    }
}
