//! PNG pictures, read row by row: whole, or reduced to the means of squares of pixels if there is
//! not enough memory for all of them.
//!
//! While reducing, only one row of the picture itself is kept, so a screenshot of many megapixels
//! takes less memory than its reduced copy. Interlaced files store their rows in seven passes over
//! the whole picture and are not reduced here.
//!
//! Small and large files follow the same rule, that of Pillow: a file may end anywhere after the
//! data of its last row. Damaged data is refused.

use std::io::ErrorKind;

use image::metadata::Orientation;
use image::{GrayImage, ImageFormat, RgbImage};
use png::{
    ColorType, Decoder, DecodingError, InterlaceInfo, Reader, Transformations,
    expand_interlaced_row,
};

use super::decode::{IsOver, Patient, Shrinks, Tally, over_paper};
use super::picture::{Picture, Pixels};
use super::{ImageError, Limits, formats};

/// Memory that the library takes in addition to its rows: twice a window of unpacked data, and an
/// input buffer.
const LIBRARY: u64 = 256 << 10;

/// Decodes the whole picture, or at the first reduction that there is enough memory for, of those
/// that `shrinks` allows for the size and orientation of the picture.
pub(super) fn decode(
    bytes: &[u8],
    limits: &Limits,
    is_over: IsOver<'_>,
    shrinks: impl Fn((u32, u32), Orientation) -> Shrinks,
) -> Result<Picture, ImageError> {
    let or_stopped = |error: ImageError| if is_over() { ImageError::Stopped } else { error };
    let open = || Rows::open(bytes, limits, is_over).map_err(or_stopped);
    let rows = open()?;
    let stored = rows.size;
    limits.check_size(stored)?;
    let survey = formats::survey(ImageFormat::Png, bytes)?;
    let orientation = survey.orientation.unwrap_or(Orientation::NoTransforms);
    if limits.check_bytes(rows.price(1)).is_ok() {
        let pixels = rows.whole().map_err(or_stopped)?;
        return Ok(Picture { pixels, orientation, stored, shrink: 1 });
    }
    drop(rows);
    shrinks(stored, orientation).first_within(|shrink| {
        let rows = open()?;
        if shrink == 1 || rows.reader.info().interlaced {
            return Err(ImageError::TooMuchMemory { max_bytes: limits.max_bytes });
        }
        limits.check_bytes(rows.price(shrink))?;
        let pixels = rows.reduced(shrink).map_err(or_stopped)?;
        Ok(Picture { pixels, orientation, stored, shrink })
    })
}

/// A file before its first row is read.
struct Rows<'a> {
    reader: Reader<Patient<'a>>,
    size: (u32, u32),
    /// Bytes per pixel; if there are two or four, the last one is the opacity.
    channels: usize,
    max_bytes: u64,
}

impl<'a> Rows<'a> {
    fn open(bytes: &'a [u8], limits: &Limits, is_over: IsOver<'a>) -> Result<Self, ImageError> {
        let max_bytes = limits.max_bytes;
        let most = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let file = Patient::new(bytes, is_over);
        let mut decoder = Decoder::new_with_limits(file, png::Limits { bytes: most });
        decoder.set_transformations(Transformations::normalize_to_color8());
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        let reader = decoder.read_info().map_err(|error| fault(&error, max_bytes))?;
        let channels = match reader.output_color_type().0 {
            ColorType::Grayscale | ColorType::Indexed => 1,
            ColorType::GrayscaleAlpha => 2,
            ColorType::Rgb => 3,
            ColorType::Rgba => 4,
        };
        let size = reader.info().size();
        Ok(Self { reader, size, channels, max_bytes })
    }

    /// Peak memory.
    fn price(&self, shrink: u32) -> u64 {
        let (width, height) = self.size;
        let (across, down) = (width.div_ceil(shrink), height.div_ceil(shrink));
        let channels = self.channels as u64;
        // A row of 16 bits, the previous one, and the result.
        let rows = 6 * u64::from(width) * channels + 8 * u64::from(across) * channels;
        rows.saturating_add(u64::from(across) * u64::from(down) * channels).saturating_add(LIBRARY)
    }

    /// Reads every pixel.
    fn whole(mut self) -> Result<Pixels, ImageError> {
        let size = (self.size.0, self.size.1);
        let line = size.0 as usize * self.channels;
        let mut bytes = vec![0; line * size.1 as usize];
        if self.reader.info().interlaced {
            self.interlaced(&mut bytes, line)?;
        } else {
            for row in bytes.chunks_exact_mut(line) {
                let read = self.reader.read_row(row).map_err(|error| self.fault(&error))?;
                read.ok_or_else(ImageError::ends_early)?;
            }
        }
        self.end()?;
        let bytes = match self.channels {
            2 => over_paper::<2>(bytes),
            4 => over_paper::<4>(bytes),
            _ => bytes,
        };
        pixels(bytes, size, self.channels)
    }

    /// Reads the rows of seven passes, each of which has some of the pixels.
    fn interlaced(&mut self, bytes: &mut [u8], line: usize) -> Result<(), ImageError> {
        let bits = u8::try_from(8 * self.channels).expect("four channels of a byte at the most");
        let (mut missing, max_bytes) = (bytes.len(), self.max_bytes);
        while missing > 0 {
            let row =
                self.reader.next_interlaced_row().map_err(|error| fault(&error, max_bytes))?;
            let row = row.ok_or_else(ImageError::ends_early)?;
            let InterlaceInfo::Adam7(place) = row.interlace() else {
                return Err(ImageError::damaged("its rows are out of order"));
            };
            expand_interlaced_row(bytes, line, row.data(), place, bits);
            missing = missing.saturating_sub(row.data().len());
        }
        Ok(())
    }

    /// The means of squares of pixels; the sides are divided by `shrink`, rounding up.
    fn reduced(mut self, shrink: u32) -> Result<Pixels, ImageError> {
        let size = (self.size.0.div_ceil(shrink), self.size.1.div_ceil(shrink));
        let squares = Squares {
            bytes: Vec::with_capacity(size.0 as usize * size.1 as usize * self.channels),
            sums: vec![0; size.0 as usize * self.channels],
            rows: 0,
            shrink: shrink as usize,
            width: self.size.0 as usize,
        };
        let bytes = match self.channels {
            1 => squares.read::<1, false>(&mut self)?,
            2 => squares.read::<2, true>(&mut self)?,
            3 => squares.read::<3, false>(&mut self)?,
            _ => squares.read::<4, true>(&mut self)?,
        };
        pixels(bytes, size, self.channels)
    }

    /// Checks after the last row, with the library, that the data matches its checksum. A file that
    /// ends there still has its whole picture.
    fn end(&mut self) -> Result<(), ImageError> {
        match self.reader.next_row().map(|_| ()) {
            Err(DecodingError::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                Ok(())
            }
            Err(error) => Err(self.fault(&error)),
            Ok(()) => Ok(()),
        }
    }

    fn fault(&self, error: &DecodingError) -> ImageError {
        fault(error, self.max_bytes)
    }
}

/// The picture, with its transparency already laid over paper.
fn pixels(
    bytes: Vec<u8>,
    (width, height): (u32, u32),
    channels: usize,
) -> Result<Pixels, ImageError> {
    let pixels = if channels < 3 {
        GrayImage::from_raw(width, height, bytes).map(Pixels::Gray)
    } else {
        RgbImage::from_raw(width, height, bytes).map(Pixels::Rgb)
    };
    pixels.ok_or_else(ImageError::ends_early)
}

fn fault(error: &DecodingError, max_bytes: u64) -> ImageError {
    match error {
        DecodingError::LimitsExceeded => ImageError::TooMuchMemory { max_bytes },
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
    /// Reads all rows of pixels of `N` channels, the last of which may be the opacity.
    fn read<const N: usize, const ALPHA: bool>(
        mut self,
        rows: &mut Rows<'_>,
    ) -> Result<Vec<u8>, ImageError> {
        let (height, mut tally) = (rows.size.1, Tally::default());
        let mut line = vec![0; self.width * N];
        for read in 1..=height {
            let row = rows.reader.read_row(&mut line).map_err(|error| rows.fault(&error))?;
            row.ok_or_else(ImageError::ends_early)?;
            let pixels = line.as_chunks::<N>().0;
            self.add::<N, ALPHA>(pixels);
            if ALPHA {
                tally.add(pixels);
            }
            if self.rows == self.shrink || read == height {
                self.finish_row::<N, ALPHA>();
            }
        }
        rows.end()?;
        if ALPHA {
            self.lay_over::<N>(tally.paper());
        }
        Ok(self.bytes)
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
    use std::io::Cursor;

    use image::{DynamicImage, ImageFormat, Rgba, RgbaImage};

    use super::*;
    use crate::preprocess::decode::{decode as whole, decode_for};
    use crate::preprocess::prepare;
    use crate::repository::{Filter, Input, Resize};

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
            let small = Rows::open(&bytes, &limits, &|| false).unwrap().reduced(4).unwrap();
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

    type Read = Result<Vec<u8>, String>;

    /// Whole and reduced.
    fn both(bytes: &[u8]) -> [Read; 2] {
        let open = || Rows::open(bytes, &Limits::default(), &|| false);
        let read = [open().and_then(Rows::whole), open().and_then(|rows| rows.reduced(8))];
        read.map(|pixels| pixels.map(|pixels| gray_of(&pixels)).map_err(|why| why.to_string()))
    }

    #[test]
    fn a_picture_that_ends_early_is_refused() {
        let bytes = encoded(&DynamicImage::from(drawing(900, 900)));
        for refused in both(&bytes[..bytes.len() * 9 / 10]) {
            assert!(refused.unwrap_err().contains("ends early"));
        }
    }

    #[test]
    fn a_file_may_end_anywhere_behind_its_last_row() {
        let bytes = encoded(&DynamicImage::from(drawing(90, 90)));
        let expected = both(&bytes).map(Result::unwrap);
        // The last chunk takes 12 bytes, and the checksum of the data before it 4.
        for missing in 0..=16 {
            let read = both(&bytes[..bytes.len() - missing]).map(Result::unwrap);
            assert!(read == expected, "{missing} bytes less");
        }
        for missing in 30..60 {
            let [whole, reduced] = both(&bytes[..bytes.len() - missing]);
            assert_eq!(whole.is_err(), reduced.is_err(), "{missing} bytes less");
        }
    }

    #[test]
    fn data_that_is_not_that_of_its_checksum_is_refused() {
        let mut bytes = encoded(&DynamicImage::from(drawing(90, 90)));
        let checksum = bytes.len() - 13;
        bytes[checksum] ^= 1;
        for refused in both(&bytes) {
            assert!(refused.unwrap_err().contains("damaged"));
        }
    }
}
