//! Everything a forward pass writes to, allocated once per thread.

use super::super::aligned::Aligned;
use super::super::laps::Laps;
use super::network::GROUP;
use super::pointwise::{BLOCK, blocks_of};
use super::product::STAGING;
use super::stem;

/// Pixels of the largest activation inside the network: 112x112.
const LARGEST: usize = stem::OUT * stem::OUT;
/// Pixels of the largest activation that a later block adds to its output: 56x56.
const LARGEST_KEPT: usize = LARGEST / 4;
/// Pixels of the last stage: 7x7.
pub(super) const LAST: usize = 49;
/// Channels of the widest block output, 320.
const WIDEST: usize = 320;
/// Channels of the head, 1280.
pub(super) const FEATURES: usize = 1280;

/// The output of a block, `[channel block][pixel][32]`.
#[derive(Debug)]
pub(super) struct Activations {
    /// What the next layer reads.
    pub(super) bf16: Aligned<u16>,
    /// The same before rounding, if the next block adds it to its own output.
    pub(super) f32: Aligned<f32>,
}

/// Buffers that a block needs while it runs.
#[derive(Debug)]
pub(super) struct Work {
    /// Padded expanded planes for each side length of a block; their margins stay zero.
    pub(super) planes: [Aligned<u16>; 5],
    /// A row outside the image.
    pub(super) zeros: Aligned<u16>,
    /// Output of the depthwise layer for a band.
    pub(super) filtered: Aligned<u16>,
    /// Sums on their way from the tile unit to the vector unit.
    pub(super) staging: Aligned<f32>,
    /// Patches of a band of the first layer.
    pub(super) patches: Aligned<u16>,
    /// Times of the blocks, the head and the classifier.
    pub(super) laps: Laps,
}

/// The memory of one thread's forward passes.
#[derive(Debug)]
pub struct Scratch {
    pub(super) interleaved: Aligned<u16>,
    pub(super) work: Work,
    pub(super) single: [Activations; 2],
    pub(super) grouped: [Activations; 2],
    pub(super) pooled: Aligned<f32>,
    pub(super) features: Aligned<u16>,
}

impl Scratch {
    /// How long each stage has taken so far: blocks, head, classifier.
    pub fn laps(&self) -> &[std::time::Duration] {
        self.work.laps.times()
    }

    /// Memory for a network of `stages` whose blocks need `planes` values per side, with room for
    /// the largest filtered band and the patches.
    pub(super) fn new(
        planes: [usize; 5],
        (filtered, patches): (usize, usize),
        stages: usize,
    ) -> Self {
        let kept = LARGEST_KEPT * BLOCK;
        let grouped = blocks_of(WIDEST) * GROUP * LAST * BLOCK;
        let activations =
            |bf16, f32| Activations { bf16: Aligned::new(bf16), f32: Aligned::new(f32) };
        Self {
            interleaved: Aligned::new(stem::INTERLEAVED),
            work: Work {
                planes: planes.map(Aligned::new),
                zeros: Aligned::new((stem::OUT + 2) * BLOCK),
                filtered: Aligned::new(filtered),
                staging: Aligned::new(STAGING),
                patches: Aligned::new(patches),
                laps: Laps::new(stages),
            },
            single: [0, 1].map(|_| activations(LARGEST * BLOCK, kept)),
            grouped: [0, 1].map(|_| activations(grouped, grouped)),
            pooled: Aligned::new(FEATURES * GROUP),
            features: Aligned::new(FEATURES * super::tile::ROWS),
        }
    }
}
