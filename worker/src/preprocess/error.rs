//! Why an upload is not a usable picture. Each variant asks the user for something different:
//! another format (415), a smaller picture (413), an intact file (422), or more time (504).

/// What is wrong with the bytes of an upload.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not an image of any format that this worker knows.
    #[error("not an image this worker decodes (JPEG, PNG, WebP, GIF, BMP and TIFF are)")]
    UnknownFormat,
    /// A known format that is not decoded here; the sentence names it and says what to do.
    #[error("{0}")]
    NotDecoded(&'static str),
    /// More pixels than allowed, according to the header; nothing was decoded.
    #[error("{width}x{height} pixels, more than the {max_pixels} pixels allowed")]
    TooManyPixels {
        /// Width of the picture, according to its header.
        width: u32,
        /// Height of the picture, according to its header.
        height: u32,
        /// Maximum number of pixels that a picture may have.
        max_pixels: u64,
    },
    /// Decoding would take more memory than allowed, because of the depth or compression of
    /// the pixels.
    #[error(
        "decoding takes more than the {max_bytes} bytes of memory allowed; make the picture smaller, or save it as \
         JPEG, which takes the least"
    )]
    TooMuchMemory {
        /// Maximum memory that decoding may take, in bytes.
        max_bytes: u64,
    },
    /// Starts like an image but is damaged or cut off.
    #[error("the image does not decode: {0}")]
    Malformed(String),
    /// A valid picture without a digit, for a model that reads digits.
    #[error("no digit found")]
    NoDigit,
    /// Decoding or the search for a digit was stopped at the caller's request.
    #[error("work on the picture was stopped before its end")]
    Stopped,
}

impl ImageError {
    /// Classifies an error of the `image` crate.
    pub(super) fn from_codec(error: image::ImageError, max_bytes: u64) -> Self {
        match error {
            image::ImageError::Unsupported(_) => Self::NotDecoded(
                "this kind of the format is not decoded here; export as JPEG or as a plain PNG",
            ),
            image::ImageError::Limits(_) => Self::TooMuchMemory { max_bytes },
            image::ImageError::IoError(source) if is_end_of_file(&source) => Self::ends_early(),
            image::ImageError::Decoding(_)
            | image::ImageError::Encoding(_)
            | image::ImageError::Parameter(_)
            | image::ImageError::IoError(_) => Self::of_library(&error),
        }
    }

    /// A library's message about a file means nothing to its sender, so a fixed sentence
    /// replaces it.
    pub(super) fn of_library(error: &dyn std::error::Error) -> Self {
        tracing::debug!(%error, "a decoder refuses an upload");
        Self::damaged("its data is damaged")
    }

    pub(super) fn ends_early() -> Self {
        Self::Malformed("the file ends early".to_owned())
    }

    pub(super) fn damaged(what: &str) -> Self {
        Self::Malformed(what.to_owned())
    }
}

fn is_end_of_file(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::UnexpectedEof
}
