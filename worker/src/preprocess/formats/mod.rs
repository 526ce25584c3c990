//! What must be known of a file before a library decodes it.
//!
//! Libraries tell the size and the depth of the pixels from the header, but not what they take
//! beside the pixels, not whether the file is long enough to hold what it announces, and not every
//! orientation. Each module reads these from the structure of its format, without copying.

mod bmp;
mod exif;
mod kind;
mod png;
mod tiff;
mod webp;

pub(super) use exif::orientation;
pub(super) use kind::recognise;

use super::ImageError;
use image::ImageFormat;
use image::metadata::Orientation;

/// What the structure of a file says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Survey {
    /// `None` when nothing is said.
    pub(super) orientation: Option<Orientation>,
    /// Bytes that the library takes beside the pixels that it returns.
    pub(super) working: u64,
}

/// Looks through the file; refuses what cannot be whole or would cost more than it announces.
pub(super) fn survey(format: ImageFormat, bytes: &[u8]) -> Result<Survey, ImageError> {
    if format == ImageFormat::Png {
        png::survey(bytes)
    } else if format == ImageFormat::WebP {
        webp::survey(bytes)
    } else if format == ImageFormat::Tiff {
        tiff::survey(bytes)
    } else if format == ImageFormat::Bmp {
        bmp::survey(bytes)
    } else {
        Ok(Survey::default())
    }
}
