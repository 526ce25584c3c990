//! Memory that forward passes of one size reuse, so that nothing is allocated after the first.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::super::aligned::Aligned;
use super::super::laps::Laps;
use super::super::target::Format;
use super::super::{BLOCK, Values, Words, cells};
use super::geometry::{Geometry, Size};
use super::{EARLY, Network};

/// Images that go through the late blocks together, sharing one pass over their weights.
pub(super) const GROUP: usize = 8;

/// Memory for forward passes over images of one size, by up to a given number of threads.
#[derive(Debug)]
pub struct Scratch {
    pub(super) geometry: Geometry,
    pub(super) planes: Planes,
    pub(super) works: Vec<Work>,
}

/// Buffers that all threads of a pass read and write.
#[derive(Debug)]
pub(super) struct Planes {
    early: [Aligned<f32>; 2],
    late: [Aligned<f32>; 2],
    encoded: Aligned<u32>,
    factors: [AtomicU32; GROUP],
    filtered: Aligned<u32>,
    pooled: Aligned<f32>,
    features: Aligned<u32>,
    scores: Aligned<f32>,
    slots: Slots,
}

/// Space that one image takes in the buffers of a group.
#[derive(Debug, Clone, Copy)]
struct Slots {
    /// Floats of `late`.
    late: usize,
    /// Words of `encoded`, for the outputs of late blocks.
    encoded: usize,
}

/// Buffers that each thread has to itself.
#[derive(Debug)]
pub(super) struct Work {
    /// Expanded rows with a zero pixel at both ends of each, and a row of zeros in every plane.
    pub(super) ring: Aligned<f32>,
    /// The filtered band, unless threads share it.
    pub(super) filtered: Aligned<u32>,
    /// Rows of the image that a band of the first convolution needs.
    pub(super) lines: Aligned<f32>,
    /// How long each stage has taken in total: blocks, last convolution, classifier.
    pub(super) laps: Laps,
}

/// [`Planes`] while a pass runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared<'a> {
    early: [Values<'a>; 2],
    late: [Values<'a>; 2],
    /// Inputs of a block's products, unless they are f32.
    encoded: Words<'a>,
    /// The bits of the factor that scales it back, for each image of the group.
    pub(super) factors: &'a [AtomicU32; GROUP],
    /// The filtered image of blocks that threads compute together.
    pub(super) filtered: Words<'a>,
    /// `[block][GROUP][16]` means over the pixels.
    pub(super) pooled: Values<'a>,
    /// The same in the number format of the products.
    pub(super) features: Words<'a>,
    /// `[block][GROUP][16]` logits.
    pub(super) scores: Values<'a>,
    slots: Slots,
}

// SAFETY: parts of a phase write only their own rows or channel blocks of these planes (see
// `Member::each`) and read what earlier phases wrote.
#[allow(unsafe_code, reason = "the promise that a team relies on")]
unsafe impl super::super::team::DisjointShared for Shared<'_> {}

impl Scratch {
    /// For `threads` threads that share images of `height` by `width` pixels.
    pub(super) fn new(network: &Network, size: Size, threads: usize) -> Self {
        let geometry = Geometry::new(network, size);
        let planes = Planes::new(network, &geometry);
        let works = (0..threads).map(|_| Work::new(network, &geometry)).collect();
        Self { geometry, planes, works }
    }

    /// How long each stage has taken so far on the calling thread: blocks, last convolution,
    /// classifier.
    pub fn laps(&self) -> &[Duration] {
        self.works[0].laps.times()
    }

    /// Height and width of the images.
    pub fn size(&self) -> (usize, usize) {
        (self.geometry.input.height, self.geometry.input.width)
    }
}

impl Planes {
    fn new(network: &Network, geometry: &Geometry) -> Self {
        let lens: Vec<usize> = network
            .blocks
            .iter()
            .zip(&geometry.blocks)
            .map(|(block, place)| block.project.blocks() * place.out.pixels() * BLOCK)
            .collect();
        let largest = |lens: &[usize]| lens.iter().copied().max().unwrap_or(0);
        let (early, slot) = (largest(&lens[..EARLY - 1]), largest(&lens[EARLY - 1..]));
        let filtered = largest_filtered(network, geometry, true);
        let channels = network.target.format().channels();
        let slots = Slots { late: slot, encoded: slot / channels };
        let is_encoded = network.target.format() != Format::F32;
        let encoded = early.max(slot * GROUP) / channels * usize::from(is_encoded);
        let rows = |blocks: usize| Aligned::new(blocks * GROUP * BLOCK);
        let features = network.head.blocks() * GROUP * network.target.words();
        Self {
            early: [Aligned::new(early), Aligned::new(early)],
            late: [Aligned::new(slot * GROUP), Aligned::new(slot * GROUP)],
            encoded: Aligned::new(encoded),
            factors: Default::default(),
            filtered: Aligned::new(filtered),
            pooled: rows(network.head.blocks()),
            features: Aligned::new(features),
            scores: rows(network.classifier.blocks()),
            slots,
        }
    }

    pub(super) fn share(&mut self) -> Shared<'_> {
        let Self { early: [a, b], late: [c, d], encoded, factors, filtered, .. } = self;
        Shared {
            early: [cells(a), cells(b)],
            late: [cells(c), cells(d)],
            encoded: cells(encoded),
            factors,
            filtered: cells(filtered),
            pooled: cells(&mut self.pooled),
            features: cells(&mut self.features),
            scores: cells(&mut self.scores),
            slots: self.slots,
        }
    }
}

impl<'a> Shared<'a> {
    /// Output of block `at` for an image of the group.
    pub(super) fn output(&self, at: usize, image: usize) -> Values<'a> {
        if at + 1 < EARLY {
            self.early[at % 2]
        } else {
            &self.late[(at + 1 - EARLY) % 2][image * self.slots.late..][..self.slots.late]
        }
    }

    /// Where the output of block `at` is kept in the number format of the products.
    pub(super) fn encoded(&self, at: usize, image: usize) -> Words<'a> {
        let image = if at + 1 < EARLY { 0 } else { image };
        &self.encoded[image * self.slots.encoded..]
    }
}

impl Work {
    fn new(network: &Network, geometry: &Geometry) -> Self {
        let rings = network.blocks.iter().zip(&geometry.blocks).map(|(block, place)| {
            let expand = block.expand.as_ref().unwrap_or(&network.stem);
            let planes = if place.is_whole { expand.widest() } else { expand.blocks() };
            planes * place.plane()
        });
        Self {
            ring: Aligned::new(rings.max().unwrap_or(0)),
            filtered: Aligned::new(largest_filtered(network, geometry, false)),
            lines: Aligned::new(super::CHANNELS * geometry.stem.rows * geometry.stem.line),
            laps: Laps::new(network.blocks.len() + 2),
        }
    }
}

/// Words of the largest filtered band among the blocks that are a single band, or among the others.
fn largest_filtered(network: &Network, geometry: &Geometry, is_whole: bool) -> usize {
    let blocks = network.blocks.iter().zip(&geometry.blocks);
    let chosen = blocks.filter(|(_, place)| place.is_whole == is_whole);
    let len = |(block, place): (&super::Block, &super::geometry::BlockGeometry)| {
        block.project.channels().div_ceil(BLOCK) * place.filtered_plane()
    };
    chosen.map(len).max().unwrap_or(0)
}
