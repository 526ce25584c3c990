//! Weights in the order in which kernels read them, all layers of a network in one arena.
//!
//! At batch 1 the weights of a large network come from the L3 cache or beyond, so each panel says
//! which part of the arena to ask for while it is computed: the part that will be read a little
//! later.

use super::super::BLOCK;
use super::super::aligned::Aligned;
use super::super::isa::Isa;
use super::super::layers::Layer;
use super::sizes::widest_panel;
use std::ops::Range;

/// How far ahead of its use a weight is asked for, in floats: half a megabyte, a quarter of the
/// L2 caches of the CPUs that gain by it.
const AHEAD: usize = 1 << 17;

/// A layer's panels in an arena.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Packed {
    panels: Vec<Place>,
    channels: usize,
    /// Blocks of 16 outputs.
    blocks: usize,
}

/// One panel: where its weights begin, its first block and its blocks.
#[derive(Debug, Clone)]
struct Place {
    at: usize,
    first: usize,
    blocks: usize,
}

/// A panel, ready to be multiplied with.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Panel<'a> {
    /// `[channels][blocks][16]`.
    pub(in crate::engine) weights: &'a [f32],
    /// `[blocks][16]`.
    pub(in crate::engine) bias: &'a [f32],
    /// Weights that will be needed soon.
    pub(in crate::engine) ahead: &'a [f32],
    /// Input channels.
    pub(in crate::engine) channels: usize,
    /// First block of outputs.
    pub(in crate::engine) first: usize,
    /// Blocks of outputs.
    pub(in crate::engine) blocks: usize,
}

impl Packed {
    /// Appends the weights of a layer to `staged`, in panels as wide as registers allow.
    pub(in crate::engine) fn pack(staged: &mut Vec<f32>, isa: Isa, layer: &Layer) -> Self {
        Self::narrow(staged, isa, layer, usize::MAX)
    }

    /// As [`Packed::pack`], in panels of at most `widest` blocks.
    pub(in crate::engine) fn narrow(
        staged: &mut Vec<f32>,
        isa: Isa,
        layer: &Layer,
        widest: usize,
    ) -> Self {
        let Layer { weight, bias } = layer;
        let channels = weight.len() / bias.len();
        let blocks = bias.len().div_ceil(BLOCK);
        let mut panels = Vec::new();
        let mut first = 0;
        for width in widths(blocks, widest_panel(isa).min(widest)) {
            panels.push(Place { at: staged.len(), first, blocks: width });
            let outputs = first * BLOCK..(first + width) * BLOCK;
            staged.extend(outputs.clone().map(|output| bias.get(output).copied().unwrap_or(0.0)));
            for channel in 0..channels {
                let row = |output| weight.get(output * channels + channel).copied().unwrap_or(0.0);
                staged.extend(outputs.clone().map(row));
            }
            first += width;
        }
        Self { panels, channels, blocks }
    }

    /// Blocks of 16 outputs.
    pub(in crate::engine) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Input channels.
    pub(in crate::engine) fn channels(&self) -> usize {
        self.channels
    }

    /// The most blocks in a panel.
    pub(in crate::engine) fn widest(&self) -> usize {
        self.panels.iter().map(|panel| panel.blocks).max().unwrap_or(0)
    }

    /// Number of panels.
    pub(in crate::engine) fn len(&self) -> usize {
        self.panels.len()
    }

    /// Panels `range` of the arena that `staged` became.
    pub(in crate::engine) fn panels<'a>(
        &'a self,
        arena: &'a Aligned<f32>,
        range: Range<usize>,
    ) -> impl Iterator<Item = Panel<'a>> {
        self.panels[range].iter().map(|&Place { at, first, blocks }| {
            let width = blocks * BLOCK;
            let (bias, weights) = arena[at..][..width * (self.channels + 1)].split_at(width);
            let soon = (at + AHEAD).min(arena.len());
            let ahead = &arena[soon..(soon + width * self.channels).min(arena.len())];
            Panel { weights, bias, ahead, channels: self.channels, first, blocks }
        })
    }
}

/// Splits blocks into panels of 3, with panels of 4, 2 or 1 for what is left over.
///
/// Three registers by nine pixels make the best use of 32 registers at the widths of this network.
fn widths(blocks: usize, widest: usize) -> Vec<usize> {
    if widest < 3 {
        let narrow = (0..blocks).step_by(widest);
        return narrow.map(|first| widest.min(blocks - first)).collect();
    }
    match (blocks, blocks % 3) {
        (0, _) => Vec::new(),
        (1 | 2, _) => vec![blocks],
        (_, 0) => vec![3; blocks / 3],
        (_, 1) => [vec![3; blocks / 3 - 1], vec![4]].concat(),
        (..8, _) => [vec![3; blocks / 3], vec![2]].concat(),
        _ => [vec![3; blocks / 3 - 2], vec![4, 4]].concat(),
    }
}
