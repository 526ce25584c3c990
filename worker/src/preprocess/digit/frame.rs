//! Scales and places the strokes as in MNIST: 20 pixels long in an image of 28, the centre of mass
//! in the middle, anti-aliased, strokes two to three pixels wide.

use image::{GrayImage, Luma};

use super::super::orient::Region;
use super::super::picture::{Picture, Pixels};
use super::super::resize;
use super::component::Bounds;
use super::ink::Strokes;
use super::plane::{Plane, median_and_spread};
use crate::repository::Filter;

/// Sides of the digit's box and of the whole image in MNIST, in pixels.
const BOX: u32 = 20;
const IMAGE: u32 = 28;
/// Strokes thinner than this, in pixels of the box, are thickened.
const THIN: f32 = 1.9;
/// Pixels with less ink than this do not count for the size of a ready digit.
const STRONG: u8 = 50;

/// Places strokes in an image of the given size.
pub(super) fn frame(strokes: &Strokes, size: (u32, u32)) -> GrayImage {
    let (ink, bounds) = thickened(strokes, size);
    let longest = bounds.width().max(bounds.height()) as f64;
    let scale = f64::from(size.0.min(size.1) * BOX / IMAGE) / longest;
    let target = (side(bounds.width(), scale), side(bounds.height(), scale));
    let region = Region {
        left: bounds.left as f64,
        top: bounds.top as f64,
        width: bounds.width() as f64,
        height: bounds.height() as f64,
    };
    let digit = match resize::sample(&Picture::from_gray(ink), region, target, Filter::Bilinear) {
        Pixels::Gray(image) => image,
        Pixels::Rgb(image) => image::DynamicImage::from(image).into_luma8(),
    };
    placed(&digit, size)
}

/// Pastes the digit with its centre of mass in the pixel to the right of and below the middle, as
/// in all of MNIST, without cutting anything off.
fn placed(digit: &GrayImage, size: (u32, u32)) -> GrayImage {
    let (x, y) = centre_of_mass(digit);
    let left = offset(f64::from(size.0) / 2.0 - x, digit.width(), size.0);
    let top = offset(f64::from(size.1) / 2.0 - y, digit.height(), size.1);
    let mut image = GrayImage::new(size.0, size.1);
    image::imageops::replace(&mut image, digit, left, top);
    image
}

fn offset(ideal: f64, length: u32, limit: u32) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "within the image")]
    let rounded = ideal.ceil() as i64;
    rounded.clamp(0, i64::from(limit.saturating_sub(length)))
}

/// The centre of mass in pixels from the left and top borders, or the middle if the image is empty.
fn centre_of_mass(image: &GrayImage) -> (f64, f64) {
    let (mut mass, mut x_sum, mut y_sum) = (0.0, 0.0, 0.0);
    for (x, y, &Luma([value])) in image.enumerate_pixels() {
        let value = f64::from(value);
        mass += value;
        x_sum += value * (f64::from(x) + 0.5);
        y_sum += value * (f64::from(y) + 0.5);
    }
    if mass > 0.0 {
        (x_sum / mass, y_sum / mass)
    } else {
        (f64::from(image.width()) / 2.0, f64::from(image.height()) / 2.0)
    }
}

/// Thickens thin strokes: a fine pen on a large digit would fade when shrunk, and MNIST was written
/// with felt tips.
fn thickened(strokes: &Strokes, size: (u32, u32)) -> (GrayImage, Bounds) {
    let (ink, bounds) = (&strokes.ink, strokes.bounds);
    let longest = bounds.width().max(bounds.height()) as f32;
    let pixel = longest / (size.0.min(size.1) * BOX / IMAGE) as f32;
    let missing = THIN * pixel - stroke_width(ink, strokes.inked);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let radius = (missing / 2.0).round().clamp(0.0, longest / 16.0) as usize;
    let view = (ink.width, ink.height);
    let inked = strokes.inked.grown(radius, view);
    let mut part = ink.part(inked);
    if radius > 0 {
        part = part.dilated(radius);
    }
    let mut gray = GrayImage::new(narrow(ink.width), narrow(ink.height));
    let [left, top] = [inked.left, inked.top].map(|at| i64::from(narrow(at)));
    image::imageops::replace(&mut gray, &self::gray(&part), left, top);
    (gray, bounds.grown(radius, view))
}

/// Twice the area over the length of the outline: the width of a long line. All ink is within `inked`.
fn stroke_width(ink: &Plane, inked: Bounds) -> f32 {
    let is_ink = |x: usize, y: usize| ink.values[y * ink.width + x] > 0.5;
    let (mut area, mut outline) = (0.0f32, 0.0f32);
    for y in inked.top..inked.bottom {
        for x in inked.left..inked.right {
            if is_ink(x, y) {
                area += 1.0;
                let open = [
                    x == 0 || !is_ink(x - 1, y),
                    y == 0 || !is_ink(x, y - 1),
                    x + 1 == ink.width || !is_ink(x + 1, y),
                    y + 1 == ink.height || !is_ink(x, y + 1),
                ];
                outline +=
                    open.into_iter().map(|is_open| f32::from(u8::from(is_open))).sum::<f32>();
            }
        }
    }
    // The pixel steps of a slanted line exceed its length: by 4 / pi over all directions.
    2.0 * area / (outline * std::f32::consts::FRAC_PI_4).max(1.0)
}

fn gray(ink: &Plane) -> GrayImage {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1")]
    let bytes = ink.values.iter().map(|value| (value * 255.0).round() as u8);
    GrayImage::from_raw(narrow(ink.width), narrow(ink.height), bytes.collect())
        .expect("one byte was made for each pixel")
}

/// The pixels, white on black, of an image that already has the form of MNIST, `None` otherwise.
///
/// Such an image has an even border and ink of about the box's size around the middle.
pub(super) fn already_framed(channels: &[Plane]) -> Option<GrayImage> {
    let (width, height) = (channels[0].width, channels[0].height);
    let gray: Vec<f32> = (0..width * height)
        .map(|at| channels.iter().map(|c| c.values[at]).sum::<f32>() / channels.len() as f32)
        .collect();
    let is_border = |at: &usize| {
        let (x, y) = (at % width, at / width);
        x == 0 || y == 0 || x + 1 == width || y + 1 == height
    };
    let border: Vec<f32> = (0..gray.len()).filter(is_border).map(|at| gray[at]).collect();
    let (paper, _) = median_and_spread(&border);
    let is_dark = paper < 128.0;
    let ink: Vec<f32> =
        gray.iter().map(|v| if is_dark { v - paper } else { paper - v }.max(0.0)).collect();
    let darkest = ink.iter().copied().fold(0.0, f32::max);
    // Centring by mass pushes a lopsided digit up to the border.
    let is_paper = |value: &&f32| (*value - paper).abs() < 0.15 * darkest;
    let is_even = border.iter().filter(is_paper).count() * 20 >= border.len() * 17;
    if darkest < 100.0 || !is_even {
        return None;
    }
    let plane = Plane { width, height, values: ink.iter().map(|v| v / darkest).collect() };
    centred(&self::gray(&plane))
}

/// A digit of the box's size, moved to the middle if it is off-centre.
fn centred(image: &GrayImage) -> Option<GrayImage> {
    let (mut left, mut top, mut right, mut bottom) = (u32::MAX, u32::MAX, 0, 0);
    for (x, y, &Luma([value])) in image.enumerate_pixels() {
        if value > STRONG {
            (left, top) = (left.min(x), top.min(y));
            (right, bottom) = (right.max(x + 1), bottom.max(y + 1));
        }
    }
    let longest = right.saturating_sub(left).max(bottom.saturating_sub(top));
    let scale = f64::from(image.width()) / f64::from(IMAGE);
    let length = f64::from(longest) / scale;
    if !(f64::from(BOX) - 4.0..=f64::from(BOX) + 2.0).contains(&length) {
        return None;
    }
    let (x, y) = centre_of_mass(image);
    let off = |at: f64, length: u32| (at - f64::from(length) / 2.0).abs() / scale;
    if off(x, image.width()) < 1.6 && off(y, image.height()) < 1.6 {
        return Some(image.clone());
    }
    // Include the soft pixels around it.
    let (left, top) = (left.saturating_sub(1), top.saturating_sub(1));
    let (right, bottom) = ((right + 1).min(image.width()), (bottom + 1).min(image.height()));
    let digit = image::imageops::crop_imm(image, left, top, right - left, bottom - top).to_image();
    Some(placed(&digit, image.dimensions()))
}

fn side(length: usize, scale: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most BOX")]
    let side = (length as f64 * scale).round() as u32;
    side.max(1)
}

fn narrow(side: usize) -> u32 {
    u32::try_from(side).expect("a view has few pixels")
}
