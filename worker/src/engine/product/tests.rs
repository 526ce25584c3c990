//! The product against a plain loop, for every instruction set of this machine.

use super::super::aligned::Aligned;
use super::super::isa::Isa;
use super::super::layers::Layer;
use super::super::{BLOCK, cells};
use super::{Finish, Gather, Packed, Places, Product, multiply};
use proptest::prelude::*;

/// A product to compute both ways.
#[derive(Debug, Clone)]
struct Case {
    gather: Gather,
    pixels: usize,
    channels: usize,
    outputs: usize,
    gap: usize,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let gather = prop_oneof![Just(Gather::Blocks), Just(Gather::Pairs), Just(Gather::Singles)];
    (gather, 1usize..70, 1usize..70, 1usize..100, 0usize..3, any::<u64>()).prop_map(
        |(gather, pixels, channels, outputs, gap, seed)| {
            // One channel a tap is for first layers, which are at most two blocks wide.
            let outputs = if gather == Gather::Blocks { outputs } else { outputs.min(32) };
            Case { gather, pixels, channels, outputs, gap, seed }
        },
    )
}

/// Values between -2 and 2 that depend on nothing but the seed.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    };
    (0..len).map(|_| next()).collect()
}

struct Data {
    input: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    before: Vec<f32>,
    taps: Places,
    tap_offsets: Vec<usize>,
    places: Vec<usize>,
    stride: usize,
}

impl Case {
    fn data(&self) -> Data {
        let depth = self.gather.depth();
        let taps = self.channels.div_ceil(depth);
        let plane = self.pixels * self.gather.step() + self.gap;
        let tap_offsets: Vec<usize> = (0..taps).map(|tap| tap * plane).collect();
        let places: Vec<usize> =
            (0..self.pixels).map(|pixel| (pixel + pixel / 5 * self.gap) * BLOCK).collect();
        let stride = places.last().unwrap() + BLOCK + self.gap;
        let blocks = self.outputs.div_ceil(BLOCK);
        Data {
            input: noise(self.seed, taps * plane + depth),
            weight: noise(self.seed ^ 1, self.outputs * self.channels),
            bias: noise(self.seed ^ 2, self.outputs),
            before: noise(self.seed ^ 3, stride * blocks),
            taps: Places::new(tap_offsets.iter().copied()),
            tap_offsets,
            places,
            stride,
        }
    }

    fn value(&self, data: &Data, pixel: usize, output: usize) -> f32 {
        let depth = self.gather.depth();
        let sum = (0..self.channels).map(|channel| {
            let tap = data.tap_offsets[channel / depth];
            let value = data.input[tap + pixel * self.gather.step() + channel % depth];
            value * data.weight[output * self.channels + channel]
        });
        sum.sum::<f32>() + data.bias[output]
    }

    /// The output buffer after the kernels ran over `before`.
    fn run(&self, isa: Isa, data: &Data, finish: Finish) -> Vec<f32> {
        let mut staged = Vec::new();
        let layer = Layer { weight: data.weight.clone(), bias: data.bias.clone() };
        let packed = Packed::pack(&mut staged, isa, &layer);
        let mut arena = Aligned::new(staged.len());
        arena.copy_from_slice(&staged);
        let (mut input, mut output) = (data.input.clone(), data.before.clone());
        let places = Places::new(data.places.iter().copied());
        for panel in packed.panels(&arena, 0..packed.len()) {
            let skip = match finish {
                Finish::Skip(values) => Finish::Skip(&values[panel.first * data.stride..]),
                Finish::Relu6 | Finish::Relu | Finish::Linear | Finish::Pool => finish,
            };
            let product = Product {
                gather: self.gather,
                input: cells(&mut input),
                taps: data.taps.all(),
                panel,
                pixels: self.pixels,
                output: &cells(&mut output)[panel.first * data.stride..],
                places: places.all(),
                stride: data.stride,
                finish: skip,
            };
            multiply(isa, &product);
        }
        output
    }

    fn compare(&self, isa: Isa, data: &Data, finish: Finish, expect: impl Fn(f32, f32) -> f32) {
        let output = self.run(isa, data, finish);
        for (pixel, place) in data.places.iter().enumerate() {
            for index in 0..self.outputs {
                let at = index / BLOCK * data.stride + place + index % BLOCK;
                let wanted = expect(self.value(data, pixel, index), data.before[at]);
                let difference = (output[at] - wanted).abs();
                assert!(difference < 2e-3, "{isa} {finish:?} pixel {pixel} output {index}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn every_instruction_set_computes_the_plain_product(case in cases()) {
        let data = case.data();
        for isa in Isa::every() {
            case.compare(isa, &data, Finish::Linear, |sum, _| sum);
            case.compare(isa, &data, Finish::Relu, |sum, _| sum.max(0.0));
            case.compare(isa, &data, Finish::Relu6, |sum, _| sum.clamp(0.0, 6.0));
            let mut skip = data.before.clone();
            case.compare(isa, &data, Finish::Skip(cells(&mut skip)), |sum, before| sum + before);
        }
    }

    #[test]
    fn nothing_is_written_outside_the_places(case in cases()) {
        let data = case.data();
        for isa in Isa::every() {
            let output = case.run(isa, &data, Finish::Linear);
            let blocks = case.outputs.div_ceil(BLOCK);
            let mut is_place = vec![false; output.len()];
            for block in 0..blocks {
                for place in &data.places {
                    is_place[block * data.stride + place..][..BLOCK].fill(true);
                }
            }
            for at in (0..output.len()).filter(|&at| !is_place[at]) {
                prop_assert_eq!(output[at].to_bits(), data.before[at].to_bits(), "{} {}", isa, at);
            }
        }
    }

    #[test]
    fn pooling_adds_up_the_clamped_pixels(case in cases()) {
        let data = case.data();
        for isa in Isa::every() {
            let output = case.run(isa, &data, Finish::Pool);
            for index in 0..case.outputs {
                let at = index / BLOCK * data.stride + index % BLOCK;
                let clamped = (0..case.pixels).map(|pixel| case.value(&data, pixel, index).clamp(0.0, 6.0));
                let wanted = data.before[at] + clamped.sum::<f32>();
                prop_assert!((output[at] - wanted).abs() < 5e-3, "{} {}", isa, index);
            }
        }
    }
}

#[test]
#[should_panic(expected = "assertion failed")]
fn a_short_input_is_refused() {
    let case =
        Case { gather: Gather::Blocks, pixels: 9, channels: 20, outputs: 16, gap: 0, seed: 1 };
    let mut data = case.data();
    data.input.truncate(280);
    case.run(Isa::best(), &data, Finish::Linear);
}
