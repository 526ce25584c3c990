//! JPEG files that are truncated or damaged: the same verdict at every scale, and never a picture
//! that differs from libjpeg's.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(clippy::cast_possible_truncation, reason = "pixels of a test picture, bytes of a table")]

use std::cell::Cell;
use std::fs;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;
use worker::preprocess::{ImageError, Limits, Picture, decode, decode_for, prepare};
use worker::repository::{Filter, Input, Resize};

const LIMITS: Limits = Limits { max_pixels: 64_000_000, max_bytes: 1 << 30 };

/// An input of `side` by `side` grey levels from 0 to 255.
fn squash(side: usize) -> Input {
    let resize = Resize::Squash { filter: Filter::Bilinear };
    Input { width: side, height: side, resize, mean: vec![0.0], std: vec![1.0 / 255.0] }
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    fs::read(folder.join(name)).unwrap()
}

fn jpeg(name: &str) -> Vec<u8> {
    fixture(&format!("jpeg/{name}"))
}

/// A file larger than any fixture.
fn large() -> Vec<u8> {
    let scene = RgbImage::from_fn(900, 700, |x, y| {
        Rgb([(x / 4) as u8, (y / 3) as u8, ((x * y) >> 12) as u8])
    });
    let mut bytes = Vec::new();
    scene.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 60)).unwrap();
    bytes
}

/// The picture in grey levels, scaled to `side` by `side`.
fn levels(picture: &Picture, side: usize) -> Vec<f32> {
    prepare(picture, &squash(side)).unwrap()
}

/// `Ok` if the picture was decoded, otherwise the reason.
fn verdict(decoded: &Result<Picture, ImageError>) -> Result<(), String> {
    decoded.as_ref().map(|_| ()).map_err(ToString::to_string)
}

/// Mean difference in grey levels.
fn difference(left: &[f32], right: &[f32]) -> f32 {
    let sum: f32 = left.iter().zip(right).map(|(left, right)| (left - right).abs()).sum();
    sum / left.len() as f32
}

/// Where the header of the first scan begins.
fn first_scan(bytes: &[u8]) -> usize {
    bytes.windows(2).position(|two| two == [0xFF, 0xDA]).unwrap()
}

/// Replaces some bytes by others.
#[derive(Debug, Clone)]
struct Damage {
    at: Index,
    cut: usize,
    with: Vec<u8>,
}

impl Damage {
    /// Returns whether only bytes after the header of the first scan were changed.
    fn apply(&self, bytes: &mut Vec<u8>) -> bool {
        let at = self.at.index(bytes.len());
        let is_behind = at > first_scan(bytes) + 16;
        let end = at.saturating_add(self.cut).min(bytes.len());
        bytes.splice(at..end, self.with.iter().copied());
        is_behind
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let any_bytes = |most: usize| prop::collection::vec(any::<u8>(), 0..most);
    let (end, some) = (Just(usize::MAX), 1usize..30);
    let kind = prop_oneof![
        (end, Just(Vec::new())),
        (end, Just(vec![0xFF, 0xD9])),
        (end, any_bytes(300)),
        (Just(1), any_bytes(2)),
        (Just(2), any::<u8>().prop_map(|code| vec![0xFF, code])),
        (some, Just(Vec::new())),
        (Just(0), any_bytes(20)),
    ];
    (any::<Index>(), kind).prop_map(|(at, (cut, with))| Damage { at, cut, with })
}

#[test]
fn a_damaged_file_has_one_verdict_at_every_scale_and_nearly_the_same_pixels() {
    let names = [
        "420.jpg",
        "444.jpg",
        "grey.jpg",
        "restarts.jpg",
        "420_scans.jpg",
        "progressive.jpg",
        "420_spectral.jpg",
        "cmyk.jpg",
    ];
    let seeds: Vec<Vec<u8>> =
        names.iter().map(|name| jpeg(name)).chain(std::iter::once(large())).collect();
    // The same cases each time: no bound on the difference of pixels holds for all damage.
    let config = Config { cases: 1500, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let served = Cell::new(0);
    let cases = (select(seeds), damage());
    let outcome = TestRunner::new_with_rng(config, rng).run(&cases, |(mut bytes, damage)| {
        let is_behind = damage.apply(&mut bytes);
        let whole = decode(&bytes, &LIMITS);
        for side in [8, 40] {
            let reduced = decode_for(&bytes, &LIMITS, &|| false, &squash(side));
            prop_assert_eq!(verdict(&whole), verdict(&reduced), "{}", side);
            if let (Ok(whole), Ok(reduced)) = (&whole, &reduced) {
                served.set(served.get() + 1);
                let found = difference(&levels(whole, 8), &levels(reduced, 8));
                prop_assert!(!is_behind || found < 6.0, "{} at {}", found, side);
            }
        }
        Ok(())
    });
    outcome.unwrap();
    assert!(served.get() > 300, "{}", served.get());
}

/// One of the damaged files of `data/make.py`.
fn damaged(one: &Value) -> Vec<u8> {
    let mut bytes = jpeg(one["file"].as_str().unwrap());
    let number = |key: &str| one[key].as_u64().map(|number| usize::try_from(number).unwrap());
    if let Some(at) = number("at") {
        bytes[at] = one["byte"].as_u64().unwrap() as u8;
    }
    bytes.truncate(number("cut").unwrap_or(bytes.len()));
    if one["end"] == true {
        bytes.extend(b"\xFF\xD9");
    }
    bytes
}

#[test]
fn what_is_served_of_a_damaged_file_is_what_pillow_shows_of_it() {
    let table: Vec<Value> = serde_json::from_slice(&fixture("damaged.json")).unwrap();
    let mut served = 0;
    for one in &table {
        let bytes = damaged(one);
        let shown = one["levels"].as_str();
        for picture in [decode(&bytes, &LIMITS), decode_for(&bytes, &LIMITS, &|| false, &squash(4))]
        {
            let Ok(picture) = picture else { continue };
            let Some(shown) = shown else { panic!("{one} is served, and Pillow refuses it") };
            let byte = |at: usize| u8::from_str_radix(&shown[2 * at..2 * at + 2], 16).unwrap();
            let expected: Vec<f32> = (0..16).map(|at| f32::from(byte(at))).collect();
            let found = difference(&levels(&picture, 4), &expected);
            assert!(found < 4.0, "{one}: {found}");
            served += 1;
        }
    }
    assert!(served > table.len() / 3, "{served} of {}", table.len());
}
