//! Untrusted bytes to pixels, with the price checked first.
//!
//! The header tells the size and the depth of the pixels, so a picture that is too large costs a
//! few microseconds and no memory. Animations give their first frame, transparency is laid over
//! white paper, deeper channels are cut to eight bits, and colour profiles are ignored, as the
//! pictures that the networks were trained on were read.

use super::orient::Turn;
use super::picture::{Picture, Pixels};
use super::{ImageError, jpeg, resize};
use crate::repository::Input;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use std::io::Cursor;

/// What decoding one picture may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most pixels in the file.
    pub max_pixels: u64,
    /// The most memory for decoded pixels and the decoder's own buffers.
    pub max_bytes: u64,
}

impl Default for Limits {
    /// A photo of 48 megapixels passes, a 20,000 x 20,000 bomb does not.
    fn default() -> Self {
        Self { max_pixels: 64_000_000, max_bytes: 200 << 20 }
    }
}

/// Decodes a JPEG, PNG, WebP, GIF, BMP or TIFF file, whatever its name says.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, ImageError> {
    let format = image::guess_format(bytes).map_err(|_| ImageError::UnknownFormat)?;
    if !format.reading_enabled() {
        return Err(ImageError::UnknownFormat);
    }
    if format == ImageFormat::Jpeg && !jpeg::is_complete(bytes) {
        return Err(ImageError::Malformed("the file ends early".to_owned()));
    }
    let codec_error = |error| ImageError::from_codec(error, limits.max_bytes);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(codec_limits(limits));
    let mut decoder = reader.into_decoder().map_err(codec_error)?;
    check_price(&decoder, limits)?;
    let stored = decoder.dimensions();
    // A damaged tag block is no reason to refuse the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let image = DynamicImage::from_decoder(decoder).map_err(codec_error)?;
    Ok(Picture { pixels: flatten(image), orientation, stored, shrink: 1 })
}

/// Decodes no more of a picture than `input` can make use of: [`super::prepare`] of it differs from
/// that of the whole picture by a few levels of grey at most, and takes a fraction of the time.
pub fn decode_for(bytes: &[u8], limits: &Limits, input: &Input) -> Result<Picture, ImageError> {
    if let Some((width, height)) = jpeg::size(bytes) {
        check_size(width, height, limits)?;
        let shrink = |stored, orientation| {
            resize::useful_shrink(Turn::of(orientation).upright(stored), input)
        };
        if let Some(reduced) = jpeg::decode_reduced(bytes, shrink) {
            return Ok(reduced);
        }
    }
    decode(bytes, limits)
}

fn codec_limits(limits: &Limits) -> image::Limits {
    let mut codec = image::Limits::no_limits();
    codec.max_alloc = Some(limits.max_bytes);
    codec
}

fn check_price(decoder: &impl ImageDecoder, limits: &Limits) -> Result<(), ImageError> {
    let (width, height) = decoder.dimensions();
    let pixels = check_size(width, height, limits)?;
    let color = decoder.color_type();
    let is_final = matches!(color, image::ColorType::L8 | image::ColorType::Rgb8);
    let copy = if is_final { 0 } else { pixels.saturating_mul(3) };
    if decoder.total_bytes().saturating_add(copy) > limits.max_bytes {
        return Err(ImageError::TooMuchMemory { max_bytes: limits.max_bytes });
    }
    Ok(())
}

fn check_size(width: u32, height: u32, limits: &Limits) -> Result<u64, ImageError> {
    match u64::from(width) * u64::from(height) {
        0 => Err(ImageError::Malformed("it has no pixels".to_owned())),
        pixels if pixels <= limits.max_pixels => Ok(pixels),
        _ => Err(ImageError::TooManyPixels { width, height, max_pixels: limits.max_pixels }),
    }
}

/// Eight bits, no transparency; grey stays grey.
fn flatten(image: DynamicImage) -> Pixels {
    if image.color().has_alpha() {
        Pixels::Rgb(over_white(image))
    } else if image.color().has_color() {
        Pixels::Rgb(image.into_rgb8())
    } else {
        Pixels::Gray(image.into_luma8())
    }
}

fn over_white(image: DynamicImage) -> RgbImage {
    let rgba = image.into_rgba8();
    let (width, height) = rgba.dimensions();
    let mut pixels = Vec::with_capacity(rgba.as_raw().len() / 4 * 3);
    for &[r, g, b, a] in rgba.as_raw().as_chunks::<4>().0 {
        pixels.extend([r, g, b].map(|channel| blend_white(channel, a)));
    }
    RgbImage::from_raw(width, height, pixels).expect("three bytes were pushed for each pixel")
}

fn blend_white(channel: u8, alpha: u8) -> u8 {
    let sum = u32::from(channel) * u32::from(alpha) + 255 * (255 - u32::from(alpha));
    u8::try_from((sum + 127) / 255).expect("a weighted mean of two bytes is a byte")
}
