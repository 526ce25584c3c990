//! Files that some decoders read and others refuse or read differently: the correct result is that
//! of libjpeg and Pillow, or a refusal.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pixels of test pictures"
)]

use std::path::Path;
use std::time::Duration;

use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use worker::preprocess::{ImageError, Limits, Picture, decode, decode_for, decode_to_fit, prepare};
use worker::repository::{Filter, Input, Resize};

use crate::made::{encoded, segment, tiff, time_of_thread, whole, with_segments};

fn squash(width: usize, height: usize) -> Input {
    let resize = Resize::Squash { filter: Filter::Bilinear };
    Input { width, height, resize, mean: vec![0.0; 3], std: vec![1.0 / 255.0; 3] }
}

fn jpeg(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/jpeg");
    std::fs::read(folder.join(name)).unwrap()
}

/// The picture decoded whole, and reduced as far as possible.
fn both(bytes: &[u8]) -> [Result<Picture, ImageError>; 2] {
    [whole(bytes), decode_for(bytes, &Limits::default(), &|| false, &squash(8, 8))]
}

/// Mean difference in levels between two pictures, scaled to 40 by 40.
fn difference(left: &Picture, right: &Picture) -> f32 {
    let input = squash(40, 40);
    let (left, right) = (prepare(left, &input).unwrap(), prepare(right, &input).unwrap());
    left.iter().zip(&right).map(|(a, b)| (a - b).abs()).sum::<f32>() / left.len() as f32
}

/// Size or error, short enough for an assertion message.
fn outcome(decoded: &Result<Picture, ImageError>) -> Result<(u32, u32), String> {
    let sized = decoded.as_ref().map(|picture| (picture.width(), picture.height()));
    sized.map_err(ToString::to_string)
}

const JFIF: &[u8] = b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0";
const ADOBE_RGB: &[u8] = b"Adobe\0\x64\0\0\0\0\0";

/// The position of the first marker of a kind, in a file whose segments precede its only scan.
fn position(bytes: &[u8], marker: u8) -> usize {
    let mut at = 2;
    while bytes[at + 1] != marker {
        at += 2 + usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
    }
    at
}

#[test]
fn the_order_of_scans_changes_nothing() {
    for (one, other) in [
        ("420.jpg", "420_scans.jpg"),
        ("420.jpg", "progressive.jpg"),
        ("420.jpg", "420_spectral.jpg"),
        ("422.jpg", "422_scans.jpg"),
    ] {
        let pictures = [one, other].map(|name| both(&jpeg(name)).map(Result::unwrap));
        for (left, right) in pictures[0].iter().zip(&pictures[1]) {
            let found = difference(left, right);
            assert!(found < 1.5, "{one} and {other}: {found}");
        }
    }
}

#[test]
fn every_layout_of_channels_shows_the_same_scene() {
    let expected = whole(&jpeg("444.jpg")).unwrap();
    for name in ["411.jpg", "410.jpg", "440.jpg", "coarse_luma.jpg", "mixed.jpg", "rgb.jpg"] {
        for picture in both(&jpeg(name)) {
            let found = difference(&expected, &picture.unwrap());
            assert!(found < 6.0, "{name}: {found}");
        }
    }
}

#[test]
fn jfif_means_ycbcr_whatever_adobe_says() {
    let plain = jpeg("420.jpg");
    let claims = [segment(0xE0, JFIF), segment(0xEE, ADOBE_RGB)];
    for claims in [&claims[..], &[claims[1].clone(), claims[0].clone()]] {
        let found = both(&with_segments(&plain, claims)).map(Result::unwrap);
        for (picture, expected) in found.iter().zip(&both(&plain).map(Result::unwrap)) {
            assert!(difference(picture, expected) < 0.5);
        }
    }
}

#[test]
fn a_missing_end_marker_is_no_matter_and_missing_data_is() {
    for name in ["420.jpg", "grey.jpg", "restarts.jpg", "420_scans.jpg", "progressive.jpg"] {
        let bytes = jpeg(name);
        let unmarked = &bytes[..bytes.len() - 2];
        for (picture, expected) in both(unmarked).into_iter().zip(both(&bytes)) {
            let found = difference(&picture.unwrap(), &expected.unwrap());
            assert!(found < 1.0, "{name}: {found}");
        }
        for length in [bytes.len() * 3 / 4, bytes.len() - 20] {
            for refused in both(&bytes[..length]) {
                let refused = outcome(&refused);
                assert!(refused.is_err_and(|why| why.contains("ends early")), "{name} {length}");
            }
        }
    }
}

/// Decoded whole, and reduced because of a lack of memory.
#[test]
fn a_png_may_end_behind_its_data_and_not_before() {
    let photo = RgbImage::from_fn(900, 700, |x, y| Rgb([(x / 4) as u8, (y / 3) as u8, 90]));
    let whole = encoded(photo, ImageFormat::Png);
    let read = |missing, max_bytes| {
        let limits = Limits { max_bytes, ..Limits::default() };
        decode_for(&whole[..whole.len() - missing], &limits, &|| false, &squash(100, 80))
    };
    let expected = [8 << 20, 1 << 20].map(|memory| read(0, memory).unwrap());
    assert_eq!((expected[0].bytes(), expected[1].bytes()), (3 * 900 * 700, 3 * 225 * 175));
    for missing in 0..300 {
        let read = [8 << 20, 1 << 20].map(|memory| read(missing, memory));
        match (missing, read) {
            (_, [Ok(whole), Ok(reduced)]) => {
                let apart = difference(&whole, &expected[0]) + difference(&reduced, &expected[1]);
                assert!(missing < 200 && apart < 0.01, "{missing} bytes less: {apart}");
            }
            (17.., [Err(whole), Err(reduced)]) => {
                let why = [whole, reduced].map(|why| why.to_string());
                assert!(why.iter().all(|why| why.contains("ends early")), "{missing}: {why:?}");
            }
            (_, read) => panic!("{missing} bytes less: {:?}", read.map(|read| outcome(&read))),
        }
    }
}

#[test]
fn what_is_missing_before_the_end_marker_is_grey() {
    for name in ["420.jpg", "444.jpg", "420_scans.jpg", "progressive.jpg"] {
        let bytes = jpeg(name);
        let cut = [&bytes[..bytes.len() * 19 / 20], b"\xFF\xD9"].concat();
        let [whole, reduced] = both(&cut).map(|picture| picture.map_err(|e| e.to_string()));
        match (whole, reduced) {
            (Ok(whole), Ok(reduced)) => {
                let found = difference(&whole, &reduced);
                assert!(found < 8.0, "{name}: {found}");
            }
            (whole, reduced) => {
                let outcomes = (whole.err(), reduced.err());
                assert!(matches!(outcomes, (Some(_), Some(_))), "{name}: {outcomes:?}");
            }
        }
    }
}

#[test]
fn a_second_frame_header_is_refused() {
    for name in ["420.jpg", "progressive.jpg", "420_scans.jpg"] {
        let bytes = jpeg(name);
        let frame = bytes.windows(2).position(|two| matches!(two, [0xFF, 0xC0 | 0xC2])).unwrap();
        let mut second = bytes[frame..frame + 19].to_vec();
        second[5..9].copy_from_slice(&[0xFF, 0xDC, 0xFF, 0xDC]);
        for first in [false, true] {
            let mut bytes = bytes.clone();
            let at = if first { frame } else { frame + 19 };
            bytes.splice(at..at, second.clone());
            for refused in both(&bytes) {
                let is_refused = matches!(
                    refused,
                    Err(ImageError::Malformed(_) | ImageError::TooManyPixels { .. })
                );
                assert!(is_refused, "{name}: {:?}", outcome(&refused));
            }
        }
    }
}

#[test]
fn tables_that_no_scan_selects_cost_nothing() {
    let tables = b"\x10\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".repeat(3600);
    let bytes = with_segments(&jpeg("420.jpg"), &vec![segment(0xC4, &tables); 150]);
    assert!(bytes.len() > 9_000_000);
    let begun = time_of_thread();
    let pictures = both(&bytes);
    // Building each of the half a million tables took one of the two 20 seconds.
    let spent = time_of_thread().saturating_sub(begun);
    assert!(spent < Duration::from_secs(2), "{spent:?}");
    for picture in pictures {
        assert!(difference(&picture.unwrap(), &whole(&jpeg("420.jpg")).unwrap()) < 3.0);
    }
}

/// Such are the pictures of Motion JPEG.
#[test]
fn a_file_without_huffman_codes_has_those_of_the_standard() {
    for name in ["420.jpg", "444.jpg", "grey.jpg", "420_scans.jpg"] {
        let bytes = jpeg(name);
        let mut bare = bytes.clone();
        while let Some(at) = bare.windows(2).position(|two| two == [0xFF, 0xC4]) {
            let length = usize::from(u16::from_be_bytes([bare[at + 2], bare[at + 3]]));
            bare.drain(at..at + 2 + length);
        }
        assert!(bare.len() < bytes.len() - 200, "{name}");
        for (found, expected) in both(&bare).into_iter().zip(both(&bytes)) {
            assert!(difference(&found.unwrap(), &expected.unwrap()) < 0.01, "{name}");
        }
    }
    // A progressive file has to bring its own codes.
    let progressive = jpeg("progressive.jpg");
    let at = position(&progressive, 0xC4);
    let length = usize::from(u16::from_be_bytes([progressive[at + 2], progressive[at + 3]]));
    let bare = [&progressive[..at], &progressive[at + 2 + length..]].concat();
    assert!(both(&bare).iter().all(Result::is_err));
}

#[test]
fn a_progressive_file_has_a_bounded_number_of_scans() {
    let bytes = jpeg("progressive.jpg");
    let scan = bytes.windows(2).position(|two| two == [0xFF, 0xDA]).unwrap();
    let header = segment(0xDA, &[1, bytes[scan + 5], 0, 1, 5, 0]);
    let mut long = bytes[..bytes.len() - 2].to_vec();
    for _ in 0..2000 {
        long.extend(&header);
    }
    for refused in both(&long) {
        assert!(matches!(refused, Err(ImageError::Malformed(_))), "{:?}", outcome(&refused));
    }
}

#[test]
fn other_kinds_of_jpeg_are_refused_by_name() {
    let bytes = jpeg("420.jpg");
    let frame = position(&bytes, 0xC0);
    for (marker, name) in
        [(0xC9, "arithmetic"), (0xCA, "arithmetic"), (0xC3, "lossless"), (0xC5, "lossless")]
    {
        let mut other = bytes.clone();
        other[frame + 1] = marker;
        for refused in both(&other) {
            assert!(
                matches!(refused, Err(ImageError::NotDecoded(why)) if why.contains(name)),
                "{refused:?}"
            );
        }
    }
    let mut deep = bytes.clone();
    deep[frame + 4] = 12;
    assert!(matches!(whole(&deep), Err(ImageError::NotDecoded(why)) if why.contains("8 bits")));
    let mut flat = bytes;
    flat[frame + 5..frame + 7].fill(0);
    assert!(matches!(whole(&flat), Err(ImageError::Malformed(_))));
}

#[test]
fn decoding_stops_when_its_time_is_over() {
    for name in ["420.jpg", "420_scans.jpg", "progressive.jpg", "cmyk.jpg"] {
        let stopped = decode_for(&jpeg(name), &Limits::default(), &|| true, &squash(8, 8));
        assert!(matches!(stopped, Err(ImageError::Stopped)), "{name}: {:?}", outcome(&stopped));
    }
    let noise =
        RgbImage::from_fn(300, 300, |x, y| Rgb([(x * y) as u8, (x * x + y) as u8, y as u8]));
    for format in [ImageFormat::Png, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::Tiff] {
        let bytes = encoded(noise.clone(), format);
        let stopped = decode_for(&bytes, &Limits::default(), &|| true, &squash(8, 8));
        assert!(matches!(stopped, Err(ImageError::Stopped)), "{format:?}: {:?}", outcome(&stopped));
    }
}

/// The library decodes a WebP in one go; how long that takes is bounded by the memory of a request.
#[test]
fn a_webp_is_stopped_at_its_end() {
    let bytes = encoded(RgbImage::new(30, 20), ImageFormat::WebP);
    let stopped = decode_for(&bytes, &Limits::default(), &|| true, &squash(8, 8));
    assert!(matches!(stopped, Err(ImageError::Stopped)), "{:?}", outcome(&stopped));
}

#[test]
fn tiles_in_planes_are_a_fault_of_the_file() {
    for (width, height) in [(1, 1), (16, 16), (16, 17), (17, 16), (100, 40)] {
        let mut bytes = tiff(
            &[
                (256, 3, width),
                (257, 3, height),
                (258, 3, 8),
                (259, 3, 1),
                (262, 3, 2),
                (277, 3, 3),
                (284, 3, 2),
                (322, 3, 16),
                (323, 3, 16),
                (324, 4, 512),
                (325, 4, 256),
            ],
            &vec![0; 20_000],
        );
        // Three bit depths, and the sizes and offsets of the tiles.
        let tiles = 3 * width.div_ceil(16) * height.div_ceil(16);
        let lists = [(2, 3u32, 300u32), (9, tiles, 400), (10, tiles, 400)];
        for (entry, count, at) in lists {
            let start = 10 + 12 * entry + 4;
            bytes[start..start + 4].copy_from_slice(&count.to_le_bytes());
            bytes[start + 4..start + 8].copy_from_slice(&at.to_le_bytes());
        }
        bytes[300..306].copy_from_slice(&[8, 0, 8, 0, 8, 0]);
        for place in bytes[400..].chunks_exact_mut(4).take(tiles as usize) {
            place.copy_from_slice(&512u32.to_le_bytes());
        }
        let refused = whole(&bytes);
        assert!(
            matches!(refused, Err(ImageError::Malformed(_))),
            "{width}x{height}: {:?}",
            outcome(&refused)
        );
    }
}

#[test]
fn what_a_format_takes_is_counted_and_not_the_pixels_alone() {
    // A WebP of 40 megapixels in 34 bytes, as its format allows.
    let lossless = b"RIFF\x1a\0\0\0WEBPVP8L\x0e\0\0\0\
        \x2f\x9b\xd8\x26\x06\x07\x10\x11\xfd\x0f\x44\x44\xff\x03";
    let refused = whole(lossless);
    assert!(matches!(refused, Err(ImageError::TooMuchMemory { .. })), "{:?}", outcome(&refused));
    // 16 bits in the file become 8 in memory, and another 8 while a library decodes them.
    let deep: image::ImageBuffer<Luma<u16>, _> =
        image::ImageBuffer::from_pixel(1000, 1000, Luma([9u16]));
    let limits = |max_bytes| Limits { max_bytes, ..Limits::default() };
    for (format, enough) in [(ImageFormat::Png, 1_300_000), (ImageFormat::Tiff, 6_000_000)] {
        let bytes = encoded(DynamicImage::from(deep.clone()), format);
        let refused = decode(&bytes, &limits(enough - 200_000 - enough / 4));
        let refused = refused.map(|picture| picture.bytes());
        assert!(matches!(refused, Err(ImageError::TooMuchMemory { .. })), "{format:?} {refused:?}");
        decode(&bytes, &limits(enough)).unwrap();
    }
}

#[test]
fn a_file_too_short_for_its_picture_is_refused_before_memory_is_taken() {
    let grey = encoded(GrayImage::new(16, 16), ImageFormat::Bmp);
    let mut bitmap = grey;
    bitmap[18..22].copy_from_slice(&5000u32.to_le_bytes());
    bitmap[22..26].copy_from_slice(&5000u32.to_le_bytes());
    assert!(matches!(whole(&bitmap), Err(ImageError::Malformed(_))));
    for name in ["420.jpg", "progressive.jpg"] {
        let mut photo = jpeg(name);
        let frame = photo.windows(2).position(|two| matches!(two, [0xFF, 0xC0 | 0xC2])).unwrap();
        photo[frame + 5..frame + 9].copy_from_slice(&[0x10, 0, 0x10, 0]);
        for refused in both(&photo) {
            assert!(matches!(refused, Err(ImageError::Malformed(_))), "{:?}", outcome(&refused));
        }
    }
}

#[test]
fn the_header_of_a_bmp_is_not_taken_for_pixels() {
    let mut bytes = encoded(GrayImage::new(16, 16), ImageFormat::Bmp);
    assert!(whole(&bytes).is_ok());
    for start in [0u32, 14, 53] {
        bytes[10..14].copy_from_slice(&start.to_le_bytes());
        assert!(matches!(whole(&bytes), Err(ImageError::Malformed(_))), "{start}");
    }
}

#[test]
fn a_photo_of_48_megapixels_is_taken_where_it_need_not_be_whole() {
    let photo = GrayImage::from_fn(8000, 6000, |x, y| Luma([(x / 40 + y / 40) as u8]));
    let bytes = encoded(DynamicImage::from(photo).to_rgb8(), ImageFormat::Jpeg);
    let resize = Resize::ShorterSide { shorter_side: 232, filter: Filter::Bilinear };
    let input = Input { resize, ..squash(224, 224) };
    let picture = decode_for(&bytes, &Limits::default(), &|| false, &input).unwrap();
    assert_eq!((picture.width(), picture.height()), (8000, 6000));
    assert!(matches!(whole(&bytes), Err(ImageError::TooMuchMemory { .. })));
}

#[test]
fn a_picture_without_room_for_all_its_detail_is_decoded_with_half_of_it() {
    let photo = RgbImage::from_fn(900, 700, |x, y| Rgb([(x / 4) as u8, (y / 3) as u8, 90]));
    let wanted = squash(800, 600);
    for (format, least) in [(ImageFormat::Jpeg, 600 << 10), (ImageFormat::Png, 800 << 10)] {
        let bytes = encoded(photo.clone(), format);
        let limits = |max_bytes| Limits { max_bytes, ..Limits::default() };
        let whole = decode_to_fit(&bytes, &limits(8 << 20), &|| false, &wanted).unwrap();
        let [exact, half, none] = [
            decode_for(&bytes, &limits(least), &|| false, &wanted),
            decode_to_fit(&bytes, &limits(least), &|| false, &wanted),
            decode_to_fit(&bytes, &limits(400 << 10), &|| false, &wanted),
        ];
        for refused in [exact, none] {
            let refused = refused.map(|picture| picture.bytes());
            assert!(matches!(refused, Err(ImageError::TooMuchMemory { .. })), "{refused:?}");
        }
        let half = half.unwrap();
        assert_eq!((half.width(), half.height()), (900, 700));
        assert_eq!((whole.bytes(), half.bytes()), (3 * 900 * 700, 3 * 450 * 350), "{format:?}");
        assert!(difference(&whole, &half) < 1.5, "{format:?}");
    }
}
