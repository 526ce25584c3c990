//! From the bytes of an upload to the numbers a network wants.
//!
//! [`decode`] turns an untrusted file into a [`Picture`], refusing by its header what would cost too
//! much to decode; [`prepare`] brings a picture to the input of a model as the model's manifest
//! says. Resizing follows Pillow, with which the published weights were trained: same geometry, same
//! filters, anti-aliased when shrinking. Nothing here knows HTTP, models or threads.

mod contain;
mod decode;
mod digit;
mod error;
mod formats;
mod handwriting;
mod jpeg;
mod normalise;
mod orient;
mod picture;
mod resize;
mod rows;
mod triangle;

pub use contain::contain;
pub use decode::{IsOver, Limits, decode, decode_for};
pub use error::ImageError;
pub use picture::Picture;

use crate::repository::{Input, Resize};
use picture::Pixels;

/// What a picture turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A photo of something, with the input tensor of the model for those.
    Photo(Vec<f32>),
    /// One handwritten digit on its ground, or a sheet without one.
    Digit,
}

/// Tells digits from photos, by what the photo model would see of the picture. The rule is in
/// `handwriting.rs`.
pub fn tell_apart(picture: &Picture, photo: &Input) -> Kind {
    let small = resize::resize(picture, photo);
    if handwriting::is_likely(&small) {
        return Kind::Digit;
    }
    Kind::Photo(normalise::normalise(&small, photo))
}

/// Whether a picture that was decoded for one model has as much detail as another makes use of.
pub fn suffices(picture: &Picture, input: &Input) -> bool {
    picture.shrink <= resize::useful_shrink(picture.upright(), input)
}

/// The input tensor of one picture: planes of rows (CHW), normalised as `input` says.
///
/// The length is `input.mean.len() * input.height * input.width`. A grey picture fills every
/// channel of a colour model, and a colour picture is reduced to luma for a model of one channel.
/// Where a model reads a digit and there is none, its answer would be a guess: that is an error.
pub fn prepare(picture: &Picture, input: &Input) -> Result<Vec<f32>, ImageError> {
    let small = match input.resize {
        Resize::Squash { .. } | Resize::ShorterSide { .. } => resize::resize(picture, input),
        Resize::Digit => Pixels::Gray(digit::find(picture, input).ok_or(ImageError::NoDigit)?),
    };
    Ok(normalise::normalise(&small, input))
}
