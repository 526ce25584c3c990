//! The chunks of a WebP file.

use super::{Survey, exif, xmp};
use crate::preprocess::ImageError;

/// Bytes per pixel that the library allocates for a transparency chunk.
const ALPHA: u64 = 6;
/// The same for a lossless picture while it is decompressed.
const LOSSLESS: u64 = 4;
/// The same for the canvas of an animation and for a frame on it.
const ANIMATION: u64 = 8;

const EXIF_FLAG: u8 = 0x08;
const XMP_FLAG: u8 = 0x04;

/// Refuses a file with a frame larger than the file announces, because the frame determines the
/// cost of decoding.
pub(super) fn survey(bytes: &[u8]) -> Result<Survey, ImageError> {
    let content = bytes.get(12..).unwrap_or_default();
    let mut extended = None;
    let mut contents = Contents::default();
    let (mut by_exif, mut by_xmp) = (None, None);
    for (kind, chunk) in chunks(content) {
        match kind {
            b"VP8X" => extended = extended.or(Extended::read(chunk)),
            b"EXIF" if extended.is_some_and(|extended| extended.has_exif) => {
                by_exif = by_exif.or_else(|| exif::orientation(chunk));
            }
            b"XMP " if extended.is_some_and(|extended| extended.has_xmp) => {
                by_xmp = by_xmp.or_else(|| xmp::orientation(chunk));
            }
            b"ANMF" => {
                contents.others[2] = ANIMATION;
                chunks(chunk.get(16..).unwrap_or_default())
                    .for_each(|(kind, chunk)| contents.add(*kind, chunk));
            }
            _ => contents.add(*kind, chunk),
        }
    }
    if let Some(extended) = extended
        && (contents.size.0 > extended.size.0 || contents.size.1 > extended.size.1)
    {
        return Err(ImageError::Malformed("a picture in it is larger than it says".to_owned()));
    }
    let size = extended.map_or(contents.size, |extended| extended.size);
    let (orientation, working) = (by_exif.or(by_xmp), contents.working(size));
    Ok(Survey { orientation, working, ..Survey::default() })
}

#[derive(Debug, Clone, Copy)]
struct Extended {
    size: (u32, u32),
    has_exif: bool,
    has_xmp: bool,
}

impl Extended {
    fn read(chunk: &[u8]) -> Option<Self> {
        let &[flags, _, _, _, w0, w1, w2, h0, h1, h2, ..] = chunk else { return None };
        let (width, height) = ([w0, w1, w2, 0], [h0, h1, h2, 0]);
        let size = (u32::from_le_bytes(width) + 1, u32::from_le_bytes(height) + 1);
        let has = |flag: u8| flags & flag != 0;
        Some(Self { size, has_exif: has(EXIF_FLAG), has_xmp: has(XMP_FLAG) })
    }
}

/// The cost of decoding the frames of a file.
#[derive(Debug, Default)]
struct Contents {
    /// Largest width and height of any frame.
    size: (u32, u32),
    is_lossy: bool,
    /// Bytes per pixel for the parts that are not lossy.
    others: [u64; 3],
}

impl Contents {
    fn add(&mut self, kind: [u8; 4], chunk: &[u8]) {
        let size = match &kind {
            b"VP8 " => {
                self.is_lossy = true;
                lossy_size(chunk)
            }
            b"VP8L" => {
                self.others[0] = LOSSLESS;
                lossless_size(chunk)
            }
            b"ALPH" => {
                self.others[1] = ALPHA;
                None
            }
            _ => None,
        };
        let (width, height) = size.unwrap_or_default();
        self.size = (self.size.0.max(width), self.size.1.max(height));
    }

    fn working(&self, (width, height): (u32, u32)) -> u64 {
        let pixels = u64::from(width) * u64::from(height);
        // A luma plane and two chroma planes a quarter of its size, in whole blocks of 16 by 16.
        let blocks = u64::from(width.div_ceil(16)) * u64::from(height.div_ceil(16));
        let lossy = u64::from(self.is_lossy) * blocks * 256 * 3 / 2;
        let others: u64 = self.others.iter().sum();
        lossy.saturating_add(others.saturating_mul(pixels))
    }
}

fn lossy_size(chunk: &[u8]) -> Option<(u32, u32)> {
    let &[_, _, _, _, _, _, w0, w1, h0, h1, ..] = chunk else { return None };
    let side = |bytes| u32::from(u16::from_le_bytes(bytes) & 0x3FFF);
    Some((side([w0, w1]), side([h0, h1])))
}

fn lossless_size(chunk: &[u8]) -> Option<(u32, u32)> {
    let &[_, b0, b1, b2, b3, ..] = chunk else { return None };
    let bits = u32::from_le_bytes([b0, b1, b2, b3]);
    Some(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
}

/// Kind and content of each chunk; the last may be cut off.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (kind, after) = rest.split_first_chunk::<4>()?;
        let (length, content) = after.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let whole = content.get(..length).unwrap_or(content);
        rest = content.get(length.saturating_add(length % 2)..).unwrap_or_default();
        Some((kind, whole))
    })
}
