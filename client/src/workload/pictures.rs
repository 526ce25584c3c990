//! Pictures of a folder, smallest first, with their sizes and, if there is a `labels.csv` beside
//! them, their labels.
//!
//! Files are sent as they are: the width and height are read from the header without decoding.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;

use crate::error::Error;
use crate::input;

/// No folder of an experiment contains more pictures than this, or larger ones.
const MAX_PICTURES: usize = 10_000;
const MAX_BYTES: u64 = 64 << 20;

/// A picture file, and its size in pixels.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The name of the file without its folder.
    pub name: String,
    /// The contents of the file.
    pub bytes: Bytes,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The right label, if known.
    pub label: Option<String>,
}

impl Picture {
    /// Width times height.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// A picture from its encoded bytes; fails if they are not a picture.
    pub fn try_new(name: &str, bytes: Bytes) -> anyhow::Result<Self> {
        let (width, height) = image::ImageReader::new(std::io::Cursor::new(&bytes))
            .with_guessed_format()
            .context(name.to_owned())?
            .into_dimensions()
            .with_context(|| format!("{name} is not a picture"))?;
        Ok(Self { name: name.to_owned(), bytes, width, height, label: None })
    }
}

/// Every picture of `path` (a folder, or one file), by pixels, then bytes, then name.
pub fn read(path: &Path) -> anyhow::Result<Vec<Picture>> {
    let files = if path.is_dir() { pictures_in(path)? } else { vec![path.to_owned()] };
    if files.is_empty() {
        return Err(Error::Usage(format!("{}: no pictures in this folder", path.display())).into());
    }
    let labels = read_labels(&path.join("labels.csv"))?;
    let mut pictures = Vec::with_capacity(files.len());
    for file in files {
        let shown = file.display().to_string();
        let bytes = Bytes::from(input::read(&file, MAX_BYTES)?);
        let name = file.file_name().map_or_else(|| shown, |name| name.to_string_lossy().into());
        let mut picture = Picture::try_new(&name, bytes)?;
        picture.label = labels.get(&picture.name).cloned();
        pictures.push(picture);
    }
    sort(&mut pictures);
    Ok(pictures)
}

/// By pixels, then bytes, then name.
pub fn sort(pictures: &mut [Picture]) {
    pictures.sort_by(|one, other| {
        (one.pixels(), one.bytes.len(), &one.name).cmp(&(
            other.pixels(),
            other.bytes.len(),
            &other.name,
        ))
    });
}

fn pictures_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_file() && image::ImageFormat::from_path(&path).is_ok() {
            anyhow::ensure!(files.len() < MAX_PICTURES, "more than {MAX_PICTURES} pictures");
            files.push(path);
        }
    }
    Ok(files)
}

/// Labels by file name; empty if there is no such file.
fn read_labels(path: &Path) -> anyhow::Result<HashMap<String, String>> {
    if !path.is_file() {
        return Ok(HashMap::new());
    }
    let shown = path.display().to_string();
    let mut reader = csv::Reader::from_path(path).with_context(|| shown.clone())?;
    let headers = reader.headers().with_context(|| shown.clone())?.clone();
    let column = |name: &str| headers.iter().position(|header| header.trim() == name);
    let (Some(file), Some(label)) = (column("file"), column("label")) else {
        return Err(Error::Usage(format!("{shown}: needs the columns file and label")).into());
    };
    let mut labels = HashMap::new();
    for record in reader.records() {
        let record = record.with_context(|| shown.clone())?;
        if let (Some(file), Some(label)) = (record.get(file), record.get(label)) {
            labels.insert(file.to_owned(), label.to_owned());
        }
    }
    Ok(labels)
}
