//! MobileNetV2 on vector registers: every inverted residual fused, for any instruction set of the
//! CPU, with products of f32, f16 or bytes.
//!
//! Only products may use anything other than f32: for their inputs (the outputs of filters, and the
//! inputs of blocks), their weights and their sums. The first convolution, filters and skip
//! connections stay f32.
//!
//! Activations are laid out as `[channel block][pixel][16]`. A block runs in bands of rows: expand
//! into a ring of rows panel by panel, filter each panel while it is in the L1 cache, project the
//! band; the expanded tensor never exists as a whole. Early blocks run image by image, so that
//! activations stay in the L2 cache; late ones run layer by layer over a group of images, so that
//! weights do. Several threads on one image split rows while there are many, and panels of channels
//! after that.

mod block;
mod geometry;
mod scratch;
#[cfg(test)]
mod tests;

use std::ops::Range;

use block::Input;
use candle_core::Result;
use candle_nn::VarBuilder;
use geometry::{Geometry, Size};
pub use scratch::Scratch;
use scratch::{GROUP, Shared, Work};

use super::BLOCK;
use super::aligned::Aligned;
use super::depthwise::Depthwise;
use super::encode::{Scale, encode};
use super::layers::Layer;
use super::offsets::Offsets;
use super::product::{Epilogue, Gather, Inputs, Packed, Packer, Product, multiply};
use super::target::{Format, Target};
use super::team::{Member, ThreadGroup};
use crate::description::{self, Padding};

/// Blocks that run image by image.
const EARLY: usize = 7;
/// Colour channels of an image.
const CHANNELS: usize = 3;

/// The network with its weights in the order of use.
#[derive(Debug)]
pub struct Network {
    target: Target,
    padding: Padding,
    arena: Aligned<u32>,
    stem: Packed,
    blocks: Vec<Block>,
    head: Packed,
    classifier: Packed,
    classes: usize,
    /// Rows of the classifier's input, and of its output.
    feature_taps: Offsets,
    group_places: Offsets,
}

/// An inverted residual.
#[derive(Debug)]
struct Block {
    /// `None` in the first, whose expanded rows the first convolution produces.
    expand: Option<Packed>,
    depthwise: Depthwise,
    project: Packed,
    has_skip: bool,
}

impl Network {
    /// Packs the weights, in either layout that the reference knows, for `target`.
    pub fn load(vb: &VarBuilder, padding: Padding, target: Target) -> Result<Self> {
        let mut packer = Packer::default();
        let floats = Target::single(target.isa());
        let stem = packer.pack(floats, &Layer::folded(vb, &description::stem())?, Inputs::Any);
        let mut pack = |layer: &Layer, inputs| {
            fits(target, layer)?;
            Ok::<_, candle_core::Error>(packer.pack(target, layer, inputs))
        };
        let mut blocks = Vec::new();
        for block in description::blocks() {
            let [inner @ .., depthwise, project] = &block.layers[..] else {
                candle_core::bail!("a block has a depthwise layer and a projection")
            };
            let expand = match inner {
                [spec] => Some(pack(&Layer::folded(vb, spec)?, Inputs::Any)?),
                _ => None,
            };
            let filter = Layer::folded(vb, depthwise)?;
            blocks.push(Block {
                expand,
                depthwise: Depthwise::pack(target, &filter.weight, &filter.bias, depthwise.stride),
                project: pack(&Layer::folded(vb, project)?, Inputs::Clamped)?,
                has_skip: block.has_skip,
            });
        }
        let head = pack(&Layer::folded(vb, &description::head())?, Inputs::Any)?;
        let last = Layer::dense(vb, "classifier.1")?;
        let (classifier, classes) = (pack(&last, Inputs::Clamped)?, last.bias.len());
        let feature_taps = Offsets::every(head.blocks(), GROUP * target.words());
        Ok(Self {
            target,
            padding,
            arena: packer.finish(),
            stem,
            blocks,
            head,
            classifier,
            classes,
            feature_taps,
            group_places: Offsets::dense(GROUP),
        })
    }

    /// The instruction set and the number format that it is packed for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Number of logits per image.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Memory for images of `height` by `width` pixels and `threads` threads.
    pub fn scratch(&self, height: usize, width: usize, threads: usize) -> Scratch {
        Scratch::new(self, Size { height, width }, threads)
    }

    /// Writes `[n][classes]` logits of images `[n][3][height][width]`, with all threads of `team`
    /// on one image at a time.
    ///
    /// # Panics
    ///
    /// If the lengths do not match, or `scratch` is for fewer threads.
    pub fn forward(
        &self,
        images: &[f32],
        scratch: &mut Scratch,
        team: &ThreadGroup,
        logits: &mut [f32],
    ) {
        let Scratch { geometry, planes, works } = scratch;
        let image = CHANNELS * geometry.input.pixels();
        assert_eq!(images.len() / image, logits.len() / self.classes, "rows in, rows out");
        let groups = images.chunks(GROUP * image).zip(logits.chunks_mut(GROUP * self.classes));
        for (images, logits) in groups {
            let shared = planes.share();
            team.run(works, shared, |work, shared, member: &Member| {
                let pass = Pass { network: self, geometry, images, shared, member };
                pass.run(work);
            });
            let count = logits.len() / self.classes;
            for (at, row) in logits.chunks_mut(self.classes).enumerate().take(count) {
                for (class, logit) in row.iter_mut().enumerate() {
                    let block = class / BLOCK * GROUP * BLOCK;
                    *logit = shared.scores[block + at * BLOCK + class % BLOCK].get();
                }
            }
        }
    }
}

/// Rejects weights that half precision cannot represent.
fn fits(target: Target, layer: &Layer) -> Result<()> {
    let largest = layer.weight.iter().fold(0f32, |most, weight| most.max(weight.abs()));
    if target.format() == Format::F16 && largest > half::f16::MAX.to_f32() {
        candle_core::bail!("a weight of {largest} is too large for f16")
    }
    Ok(())
}

/// One thread's view of a pass over a group of images.
struct Pass<'a> {
    network: &'a Network,
    geometry: &'a Geometry,
    images: &'a [f32],
    shared: Shared<'a>,
    member: &'a Member<'a>,
}

impl Pass<'_> {
    /// Runs the whole pass, from images to scores.
    fn run(&self, work: &mut Work) {
        let network = self.network;
        let group = self.images.len() / self.image_len();
        work.laps.begin();
        for image in 0..group {
            for at in 0..EARLY {
                self.block(at, image, work);
                work.laps.note(at);
            }
        }
        for at in EARLY..network.blocks.len() {
            for image in 0..group {
                self.block(at, image, work);
            }
            work.laps.note(at);
        }
        self.pool(group);
        work.laps.note(network.blocks.len());
        self.classify(group);
        work.laps.note(network.blocks.len() + 1);
    }

    /// Floats of one image.
    fn image_len(&self) -> usize {
        CHANNELS * self.geometry.input.pixels()
    }

    /// Runs the last convolution and averages over the pixels.
    fn pool(&self, group: usize) {
        let network = self.network;
        let last = network.blocks.len() - 1;
        let inputs: [_; GROUP] = std::array::from_fn(|image| {
            if image < group { self.input(last, image) } else { Input::default() }
        });
        self.member.each(network.head.len(), |mine| self.pool_panels(mine, &inputs[..group]));
    }

    /// The same for some panels.
    fn pool_panels(&self, mine: Range<usize>, inputs: &[Input]) {
        let Self { network, geometry, shared, .. } = self;
        for panel in network.head.panels(&network.arena, mine) {
            let columns = panel.first * GROUP * BLOCK..(panel.first + panel.blocks) * GROUP * BLOCK;
            shared.pooled[columns.clone()].iter().for_each(|sum| sum.set(0.0));
            for (image, input) in inputs.iter().enumerate() {
                let product = Product {
                    gather: Gather::Blocks,
                    input: input.words,
                    factor: input.factor,
                    taps: geometry.head_taps.all(),
                    panel,
                    pixels: geometry.last.pixels(),
                    output: &shared.pooled[columns.start + image * BLOCK..],
                    places: network.group_places.all(),
                    stride: GROUP * BLOCK,
                    epilogue: Epilogue::Pool,
                };
                multiply(network.target, &product);
            }
            let share = 1.0 / geometry.last.pixels() as f32;
            let means = &shared.pooled[columns.clone()];
            for sum in means {
                sum.set(sum.get() * share);
            }
            let features = &shared.features[columns.start / BLOCK * network.target.words()..];
            encode(network.target, Scale::clamped(network.target), means, features);
        }
    }

    /// Runs the dense layer for all images of the group at once.
    fn classify(&self, group: usize) {
        self.member.each(self.network.classifier.len(), |mine| self.classify_panels(mine, group));
    }

    /// The same for some panels.
    fn classify_panels(&self, mine: Range<usize>, group: usize) {
        let Self { network, shared, .. } = self;
        for panel in network.classifier.panels(&network.arena, mine) {
            let product = Product {
                gather: Gather::Blocks,
                input: shared.features,
                factor: 1.0,
                taps: network.feature_taps.all(),
                panel,
                pixels: group,
                output: &shared.scores[panel.first * GROUP * BLOCK..],
                places: network.group_places.all(),
                stride: GROUP * BLOCK,
                epilogue: Epilogue::Linear,
            };
            multiply(network.target, &product);
        }
    }
}
