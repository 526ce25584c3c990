//! The depthwise filter against a plain loop, for every instruction set of this machine.

use super::super::cells;
use super::super::isa::Isa;
use super::{BLOCK, Depthwise};
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn every_instruction_set_filters_like_a_plain_loop(
        (width, stride, weight, bias, mut input) in cases()
    ) {
        let layer = Depthwise::pack(&weight, &bias, stride);
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
        for isa in Isa::every() {
            for block in 0..bias.len().div_ceil(BLOCK) {
                let mut output = vec![-1.0; (width + 1) * BLOCK];
                let rows = [0, 1, 2].map(|y| y * row..(y + 1) * row);
                let input = cells(&mut input);
                layer.filter(isa, block, rows.map(|r| &input[r]), (cells(&mut output), width));
                for channel in block * BLOCK..bias.len().min((block + 1) * BLOCK) {
                    for pixel in 0..width {
                        let got = output[pixel * BLOCK + channel % BLOCK];
                        prop_assert!((got - wanted[channel][pixel]).abs() < 1e-4, "{isa} {channel} {pixel}");
                    }
                }
                prop_assert!(output[width * BLOCK..].iter().all(|&v| v < -0.5), "{}", isa);
            }
        }
    }
}
