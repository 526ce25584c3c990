//! From bytes to pixels to the inputs of networks.

mod damaged_jpeg;
mod decoders;
mod digits;
mod gif;
mod made;
mod orientation;
mod preprocess;
mod reduced;
mod tiff;
