//! The chunks of a PNG file.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::ZlibDecoder;
use image::metadata::Orientation;

use super::{Survey, exif, xmp};
use crate::preprocess::ImageError;

/// Maximum number of bytes that one byte of deflated data can expand to.
const LARGEST_GAIN: u64 = 1032;
/// Maximum bytes read from a decompressed text.
const LONGEST_TEXT: u64 = 1 << 20;
/// Keyword under which tools stored EXIF before there was a chunk for it: hexadecimal, in lines.
const EXIF_TEXT: &[u8] = b"Raw profile type exif";
const XMP_TEXT: &[u8] = b"XML:com.adobe.xmp";

/// The orientation may be in a chunk before the pixels or after them.
pub(super) fn survey(bytes: &[u8]) -> Result<Survey, ImageError> {
    let (mut stored, mut pixels) = (0, 0);
    let mut metadata = Metadata::default();
    for (kind, content) in chunks(bytes) {
        match kind {
            b"IHDR" => pixels = raw_size(content).unwrap_or(0),
            b"IDAT" => stored += content.len() as u64,
            _ => metadata.add(*kind, content),
        }
    }
    if stored.saturating_mul(LARGEST_GAIN) < pixels {
        return Err(ImageError::ends_early());
    }
    Ok(Survey { orientation: metadata.orientation(), ..Survey::default() })
}

/// Metadata that may state the orientation. Of several of a kind the last one applies, as
/// in Pillow.
#[derive(Default)]
struct Metadata<'a> {
    exif: Option<&'a [u8]>,
    exif_text: Option<Text<'a>>,
    xmp: Option<Text<'a>>,
}

impl<'a> Metadata<'a> {
    fn add(&mut self, kind: [u8; 4], content: &'a [u8]) {
        if kind == *b"eXIf" {
            self.exif = Some(content);
            return;
        }
        let Some((keyword, text)) = Text::read(kind, content) else { return };
        match keyword {
            EXIF_TEXT => self.exif_text = Some(text),
            XMP_TEXT => self.xmp = Some(text),
            _ => {}
        }
    }

    fn orientation(&self) -> Option<Orientation> {
        let exif = match (self.exif, &self.exif_text) {
            (Some(exif), _) => exif::orientation(exif),
            (None, Some(text)) => exif::orientation(&profile(&text.unpacked())),
            (None, None) => None,
        };
        exif.or_else(|| xmp::orientation(&self.xmp.as_ref()?.unpacked()))
    }
}

/// Two parts of some bytes.
type Halves<'a> = (&'a [u8], &'a [u8]);

/// A keyword and its text.
type Named<'a> = (&'a [u8], Text<'a>);

/// The text of a chunk.
struct Text<'a> {
    bytes: &'a [u8],
    is_packed: bool,
}

impl<'a> Text<'a> {
    /// Keyword and text of a chunk, `None` if it has no text.
    fn read(kind: [u8; 4], content: &'a [u8]) -> Option<Named<'a>> {
        let (keyword, rest) = split(content)?;
        let (is_packed, bytes) = match &kind {
            b"tEXt" => (false, rest),
            b"zTXt" => (true, rest.get(1..)?),
            b"iTXt" => {
                let (&[is_packed, _], rest) = rest.split_first_chunk()?;
                let (_language, rest) = split(rest)?;
                let (_translated, text) = split(rest)?;
                (is_packed != 0, text)
            }
            _ => return None,
        };
        Some((keyword, Self { bytes, is_packed }))
    }

    /// The text as far as it can be decompressed.
    fn unpacked(&self) -> Cow<'a, [u8]> {
        if !self.is_packed {
            return self.bytes.into();
        }
        let mut text = Vec::new();
        // In a damaged text, the part before the damage is as good as any.
        let _read = ZlibDecoder::new(self.bytes).take(LONGEST_TEXT).read_to_end(&mut text);
        text.into()
    }
}

/// The parts before and after the first zero.
fn split(bytes: &[u8]) -> Option<Halves<'_>> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// The bytes of a profile: lines of hexadecimal digits after an empty line, its name and
/// its length.
fn profile(text: &[u8]) -> Vec<u8> {
    let lines = text.split(|&byte| byte == b'\n').skip(3);
    let digits = lines.flatten().filter(|byte| !byte.is_ascii_whitespace());
    let digit =
        |&byte: &u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Vec<u8> = digits.map_while(digit).collect();
    digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect()
}

/// Uncompressed bytes of the pixels, without the filters.
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
