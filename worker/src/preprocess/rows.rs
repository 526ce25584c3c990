//! PNG pictures that are too large to be kept whole: read row by row, squares of pixels averaged.
//!
//! Only one row of the picture is held at a time, so a screenshot of many megapixels takes less
//! memory than its reduced copy. Interlaced files store their rows in seven passes over the whole
//! picture and are not read here.

use super::decode::{Patient, Tally};
use super::picture::Pixels;
use super::{ImageError, Limits};
use image::{GrayImage, RgbImage};
use png::{ColorType, Decoder, DecodingError, Reader, Transformations};
use std::io::ErrorKind;

/// Memory that the library takes in addition to its rows: a window of unpacked data, twice, and an
/// input buffer.
const LIBRARY: u64 = 256 << 10;

/// The picture of `size` with its sides divided by `shrink`, rounding up; `None` where it must be
/// decoded whole.
pub(super) fn decode(
    file: Patient<'_>,
    size: (u32, u32),
    shrink: u32,
    limits: &Limits,
) -> Result<Option<Pixels>, ImageError> {
    let fault = |error: DecodingError| fault(&error, limits);
    let most = usize::try_from(limits.max_bytes).unwrap_or(usize::MAX);
    let mut decoder = Decoder::new_with_limits(file, png::Limits { bytes: most });
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(fault)?;
    if reader.info().interlaced {
        return Ok(None);
    }
    let (colour, _) = reader.output_color_type();
    let channels = colour.samples();
    let has_alpha = matches!(colour, ColorType::GrayscaleAlpha | ColorType::Rgba);
    let small = (size.0.div_ceil(shrink), size.1.div_ceil(shrink));
    let line = (size.0 as usize).saturating_mul(channels);
    // A row of 16 bits, the one before it, and what becomes of it.
    let rows = 6 * line as u64 + 8 * u64::from(small.0) * channels as u64;
    limits
        .check_bytes(rows + u64::from(small.0) * u64::from(small.1) * channels as u64 + LIBRARY)?;
    let squares = Squares {
        bytes: Vec::with_capacity(small.0 as usize * small.1 as usize * channels),
        sums: vec![0; small.0 as usize * channels],
        rows: 0,
        shrink: shrink as usize,
        width: size.0 as usize,
    };
    let bytes = match (channels, has_alpha) {
        (1, false) => squares.read::<1, false, _>(&mut reader),
        (2, true) => squares.read::<2, true, _>(&mut reader),
        (3, false) => squares.read::<3, false, _>(&mut reader),
        (4, true) => squares.read::<4, true, _>(&mut reader),
        _ => return Ok(None),
    };
    let bytes = bytes.map_err(fault)?.ok_or_else(ImageError::ends_early)?;
    let pixels = if channels < 3 {
        GrayImage::from_raw(small.0, small.1, bytes).map(Pixels::Gray)
    } else {
        RgbImage::from_raw(small.0, small.1, bytes).map(Pixels::Rgb)
    };
    pixels.map(Some).ok_or_else(ImageError::ends_early)
}

fn fault(error: &DecodingError, limits: &Limits) -> ImageError {
    match error {
        DecodingError::LimitsExceeded => ImageError::TooMuchMemory { max_bytes: limits.max_bytes },
        DecodingError::IoError(source) if source.kind() == ErrorKind::UnexpectedEof => {
            ImageError::ends_early()
        }
        DecodingError::IoError(_) | DecodingError::Format(_) | DecodingError::Parameter(_) => {
            ImageError::of_library(error)
        }
    }
}

/// A picture while it is being reduced.
struct Squares {
    /// The pixels so far; colours are weighted by opacity.
    bytes: Vec<u8>,
    /// Sums over the squares that the last rows belong to.
    sums: Vec<u32>,
    /// Rows in the sums.
    rows: usize,
    shrink: usize,
    width: usize,
}

impl Squares {
    /// Reads all rows of pixels of `N` channels, the last of which may be opacity. `None` if rows
    /// are missing.
    fn read<const N: usize, const ALPHA: bool, R: std::io::BufRead + std::io::Seek>(
        mut self,
        reader: &mut Reader<R>,
    ) -> Result<Option<Vec<u8>>, DecodingError> {
        let (height, mut read, mut tally) = (reader.info().height, 0, Tally::default());
        while let Some(row) = reader.next_row()? {
            let pixels = row.data().as_chunks::<N>().0;
            self.add::<N, ALPHA>(pixels);
            if ALPHA {
                tally.add(pixels);
            }
            read += 1;
            if self.rows == self.shrink || read == height {
                self.finish_row::<N, ALPHA>();
            }
        }
        if read != height {
            return Ok(None);
        }
        if ALPHA {
            self.lay_over::<N>(tally.paper());
        }
        Ok(Some(self.bytes))
    }

    fn add<const N: usize, const ALPHA: bool>(&mut self, pixels: &[[u8; N]]) {
        self.rows += 1;
        let sums = self.sums.as_chunks_mut::<N>().0;
        for (sum, square) in sums.iter_mut().zip(pixels.chunks(self.shrink)) {
            for pixel in square {
                add::<N, ALPHA>(sum, pixel);
            }
        }
    }

    fn finish_row<const N: usize, const ALPHA: bool>(&mut self) {
        let mut left = self.width;
        for sum in self.sums.as_chunks_mut::<N>().0 {
            let across = left.min(self.shrink);
            left -= across;
            let count = u32::try_from(across * self.rows).unwrap_or(u32::MAX).max(1);
            for (channel, sum) in sum.iter_mut().enumerate() {
                let whole = if ALPHA && channel < N - 1 { 255 * count } else { count };
                let mean = (std::mem::take(sum) + whole / 2) / whole;
                self.bytes.push(u8::try_from(mean).unwrap_or(u8::MAX));
            }
        }
        self.rows = 0;
    }

    /// Removes the opacity channel: transparent parts take the colour of the paper.
    fn lay_over<const N: usize>(&mut self, paper: u8) {
        let (colours, pixels) = (N - 1, self.bytes.len() / N);
        for pixel in 0..pixels {
            let bare = 255 - u32::from(self.bytes[pixel * N + colours]);
            let shows = u8::try_from((u32::from(paper) * bare + 127) / 255).unwrap_or(u8::MAX);
            for channel in 0..colours {
                let colour = self.bytes[pixel * N + channel];
                self.bytes[pixel * colours + channel] = colour.saturating_add(shows);
            }
        }
        self.bytes.truncate(pixels * colours);
    }
}

/// Adds a pixel; with an opacity channel the colours are weighted by it.
fn add<const N: usize, const ALPHA: bool>(sum: &mut [u32; N], pixel: &[u8; N]) {
    let cover = if ALPHA { u32::from(pixel[N - 1]) } else { 1 };
    let colours = if ALPHA { N - 1 } else { N };
    for (sum, value) in sum.iter_mut().zip(&pixel[..colours]) {
        *sum += u32::from(*value) * cover;
    }
    if ALPHA {
        sum[N - 1] += cover;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::decode::{decode as whole, decode_for};
    use crate::preprocess::prepare;
    use crate::repository::{Filter, Input, Resize};
    use image::{DynamicImage, ImageFormat, Rgba, RgbaImage};
    use std::io::Cursor;

    fn encoded(image: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    /// Colours that change slowly, on a page that is bare at one side.
    fn drawing(width: u32, height: u32) -> RgbaImage {
        let byte = |value: u32| u8::try_from(value % 256).unwrap();
        RgbaImage::from_fn(width, height, |x, y| {
            Rgba([byte(3 * x), byte(5 * y), byte(x + y), byte(255 - 7 * x.min(36))])
        })
    }

    fn gray_of(pixels: &Pixels) -> Vec<u8> {
        match pixels {
            Pixels::Gray(image) => image.as_raw().clone(),
            Pixels::Rgb(image) => DynamicImage::from(image.clone()).into_luma8().into_raw(),
        }
    }

    #[test]
    fn squares_are_the_means_of_the_whole_picture() {
        let colours = DynamicImage::from(drawing(37, 29));
        for image in [
            DynamicImage::from(colours.to_luma8()),
            DynamicImage::from(colours.to_luma_alpha8()),
            DynamicImage::from(colours.to_rgb8()),
            DynamicImage::from(colours.to_rgb16()),
            colours,
        ] {
            let bytes = encoded(&image);
            let limits = Limits::default();
            let file = Patient::new(&bytes, &|| false);
            let small = decode(file, (37, 29), 4, &limits).unwrap().unwrap();
            let large = gray_of(&whole(&bytes, &limits).unwrap().pixels);
            for (at, found) in gray_of(&small).into_iter().enumerate() {
                let (left, top) = (at % 10 * 4, at / 10 * 4);
                let square = (top..(top + 4).min(29))
                    .flat_map(|y| (left..(left + 4).min(37)).map(move |x| (x, y)));
                let values: Vec<f64> = square.map(|(x, y)| f64::from(large[y * 37 + x])).collect();
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                assert!((f64::from(found) - mean).abs() < 2.0, "{:?} {at}", image.color());
            }
        }
    }

    #[test]
    fn a_picture_that_cannot_be_kept_whole_is_read_in_rows() {
        let bytes = encoded(&DynamicImage::from(drawing(1500, 1200)).to_rgb8().into());
        let resize = Resize::Squash { filter: Filter::Bilinear };
        let input = Input { width: 100, height: 80, resize, mean: vec![0.0; 3], std: vec![1.0; 3] };
        let features = |max_bytes| {
            let limits = Limits { max_bytes, ..Limits::default() };
            decode_for(&bytes, &limits, &|| false, &input)
                .map(|picture| (picture.shrink, prepare(&picture, &input).unwrap()))
        };
        let (large, exact) = features(64 << 20).unwrap();
        let (small, near) = features(1 << 20).unwrap();
        assert_eq!((large, small), (1, 8));
        let apart = exact.iter().zip(&near).map(|(a, b)| (a - b).abs());
        assert!(apart.sum::<f32>() / (exact.len() as f32) < 0.02);
        assert!(matches!(features(100 << 10), Err(ImageError::TooMuchMemory { .. })));
    }

    #[test]
    fn a_picture_that_ends_early_is_refused() {
        let bytes = encoded(&DynamicImage::from(drawing(900, 900)));
        let cut = &bytes[..bytes.len() * 9 / 10];
        let file = Patient::new(cut, &|| false);
        assert!(decode(file, (900, 900), 8, &Limits::default()).is_err());
    }
}
