//! Generated pictures, for a first run without any photos at hand.
//!
//! A dark 7 on smooth coloured waves with seeded grain, stored as JPEG: about as many bytes per
//! pixel as a photo, so round-trip times mean something, and digit models can answer too. The sizes
//! are those of the original experiment's photos and two between its last ones, where the size of
//! the file begins to matter.

use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{GrayImage, Luma, Rgb, RgbImage};
use rand::rngs::ChaCha12Rng;
use rand::{Rng, SeedableRng};

use super::pictures::Picture;

/// Prefix of the names of these pictures.
pub(crate) const GENERATED: &str = "generated_";
/// Sides in pixels of the pictures: the original's, 500 and 1000.
pub const SIDES: [u32; 9] = [16, 32, 64, 96, 128, 224, 500, 1000, 2000];

/// One square picture per side length.
pub fn pictures(sides: &[u32]) -> anyhow::Result<Vec<Picture>> {
    sides.iter().map(|side| picture(*side)).collect()
}

/// A square picture of `side` pixels, the same in every run.
pub fn picture(side: u32) -> anyhow::Result<Picture> {
    let mut rng = ChaCha12Rng::seed_from_u64(u64::from(side));
    let scale = 6.0 / f64::from(side.max(1));
    let image = RgbImage::from_fn(side, side, |x, y| {
        let (x, y) = (f64::from(x) * scale, f64::from(y) * scale);
        let grain = f64::from(rng.next_u32() % 16) - 8.0;
        if is_pen(x / 6.0, y / 6.0) {
            return Rgb([channel(10.0 + grain); 3]);
        }
        let wave = |phase: f64| {
            channel(160.0 + 40.0 * (x + phase).sin() + 30.0 * (y * 1.3 - phase).cos() + grain)
        };
        Rgb([wave(0.0), wave(1.0), wave(2.5)])
    });
    let mut bytes = Vec::new();
    image.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 85))?;
    Picture::try_new(&format!("{GENERATED}{side}.jpg"), Bytes::from(bytes))
}

/// The 7 as a digit of the MNIST set: white on black, 28 pixels wide, as PNG.
pub fn digit() -> anyhow::Result<Picture> {
    const SIDE: u32 = 28;
    // The 7 fills the 20 pixels in the middle.
    let place = |at: u32| 0.5 + ((f64::from(at) + 0.5) / f64::from(SIDE) - 0.5) * 0.7;
    let pixel = |x, y| Luma([if is_pen(place(x), place(y)) { 255 } else { 0 }]);
    let image = GrayImage::from_fn(SIDE, SIDE, pixel);
    let mut bytes = Vec::new();
    image.write_with_encoder(PngEncoder::new(&mut bytes))?;
    Picture::try_new("digit.png", Bytes::from(bytes))
}

/// The corners of the 7, from 0 to 1 across the picture, and half the width of its pen.
const CORNERS: [(f64, f64); 3] = [(0.3, 0.25), (0.7, 0.25), (0.45, 0.75)];
const PEN: f64 = 0.04;

/// Whether a point is on the 7.
fn is_pen(x: f64, y: f64) -> bool {
    CORNERS.windows(2).any(|ends| {
        let ((from_x, from_y), (to_x, to_y)) = (ends[0], ends[1]);
        let (along_x, along_y) = (to_x - from_x, to_y - from_y);
        let way = (x - from_x) * along_x + (y - from_y) * along_y;
        let nearest = (way / (along_x * along_x + along_y * along_y)).clamp(0.0, 1.0);
        (x - from_x - nearest * along_x).hypot(y - from_y - nearest * along_y) < PEN
    })
}

fn channel(value: f64) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the range of a byte"
    )]
    let byte = value.clamp(0.0, 255.0) as u8;
    byte
}

#[cfg(test)]
mod tests {
    use super::picture;

    #[test]
    fn a_generated_picture_is_the_same_every_time_and_has_its_size() {
        let picture_a = picture(64).unwrap();
        assert_eq!((picture_a.width, picture_a.height), (64, 64));
        assert_eq!(picture_a.bytes, picture(64).unwrap().bytes);
    }
}
