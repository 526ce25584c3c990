//! Resizes a picture to the input size of a network as Pillow and torchvision do.
//!
//! The geometry is torchvision's: the longer side is truncated, the offset of the centre crop is
//! rounded half to even. Only the source pixels of the crop are touched, so a picture of one row and
//! a million columns costs nothing. The filters widen with the scale and may look past the border
//! of the crop, as Pillow's do with a `box`; pixels differ from Pillow's by rounding only.

use fast_image_resize::images::{Image, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, ImageView, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, GrayImage, RgbImage};

use super::orient::{Region, Turn};
use super::picture::{Picture, Pixels};
use super::triangle;
use crate::repository::{Filter, Input, Resize};

/// The part of the picture that the network sees, upright, at its input size.
pub(super) fn resize(picture: &Picture, input: &Input) -> Pixels {
    let filter = match input.resize {
        Resize::Squash { filter } | Resize::ShorterSide { filter, .. } => filter,
        Resize::Digit => Filter::Bilinear,
    };
    let region = centre_crop(picture.upright(), whole_size(picture.upright(), input), input);
    let target = (narrow(input.width), narrow(input.height));
    sample(picture, region, target, filter)
}

/// Size of the whole picture after resizing, before the crop.
fn whole_size(upright: (u32, u32), input: &Input) -> (usize, usize) {
    match input.resize {
        Resize::Squash { .. } | Resize::Digit => (input.width, input.height),
        Resize::ShorterSide { shorter_side, .. } => shorter_side_size(upright, shorter_side, input),
    }
}

/// The factor, 1 to 8, by which a decoder may divide the sides of a picture and still leave enough
/// for resizing.
pub(super) fn useful_shrink(upright: (u32, u32), input: &Input) -> u32 {
    let (width, height) = match input.resize {
        // The search for a digit looks at several scales.
        Resize::Digit => (DIGIT_SIDE, DIGIT_SIDE),
        Resize::Squash { .. } | Resize::ShorterSide { .. } => whole_size(upright, input),
    };
    let is_enough = |shrink: &u32| {
        let needed = |side: usize| SPARE * side as f64 * f64::from(*shrink);
        f64::from(upright.0) >= needed(width) && f64::from(upright.1) >= needed(height)
    };
    [8, 4, 2].into_iter().find(is_enough).unwrap_or(1)
}

/// A reduced picture has at least this many times the pixels per side that resizing leaves.
const SPARE: f64 = 1.2;
const DIGIT_SIDE: usize = 1000;

/// Resamples a region of the whole upright picture to `target` pixels.
pub(super) fn sample(
    picture: &Picture,
    region: Region,
    target: (u32, u32),
    filter: Filter,
) -> Pixels {
    let turn = Turn::of(picture.orientation);
    let upright = (f64::from(picture.width()), f64::from(picture.height()));
    let stored = turn.apply(region, upright).scaled(1.0 / f64::from(picture.shrink));
    let plan = Plan { stored, swaps_axes: turn.transpose, filter, shrink: picture.shrink };
    let target = plan.size(target);
    let mut small = match &picture.pixels {
        Pixels::Gray(image) => {
            let source = TypedImageRef::<U8>::from_buffer(image.width(), image.height(), image);
            let bytes = plan.convolve(&source.expect(FULL), target);
            DynamicImage::from(GrayImage::from_raw(target.0, target.1, bytes).expect(FULL))
        }
        Pixels::Rgb(image) => {
            let source = TypedImageRef::<U8x3>::from_buffer(image.width(), image.height(), image);
            let bytes = plan.convolve(&source.expect(FULL), target);
            DynamicImage::from(RgbImage::from_raw(target.0, target.1, bytes).expect(FULL))
        }
    };
    small.apply_orientation(picture.orientation);
    if small.color().has_color() {
        Pixels::Rgb(small.into_rgb8())
    } else {
        Pixels::Gray(small.into_luma8())
    }
}

const FULL: &str = "an image has as many bytes as its size says";

/// What to resample, in stored pixels, and which stored axis the upright rows lie along.
#[derive(Debug, Clone, Copy)]
struct Plan {
    stored: Region,
    swaps_axes: bool,
    filter: Filter,
    /// Factor by which the decoder has divided the sides.
    shrink: u32,
}

impl Plan {
    /// Converts a size between stored and upright order, in either direction.
    fn size(&self, (width, height): (u32, u32)) -> (u32, u32) {
        if self.swaps_axes { (height, width) } else { (width, height) }
    }

    fn region(&self, region: Region) -> Region {
        if self.swaps_axes { region.transposed() } else { region }
    }

    /// The filter that makes one pixel out of `scale` pixels.
    fn kernel(&self, scale: f64) -> FilterType {
        match self.filter {
            Filter::Bilinear if scale > 1.0 => triangle::after(self.shrink, scale),
            Filter::Bilinear | Filter::Bicubic => self.filter.into(),
        }
    }

    /// Filters along the upright rows first, then along the columns, rounding to bytes in between,
    /// as Pillow does: where bicubic overshoots, the order matters.
    fn convolve<P: PixelTrait>(
        &self,
        source: &TypedImageRef<'_, P>,
        target: (u32, u32),
    ) -> Vec<u8> {
        let size = (source.width(), source.height());
        let region = self.region(self.stored.inside(size));
        let (columns, rows) = self.size(target);
        let needed = reach(region, rows, self.size(size).1, self.filter);
        let lines = needed.end - needed.start;
        let (first, height) = (f64::from(needed.start), f64::from(lines));

        let across = Region { top: first, height, ..region };
        let mut between = blank::<P>(self.size((columns, lines)));
        let kernel = self.kernel(region.width / f64::from(columns));
        run(source, &mut between, self.region(across), kernel);

        let (left, width) = (0.0, f64::from(columns));
        let down = Region { left, top: region.top - first, width, height: region.height };
        let mut small = blank::<P>(target);
        let kernel = self.kernel(region.height / f64::from(rows));
        let between = between.typed_image::<P>().expect(KIND);
        run(&between, &mut small, self.region(down), kernel);
        small.into_vec()
    }
}

/// The rows that a filter reads to make `rows` out of `region`.
fn reach(region: Region, rows: u32, limit: u32, filter: Filter) -> std::ops::Range<u32> {
    let support = match filter {
        Filter::Bilinear => 1.0,
        Filter::Bicubic => 2.0,
    };
    let margin = support * (region.height / f64::from(rows)).max(1.0) + 1.0;
    let start = (region.top - margin).floor().max(0.0);
    let end = (region.top + region.height + margin).ceil().min(f64::from(limit));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "both lie between zero and a side of the picture"
    )]
    let range = start as u32..end as u32;
    range
}

/// Invariant: resizing with a [`Plan`] keeps the pixel type.
const KIND: &str = "the pixels are of one kind";

fn blank<P: PixelTrait>(size: (u32, u32)) -> Image<'static> {
    Image::new(size.0, size.1, P::pixel_type())
}

/// Generic over one pixel type: the library's own dispatch would compile code for every type that
/// it knows into this crate.
fn run<P: PixelTrait>(
    source: &TypedImageRef<'_, P>,
    target: &mut Image,
    region: Region,
    filter: FilterType,
) {
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).crop(
        region.left,
        region.top,
        region.width,
        region.height,
    );
    let mut target = target.typed_image_mut::<P>().expect(KIND);
    Resizer::new().resize_typed(source, &mut target, &options).expect("the region lies inside");
}

impl From<Filter> for FilterType {
    fn from(filter: Filter) -> Self {
        match filter {
            Filter::Bilinear => Self::Bilinear,
            Filter::Bicubic => Self::CatmullRom,
        }
    }
}

/// Size of the whole picture when its shorter side is brought to `shorter_side`.
///
/// Never less than the input: a crop cannot be larger than what it is cut from.
fn shorter_side_size(upright: (u32, u32), shorter_side: usize, input: &Input) -> (usize, usize) {
    let side = shorter_side.max(input.width).max(input.height);
    let (width, height) = (upright.0 as usize, upright.1 as usize);
    if width <= height { (side, side * height / width) } else { (side * width / height, side) }
}

/// The centre crop of the input size out of a picture resized to `size`, in pixels of the upload.
fn centre_crop(upright: (u32, u32), size: (usize, usize), input: &Input) -> Region {
    let (width, height) = (f64::from(upright.0), f64::from(upright.1));
    let scale_x = width / size.0 as f64;
    let scale_y = height / size.1 as f64;
    let left = ((size.0 - input.width) as f64 / 2.0).round_ties_even();
    let top = ((size.1 - input.height) as f64 / 2.0).round_ties_even();
    Region {
        left: left * scale_x,
        top: top * scale_y,
        width: input.width as f64 * scale_x,
        height: input.height as f64 * scale_y,
    }
}

fn narrow(side: usize) -> u32 {
    u32::try_from(side).expect("the manifest bounds the input size")
}
