//! The digit network on the same kernels: two 5x5 convolutions as products, with a tap per row of
//! the window in the first and per pixel in the second, a maximum over 2x2 pixels after each, and
//! two dense layers over a group of images at once.
//!
//! Planes are padded once, so a tap is an offset and no row needs a special case. The worker
//! contains the plain twin that this is tested against.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use candle_nn::VarBuilder;

use super::aligned::{Aligned, words};
use super::isa::Isa;
use super::laps::Laps;
use super::layers::Layer;
use super::offsets::Offsets;
use super::product::{Epilogue, Gather, Inputs, Packed, Packer, Product, multiply};
use super::target::Target;
use super::{BLOCK, Options, ThreadGroup, Values, cells};

/// Side in pixels: of the image, after the first maximum, and after the second.
const SIDE: usize = 28;
const HALF: usize = SIDE / 2;
const QUARTER: usize = HALF / 2;
/// Rows and columns of both convolutions, and the zeros on each side that keep the size.
const KERNEL: usize = 5;
const MARGIN: usize = KERNEL / 2;
/// Pixels of a padded row before each convolution.
const PITCH: usize = SIDE + 2 * MARGIN;
const HALF_PITCH: usize = HALF + 2 * MARGIN;
/// Images that go through the dense layers together: two tiles of the widest panel.
const GROUP: usize = 12;
/// Two convolutions and two dense layers.
const STAGES: usize = 4;
/// Digits that the network distinguishes.
const CLASSES: usize = 10;
/// Blocks of 16 channels after each layer.
const BLOCKS: [usize; 3] = [2, 4, 8];

/// The digit network, ready to run.
#[derive(Debug)]
pub struct MnistCnn {
    network: Network,
    team: ThreadGroup,
    memories: Mutex<Vec<Memory>>,
}

/// Packed layers and where their inputs and outputs lie.
#[derive(Debug)]
struct Network {
    isa: Isa,
    arena: Aligned<u32>,
    convolutions: [Packed; 2],
    dense: [Packed; 2],
    taps: [Offsets; 2],
    /// Inputs of the dense layers.
    rows: [Offsets; 2],
    /// Offsets of neighbouring pixels, or of images.
    places: Offsets,
}

/// Buffers of one thread.
#[derive(Debug)]
struct Memory {
    image: Aligned<f32>,
    /// Two rows of a convolution before their maximum.
    pair: Aligned<f32>,
    half: Aligned<f32>,
    features: Aligned<f32>,
    hidden: Aligned<f32>,
    scores: Aligned<f32>,
    laps: Laps,
}

impl MnistCnn {
    /// Packs the weights that `worker train mnist` writes.
    pub fn load(vb: &VarBuilder, options: &Options) -> Result<Self> {
        let network = Network::load(vb, options.isa()?)?;
        let team = ThreadGroup::new(options.threads.get(), options.is_pinned);
        tracing::info!(isa = network.isa.name(), threads = team.size(), "digits on fused kernels");
        let memories = (0..team.size()).map(|_| Memory::new()).collect();
        Ok(Self { network, team, memories: Mutex::new(memories) })
    }

    /// The instruction set that was chosen.
    pub fn isa(&self) -> Isa {
        self.network.isa
    }

    /// Time that each convolution with its maximum and each dense layer have taken so far on the
    /// first thread.
    pub fn laps(&self) -> Vec<Duration> {
        let memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        memories.first().map_or_else(Vec::new, |memory| memory.laps.times().to_vec())
    }

    /// Logits of a batch `[n, 1, 28, 28]`.
    pub fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        batch.contiguous()?.apply_op1_no_bwd(self)
    }

    fn run(&self, images: &[f32]) -> Vec<f32> {
        let count = images.len() / (SIDE * SIDE);
        let mut logits = vec![0.0; count * CLASSES];
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let each = count.div_ceil(memories.len()).max(1);
        let parts = images.chunks(each * SIDE * SIDE).zip(logits.chunks_mut(each * CLASSES));
        let mut shares: Vec<_> = parts.zip(memories.iter_mut()).collect();
        self.team.spread(&mut shares, |((images, logits), memory)| {
            let groups = images.chunks(GROUP * SIDE * SIDE).zip(logits.chunks_mut(GROUP * CLASSES));
            for (images, logits) in groups {
                self.network.forward(images, memory, logits);
            }
        });
        logits
    }
}

impl CustomOp1 for MnistCnn {
    fn name(&self) -> &'static str {
        "mnist-cnn"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (count, channels, height, width) = layout.shape().dims4()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("images must be contiguous")
        };
        if (channels, height, width) != (1, SIDE, SIDE) {
            bail!("no images of {channels}x{height}x{width} here, only 1x28x28")
        }
        let logits = self.run(&storage.as_slice::<f32>()?[start..end]);
        Ok((CpuStorage::F32(logits), (count, CLASSES).into()))
    }
}

impl Network {
    fn load(vb: &VarBuilder, isa: Isa) -> Result<Self> {
        let mut packer = Packer::default();
        let target = Target::single(isa);
        let mut load = |name, outputs, reorder: fn(usize) -> usize, widest| {
            let layer = checked(vb, name, outputs)?.reordered(reorder);
            Ok::<_, candle_core::Error>(packer.narrow(target, &layer, Inputs::Any, widest))
        };
        let convolutions =
            [load("conv1", 32, |at| at, 2)?, load("conv2", 64, tap_then_channel, 2)?];
        let dense = [load("fc1", 128, pixel_then_channel, 4)?, load("fc2", CLASSES, |at| at, 4)?];
        let inputs = [&convolutions[0], &convolutions[1], &dense[0], &dense[1]];
        let wanted = [KERNEL * KERNEL, 32 * KERNEL * KERNEL, 64 * QUARTER * QUARTER, 128];
        if inputs.map(Packed::channels) != wanted {
            bail!("these are not the weights of the digit network")
        }
        let arena = packer.finish();
        let window = KERNEL * KERNEL;
        let plane = HALF_PITCH * HALF_PITCH;
        let first = Offsets::every(KERNEL, PITCH);
        let tap = |at: usize| at / KERNEL * HALF_PITCH + at % KERNEL;
        let block_tap = |at: usize| (at / window * plane + tap(at % window)) * BLOCK;
        let second = Offsets::new((0..BLOCKS[0] * window).map(block_tap));
        let features = Offsets::every(BLOCKS[1] * QUARTER * QUARTER, GROUP * BLOCK);
        let hidden = Offsets::every(BLOCKS[2], GROUP * BLOCK);
        let (taps, rows, places) = ([first, second], [features, hidden], Offsets::dense(SIDE));
        Ok(Self { isa, arena, convolutions, dense, taps, rows, places })
    }

    /// Logits of at most [`GROUP`] images.
    fn forward(&self, images: &[f32], memory: &mut Memory, logits: &mut [f32]) {
        let Memory { image, pair, half, features, hidden, scores, laps } = memory;
        laps.begin();
        for (at, pixels) in images.chunks_exact(SIDE * SIDE).enumerate() {
            pad(pixels, image);
            for row in 0..HALF {
                let from = &cells(image)[2 * row * PITCH..];
                self.rows(0, (from, PITCH), cells(pair), SIDE);
                for block in 0..BLOCKS[0] {
                    let pair = &pair[block * 2 * SIDE * BLOCK..][..2 * SIDE * BLOCK];
                    let place = block * HALF_PITCH * HALF_PITCH + (row + MARGIN) * HALF_PITCH;
                    maximum(pair, &mut half[(place + MARGIN) * BLOCK..], BLOCK);
                }
            }
            laps.note(0);
            for row in 0..QUARTER {
                let from = &cells(half)[2 * row * HALF_PITCH * BLOCK..];
                self.rows(1, (from, HALF_PITCH * BLOCK), cells(pair), HALF);
                for block in 0..BLOCKS[1] {
                    let pair = &pair[block * 2 * HALF * BLOCK..][..2 * HALF * BLOCK];
                    let place = (block * QUARTER + row) * QUARTER * GROUP + at;
                    maximum(pair, &mut features[place * BLOCK..], GROUP * BLOCK);
                }
            }
            laps.note(1);
        }
        let count = images.len() / (SIDE * SIDE);
        self.dense(0, cells(features), count, (cells(hidden), Epilogue::Relu));
        laps.note(2);
        self.dense(1, cells(hidden), count, (cells(scores), Epilogue::Linear));
        laps.note(3);
        for (row, scores) in logits.chunks_exact_mut(CLASSES).zip(scores.chunks_exact(BLOCK)) {
            row.copy_from_slice(&scores[..CLASSES]);
        }
    }

    /// Two rows of a convolution: `[block][2][width][16]`.
    fn rows(&self, layer: usize, (input, pitch): (Values, usize), output: Values, width: usize) {
        let packed = &self.convolutions[layer];
        for panel in packed.panels(&self.arena, 0..packed.len()) {
            for row in 0..2 {
                let product = Product {
                    gather: if layer == 0 { Gather::Fives } else { Gather::Blocks },
                    input: &words(input)[row * pitch..],
                    factor: 1.0,
                    taps: self.taps[layer].all(),
                    panel,
                    pixels: width,
                    output: &output[(panel.first * 2 + row) * width * BLOCK..],
                    places: self.places.part(0..width),
                    stride: 2 * width * BLOCK,
                    epilogue: Epilogue::Relu,
                };
                multiply(Target::single(self.isa), &product);
            }
        }
    }

    /// A dense layer over `[block][GROUP][16]` values.
    fn dense(
        &self,
        layer: usize,
        input: Values,
        count: usize,
        (output, epilogue): (Values, Epilogue),
    ) {
        let packed = &self.dense[layer];
        for panel in packed.panels(&self.arena, 0..packed.len()) {
            let product = Product {
                gather: Gather::Blocks,
                input: words(input),
                factor: 1.0,
                taps: self.rows[layer].all(),
                panel,
                pixels: count,
                output: &output[panel.first * GROUP * BLOCK..],
                places: self.places.part(0..count),
                stride: GROUP * BLOCK,
                epilogue,
            };
            multiply(Target::single(self.isa), &product);
        }
    }
}

impl Memory {
    fn new() -> Self {
        Self {
            image: Aligned::new(PITCH * PITCH),
            pair: Aligned::new(BLOCKS[1] * 2 * SIDE * BLOCK),
            half: Aligned::new(BLOCKS[0] * HALF_PITCH * HALF_PITCH * BLOCK),
            features: Aligned::new(BLOCKS[1] * QUARTER * QUARTER * GROUP * BLOCK),
            hidden: Aligned::new(BLOCKS[2] * GROUP * BLOCK),
            scores: Aligned::new(GROUP * BLOCK),
            laps: Laps::new(STAGES),
        }
    }
}

/// A layer with `outputs` outputs, or an error.
fn checked(vb: &VarBuilder, name: &str, outputs: usize) -> Result<Layer> {
    let layer = Layer::dense(vb, name)?;
    if layer.bias.len() != outputs || !layer.weight.len().is_multiple_of(outputs) {
        bail!("{name} must have {outputs} outputs")
    }
    Ok(layer)
}

/// Maps an input of the second convolution from `[block][tap][16]` to its place
/// in `[channel][tap]`.
fn tap_then_channel(at: usize) -> usize {
    let area = KERNEL * KERNEL;
    let (block, tap, lane) = (at / (area * BLOCK), at / BLOCK % area, at % BLOCK);
    (block * BLOCK + lane) * area + tap
}

/// Maps an input of the first dense layer from `[block][pixel][16]` to its place
/// in `[channel][pixel]`.
fn pixel_then_channel(at: usize) -> usize {
    let area = QUARTER * QUARTER;
    let (block, pixel, lane) = (at / (area * BLOCK), at / BLOCK % area, at % BLOCK);
    (block * BLOCK + lane) * area + pixel
}

/// Copies an image into the middle of a plane whose margins are zero.
fn pad(pixels: &[f32], plane: &mut [f32]) {
    let rows = plane.chunks_exact_mut(PITCH).skip(MARGIN);
    for (row, pixels) in rows.zip(pixels.chunks_exact(SIDE)) {
        row[MARGIN..MARGIN + SIDE].copy_from_slice(pixels);
    }
}

/// Maxima over 2x2 pixels of two rows; pixels are `step` floats apart.
fn maximum(pair: &[f32], out: &mut [f32], step: usize) {
    let (upper, lower) = pair.split_at(pair.len() / 2);
    let pairs = upper.chunks_exact(2 * BLOCK).zip(lower.chunks_exact(2 * BLOCK));
    for ((upper, lower), out) in pairs.zip(out.chunks_mut(step)) {
        for (lane, out) in out.iter_mut().take(BLOCK).enumerate() {
            let left = larger(upper[lane], lower[lane]);
            let right = larger(upper[lane + BLOCK], lower[lane + BLOCK]);
            *out = larger(left, right);
        }
    }
}

/// One instruction, unlike `f32::max`, which has to handle NaN.
fn larger(left: f32, right: f32) -> f32 {
    if left > right { left } else { right }
}
