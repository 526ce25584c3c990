//! Compares the product with a plain loop, for every target of this machine.
//!
//! Bytes get weights and inputs that they represent exactly, so that only the order of sums
//! differs; halves are summed in half precision, so they may differ by its rounding.

use proptest::prelude::*;

use super::super::aligned::words;
use super::super::encode::{Scale, encode};
use super::super::layers::Layer;
use super::super::offsets::Offsets;
use super::super::target::{Format, Target};
use super::super::{BLOCK, Isa, cells};
use super::{Epilogue, Gather, Inputs, Packer, Product, multiply};

/// A product to compute both ways.
#[derive(Debug, Clone)]
struct Case {
    gather: Gather,
    pixels: usize,
    channels: usize,
    outputs: usize,
    gap: usize,
    inputs: Inputs,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let gather = prop_oneof![Just(Gather::Blocks), Just(Gather::Threes), Just(Gather::Fives)];
    let inputs = prop_oneof![Just(Inputs::Any), Just(Inputs::Clamped)];
    (gather, 1usize..32, 1usize..70, 1usize..80, 0usize..3, inputs, any::<u64>()).prop_map(
        |(gather, pixels, channels, outputs, gap, inputs, seed)| {
            // Only first layers gather rows of an image, and they are at most two blocks wide.
            let outputs = if gather == Gather::Blocks { outputs } else { outputs.min(32) };
            Case { gather, pixels, channels, outputs, gap, inputs, seed }
        },
    )
}

/// Values between -2 and 2 that depend only on the seed.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    };
    (0..len).map(|_| next()).collect()
}

/// Multiples of 1/8, except that each row of `len` begins with the largest value of all, 127 steps
/// of 1/64.
fn eighths(values: Vec<f32>, len: usize) -> Vec<f32> {
    let mut values: Vec<f32> = values.into_iter().map(|v| (v * 7.5).round() / 8.0).collect();
    for row in values.chunks_mut(len) {
        row[0] = 127.0 / 64.0;
    }
    values
}

struct Data {
    input: Vec<f32>,
    layer: Layer,
    before: Vec<f32>,
    /// Where each tap begins in the input.
    taps: Vec<usize>,
    places: Vec<usize>,
    stride: usize,
}

impl Case {
    /// Floats from one pixel to the next, and floats per tap.
    fn step_and_depth(&self) -> (usize, usize) {
        match self.gather {
            Gather::Blocks => (BLOCK, BLOCK),
            Gather::Threes => (2, 3),
            Gather::Fives => (1, 5),
        }
    }

    fn data(&self) -> Data {
        let (step, depth) = self.step_and_depth();
        let taps = self.channels.div_ceil(depth);
        let plane = (self.pixels + self.gap) * step;
        let places: Vec<usize> =
            (0..self.pixels).map(|pixel| (pixel + pixel / 5 * self.gap) * BLOCK).collect();
        let stride = places.last().unwrap() + BLOCK + self.gap;
        let len = taps * plane + depth;
        let mut input = eighths(noise(self.seed, len), len);
        if self.inputs == Inputs::Clamped {
            for value in &mut input {
                *value = (value.abs() * 42.5).round() / 42.5;
            }
        }
        let weight = eighths(noise(self.seed ^ 1, self.outputs * self.channels), self.channels);
        Data {
            input,
            layer: Layer { weight, bias: noise(self.seed ^ 2, self.outputs) },
            before: noise(self.seed ^ 3, stride * self.outputs.div_ceil(BLOCK)),
            taps: (0..taps).map(|tap| tap * plane).collect(),
            places,
            stride,
        }
    }

    /// The targets that have kernels for this way to gather.
    fn targets(&self) -> impl Iterator<Item = Target> {
        let is_blocks = self.gather == Gather::Blocks;
        Target::every().filter(move |target| is_blocks || target.format() == Format::F32)
    }

    fn value(&self, data: &Data, pixel: usize, output: usize) -> f32 {
        let (step, depth) = self.step_and_depth();
        let sum = (0..self.channels).map(|channel| {
            let tap = data.taps[channel / depth];
            let value = data.input[tap + pixel * step + channel % depth];
            value * data.layer.weight[output * self.channels + channel]
        });
        sum.sum::<f32>() + data.layer.bias[output]
    }

    /// The output buffer after the kernels have run over `before`.
    fn run(&self, target: Target, data: &Data, epilogue: Epilogue) -> Vec<f32> {
        let mut packer = Packer::default();
        let panels = packer.pack(target, &data.layer, self.inputs);
        let arena = packer.finish();
        let (mut input, mut output) = (data.input.clone(), data.before.clone());
        let input = cells(&mut input);
        let scale = match self.inputs {
            Inputs::Any => Scale::of(target, input),
            Inputs::Clamped => Scale::clamped(target),
        };
        let mut encoded = vec![0; input.len() / target.format().channels()];
        let is_float = target.format() == Format::F32;
        if !is_float {
            encode(target, scale, input, cells(&mut encoded));
        }
        let taps = data.taps.iter().map(|tap| tap / target.format().channels());
        let (taps, places) = (Offsets::new(taps), Offsets::new(data.places.iter().copied()));
        for panel in panels.panels(&arena, 0..panels.len()) {
            let skip = match epilogue {
                Epilogue::Skip(values) => Epilogue::Skip(&values[panel.first * data.stride..]),
                Epilogue::Relu6 | Epilogue::Relu | Epilogue::Linear | Epilogue::Pool => epilogue,
            };
            let product = Product {
                gather: self.gather,
                input: if is_float { words(input) } else { cells(&mut encoded) },
                factor: if self.inputs == Inputs::Any { scale.back() } else { 1.0 },
                taps: taps.all(),
                panel,
                pixels: self.pixels,
                output: &cells(&mut output)[panel.first * data.stride..],
                places: places.all(),
                stride: data.stride,
                epilogue: skip,
            };
            multiply(target, &product);
        }
        output
    }

    fn compare(
        &self,
        target: Target,
        data: &Data,
        epilogue: Epilogue,
        expect: impl Fn(f32, f32) -> f32,
    ) {
        let output = self.run(target, data, epilogue);
        for (pixel, place) in data.places.iter().enumerate() {
            for index in 0..self.outputs {
                let at = index / BLOCK * data.stride + place + index % BLOCK;
                let wanted = expect(self.value(data, pixel, index), data.before[at]);
                let difference = (output[at] - wanted).abs();
                let is_close = difference < tolerance(target);
                assert!(is_close, "{target:?} pixel {pixel} output {index}: {difference}");
            }
        }
    }
}

/// Sums of halves are rounded.
fn tolerance(target: Target) -> f32 {
    if target.format() == Format::F16 { 0.1 } else { 2e-3 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn every_target_computes_the_plain_product(case in cases()) {
        let data = case.data();
        for target in case.targets() {
            case.compare(target, &data, Epilogue::Linear, |sum, _| sum);
            case.compare(target, &data, Epilogue::Relu, |sum, _| sum.max(0.0));
            case.compare(target, &data, Epilogue::Relu6, |sum, _| sum.clamp(0.0, 6.0));
            let mut skip = data.before.clone();
            case.compare(target, &data, Epilogue::Skip(cells(&mut skip)), |sum, before| sum + before);
        }
    }

    #[test]
    fn nothing_is_written_outside_the_places(case in cases()) {
        let data = case.data();
        for target in case.targets() {
            let output = case.run(target, &data, Epilogue::Linear);
            let blocks = case.outputs.div_ceil(BLOCK);
            let mut is_place = vec![false; output.len()];
            for block in 0..blocks {
                for place in &data.places {
                    is_place[block * data.stride + place..][..BLOCK].fill(true);
                }
            }
            for at in (0..output.len()).filter(|&at| !is_place[at]) {
                prop_assert_eq!(output[at].to_bits(), data.before[at].to_bits(), "{:?} {}", target, at);
            }
        }
    }

    #[test]
    fn pooling_adds_up_the_clamped_pixels(case in cases()) {
        let data = case.data();
        for target in case.targets() {
            let output = case.run(target, &data, Epilogue::Pool);
            for index in 0..case.outputs {
                let at = index / BLOCK * data.stride + index % BLOCK;
                let clamped = (0..case.pixels).map(|pixel| case.value(&data, pixel, index).clamp(0.0, 6.0));
                let wanted = data.before[at] + clamped.sum::<f32>();
                let tolerance = tolerance(target) * case.pixels as f32;
                prop_assert!((output[at] - wanted).abs() < tolerance, "{:?} {}", target, index);
            }
        }
    }
}

#[test]
#[should_panic(expected = "assertion failed")]
fn a_short_input_is_refused() {
    let (gather, inputs) = (Gather::Blocks, Inputs::Any);
    let case = Case { gather, pixels: 9, channels: 20, outputs: 16, gap: 0, inputs, seed: 1 };
    let mut data = case.data();
    data.input.truncate(272);
    case.run(Target::single(Isa::best()), &data, Epilogue::Linear);
}
