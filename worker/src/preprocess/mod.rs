//! From the bytes of an upload to the input tensor of a network.
//!
//! [`decode()`] turns an untrusted file into a [`Picture`], refusing, from the header alone, a file
//! that would cost too much to decode; [`prepare`] brings a picture to the input of a model as the
//! model's manifest says. Resizing follows Pillow, with which the published weights were trained:
//! same geometry, same filters, anti-aliased when shrinking. Nothing here knows about HTTP, models
//! or threads.

mod contain;
mod decode;
mod digit;
mod error;
mod formats;
mod gif;
mod handwriting;
mod jpeg;
mod normalise;
mod orient;
mod picture;
mod resize;
mod rows;
mod triangle;

pub use contain::contain;
use decode::Stop;
pub use decode::{IsOver, Limits, decode, decode_for, decode_to_fit};
pub use error::ImageError;
pub use picture::Picture;
use picture::Pixels;

use crate::repository::{Input, Resize};

/// The kind of picture that an upload turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A photo, with the input tensor for the photo model.
    Photo(Vec<f32>),
    /// One handwritten digit on its background, or a blank sheet.
    Digit,
}

/// Tells digits from photos, by the pixels that the photo model would see. The rule is in
/// `handwriting.rs`.
pub fn tell_apart(picture: &Picture, photo: &Input) -> Kind {
    let small = resize::resize(picture, photo);
    if handwriting::is_likely(&small) {
        return Kind::Digit;
    }
    Kind::Photo(normalise::normalise(&small, photo))
}

/// Whether a picture that was decoded for one model has enough detail for another.
pub fn suffices(picture: &Picture, input: &Input) -> bool {
    picture.shrink <= resize::useful_shrink(picture.upright(), input)
}

/// The input tensor of one picture: planes of rows (CHW), normalised as `input` says.
///
/// The length is `input.mean.len() * input.height * input.width`. A grey picture fills every
/// channel of a colour model, and a colour picture is reduced to luma for a model of one channel. A
/// picture without a digit is an error for a digit model, because its answer would be a guess.
pub fn prepare(picture: &Picture, input: &Input) -> Result<Vec<f32>, ImageError> {
    prepare_until(picture, input, &|| false)
}

/// Like [`prepare`], but stops looking for a digit once `is_over` returns true.
pub fn prepare_until(
    picture: &Picture,
    input: &Input,
    is_over: IsOver<'_>,
) -> Result<Vec<f32>, ImageError> {
    let small = match input.resize {
        Resize::Squash { .. } | Resize::ShorterSide { .. } => resize::resize(picture, input),
        Resize::Digit => Pixels::Gray(digit::find(picture, input, Stop(is_over))?),
    };
    Ok(normalise::normalise(&small, input))
}
