//! MobileNetV2 in f32: every inverted residual fused, for whichever instruction set the CPU has.
//!
//! Activations lie as `[channel block][pixel][16]`. A block runs in bands of rows: expand into a ring
//! of rows panel by panel, filter each panel while it is in the L1 cache, project the band; the
//! expanded tensor never exists as a whole. Early blocks run image by image, so that activations
//! stay in the L2 cache; late ones go through a group of images layer by layer, so that weights do.
//! Several threads on one image split rows while there are many and panels of channels after.

mod block;
mod geometry;
mod scratch;

pub use scratch::Scratch;

use super::BLOCK;
use super::aligned::Aligned;
use super::depthwise::Depthwise;
use super::isa::Isa;
use super::layers::Layer;
use super::product::{Finish, Gather, Packed, Places, Product, multiply};
use super::team::{Member, Team};
use crate::model::mobilenet_v2 as layers;
use crate::repository::Padding;
use candle_core::Result;
use candle_nn::VarBuilder;
use geometry::{Geometry, Size};
use scratch::{GROUP, Shared, Work};
use tokio::time::Instant;

/// Blocks that run image by image.
const EARLY: usize = 7;
/// Colours.
const CHANNELS: usize = 3;

/// The network with its weights in the order of use.
#[derive(Debug)]
pub struct Network {
    isa: Isa,
    padding: Padding,
    arena: Aligned<f32>,
    stem: Packed,
    blocks: Vec<Block>,
    head: Packed,
    classifier: Packed,
    classes: usize,
    /// Rows of the classifier's input, and of its output.
    feature_taps: Places,
    group_places: Places,
}

/// An inverted residual.
#[derive(Debug)]
struct Block {
    /// `None` in the first, whose expanded rows the first convolution makes.
    expand: Option<Packed>,
    depthwise: Depthwise,
    project: Packed,
    has_skip: bool,
}

impl Network {
    /// Packs the weights, in either layout that the reference knows, for `isa`.
    pub fn load(vb: &VarBuilder, padding: Padding, isa: Isa) -> Result<Self> {
        let mut staged = Vec::new();
        let mut pack = |layer: &Layer| Packed::pack(&mut staged, isa, layer);
        let stem = pack(&Layer::folded(vb, &layers::stem())?);
        let mut blocks = Vec::new();
        for block in layers::blocks() {
            let [inner @ .., depthwise, project] = &block.layers[..] else {
                candle_core::bail!("a block has a depthwise layer and a projection")
            };
            let expand = match inner {
                [spec] => Some(pack(&Layer::folded(vb, spec)?)),
                _ => None,
            };
            let filter = Layer::folded(vb, depthwise)?;
            blocks.push(Block {
                expand,
                depthwise: Depthwise::pack(&filter.weight, &filter.bias, depthwise.stride),
                project: pack(&Layer::folded(vb, project)?),
                has_skip: block.has_skip,
            });
        }
        let head = pack(&Layer::folded(vb, &layers::head())?);
        let last = Layer::dense(vb, "classifier.1")?;
        let (classifier, classes) = (pack(&last), last.bias.len());
        let mut arena = Aligned::new(staged.len());
        arena.copy_from_slice(&staged);
        let feature_taps = Places::every(head.blocks(), GROUP * BLOCK);
        let group_places = Places::dense(GROUP);
        let network = Self {
            isa,
            padding,
            arena,
            stem,
            blocks,
            head,
            classifier,
            classes,
            feature_taps,
            group_places,
        };
        Ok(network)
    }

    /// The instruction set that it is packed for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of logits an image.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Memory for images of `height` by `width` pixels and `threads` threads.
    pub fn scratch(&self, height: usize, width: usize, threads: usize) -> Scratch {
        Scratch::new(self, Size { height, width }, threads)
    }

    /// Writes `[n][classes]` logits of images `[n][3][height][width]`, all threads of `team` on one
    /// image at a time.
    ///
    /// # Panics
    ///
    /// When lengths do not fit each other, or `scratch` is for fewer threads.
    pub fn forward(&self, images: &[f32], scratch: &mut Scratch, team: &Team, logits: &mut [f32]) {
        let Scratch { geometry, planes, works } = scratch;
        let image = CHANNELS * geometry.input.pixels();
        assert_eq!(images.len() / image, logits.len() / self.classes, "rows in, rows out");
        let groups = images.chunks(GROUP * image).zip(logits.chunks_mut(GROUP * self.classes));
        for (images, logits) in groups {
            let shared = planes.share();
            team.run(works, shared, |work, shared, member| {
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

/// One thread's view of a pass over a group of images.
struct Pass<'a> {
    network: &'a Network,
    geometry: &'a Geometry,
    images: &'a [f32],
    shared: Shared<'a>,
    member: Member<'a>,
}

impl Pass<'_> {
    /// Everything from images to scores.
    fn run(&self, work: &mut Work) {
        let network = self.network;
        let group = self.images.len() / self.image_len();
        let mut lap = Instant::now();
        for image in 0..group {
            for at in 0..EARLY {
                self.block(at, image, work);
                work.note(at, &mut lap);
            }
        }
        for at in EARLY..network.blocks.len() {
            for image in 0..group {
                self.block(at, image, work);
            }
            work.note(at, &mut lap);
        }
        self.pool(group);
        work.note(network.blocks.len(), &mut lap);
        self.classify(group);
        work.note(network.blocks.len() + 1, &mut lap);
    }

    /// Floats of one image.
    fn image_len(&self) -> usize {
        CHANNELS * self.geometry.input.pixels()
    }

    /// The last convolution and its mean over the pixels.
    fn pool(&self, group: usize) {
        let Self { network, geometry, shared, .. } = self;
        let last = network.blocks.len() - 1;
        let mine = self.member.share(network.head.len());
        for panel in network.head.panels(&network.arena, mine) {
            let columns = panel.first * GROUP * BLOCK..(panel.first + panel.blocks) * GROUP * BLOCK;
            shared.pooled[columns.clone()].iter().for_each(|sum| sum.set(0.0));
            for image in 0..group {
                let product = Product {
                    gather: Gather::Blocks,
                    input: shared.output(last, image),
                    taps: geometry.head_taps.all(),
                    panel,
                    pixels: geometry.last.pixels(),
                    output: &shared.pooled[columns.start + image * BLOCK..],
                    places: network.group_places.all(),
                    stride: GROUP * BLOCK,
                    finish: Finish::Pool,
                };
                multiply(network.isa, &product);
            }
            let share = 1.0 / geometry.last.pixels() as f32;
            shared.pooled[columns].iter().for_each(|sum| sum.set(sum.get() * share));
        }
        self.member.wait();
    }

    /// The dense layer, all images of the group at once.
    fn classify(&self, group: usize) {
        let Self { network, shared, .. } = self;
        let mine = self.member.share(network.classifier.len());
        for panel in network.classifier.panels(&network.arena, mine) {
            let product = Product {
                gather: Gather::Blocks,
                input: shared.pooled,
                taps: network.feature_taps.all(),
                panel,
                pixels: group,
                output: &shared.scores[panel.first * GROUP * BLOCK..],
                places: network.group_places.all(),
                stride: GROUP * BLOCK,
                finish: Finish::Linear,
            };
            multiply(network.isa, &product);
        }
        self.member.wait();
    }
}
