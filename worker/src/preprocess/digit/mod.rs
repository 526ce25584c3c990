//! Finds the handwritten digit in a photo and brings it to the form of MNIST.
//!
//! MNIST digits are white on black, fit a box of 20 pixels in an image of 28, and have their centre
//! of mass in the middle (LeCun et al., "Gradient-Based Learning Applied to Document Recognition",
//! 1998). A photo is a sheet of paper under a lamp: [`paper`] estimates the bare sheet and leaves
//! the ink, [`ink`] picks the strokes that belong together, and [`frame`] scales and centres them. The
//! search starts with the whole picture and looks again, closer, where it found something small. An
//! image that has MNIST's form already keeps its pixels.

mod frame;
mod ink;
mod paper;
mod plane;

use super::orient::Region;
use super::picture::{Picture, Pixels};
use super::resize;
use crate::repository::{Filter, Input};
use image::GrayImage;
use plane::Plane;

/// Longest side in pixels of what is looked at.
const VIEW: f64 = 256.0;
/// Looks closer when the ink takes less of the view than this.
const SMALL: f64 = 0.45;
const MAX_LOOKS: usize = 3;

/// The digit of `picture`, white on black, at the input size.
///
/// A picture without anything like a stroke gives a black image.
pub(super) fn find(picture: &Picture, input: &Input) -> GrayImage {
    let size = (narrow(input.width), narrow(input.height));
    if (picture.width(), picture.height()) == size
        && let Some(ready) = frame::already_framed(&view(picture, whole(picture)))
    {
        return ready;
    }
    let mut region = whole(picture);
    let mut found = look(picture, region);
    for _ in 1..MAX_LOOKS {
        let Some((closer, is_small)) = found.as_ref().map(|strokes| around(strokes, region)) else {
            break;
        };
        if !is_small {
            break;
        }
        let closer = clip(closer, picture);
        let Some(strokes) = look(picture, closer) else { break };
        (region, found) = (closer, Some(strokes));
    }
    match found {
        Some(strokes) => frame::frame(&strokes, size),
        None => GrayImage::new(size.0, size.1),
    }
}

fn look(picture: &Picture, region: Region) -> Option<ink::Strokes> {
    ink::strokes(&paper::ink_on_paper(&view(picture, region)))
}

fn whole(picture: &Picture) -> Region {
    Region {
        left: 0.0,
        top: 0.0,
        width: f64::from(picture.width()),
        height: f64::from(picture.height()),
    }
}

/// The channels of a region, shrunk to the size that is looked at; never enlarged.
fn view(picture: &Picture, region: Region) -> Vec<Plane> {
    let scale = (VIEW / region.width.max(region.height)).min(1.0);
    let size = (side(region.width * scale), side(region.height * scale));
    let (width, height) = (size.0 as usize, size.1 as usize);
    let (bytes, channels) = match resize::sample(picture, region, size, Filter::Bilinear) {
        Pixels::Gray(image) => (image.into_raw(), 1),
        Pixels::Rgb(image) => (image.into_raw(), 3),
    };
    (0..channels)
        .map(|channel| {
            let values = bytes[channel..].iter().step_by(channels).map(|&byte| f32::from(byte));
            Plane { width, height, values: values.collect() }
        })
        .collect()
}

/// The strokes with room for a margin, in pixels of the picture, and whether that is a small part.
fn around(strokes: &ink::Strokes, region: Region) -> (Region, bool) {
    let bounds = strokes.bounds;
    let longest = bounds.width().max(bounds.height()) as f64;
    let (width, height) = (strokes.ink.width as f64, strokes.ink.height as f64);
    let (scale_x, scale_y) = (region.width / width, region.height / height);
    let margin = 0.6 * longest;
    let closer = Region {
        left: region.left + (bounds.left as f64 - margin) * scale_x,
        top: region.top + (bounds.top as f64 - margin) * scale_y,
        width: (bounds.width() as f64 + 2.0 * margin) * scale_x,
        height: (bounds.height() as f64 + 2.0 * margin) * scale_y,
    };
    (closer, longest < SMALL * width.max(height))
}

fn clip(region: Region, picture: &Picture) -> Region {
    let right = (region.left + region.width).min(f64::from(picture.width()));
    let bottom = (region.top + region.height).min(f64::from(picture.height()));
    let (left, top) = (region.left.max(0.0), region.top.max(0.0));
    Region { left, top, width: right - left, height: bottom - top }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most VIEW")]
fn side(length: f64) -> u32 {
    (length.round() as u32).max(1)
}

fn narrow(side: usize) -> u32 {
    u32::try_from(side).expect("the manifest bounds the input size")
}
