//! JPEG at a fraction of its size, for photos that are far larger than a network's input.
//!
//! Twelve megapixels take longer to decode than to classify, and nearly all of them are thrown away
//! by resizing. [`decode_reduced`] decodes at a half, a quarter or an eighth, in safe code and
//! without a full-size copy. It knows what cameras write (baseline Huffman coding, grey or YCbCr) and leaves everything
//! else, damage included, to the general decoder: it never refuses a file.

mod header;
mod huffman;
mod markers;
mod reduced;

pub(super) use header::size;
pub(super) use markers::is_complete;

use super::picture::{Picture, Pixels};
use header::Header;
use image::metadata::Orientation;
use image::{GrayImage, RgbImage};
use reduced::Plane;

/// Decodes reduced by what `shrink` answers to the size and the orientation of the picture: 2, 4 or
/// 8. `None` when it answers another number, or when the general decoder has to do it.
pub(super) fn decode_reduced(
    bytes: &[u8],
    shrink: impl Fn((u32, u32), Orientation) -> u32,
) -> Option<Picture> {
    let stored = size(bytes)?;
    // Most pictures are small: look at the tables only when it is worth it.
    if shrink(stored, Orientation::NoTransforms).max(shrink(stored, Orientation::Rotate90)) < 2 {
        return None;
    }
    let header = Header::read(bytes)?;
    let orientation = header.exif.and_then(Orientation::from_exif_chunk);
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    let shrink = shrink(stored, orientation);
    if !matches!(shrink, 2 | 4 | 8) {
        return None;
    }
    let planes = reduced::planes(&header, shrink as usize)?;
    let size = (stored.0.div_ceil(shrink), stored.1.div_ceil(shrink));
    let pixels = match planes.as_slice() {
        [gray] => Pixels::Gray(gray_image(gray, size)?),
        [luma, blue, red] => Pixels::Rgb(colour_image(luma, [blue, red], size)?),
        _ => return None,
    };
    Some(Picture { pixels, orientation, stored, shrink })
}

fn gray_image(plane: &Plane, (width, height): (u32, u32)) -> Option<GrayImage> {
    let rows = plane.bytes.chunks_exact(plane.stride).take(height as usize);
    let bytes: Vec<u8> = rows.flat_map(|row| &row[..width as usize]).copied().collect();
    GrayImage::from_raw(width, height, bytes)
}

/// YCbCr of JFIF to RGB, in 16-bit fixed point.
fn colour_image(luma: &Plane, [blue, red]: [&Plane; 2], size: (u32, u32)) -> Option<RgbImage> {
    if luma.spread != (1, 1) {
        return None;
    }
    let (width, height) = (size.0 as usize, size.1 as usize);
    let mut bytes = vec![0; width * height * 3];
    for (y, line) in bytes.chunks_exact_mut(width * 3).enumerate() {
        let light = luma.row(y, width);
        let (blue, red) = (blue.row(y, width), red.row(y, width));
        let channels = light.iter().zip(blue.iter()).zip(red.iter());
        for (pixel, ((&light, &blue), &red)) in line.as_chunks_mut::<3>().0.iter_mut().zip(channels)
        {
            let light = (i32::from(light) << 16) + (1 << 15);
            let (blue, red) = (i32::from(blue) - 128, i32::from(red) - 128);
            *pixel = [
                light + 91_881 * red,
                light - 22_554 * blue - 46_802 * red,
                light + 116_130 * blue,
            ]
            .map(|value| u8::try_from((value >> 16).clamp(0, 255)).unwrap_or(u8::MAX));
        }
    }
    RgbImage::from_raw(size.0, size.1, bytes)
}
