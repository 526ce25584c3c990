//! The shipped digit model against logits recorded when it was trained.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

use candle_core::{Device, Tensor};
use worker::{
    model::{self, Model},
    repository::Version,
};

const SIDE: usize = 28;

fn shipped() -> Box<dyn Model> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/mnist/1");
    model::load(&Version::read(&folder).unwrap(), &engine::Options::default()).unwrap()
}

/// An image with ink where `ink` returns true, normalised as in the manifest.
fn image(ink: impl Fn(usize, usize) -> bool) -> Vec<f32> {
    let value = |on: bool| (f32::from(u8::from(on)) - 0.1307) / 0.3081;
    (0..SIDE * SIDE).map(|i| value(ink(i % SIDE, i / SIDE))).collect()
}

/// A vertical stroke.
fn one() -> Vec<f32> {
    image(|x, y| (13..15).contains(&x) && (4..24).contains(&y))
}

/// A ring.
fn zero() -> Vec<f32> {
    image(|x, y| {
        let (x, y) = (x as f32 - 13.5, (y as f32 - 13.5) * 0.8);
        (5.0..7.5).contains(&(x * x + y * y).sqrt())
    })
}

fn logits(pixels: Vec<f32>) -> Vec<Vec<f32>> {
    let images = pixels.len() / (SIDE * SIDE);
    let batch = Tensor::from_vec(pixels, (images, 1, SIDE, SIDE), &Device::Cpu).unwrap();
    shipped().forward(&batch).unwrap().to_vec2().unwrap()
}

#[test]
fn the_logits_of_drawn_digits_are_those_written_down() {
    let expected = [ONE, ZERO];
    let found = logits([one(), zero()].concat());
    for (digit, (found, expected)) in [1, 0].into_iter().zip(found.iter().zip(&expected)) {
        assert_eq!(model::top_k(found, 1), [digit]);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-3, "{found} is not {expected}");
        }
    }
}

#[test]
fn a_batch_gives_the_logits_of_its_images_alone() {
    let together = logits([one(), zero(), one()].concat());
    for (together, alone) in together.iter().zip([one(), zero(), one()].map(logits)) {
        for (a, b) in together.iter().zip(&alone[0]) {
            assert!((a - b).abs() < 1e-4);
        }
    }
}

// Computed from the weights file by plain loops in double precision, independently of this program.
const ONE: [f32; 10] =
    [-1.5499, 4.3686, -2.5182, -2.1802, -2.1296, -2.0097, -2.3638, -1.3703, -2.485, -2.5385];
const ZERO: [f32; 10] =
    [4.1213, -1.3689, -1.4126, -1.813, -1.7912, -1.3499, -1.3436, -1.348, -1.6437, -1.3174];
