//! Files made to break decoders: cut off, damaged, random after the first bytes, lying about their
//! size. Whatever comes in, decoding ends soon, without a panic, in bounded memory.
//!
//! One test, so that the memory that it looks at is its own.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pixels of test pictures"
)]

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use std::io::Cursor;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;
use worker::preprocess::{Limits, decode, decode_for, prepare};
use worker::repository::{Filter, Input, Resize};

/// Odd, so that few other bytes of a header look like it.
const SIZE: (u32, u32) = (117, 91);
const LIMITS: Limits = Limits { max_pixels: 4_000_000, max_bytes: 24 << 20 };
/// What a decoder may take beyond its allowance: the pixels turned, buffers, the allocator's slack.
const SLACK: u64 = 64 << 20;
/// Far beyond what a busy machine needs, far below what a bomb takes.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
enum Harm {
    Cut(Index),
    Hits(Vec<(Index, u8)>),
    Tail(Index, Vec<u8>),
    Size(u32, u32),
}

fn harm() -> impl Strategy<Value = Harm> {
    let hits = prop::collection::vec((any::<Index>(), any::<u8>()), 1..9);
    let tail = prop::collection::vec(any::<u8>(), 0..2000);
    let side =
        || prop_oneof![0u32..300, Just(0xFFFF), Just(0x7FFF_FFFF), Just(u32::MAX), any::<u32>()];
    prop_oneof![
        any::<Index>().prop_map(Harm::Cut),
        hits.prop_map(Harm::Hits),
        (any::<Index>(), tail).prop_map(|(at, bytes)| Harm::Tail(at, bytes)),
        (side(), side()).prop_map(|(width, height)| Harm::Size(width, height)),
    ]
}

impl Harm {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Hits(hits) => {
                for (at, value) in hits {
                    let at = at.index(bytes.len());
                    bytes[at] = *value;
                }
            }
            Self::Tail(at, tail) => {
                bytes.truncate(at.index(bytes.len()));
                bytes.extend(tail);
            }
            Self::Size(width, height) => {
                lie(bytes, SIZE.0, *width);
                lie(bytes, SIZE.1, *height);
            }
        }
        mend_png(bytes);
    }
}

/// Replaces a number wherever the header holds it, in whichever width and order of bytes.
fn lie(bytes: &mut [u8], truth: u32, number: u32) {
    let header = bytes.len().min(1000);
    let narrow = |number: u32| number as u16;
    let forms = [
        (truth.to_be_bytes().to_vec(), number.to_be_bytes().to_vec()),
        (truth.to_le_bytes().to_vec(), number.to_le_bytes().to_vec()),
        (narrow(truth).to_be_bytes().to_vec(), narrow(number).to_be_bytes().to_vec()),
        (narrow(truth).to_le_bytes().to_vec(), narrow(number).to_le_bytes().to_vec()),
    ];
    for (old, new) in forms {
        for at in 0..header.saturating_sub(old.len()) {
            if bytes[at..].starts_with(&old) {
                bytes[at..at + new.len()].copy_from_slice(&new);
            }
        }
    }
}

/// A wrong checksum would end the trial before it begins.
fn mend_png(bytes: &mut [u8]) {
    if bytes.starts_with(b"\x89PNG") && bytes.len() > 33 {
        let crc = !bytes[12..29].iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
            })
        });
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    }
}

/// A picture in every format and coding that is decoded.
fn seeds() -> Vec<Vec<u8>> {
    let scene = RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| Rgb([x as u8, (x * y) as u8, y as u8]));
    let formats = [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::Gif,
        ImageFormat::WebP,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
    ];
    let mut seeds: Vec<Vec<u8>> = formats
        .into_iter()
        .map(|format| {
            let mut bytes = Cursor::new(Vec::new());
            DynamicImage::from(scene.clone()).write_to(&mut bytes, format).unwrap();
            bytes.into_inner()
        })
        .collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/jpeg");
    for name in ["420.jpg", "progressive.jpg", "cmyk.jpg", "grey.jpg", "restarts.jpg"] {
        seeds.push(std::fs::read(folder.join(name)).unwrap());
    }
    seeds
}

/// The most resident memory of this process so far, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes << 10
}

#[test]
fn hostile_pictures_neither_panic_nor_stall_nor_fill_the_memory() {
    let resize = Resize::Squash { filter: Filter::Bilinear };
    let input = Input { width: 8, height: 8, resize, mean: vec![0.0; 3], std: vec![1.0; 3] };
    let seeds = seeds();
    for seed in &seeds {
        decode(seed, &LIMITS).unwrap();
    }
    let cases = (prop::sample::select(seeds), prop::collection::vec(harm(), 1..3));
    let before = peak_memory();
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() };
    let outcome = TestRunner::new(config).run(&cases, |(mut bytes, harms)| {
        for harm in &harms {
            if !bytes.is_empty() {
                harm.apply(&mut bytes);
            }
        }
        let begun = Instant::now();
        let outcomes = [decode(&bytes, &LIMITS), decode_for(&bytes, &LIMITS, &|| false, &input)];
        for picture in outcomes.into_iter().flatten() {
            let pixels = u64::from(picture.width()) * u64::from(picture.height());
            prop_assert!(pixels <= LIMITS.max_pixels);
            prop_assert_eq!(prepare(&picture, &input).unwrap().len(), 3 * 64);
        }
        let grown = peak_memory() - before;
        prop_assert!(grown <= LIMITS.max_bytes + SLACK, "{} bytes more", grown);
        prop_assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        Ok(())
    });
    outcome.unwrap();
}
