//! Decodes untrusted bytes to pixels, checking the cost first.
//!
//! The header states the size and depth of the pixels, so a picture that is too large costs a few
//! microseconds and no memory. The check counts everything that decoding takes in each format, not
//! only the pixels. Only the first frame of an animation is decoded, transparency is laid over
//! white paper (black paper under a white drawing), deeper channels are reduced to eight bits, and
//! colour profiles are ignored, because the networks' training pictures were read the same way.

use std::io::{self, BufRead, Cursor, Read, Seek, SeekFrom};

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

use super::orient::Turn;
use super::picture::{Picture, Pixels};
use super::{ImageError, contain, formats, gif, jpeg, resize, rows};
use crate::repository::Input;

/// Limits on the cost of decoding one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of pixels in the file.
    pub max_pixels: u64,
    /// Maximum memory for decoded pixels and the decoder's own buffers, in bytes.
    pub max_bytes: u64,
}

impl Default for Limits {
    /// Admits a photo of 48 megapixels if it is a JPEG that need not be decoded at full size, 12
    /// megapixels in most formats, and a 20,000 x 20,000 bomb in none.
    fn default() -> Self {
        Self { max_pixels: 64_000_000, max_bytes: 64 << 20 }
    }
}

/// Called periodically while a picture is decoded. Returns whether to stop because time is up or
/// the request was cancelled.
pub type IsOver<'a> = &'a dyn Fn() -> bool;

/// Decides when work on a picture is abandoned.
#[derive(Clone, Copy)]
pub(super) struct Stop<'a>(pub(super) IsOver<'a>);

impl Stop<'_> {
    /// Call once per unit of work, each taking about a millisecond at most.
    pub(super) fn check(self) -> Result<(), ImageError> {
        if (self.0)() { Err(ImageError::Stopped) } else { Ok(()) }
    }
}

/// Decodes a JPEG, PNG, WebP, GIF, BMP or TIFF file, whatever its name says.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, ImageError> {
    contain(|| any(bytes, limits, &|| false, |_, _| Shrinks::WHOLE))
}

/// Decodes no more of a picture than `input` can use. This takes a fraction of the time, and the
/// output of [`super::prepare`] differs from that for the whole picture by a few levels of grey
/// at most.
pub fn decode_for(
    bytes: &[u8],
    limits: &Limits,
    is_over: IsOver<'_>,
    input: &Input,
) -> Result<Picture, ImageError> {
    contain(|| any(bytes, limits, is_over, Shrinks::of(input, 1)))
}

/// Like [`decode_for`], but with half the detail if the picture would not fit into memory.
pub fn decode_to_fit(
    bytes: &[u8],
    limits: &Limits,
    is_over: IsOver<'_>,
    input: &Input,
) -> Result<Picture, ImageError> {
    contain(|| any(bytes, limits, is_over, Shrinks::of(input, 2)))
}

/// Factors by which the sides of a picture may be divided: a power of two and, if the result does
/// not fit into memory, the next powers up to `most`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shrinks {
    useful: u32,
    most: u32,
}

impl Shrinks {
    const WHOLE: Self = Self { useful: 1, most: 1 };
    /// The largest factor that any decoder supports.
    const LARGEST: u32 = 8;

    /// From the stored size and the orientation of a picture: the factor that leaves what `input`
    /// can use, and `coarser` times that.
    fn of(input: &Input, coarser: u32) -> impl Fn((u32, u32), Orientation) -> Self {
        move |stored, orientation| {
            let useful = resize::useful_shrink(Turn::of(orientation).upright(stored), input);
            Self { useful, most: (useful * coarser).min(Self::LARGEST) }
        }
    }

    /// The result of `attempt` for the first factor that there is enough memory for.
    pub(super) fn first_within<T>(
        self,
        attempt: impl Fn(u32) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let mut shrink = self.useful;
        loop {
            match attempt(shrink) {
                Err(ImageError::TooMuchMemory { .. }) if shrink < self.most => shrink *= 2,
                outcome => return outcome,
            }
        }
    }
}

/// `shrinks` maps the size and orientation of a picture to the factors that may divide its sides.
fn any(
    bytes: &[u8],
    limits: &Limits,
    is_over: IsOver<'_>,
    shrinks: impl Fn((u32, u32), Orientation) -> Shrinks,
) -> Result<Picture, ImageError> {
    let format = formats::recognise(bytes)?;
    if format == ImageFormat::Jpeg {
        jpeg::decode(bytes, limits, is_over, shrinks)
    } else if format == ImageFormat::Png {
        rows::decode(bytes, limits, is_over, shrinks)
    } else if format == ImageFormat::Gif {
        gif::decode(bytes, limits, is_over)
    } else {
        library(bytes, format, limits, is_over)
    }
}

/// Decodes a format that is left to the `image` crate.
fn library(
    bytes: &[u8],
    format: ImageFormat,
    limits: &Limits,
    is_over: IsOver<'_>,
) -> Result<Picture, ImageError> {
    let codec_error = |error| {
        if is_over() {
            ImageError::Stopped
        } else {
            ImageError::from_codec(error, limits.max_bytes)
        }
    };
    // The library allocates memory before it can report how much it needs.
    let survey = formats::survey(format, bytes)?;
    let mut reader = ImageReader::with_format(Patient::new(bytes, is_over), format);
    reader.limits(codec_limits(limits));
    let decoder = reader.into_decoder().map_err(codec_error)?;
    let stored = decoder.dimensions();
    let pixels = limits.check_size(stored)?;
    let copy = pixels.saturating_mul(copied(decoder.color_type()));
    let orientation = survey.orientation.unwrap_or(Orientation::NoTransforms);
    limits.check_bytes(decoder.total_bytes().saturating_add(survey.working.max(copy)))?;
    let image = DynamicImage::from_decoder(decoder).map_err(codec_error)?;
    // Some decoders treat any error as the end of the file, and return what they have so far.
    if is_over() {
        return Err(ImageError::Stopped);
    }
    let pixels = flatten(image, survey.is_premultiplied);
    Ok(Picture { pixels, orientation, stored, shrink: 1 })
}

fn codec_limits(limits: &Limits) -> image::Limits {
    let mut codec = image::Limits::no_limits();
    codec.max_alloc = Some(limits.max_bytes);
    codec
}

impl Limits {
    /// Returns the number of pixels, or an error if there are too many.
    pub(super) fn check_size(&self, (width, height): (u32, u32)) -> Result<u64, ImageError> {
        match u64::from(width) * u64::from(height) {
            0 => Err(ImageError::damaged("it has no pixels")),
            pixels if pixels <= self.max_pixels => Ok(pixels),
            _ => Err(ImageError::TooManyPixels { width, height, max_pixels: self.max_pixels }),
        }
    }

    pub(super) fn check_bytes(&self, bytes: u64) -> Result<(), ImageError> {
        if bytes > self.max_bytes {
            return Err(ImageError::TooMuchMemory { max_bytes: self.max_bytes });
        }
        Ok(())
    }
}

/// Bytes per pixel that [`flatten`] takes in addition to what the library returned.
fn copied(color: ColorType) -> u64 {
    let is_final =
        matches!(color, ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8);
    if is_final { 0 } else { u64::from(color.channel_count()) }
}

/// Converts to eight bits without transparency; grey stays grey. Premultiplied colours are already
/// multiplied by their opacity.
fn flatten(image: DynamicImage, is_premultiplied: bool) -> Pixels {
    let (width, height) = (image.width(), image.height());
    match (image.color().has_alpha(), image.color().has_color()) {
        (false, false) => Pixels::Gray(image.into_luma8()),
        (false, true) => Pixels::Rgb(image.into_rgb8()),
        (true, false) => {
            let mut bytes = image.into_luma_alpha8().into_raw();
            if is_premultiplied {
                divide_by_cover::<2>(&mut bytes);
            }
            let bytes = over_paper::<2>(bytes);
            Pixels::Gray(GrayImage::from_raw(width, height, bytes).expect(ALL))
        }
        (true, true) => {
            let mut bytes = image.into_rgba8().into_raw();
            if is_premultiplied {
                divide_by_cover::<4>(&mut bytes);
            }
            let bytes = over_paper::<4>(bytes);
            Pixels::Rgb(RgbImage::from_raw(width, height, bytes).expect(ALL))
        }
    }
}

const ALL: &str = "every pixel has lost its transparency and nothing else";

/// Divides the colours by the opacity, the last of `N` channels, to undo premultiplication.
fn divide_by_cover<const N: usize>(bytes: &mut [u8]) {
    for pixel in bytes.as_chunks_mut::<N>().0 {
        let cover = u32::from(pixel[N - 1]).max(1);
        for colour in &mut pixel[..N - 1] {
            *colour = u8::try_from(255 * u32::from(*colour) / cover).unwrap_or(u8::MAX);
        }
    }
}

/// A drawing whose colours are darker than this is not white.
const WHITE: u64 = 245;

/// Lays pixels of `N` channels, the last of them opacity, over white paper in place, or over black
/// paper if the picture itself is white. A white drawing on a transparent background was made for a
/// dark page and would be invisible on white.
pub(super) fn over_paper<const N: usize>(mut bytes: Vec<u8>) -> Vec<u8> {
    let (colours, pixels) = (N - 1, bytes.len() / N);
    let mut tally = Tally::default();
    tally.add(bytes.as_chunks::<N>().0);
    let paper = u32::from(tally.paper());
    for pixel in 0..pixels {
        let alpha = bytes[pixel * N + colours];
        for channel in 0..colours {
            bytes[pixel * colours + channel] = blend(bytes[pixel * N + channel], alpha, paper);
        }
    }
    bytes.truncate(pixels * colours);
    bytes
}

/// Statistics of a drawing: its colours, and how much of the page is bare.
#[derive(Default)]
pub(super) struct Tally {
    covered: u64,
    light: u64,
    bare: u64,
}

impl Tally {
    /// Adds pixels of `N` channels, the last of them opacity.
    pub(super) fn add<const N: usize>(&mut self, pixels: &[[u8; N]]) {
        for pixel in pixels {
            let alpha = u64::from(pixel[N - 1]);
            let darkest = pixel[..N - 1].iter().copied().min().unwrap_or(0);
            self.covered += alpha;
            self.light += alpha * u64::from(darkest);
            self.bare += 255 - alpha;
        }
    }

    /// The colour of the paper: black if the drawing is white and much of the page is bare.
    pub(super) fn paper(&self) -> u8 {
        let is_white = self.covered > 0 && self.light > WHITE * self.covered;
        if is_white && 10 * self.bare > self.covered { 0 } else { 255 }
    }
}

fn blend(channel: u8, alpha: u8, paper: u32) -> u8 {
    let alpha = u32::from(alpha);
    let sum = u32::from(channel) * alpha + paper * (255 - alpha);
    u8::try_from((sum + 127) / 255).expect("a weighted mean of two bytes is a byte")
}

/// A reader that fails once the time for the file is up.
pub(super) struct Patient<'a> {
    file: Cursor<&'a [u8]>,
    is_over: IsOver<'a>,
}

/// Maximum bytes that one read returns, so that the library keeps calling back.
const PORTION: usize = 16 << 10;
/// Reads shorter than this do not check the clock.
const SMALL_READ: usize = 64;

impl<'a> Patient<'a> {
    pub(super) fn new(bytes: &'a [u8], is_over: IsOver<'a>) -> Self {
        Self { file: Cursor::new(bytes), is_over }
    }

    fn check(&self) -> io::Result<()> {
        if (self.is_over)() { Err(io::Error::other("stopped")) } else { Ok(()) }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.len() >= SMALL_READ {
            self.check()?;
        }
        self.file.read(buffer)
    }
}

impl BufRead for Patient<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.check()?;
        let rest = self.file.fill_buf()?;
        Ok(&rest[..rest.len().min(PORTION)])
    }

    fn consume(&mut self, amount: usize) {
        self.file.consume(amount);
    }
}

impl Seek for Patient<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
