//! Why an upload is not a picture. Each variant is a different answer to the user: another format
//! (415), a smaller picture (413), or an intact file (422).

/// What is wrong with the bytes of an upload.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not an image, or of a kind that is not decoded here.
    #[error("not an image this worker decodes (JPEG, PNG, WebP, GIF, BMP and TIFF are)")]
    UnknownFormat,
    /// More pixels than allowed; the header says so and nothing was decoded.
    #[error("{width}x{height} pixels, more than the {max_pixels} pixels allowed")]
    TooManyPixels {
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
        /// The limit.
        max_pixels: u64,
    },
    /// Decoding would take more memory than allowed, for the depth or the compression of the pixels.
    #[error("decoding takes more than the {max_bytes} bytes of memory allowed")]
    TooMuchMemory {
        /// The limit.
        max_bytes: u64,
    },
    /// Starts as an image and is damaged or cut off.
    #[error("the image does not decode: {0}")]
    Malformed(String),
}

impl ImageError {
    /// Tells the faults of the `image` crate apart.
    pub(super) fn from_codec(error: image::ImageError, max_bytes: u64) -> Self {
        match error {
            image::ImageError::Unsupported(_) => Self::UnknownFormat,
            image::ImageError::Limits(_) => Self::TooMuchMemory { max_bytes },
            image::ImageError::IoError(source) if is_end_of_file(&source) => {
                Self::Malformed("the file ends early".to_owned())
            }
            image::ImageError::Decoding(_)
            | image::ImageError::Encoding(_)
            | image::ImageError::Parameter(_)
            | image::ImageError::IoError(_) => Self::Malformed(error.to_string()),
        }
    }
}

fn is_end_of_file(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::UnexpectedEof
}
