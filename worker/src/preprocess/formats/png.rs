//! The chunks of a PNG file.

use super::{Survey, exif};
use crate::preprocess::ImageError;

/// Bytes that one byte of deflated data can become, at most.
const LARGEST_GAIN: u64 = 1032;

/// The orientation may be in a chunk before the pixels or after them.
pub(super) fn survey(bytes: &[u8]) -> Result<Survey, ImageError> {
    let mut survey = Survey::default();
    let (mut stored, mut pixels) = (0, 0);
    for (kind, content) in chunks(bytes) {
        match kind {
            b"IHDR" => pixels = raw_size(content).unwrap_or(0),
            b"IDAT" => stored += content.len() as u64,
            b"eXIf" => survey.orientation = survey.orientation.or(exif::orientation(content)),
            _ => {}
        }
    }
    if stored.saturating_mul(LARGEST_GAIN) < pixels {
        return Err(ImageError::ends_early());
    }
    Ok(survey)
}

/// Bytes of the pixels before compression, without the filters.
fn raw_size(header: &[u8]) -> Option<u64> {
    let &[w3, w2, w1, w0, h3, h2, h1, h0, depth, colour, ..] = header else { return None };
    let samples = match colour {
        2 => 3,
        4 => 2,
        6 => 4,
        _ => 1,
    };
    let side = |bytes| u64::from(u32::from_be_bytes(bytes));
    let (width, height) = (side([w3, w2, w1, w0]), side([h3, h2, h1, h0]));
    Some((width * samples * u64::from(depth)).div_ceil(8).saturating_mul(height))
}

/// Kind and content of each chunk; the last may be cut off.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, content) = after.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let whole = content.get(..length).unwrap_or(content);
        rest = content.get(length.saturating_add(4)..).unwrap_or_default();
        Some((kind, whole))
    })
}
