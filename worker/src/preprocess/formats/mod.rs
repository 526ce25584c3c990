//! What must be known about a file before a library decodes it.
//!
//! Libraries report the size and the depth of the pixels from the header. They do not report how
//! much memory they take in addition, whether the file is long enough for what it announces, or
//! every orientation. Each module reads these from the structure of its format, without copying.

mod bmp;
mod exif;
mod kind;
mod png;
mod tiff;
mod webp;
mod xmp;

pub(super) use exif::orientation;
use image::ImageFormat;
use image::metadata::Orientation;
pub(super) use kind::recognise;
pub(super) use xmp::orientation as orientation_of_xmp;

use super::ImageError;

/// Facts read from the structure of a file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Survey {
    /// `None` if the file does not say.
    pub(super) orientation: Option<Orientation>,
    /// Bytes that the library allocates in addition to the pixels it returns.
    pub(super) working: u64,
    /// Whether colours are stored multiplied by their opacity.
    pub(super) is_premultiplied: bool,
}

/// Scans the file; refuses one that cannot be complete or would cost more than it announces.
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
