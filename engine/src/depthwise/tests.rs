//! Compares the depthwise filter with a plain loop, for every target of this machine.

use half::f16;
use proptest::prelude::*;

use super::super::cells;
use super::super::offsets::Offsets;
use super::super::target::{Format, Target};
use super::{BLOCK, Depthwise, TAPS, WINDOW};

fn values(len: usize) -> impl Strategy<Value = Vec<f32>> {
    proptest::collection::vec(-2f32..2.0, len)
}

/// A filter to run both ways.
#[derive(Debug, Clone)]
struct Case {
    width: usize,
    height: usize,
    stride: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// For each row of the window, its row of `input`; they may repeat and come in any order.
    rows: Vec<usize>,
    input: Vec<f32>,
}

/// Rows of `input`.
const ROWS: usize = 4;

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..33, 1usize..6, 1usize..3, 1usize..35);
    sizes.prop_flat_map(|(width, height, stride, channels)| {
        let len = ROWS * ((width - 1) * stride + WINDOW) * BLOCK;
        let rows = proptest::collection::vec(0..ROWS, (height - 1) * stride + WINDOW);
        let drawn = (values(channels * TAPS), values(channels), rows, values(len));
        drawn.prop_map(move |(weight, bias, rows, input)| Case {
            width,
            height,
            stride,
            weight,
            bias,
            rows,
            input,
        })
    })
}

impl Case {
    /// Floats per row of the input.
    fn pitch(&self) -> usize {
        self.input.len() / ROWS
    }

    /// Expected value of a pixel of a channel.
    fn value(&self, channel: usize, row: usize, pixel: usize) -> f32 {
        let taps = (0..TAPS).map(|tap| {
            let row = self.rows[row * self.stride + tap / WINDOW] * self.pitch();
            let pixel = pixel * self.stride + tap % WINDOW;
            self.input[row + pixel * BLOCK + channel % BLOCK] * self.weight[channel * TAPS + tap]
        });
        (self.bias[channel] + taps.sum::<f32>()).clamp(0.0, 6.0)
    }
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

/// How much rounding may change a filter's output.
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
    fn every_target_filters_like_a_plain_loop(case in cases()) {
        let starts = Offsets::new(case.rows.iter().map(|row| row * case.pitch()));
        let pixels = case.height * case.width;
        for target in Target::every() {
            let layer = Depthwise::pack(target, &case.weight, &case.bias, case.stride);
            for block in 0..case.bias.len().div_ceil(BLOCK) {
                let mut output = vec![u32::MAX; (pixels + 1) * target.words()];
                let mut input = case.input.clone();
                let (plane, output_cells) = (cells(&mut input), cells(&mut output));
                layer.filter(block, (plane, starts.all()), (output_cells, case.width));
                for pixel in 0..pixels {
                    let found = decode(target, &output[pixel * target.words()..][..target.words()]);
                    for channel in block * BLOCK..case.bias.len().min((block + 1) * BLOCK) {
                        let wanted = case.value(channel, pixel / case.width, pixel % case.width);
                        let difference = (found[channel % BLOCK] - wanted).abs();
                        prop_assert!(difference < tolerance(target), "{target:?} {channel} {pixel}");
                    }
                }
                prop_assert!(output[pixels * target.words()..].iter().all(|&word| word == u32::MAX));
            }
        }
    }
}

#[test]
#[should_panic(expected = "assertion failed")]
fn a_row_beyond_the_plane_is_refused() {
    let target = Target::single(super::super::Isa::best());
    let layer = Depthwise::pack(target, &[0.0; TAPS], &[0.0], 1);
    let (mut plane, mut output) = (vec![0.0; 9 * BLOCK], vec![0; BLOCK]);
    let starts = Offsets::new([0, 3 * BLOCK, 6 * BLOCK + 1].into_iter());
    layer.filter(0, (cells(&mut plane), starts.all()), (cells(&mut output), 1));
}
