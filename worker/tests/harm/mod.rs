//! Pictures in every coding, and damage that strangers may do to a file.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pixels of test pictures"
)]

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use proptest::prelude::*;
use proptest::sample::Index;
use sheets::scenes::strokes;

/// Unusual numbers, so that few other bytes of a header match them.
const SIZE: (u32, u32) = (117, 91);

#[derive(Debug, Clone)]
pub(crate) enum Harm {
    Cut(Index),
    Hits(Vec<(Index, u8)>),
    Tail(Index, Vec<u8>),
    Size(u32, u32),
}

pub(crate) fn harm() -> impl Strategy<Value = Harm> {
    let hits = prop::collection::vec((any::<Index>(), any::<u8>()), 1..9);
    let tail = prop::collection::vec(any::<u8>(), 0..2000);
    let side =
        || prop_oneof![0u32..300, Just(0xFFFF), Just(0x7FFF_FFFF), Just(u32::MAX), any::<u32>()];
    prop_oneof![
        any::<Index>().prop_map(Harm::Cut),
        hits.prop_map(Harm::Hits),
        (any::<Index>(), tail).prop_map(|(at, bytes)| Harm::Tail(at, bytes)),
        (side(), side()).prop_map(|(width, height)| Harm::Size(width, height)),
    ]
}

impl Harm {
    pub(crate) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Hits(hits) => {
                for (at, value) in hits {
                    let at = at.index(bytes.len());
                    bytes[at] = *value;
                }
            }
            Self::Tail(at, tail) => {
                bytes.truncate(at.index(bytes.len()));
                bytes.extend(tail);
            }
            Self::Size(width, height) => {
                lie(bytes, SIZE.0, *width);
                lie(bytes, SIZE.1, *height);
            }
        }
        mend_png(bytes);
    }
}

/// Replaces a number wherever it occurs in the header, in either width and byte order.
fn lie(bytes: &mut [u8], truth: u32, number: u32) {
    let header = bytes.len().min(1000);
    let narrow = |number: u32| number as u16;
    let forms = [
        (truth.to_be_bytes().to_vec(), number.to_be_bytes().to_vec()),
        (truth.to_le_bytes().to_vec(), number.to_le_bytes().to_vec()),
        (narrow(truth).to_be_bytes().to_vec(), narrow(number).to_be_bytes().to_vec()),
        (narrow(truth).to_le_bytes().to_vec(), narrow(number).to_le_bytes().to_vec()),
    ];
    for (old, new) in forms {
        for at in 0..header.saturating_sub(old.len()) {
            if bytes[at..].starts_with(&old) {
                bytes[at..at + new.len()].copy_from_slice(&new);
            }
        }
    }
}

/// Corrects the header's checksum, as a wrong one would get the file rejected right away.
fn mend_png(bytes: &mut [u8]) {
    if bytes.starts_with(b"\x89PNG") && bytes.len() > 33 {
        let crc = !bytes[12..29].iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
            })
        });
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    }
}

/// The files of a folder of fixtures, by name.
pub(crate) fn fixtures(folder: &str) -> Vec<Vec<u8>> {
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder))
}

/// The files of a folder, by name.
pub(crate) fn files(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A picture of the given size in every format that can be written here.
pub(crate) fn written((width, height): (u32, u32)) -> Vec<Vec<u8>> {
    let scene = RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, (x * y) as u8, y as u8]));
    let formats = [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::Gif,
        ImageFormat::WebP,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
    ];
    let write = |format| {
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::from(scene.clone()).write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    formats.into_iter().map(write).collect()
}

/// A picture in every supported format and coding, and some with as many strokes as fit.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let strokes = [128, 256].map(strokes).to_vec();
    [written(SIZE), fixtures("jpeg"), fixtures("pictures"), strokes].concat()
}
