//! The depthwise filter against a plain loop, for every target of this machine.

use super::super::cells;
use super::super::target::{Format, Target};
use super::{BLOCK, Depthwise};
use half::f16;
use proptest::prelude::*;

fn values(len: usize) -> impl Strategy<Value = Vec<f32>> {
    proptest::collection::vec(-2f32..2.0, len)
}

/// Width, stride, weights, biases and three rows of input.
type Case = (usize, usize, Vec<f32>, Vec<f32>, Vec<f32>);

fn cases() -> impl Strategy<Value = Case> {
    (1usize..33, 1usize..3, 1usize..35).prop_flat_map(|(width, stride, channels)| {
        let row = ((width - 1) * stride + 3) * BLOCK;
        (Just(width), Just(stride), values(channels * 9), values(channels), values(3 * row))
    })
}

/// Sixteen channels of a pixel as floats.
fn decode(target: Target, words: &[u32]) -> Vec<f32> {
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
    match target.format() {
        Format::F32 => words.iter().map(|&word| f32::from_bits(word)).collect(),
        Format::F16 => {
            let bytes: Vec<u8> = bytes.collect();
            let half = |two: &[u8]| f16::from_ne_bytes([two[0], two[1]]).to_f32();
            bytes.chunks(2).map(half).collect()
        }
        Format::Int8 => bytes.map(|byte| f32::from(byte) * 6.0 / 255.0).collect(),
    }
}

/// By how much rounding may change what a filter writes.
fn tolerance(target: Target) -> f32 {
    match target.format() {
        Format::F32 => 1e-4,
        Format::F16 => 4e-3,
        Format::Int8 => 0.5 * 6.0 / 255.0 + 1e-4,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn every_target_filters_like_a_plain_loop(
        (width, stride, weight, bias, mut input) in cases()
    ) {
        let row = input.len() / 3;
        let plain = |channel: usize, pixel: usize| {
            let taps = (0..9).map(|tap| {
                let at = tap / 3 * row + (pixel * stride + tap % 3) * BLOCK + channel % BLOCK;
                input[at] * weight[channel * 9 + tap]
            });
            (bias[channel] + taps.sum::<f32>()).clamp(0.0, 6.0)
        };
        let wanted: Vec<Vec<f32>> = (0..bias.len())
            .map(|channel| (0..width).map(|pixel| plain(channel, pixel)).collect())
            .collect();
        for target in Target::every() {
            let layer = Depthwise::pack(target, &weight, &bias, stride);
            for block in 0..bias.len().div_ceil(BLOCK) {
                let mut output = vec![u32::MAX; (width + 1) * target.words()];
                let rows = [0, 1, 2].map(|y| y * row..(y + 1) * row);
                let input = cells(&mut input);
                layer.filter(block, rows.map(|r| &input[r]), (cells(&mut output), width));
                for pixel in 0..width {
                    let found = decode(target, &output[pixel * target.words()..][..target.words()]);
                    for channel in block * BLOCK..bias.len().min((block + 1) * BLOCK) {
                        let difference = (found[channel % BLOCK] - wanted[channel][pixel]).abs();
                        prop_assert!(difference < tolerance(target), "{target:?} {channel} {pixel}");
                    }
                }
                prop_assert!(output[width * target.words()..].iter().all(|&word| word == u32::MAX));
            }
        }
    }
}
