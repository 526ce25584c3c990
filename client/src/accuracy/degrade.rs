//! A photo with fewer pixels: crop to the largest centred square, downsample, enlarge again.
//!
//! Both resampling steps are bicubic with anti-aliasing, the default of the original's imaging
//! library. The result is sent as PNG, so that compression adds no further loss.

use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

/// Side of the photo model's input in pixels.
const MODEL_SIDE: u32 = 224;

/// The largest centred square of an encoded photo, upright.
pub(super) fn square(file: &[u8]) -> anyhow::Result<RgbImage> {
    let mut decoder =
        ImageReader::new(std::io::Cursor::new(file)).with_guessed_format()?.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    let image = image.to_rgb8();
    let side = image.width().min(image.height());
    let (left, top) = ((image.width() - side) / 2, (image.height() - side) / 2);
    Ok(imageops::crop_imm(&image, left, top, side, side).to_image())
}

/// `square` downsampled to `side` pixels and enlarged to the model's input size, as PNG.
pub(super) fn degraded(square: &RgbImage, side: u32) -> anyhow::Result<Vec<u8>> {
    let small = imageops::resize(square, side, side, FilterType::CatmullRom);
    let seen = imageops::resize(&small, MODEL_SIDE, MODEL_SIDE, FilterType::CatmullRom);
    let mut png = std::io::Cursor::new(Vec::new());
    seen.write_to(&mut png, ImageFormat::Png)?;
    Ok(png.into_inner())
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::{degraded, square};

    #[test]
    fn the_square_is_the_middle_of_the_photo() {
        let wide = RgbImage::from_fn(30, 10, |x, _| {
            if (10..20).contains(&x) { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) }
        });
        let mut png = std::io::Cursor::new(Vec::new());
        wide.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let square = square(&png.into_inner()).unwrap();
        assert_eq!(square.dimensions(), (10, 10));
        assert!(square.pixels().all(|pixel| *pixel == Rgb([255, 0, 0])));
    }

    #[test]
    fn fewer_pixels_lose_detail_and_keep_the_size_that_the_model_sees() {
        let stripes =
            RgbImage::from_fn(224, 224, |x, _| Rgb([if x % 2 == 0 { 255 } else { 0 }; 3]));
        let contrast = |side| {
            let png = degraded(&stripes, side).unwrap();
            let image = image::load_from_memory(&png).unwrap().to_rgb8();
            assert_eq!(image.dimensions(), (224, 224));
            let middle: Vec<u8> = (50..150).map(|x| image.get_pixel(x, 112).0[0]).collect();
            middle.iter().max().unwrap() - middle.iter().min().unwrap()
        };
        assert_eq!(contrast(224), 255);
        assert!(contrast(32) < 40, "stripes of one pixel cannot survive");
    }
}
