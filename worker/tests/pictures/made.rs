//! Files assembled by hand or encoded by the `image` crate.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "few entries, and levels"
)]

use std::io::Cursor;
use std::time::Duration;

use image::{DynamicImage, ImageFormat};
use rustix::time::{ClockId, clock_gettime};
use worker::preprocess::{ImageError, Limits, Picture, decode, prepare};
use worker::repository::{Filter, Input, Resize};

/// CPU time of this thread, which does not advance while other threads run.
pub(crate) fn time_of_thread() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

pub(crate) fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub(crate) fn whole(bytes: &[u8]) -> Result<Picture, ImageError> {
    decode(bytes, &Limits::default())
}

/// The grey levels of all pixels of a picture.
pub(crate) fn levels(picture: &Picture) -> Vec<u8> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let resize = Resize::Squash { filter: Filter::Bilinear };
    let input = Input { width, height, resize, mean: vec![0.0], std: vec![1.0 / 255.0] };
    prepare(picture, &input).unwrap().into_iter().map(|level| level.round() as u8).collect()
}

pub(crate) fn segment(marker: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len() + 2).unwrap();
    [&[0xFF, marker], &length.to_be_bytes()[..], content].concat()
}

/// Inserts segments after the start of a JPEG file.
pub(crate) fn with_segments(bytes: &[u8], segments: &[Vec<u8>]) -> Vec<u8> {
    [&bytes[..2], &segments.concat(), &bytes[2..]].concat()
}

/// Tag, kind and value of a TIFF entry.
pub(crate) type Entry = (u16, u16, u32);

/// A TIFF with one directory, followed by `pixels` at offset 512.
pub(crate) fn tiff(entries: &[Entry], pixels: &[u8]) -> Vec<u8> {
    let mut bytes = b"II\x2a\0\x08\0\0\0".to_vec();
    bytes.extend((entries.len() as u16).to_le_bytes());
    for &(tag, kind, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.resize(512, 0);
    bytes.extend(pixels);
    bytes
}
