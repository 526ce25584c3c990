//! The sources of images for `worker classify`: files, folders, standard input and URLs.
//!
//! No more of a source is read than `worker serve` would accept for one image, and a source that
//! cannot be read does not prevent the others from being labelled.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Agent;

use crate::Error;

/// Time limit for fetching a URL, redirects included.
const PATIENCE: Duration = Duration::from_secs(30);
/// Extensions of the files in folders that are treated as images.
const ENDINGS: [&str; 11] =
    ["bmp", "dib", "gif", "jfif", "jpe", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

/// Where one image comes from.
#[derive(Debug)]
pub(super) enum Source {
    File(PathBuf),
    StandardInput,
    Address(String),
    /// A folder that yields no images, and why.
    Folder(PathBuf, String),
}

impl Source {
    /// The name of the source in the output.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(path) | Self::Folder(path, _) => path.display().to_string(),
            Self::StandardInput => "-".to_owned(),
            Self::Address(address) => address.clone(),
        }
    }

    /// Reads all bytes; fails if there are more than `most`.
    pub(super) fn read(&self, most: usize) -> Result<Vec<u8>, Error> {
        match self {
            Self::File(path) => bounded(File::open(path)?, most),
            Self::StandardInput => bounded(io::stdin().lock(), most),
            Self::Address(address) => fetch(address, most),
            Self::Folder(_, why) => Err(Error::Invalid(why.clone())),
        }
    }
}

/// The sources that an argument names; for a folder, all images below it, sorted by name.
pub(super) fn sources(argument: &OsStr) -> Vec<Source> {
    if argument == "-" {
        return vec![Source::StandardInput];
    }
    if let Some(address) = argument.to_str().filter(|text| is_address(text)) {
        return vec![Source::Address(address.to_owned())];
    }
    let path = Path::new(argument);
    if !path.is_dir() {
        return vec![Source::File(path.to_owned())];
    }
    let mut found = Vec::new();
    look_into(path, &mut found);
    if found.is_empty() {
        found.push(Source::Folder(path.to_owned(), "no images in this folder".to_owned()));
    }
    found
}

fn is_address(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("http" | "https"))
}

fn look_into(folder: &Path, found: &mut Vec<Source>) {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = match entries {
        Ok(entries) => entries,
        Err(error) => return found.push(Source::Folder(folder.to_owned(), error.to_string())),
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Links to folders are not followed: they may lead back here.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            look_into(&path, found);
        } else if is_image(&path) {
            // Pipes and devices would block; broken links are reported.
            if fs::metadata(&path).map_or(true, |found| found.is_file()) {
                found.push(Source::File(path));
            }
        }
    }
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    ENDINGS.iter().any(|known| ending == *known)
}

fn bounded(source: impl Read, most: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    source.take((most as u64).saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(Error::Invalid(format!("more than {most} bytes (--max-body)")));
    }
    Ok(bytes)
}

fn fetch(address: &str, most: usize) -> Result<Vec<u8>, Error> {
    let fault = |error: ureq::Error| Error::Invalid(error.to_string());
    let config = Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .accept_encoding("identity")
        .user_agent(concat!("imagefleet/", env!("CARGO_PKG_VERSION")))
        .build();
    let mut response = Agent::new_with_config(config).get(address).call().map_err(fault)?;
    // Decompression is bounded too, in case a server compresses the body regardless.
    let refused = |refusal: message::Refusal| Error::Invalid(refusal.to_string());
    let coding = message::Coding::of(response.headers()).map_err(refused)?;
    let bytes = bounded(response.body_mut().as_reader(), most)?;
    match coding {
        Some(coding) => message::coding::unpack(coding, &bytes, most).map_err(refused),
        None => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(argument: &Path) -> Vec<String> {
        sources(argument.as_os_str()).iter().map(Source::name).collect()
    }

    #[test]
    fn a_folder_stands_for_the_images_in_it_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("more");
        fs::create_dir(&inner).unwrap();
        for name in ["b.png", "a.JPG", "notes.txt", ".hidden.png", "more/c.webp"] {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), inner.join("back.png")).unwrap();
        std::os::unix::fs::symlink("nowhere", inner.join("lost.png")).unwrap();
        let expected = ["a.JPG", "b.png", "more/c.webp", "more/lost.png"];
        let expected = expected.map(|name| folder.path().join(name).display().to_string());
        assert_eq!(names(folder.path()), expected);
    }

    #[test]
    fn a_folder_without_images_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let found = sources(folder.path().as_os_str());
        let error = found[0].read(1000).unwrap_err().to_string();
        assert_eq!((found.len(), error.as_str()), (1, "no images in this folder"));
    }

    #[test]
    fn a_dash_and_an_address_are_no_files() {
        assert!(matches!(sources(OsStr::new("-"))[..], [Source::StandardInput]));
        let address = "HTTPS://127.0.0.1:9/a.png";
        let found = sources(OsStr::new(address));
        assert!(matches!(&found[..], [Source::Address(found)] if found == address));
    }

    #[test]
    fn no_more_is_read_than_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        fs::write(&path, [0; 100]).unwrap();
        assert_eq!(Source::File(path.clone()).read(100).unwrap().len(), 100);
        let endless = Source::File(PathBuf::from("/dev/zero"));
        for source in [Source::File(path), endless] {
            assert!(source.read(99).unwrap_err().to_string().contains("99 bytes"));
        }
    }
}
