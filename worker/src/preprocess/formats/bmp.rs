//! The header of a BMP file.

use super::Survey;
use crate::preprocess::ImageError;

/// Bytes before the header, the last four of which give the offset of the pixels.
const BEFORE: usize = 14;

/// Refuses a file whose header would be read as pixels, and an uncompressed one that is too short
/// for its rows, before memory is allocated.
pub(super) fn survey(bytes: &[u8]) -> Result<Survey, ImageError> {
    let long = |at: usize| bytes.get(at..)?.first_chunk().map(|long| u32::from_le_bytes(*long));
    if let (Some(start), Some(header)) = (long(BEFORE - 4), long(BEFORE))
        && u64::from(start) < BEFORE as u64 + u64::from(header)
    {
        return Err(ImageError::damaged("its pixels begin inside of its header"));
    }
    let needed = rows(bytes).unwrap_or(0);
    if needed > bytes.len() as u64 {
        return Err(ImageError::ends_early());
    }
    Ok(Survey::default())
}

/// Total bytes of all rows; `None` if they are compressed or the header is cut off.
fn rows(bytes: &[u8]) -> Option<u64> {
    let header = bytes.get(BEFORE..)?;
    let long = |at: usize| Some(u32::from_le_bytes(*header.get(at..)?.first_chunk()?));
    let short = |at: usize| Some(u16::from_le_bytes(*header.get(at..)?.first_chunk()?));
    let (width, height, bits, compression) = match long(0)? {
        12 => (u32::from(short(4)?), u32::from(short(6)?), short(10)?, 0),
        _ => (long(4)?, long(8)?.cast_signed().unsigned_abs(), short(14)?, long(16)?),
    };
    // Uncompressed, with or without masks.
    if !matches!(compression, 0 | 3 | 6) {
        return None;
    }
    let row = (u64::from(width) * u64::from(bits)).div_ceil(32) * 4;
    Some(row.saturating_mul(u64::from(height)))
}
