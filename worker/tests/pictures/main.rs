//! Bytes to pixels to what networks take.

mod damaged_jpeg;
mod decoders;
mod digits;
mod gif;
mod made;
mod orientation;
mod preprocess;
mod reduced;
mod tiff;
