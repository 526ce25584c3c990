//! Finds the handwritten digit in a photo and brings it to the form of MNIST.
//!
//! MNIST digits are white on black, fit a box of 20 pixels in an image of 28, and have their centre
//! of mass in the middle (LeCun et al., "Gradient-Based Learning Applied to Document Recognition",
//! 1998). A photo is a sheet of paper under a lamp: [`paper`] estimates the bare sheet and leaves
//! the ink, [`ink`] picks the strokes that belong together, by their shape ([`component`]) and by
//! whether the picture shows their outline, and [`frame`] scales and centres them. The search
//! starts with the whole picture and zooms in where it found something small. A picture that was
//! cut out along the digit shows no sheet; its two [`levels`] separate ink from paper. An image
//! that already has the form of MNIST keeps its pixels.

mod component;
mod frame;
mod ink;
mod levels;
mod paper;
mod plane;

use std::collections::VecDeque;

use image::GrayImage;
use ink::Sight;
use paper::Tone;
use plane::Plane;

use super::decode::Stop;
use super::orient::Region;
use super::picture::{Picture, Pixels};
use super::{ImageError, resize};
use crate::repository::{Filter, Input};

/// Longest side of the searched view, in pixels.
const VIEW: f64 = 256.0;
/// The search zooms in if the ink takes a smaller share of the view than this.
const SMALL: f64 = 0.45;
const MAX_LOOKS: usize = 3;
/// Ruled lines up to twice this many pixels of the view wide are told from strokes by their width.
const MAX_THIN: usize = 3;
/// The strokes of a digit never cover more of a picture than this; paper does.
const MOST_INK: f64 = 0.75;

/// The digit in `picture`, white on black, at the input size; an error if nothing resembles one.
pub(super) fn find(
    picture: &Picture,
    input: &Input,
    stop: Stop<'_>,
) -> Result<GrayImage, ImageError> {
    let size = (narrow(input.width), narrow(input.height));
    if (picture.width(), picture.height()) == size
        && let Some(ready) = frame::already_framed(&view(picture, whole(picture)))
    {
        return Ok(ready);
    }
    stop.check()?;
    let mut region = whole(picture);
    let channels = view(picture, region);
    if let Some(strokes) = cropped(&channels) {
        return Ok(frame::frame(&strokes, size));
    }
    let mut found = look(&channels, stop)?;
    for _ in 1..MAX_LOOKS {
        let Some((closer, is_small)) = found.as_ref().map(|strokes| around(strokes, region)) else {
            break;
        };
        if !is_small {
            break;
        }
        let closer = clip(closer, picture);
        match look(&view(picture, closer), stop)? {
            Some(strokes) => (region, found) = (closer, Some(strokes)),
            // Seen from closer, the speck does not have the shape of a digit.
            None if found.as_ref().is_some_and(ink::Strokes::is_speck) => found = None,
            None => break,
        }
    }
    found.map(|strokes| frame::frame(&strokes, size)).ok_or(ImageError::NoDigit)
}

/// The strokes of a digit, if there is one; an error if there is no time to look.
type Looked = Result<Option<ink::Strokes>, ImageError>;

/// The strokes in a view, whether darker or lighter than the paper.
fn look(channels: &[Plane], stop: Stop<'_>) -> Looked {
    stop.check()?;
    let flat = paper::flattened(channels);
    let likely = flat.likely_tone();
    let dark = best_of(&flat, Tone::Dark, stop)?;
    if likely == Tone::Dark && dark.as_ref().is_some_and(ink::Strokes::is_sure) {
        return Ok(dark);
    }
    Ok(match (dark, best_of(&flat, Tone::Light, stop)?) {
        (Some(dark), Some(light)) if is_rather(&light, &dark, likely) => Some(light),
        (dark, light) => dark.or(light),
    })
}

/// Whether the digit is the lighter of the two candidates rather than the darker.
fn is_rather(light: &ink::Strokes, dark: &ink::Strokes, likely: Tone) -> bool {
    // Dark ink inside is the hole of a digit, or the paper between its strokes.
    if light.is_sure() && light.bounds.surrounds(&dark.bounds) {
        return true;
    }
    let trust = if likely == Tone::Dark { 0.2 } else { 0.5 };
    !dark.is_sure() && trust * light.score() > dark.score()
}

/// The strokes of one tone that are most likely a digit's. Tries a broad pen and, in case the edge
/// of a shadow or of a sheet merges with the strokes, a normal one, with and without the lines of
/// the sheet.
fn best_of(flat: &paper::Flat, tone: Tone, stop: Stop<'_>) -> Looked {
    let flat = flat.of_tone(tone);
    let mut best: Option<ink::Strokes> = None;
    for widest in [paper::WIDE, paper::NARROW] {
        let ink = flat.ink(widest);
        if ink::is_bare(&ink) {
            continue;
        }
        let mut untried = (0..=MAX_THIN).collect::<VecDeque<_>>();
        while let Some(thin) = untried.pop_front() {
            stop.check()?;
            let strokes = match ink::strokes(&ink, thin) {
                Sight::Digit(strokes) => strokes,
                Sight::Nothing => continue,
                // Remnants of lines hardly wider than those that are ignored look like strokes.
                Sight::Ruled(least) => {
                    untried.make_contiguous().sort_by_key(|&thin| thin < least);
                    continue;
                }
            };
            if strokes.is_sure() {
                return Ok(Some(strokes));
            }
            let is_whole = strokes.is_whole();
            let is_better = |best: &Option<_>| {
                best.as_ref().is_none_or(|best: &ink::Strokes| strokes.score() > best.score())
            };
            if strokes.is_likely() && is_better(&best) {
                best = Some(strokes);
            }
            if is_whole {
                break;
            }
        }
    }
    Ok(best)
}

/// The strokes in a picture that was cut out along them.
fn cropped(channels: &[Plane]) -> Option<ink::Strokes> {
    let levels = levels::Levels::of(channels)?;
    // In at least one place, paper is wider than any stroke.
    let narrower = |a: &(f32, _), b: &(f32, _)| a.0.total_cmp(&b.0);
    let tones = [Tone::Dark, Tone::Light].into_iter();
    let likely = tones.filter(|&tone| levels.ink_share(tone) < MOST_INK);
    let digits = likely.filter_map(|tone| ink::spanning(&levels.ink(tone)));
    digits.min_by(narrower).map(|(_, strokes)| strokes)
}

fn whole(picture: &Picture) -> Region {
    Region {
        left: 0.0,
        top: 0.0,
        width: f64::from(picture.width()),
        height: f64::from(picture.height()),
    }
}

/// The channels of a region, shrunk to the size of the view; never enlarged.
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

/// The region of the strokes with a margin, in pixels of the picture, and whether the strokes are a
/// small part of the view.
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
