//! Kinds of TIFF that look like the usual one but are stored differently.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(clippy::cast_possible_truncation, reason = "pixels of test pictures")]

use worker::preprocess::ImageError;

use crate::made::{Entry, levels, tiff, whole};

const PIXELS: [u8; 24] = [
    10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140, 150, 160, 170, 180, 190, 200, 210,
    220, 230, 240,
];

/// Entries of a grey picture, 6 pixels wide and 4 high, with one byte per pixel.
fn grey() -> Vec<Entry> {
    vec![
        (256, 3, 6),
        (257, 3, 4),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 512),
        (277, 3, 1),
        (278, 3, 4),
        (279, 4, 24),
    ]
}

/// Like [`tiff`], but with offsets of 64 bits.
fn big(entries: &[Entry], pixels: &[u8], is_little: bool) -> Vec<u8> {
    let order = |bytes: &[u8]| {
        if is_little { bytes.to_vec() } else { bytes.iter().rev().copied().collect() }
    };
    let short = |value: u16| order(&value.to_le_bytes());
    let long = |value: u64| order(&value.to_le_bytes());
    let mut bytes = if is_little { b"II".to_vec() } else { b"MM".to_vec() };
    bytes.extend([short(43), short(8), short(0), long(16), long(entries.len() as u64)].concat());
    for &(tag, kind, value) in entries {
        bytes.extend([short(tag), short(kind), long(1)].concat());
        let value = if kind == 3 { short(value as u16) } else { order(&value.to_le_bytes()) };
        bytes.extend([value.clone(), vec![0; 8 - value.len()]].concat());
    }
    bytes.resize(512, 0);
    bytes.extend(pixels);
    bytes
}

#[test]
fn addresses_of_64_bits_lead_to_the_same_picture() {
    for bytes in [tiff(&grey(), &PIXELS), big(&grey(), &PIXELS, true), big(&grey(), &PIXELS, false)]
    {
        assert_eq!(levels(&whole(&bytes).unwrap()), PIXELS);
    }
    let short = big(&grey(), &PIXELS[..23], true);
    assert!(whole(&short).unwrap_err().to_string().contains("ends early"));
}

#[test]
fn bits_in_reverse_order_are_refused_and_not_mistaken() {
    let of = |order| [&grey()[..5], &[(266, 3, order)], &grey()[5..]].concat();
    assert!(whole(&tiff(&of(1), &PIXELS)).is_ok());
    let refused = whole(&tiff(&of(2), &PIXELS)).map(|picture| picture.bytes());
    assert!(matches!(refused, Err(ImageError::NotDecoded(_))), "{refused:?}");
}

#[test]
fn premultiplied_colours_are_as_bright_as_plain_ones() {
    let of = |extra: u32| {
        let mut entries = grey();
        (entries[0].2, entries[1].2, entries[7].2) = (3, 2, 2);
        (entries[4].2, entries[6].2) = (2, 4);
        entries.push((338, 3, extra));
        entries
    };
    // Half-transparent ink of one colour on white paper, then fully transparent pixels.
    let (plain, multiplied) = ([60, 60, 60, 128], [30, 30, 30, 128]);
    let pixels = |pixel: [u8; 4]| [[pixel; 3], [[0; 4]; 3]].concat().concat();
    let picture = |extra, pixel| levels(&whole(&tiff(&of(extra), &pixels(pixel))).unwrap());
    let (expected, found) = (picture(2, plain), picture(1, multiplied));
    assert_eq!(expected[3..], [255; 3]);
    assert!(expected.iter().zip(&found).all(|(&a, &b)| a.abs_diff(b) < 2), "{found:?}");
}
