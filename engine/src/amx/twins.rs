//! Compares every kernel with a twin in plain loops, on random shapes and values.

use half::{bf16, f16};
use proptest::prelude::*;

use super::super::aligned::Aligned;
use super::super::offsets::Offsets;
use super::depthwise::Depthwise;
use super::pointwise::{BLOCK, Layer, Pointwise};
use super::product::{PASS, STAGING, Source, multiply};
use super::sink::Sink;
use super::stem;
use super::tile::{Permit, Tiles};

fn permit() -> Option<Permit> {
    let permit = Permit::request();
    if permit.is_none() {
        testdata::skip("this CPU has no AMX, or the kernel refuses its use");
    }
    permit
}

/// Small numbers that bf16 represents exactly, so that only the order of sums differs.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f32::from(i8::try_from(state >> 32 & 15).expect("four bits") - 8) / 8.0
    };
    (0..len).map(|_| next()).collect()
}

/// Converts `[pixel][channel]` to blocks of 32 channels.
fn blocked(values: &[f32], channels: usize) -> Vec<u16> {
    let pixels = values.len() / channels;
    let mut out = vec![0; channels.div_ceil(BLOCK) * pixels * BLOCK];
    for (at, &value) in values.iter().enumerate() {
        let (pixel, channel) = (at / channels, at % channels);
        let place = (channel / BLOCK * pixels + pixel) * BLOCK + channel % BLOCK;
        out[place] = bf16::from_f32(value).to_bits();
    }
    out
}

struct Case {
    pixels: usize,
    inputs: usize,
    values: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(seed: u64, pixels: usize, inputs: usize, outputs: usize) -> Self {
        let values = numbers(seed, pixels * inputs);
        let weight = numbers(seed ^ 0xABCD_EF01, outputs * inputs);
        let bias = numbers(seed ^ 0x1234_5678, outputs);
        Self { pixels, inputs, values, weight, bias }
    }

    fn exact(&self, pixel: usize, output: usize) -> f32 {
        let values = &self.values[pixel * self.inputs..][..self.inputs];
        let weight = &self.weight[output * self.inputs..][..self.inputs];
        self.bias[output] + values.iter().zip(weight).map(|(a, b)| a * b).sum::<f32>()
    }

    /// Packs the case and hands every output block to `each`.
    fn run(&self, permit: Permit, mut each: impl FnMut(&Tiles, Layer, Source, &mut [f32])) {
        let tiles = Tiles::configure(permit);
        let mut staged = Vec::new();
        let layer = Pointwise::pack(&mut staged, &self.weight, &self.bias);
        let mut arena = Aligned::new(staged.len());
        arena.copy_from_slice(&staged);
        let packed = blocked(&self.values, self.inputs);
        let mut values = Aligned::new(packed.len());
        values.copy_from_slice(&packed);
        let mut staging = Aligned::new(STAGING);
        for block in 0..layer.blocks() {
            let layer = Layer { pointwise: &layer, arena: &arena, block };
            let source = Source { values: &values, plane: self.pixels, pixels: self.pixels };
            each(&tiles, layer, source, &mut staging);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn projections_equal_plain_loops(
        seed in any::<u64>(), pixels in PASS..150, inputs in 1usize..200, outputs in 1usize..100,
    ) {
        let Some(permit) = permit() else { return Ok(()) };
        let case = Case::new(seed, pixels, inputs, outputs);
        let skip = numbers(seed ^ 0x77, pixels * BLOCK);
        let mut worst = 0f32;
        case.run(permit, |tiles, layer, source, staging| {
            let mut out = vec![0u16; pixels * BLOCK];
            let mut kept = vec![0f32; pixels * BLOCK];
            let sink =
                Sink::Projected { out: &mut out, skip: Some(&skip), keep: Some(&mut kept) };
            multiply(tiles, layer, source, staging, sink);
            for output in layer.block * BLOCK..outputs.min((layer.block + 1) * BLOCK) {
                for pixel in 0..pixels {
                    let at = pixel * BLOCK + output % BLOCK;
                    let exact = case.exact(pixel, output) + skip[at];
                    worst = worst.max((kept[at] - exact).abs());
                    assert_eq!(out[at], bf16::from_f32(kept[at]).to_bits());
                }
            }
        });
        prop_assert!(worst < 1e-4, "{worst}");
    }

    #[test]
    fn expansions_are_clamped_and_placed(
        seed in any::<u64>(), pixels in PASS..150, inputs in 1usize..100, outputs in 17usize..80,
    ) {
        let Some(permit) = permit() else { return Ok(()) };
        let case = Case::new(seed, pixels, inputs, outputs);
        let offsets: Vec<usize> = (0..pixels).rev().map(|at| at * BLOCK).collect();
        let places = Offsets::new(offsets.iter().copied());
        case.run(permit, |tiles, layer, source, staging| {
            let mut plane = vec![0u16; pixels * BLOCK];
            let sink = Sink::Expanded { plane: &mut plane, offsets: places.all() };
            multiply(tiles, layer, source, staging, sink);
            for output in layer.block * BLOCK..outputs.min((layer.block + 1) * BLOCK) {
                for (pixel, &offset) in offsets.iter().enumerate() {
                    let exact = case.exact(pixel, output).clamp(0.0, 6.0);
                    let found = f16::from_bits(plane[offset + output % BLOCK]).to_f32();
                    assert!((found - exact).abs() < 4e-3, "{found} {exact}");
                }
            }
        });
    }

    #[test]
    fn pooling_counts_every_pixel_once(
        seed in any::<u64>(), image in 33usize..60, images in 1usize..5, inputs in 1usize..70,
    ) {
        let Some(permit) = permit() else { return Ok(()) };
        let case = Case::new(seed, image * images, inputs, 48);
        case.run(permit, |tiles, layer, source, staging| {
            let mut sums = vec![0f32; images * BLOCK];
            multiply(tiles, layer, source, staging, Sink::Pooled { sums: &mut sums, pixels: image });
            for output in layer.block * BLOCK..48.min((layer.block + 1) * BLOCK) {
                for (at, row) in sums.chunks(BLOCK).enumerate() {
                    let pixels = at * image..(at + 1) * image;
                    let exact: f32 = pixels.map(|p| case.exact(p, output).clamp(0.0, 6.0)).sum();
                    assert!((row[output % BLOCK] - exact).abs() < 1e-2);
                }
            }
        });
    }

    #[test]
    fn depthwise_rows_equal_plain_loops(
        seed in any::<u64>(), passes in 1usize..5, stride in 1usize..3, channels in 1usize..70,
    ) {
        let Some(permit) = permit() else { return Ok(()) };
        let width = passes * 7;
        let weight = numbers(seed, channels * 9);
        let bias = numbers(seed ^ 5, channels);
        let layer = Depthwise::pack(&weight, &bias, stride);
        let reach = (width - 1) * stride + 3;
        for block in 0..channels.div_ceil(BLOCK) {
            let rows: [Vec<f32>; 3] =
                std::array::from_fn(|row| numbers(seed ^ row as u64, reach * BLOCK));
            let half = |row: &Vec<f32>| row.iter().map(|&v| f16::from_f32(v).to_bits()).collect();
            let halves: [Vec<u16>; 3] = [half(&rows[0]), half(&rows[1]), half(&rows[2])];
            let mut out = vec![0u16; width * BLOCK];
            let rows_in = [&halves[0][..], &halves[1], &halves[2]];
            layer.filter(permit, block, rows_in, (&mut out, width));
            for (at, &found) in out.iter().enumerate() {
                let (x, channel) = (at / BLOCK, block * BLOCK + at % BLOCK);
                if channel < channels {
                    let taps = (0..9).map(|tap| {
                        let value = rows[tap / 3][(x * stride + tap % 3) * BLOCK + at % BLOCK];
                        value * weight[channel * 9 + tap]
                    });
                    let exact = (bias[channel] + taps.sum::<f32>()).clamp(0.0, 6.0);
                    let found = bf16::from_bits(found).to_f32();
                    prop_assert!((found - exact).abs() <= exact * 0.006 + 1e-2, "{found} {exact}");
                }
            }
        }
    }

    #[test]
    fn patches_are_the_neighbourhood_of_their_pixel(seed in any::<u64>(), lead in 0usize..2) {
        let Some(permit) = permit() else { return Ok(()) };
        let side = stem::SIDE;
        let image = numbers(seed, 3 * side * side);
        let mut interleaved = vec![0u16; stem::INTERLEAVED];
        stem::interleave(permit, &image, &mut interleaved);
        let rows = 55..58;
        let mut found = vec![0u16; rows.len() * stem::OUT * BLOCK];
        stem::patches(permit, &interleaved, rows.clone(), lead, &mut found);
        // A weight of one at a single place makes that place visible in the patch's order.
        for place in 0..27 {
            let mut weight = vec![0.0; 27];
            weight[place] = 1.0;
            let ordered = stem::patch_weights(&weight);
            let (colour, row, column) = (place / 9, place % 9 / 3, place % 3);
            for (pixel, patch) in found.chunks(BLOCK).enumerate() {
                let y = 2 * (rows.start + pixel / stem::OUT) + row + lead;
                let x = 2 * (pixel % stem::OUT) + column + lead;
                let inside = (1..=side).contains(&y) && (1..=side).contains(&x);
                let exact =
                    if inside { image[(colour * side + y - 1) * side + x - 1] } else { 0.0 };
                let values = patch.iter().map(|&bits| bf16::from_bits(bits).to_f32());
                let value: f32 = values.zip(&ordered).map(|(a, b)| a * b).sum();
                prop_assert!((value - exact).abs() < f32::EPSILON, "{value} {exact}");
            }
        }
    }
}

#[test]
fn a_thread_has_one_set_of_tiles() {
    let Some(permit) = permit() else { return };
    let tiles = Tiles::configure(permit);
    assert!(std::panic::catch_unwind(|| Tiles::configure(permit)).is_err());
    drop(tiles);
    drop(Tiles::configure(permit));
}

#[test]
fn a_place_outside_of_the_plane_is_refused() {
    let places = Offsets::new([0, BLOCK + 1, BLOCK].into_iter());
    let check = |len: usize, pixels: usize| {
        let mut plane = vec![0u16; len];
        let sink = Sink::Expanded { plane: &mut plane, offsets: places.all() };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sink.check(pixels))).is_ok()
    };
    assert!(check(2 * BLOCK + 1, 3));
    assert!(!check(2 * BLOCK, 3), "the second reaches out");
    assert!(!check(4 * BLOCK, 4), "there are three");
}
