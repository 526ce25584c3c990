//! GIF pictures: the first frame, row by row, on a page that has room for it.
//!
//! The page has the size that the file announces, enlarged to hold the frame, as in browsers and
//! Pillow: some writers announce a page of no size, or that of another picture. The area around the
//! frame is transparent.

use gif::{DecodeOptions, Decoder, DecodingError, Frame};
use image::RgbImage;
use image::metadata::Orientation;

use super::decode::{IsOver, Patient, over_paper};
use super::picture::{Picture, Pixels};
use super::{ImageError, Limits};

/// Bytes per pixel while the page is made, the last of them opacity.
const CHANNELS: usize = 4;
/// Memory that the library takes in addition: codes, colours and an input buffer.
const LIBRARY: u64 = 64 << 10;
/// First row and row step of each pass of an interlaced frame.
const PASSES: &[(usize, usize)] = &[(0, 8), (4, 8), (2, 4), (1, 2)];
/// The same for a frame that is not interlaced.
const IN_ORDER: &[(usize, usize)] = &[(0, 1)];

/// Decodes the first frame of a file.
pub(super) fn decode(
    bytes: &[u8],
    limits: &Limits,
    is_over: IsOver<'_>,
) -> Result<Picture, ImageError> {
    let max_bytes = limits.max_bytes;
    let or_stopped = |error: DecodingError| {
        if is_over() { ImageError::Stopped } else { fault(&error, max_bytes) }
    };
    let file = Patient::new(bytes, is_over);
    let mut reader = DecodeOptions::new().read_info(file).map_err(or_stopped)?;
    let announced = (reader.width(), reader.height());
    let frame = reader.next_frame_info().map_err(or_stopped)?;
    let page = Page::new(frame.ok_or_else(ImageError::ends_early)?, announced);
    let pixels = limits.check_size(page.size)?;
    limits.check_bytes(pixels.saturating_mul(CHANNELS as u64).saturating_add(LIBRARY))?;
    let bytes = over_paper::<CHANNELS>(page.read(&mut reader).map_err(or_stopped)?);
    let pixels = RgbImage::from_raw(page.size.0, page.size.1, bytes).map(Pixels::Rgb);
    let pixels = pixels.ok_or_else(ImageError::ends_early)?;
    Ok(Picture { pixels, orientation: Orientation::NoTransforms, stored: page.size, shrink: 1 })
}

fn fault(error: &DecodingError, max_bytes: u64) -> ImageError {
    if matches!(error, DecodingError::UnexpectedEof) {
        return ImageError::ends_early();
    }
    if matches!(error, DecodingError::MemoryLimit | DecodingError::OutOfMemory) {
        return ImageError::TooMuchMemory { max_bytes };
    }
    ImageError::of_library(error)
}

/// Where the rows of a frame lie on the page.
struct Page {
    size: (u32, u32),
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    is_interlaced: bool,
    transparent: Option<u8>,
}

impl Page {
    fn new(frame: &Frame<'_>, announced: (u16, u16)) -> Self {
        let end = |start: u16, length: u16| u32::from(start) + u32::from(length);
        Self {
            size: (
                end(frame.left, frame.width).max(announced.0.into()),
                end(frame.top, frame.height).max(announced.1.into()),
            ),
            left: frame.left.into(),
            top: frame.top.into(),
            width: frame.width.into(),
            height: frame.height.into(),
            is_interlaced: frame.interlaced,
            transparent: frame.transparent,
        }
    }

    /// The page with the frame on it.
    fn read(&self, reader: &mut Decoder<Patient<'_>>) -> Result<Vec<u8>, DecodingError> {
        let (across, down) = (self.size.0 as usize, self.size.1 as usize);
        let mut bytes = vec![0; CHANNELS * across * down];
        if self.width == 0 {
            return Ok(bytes);
        }
        let colours = self.colours(reader.palette()?);
        let mut line = vec![0; self.width];
        for row in self.rows() {
            if !reader.fill_buffer(&mut line)? {
                return Err(DecodingError::UnexpectedEof);
            }
            let start = (self.top + row) * across + self.left;
            let pixels = bytes.as_chunks_mut::<CHANNELS>().0[start..].iter_mut();
            for (pixel, &index) in pixels.zip(&line) {
                *pixel = colours[usize::from(index)];
            }
        }
        Ok(bytes)
    }

    /// The colour of each palette index; an index without one is transparent.
    fn colours(&self, palette: &[u8]) -> [[u8; CHANNELS]; 256] {
        let mut colours = [[0; CHANNELS]; 256];
        for (colour, &[red, green, blue]) in colours.iter_mut().zip(palette.as_chunks::<3>().0) {
            *colour = [red, green, blue, 255];
        }
        if let Some(number) = self.transparent {
            colours[usize::from(number)] = [0; CHANNELS];
        }
        colours
    }

    /// The rows of the frame in the order of the file.
    fn rows(&self) -> impl Iterator<Item = usize> {
        let passes = if self.is_interlaced { PASSES } else { IN_ORDER };
        let height = self.height;
        passes.iter().flat_map(move |&(first, step)| (first..height).step_by(step))
    }
}
