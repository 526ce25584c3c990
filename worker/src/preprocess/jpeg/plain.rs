//! What nearly all JPEG files are, decoded whole by a library with vector instructions.
//!
//! The library is given only what it decodes as libjpeg does: one scan of baseline blocks, grey or
//! YCbCr, with chroma as fine as luma or half as fine. It has its own ideas about the rest, and about damage,
//! which it fills with grey; so it stops at damage here, and the decoder beside it says what is
//! wrong.

use super::header::{Colour, Component, File, Scan};
use crate::preprocess::picture::Pixels;
use crate::preprocess::{ImageError, Limits, contain};
use image::{GrayImage, RgbImage};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Tables that the library builds although no scan selects them.
const MOST_DEFINITIONS: usize = 16;

/// The library enlarges chroma of a pixel or two in a way of its own.
const NARROWEST: usize = 8;

/// Whether the library decodes a file like this right.
pub(super) fn suits(file: &File, scan: &Scan) -> bool {
    let frame = &file.frame;
    let is_usual = match frame.components.as_slice() {
        [_] => file.colour == Colour::Gray,
        [luma, blue, red] => {
            let is_fine = |one: &Component| one.blocks == (1, 1);
            let layout = matches!(luma.blocks, (1 | 2, 1) | (2, 2));
            file.colour == Colour::YCbCr && layout && is_fine(blue) && is_fine(red)
        }
        _ => false,
    };
    is_usual
        && frame.width >= NARROWEST
        && !frame.is_progressive
        && scan.channels.len() == frame.components.len()
        && file.definitions <= MOST_DEFINITIONS
}

/// The whole picture; `None` when the library meets anything that it does not expect.
pub(super) fn decode(
    bytes: &[u8],
    file: &File,
    limits: &Limits,
) -> Result<Option<Pixels>, ImageError> {
    let frame = &file.frame;
    let pixels = (frame.width * frame.height) as u64;
    // Beside the pixels the library holds two rows of units for each channel.
    let rows = 2 * 16 * 2 * (frame.width as u64 + 64);
    limits.check_bytes((pixels + rows) * frame.components.len() as u64)?;
    let (target, source) = match frame.components.len() {
        1 => (ColorSpace::Luma, ColorSpace::Luma),
        _ => (ColorSpace::RGB, ColorSpace::YCbCr),
    };
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(target);
    let decoded = contain(|| {
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
        let fault = |_| ImageError::damaged("the library gave up on it");
        decoder.decode_headers().map_err(fault)?;
        let agrees = decoder.input_colorspace() == Some(source)
            && decoder.dimensions() == Some((frame.width, frame.height));
        if agrees { decoder.decode().map(Some).map_err(fault) } else { Ok(None) }
    });
    let size = (narrow(frame.width), narrow(frame.height));
    Ok(decoded.ok().flatten().and_then(|bytes| {
        if frame.components.len() == 1 {
            GrayImage::from_raw(size.0, size.1, bytes).map(Pixels::Gray)
        } else {
            RgbImage::from_raw(size.0, size.1, bytes).map(Pixels::Rgb)
        }
    }))
}

fn narrow(side: usize) -> u32 {
    u32::try_from(side).expect("sides of a JPEG have 16 bits")
}
