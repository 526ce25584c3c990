//! Weights in the order in which kernels read them, all layers of a network in one arena.
//!
//! At batch 1 the weights of a large network come from the L3 cache or beyond, so each panel names
//! the part of the arena to prefetch while it is computed: the part that will be read a little
//! later. Everything is stored in 32-bit words, whatever the number format.

use std::ops::Range;

use half::f16;

use super::super::BLOCK;
use super::super::aligned::Aligned;
use super::super::layers::Layer;
use super::super::number::{BYTES, HEADER, STEPS, ZERO};
use super::super::target::{Format, Target};
use super::sizes::widest_panel;

/// How far ahead of its use a weight is prefetched, in words: 96 KB, which gives the L3 cache
/// enough time to answer and leaves the L2 cache to the data in use.
const AHEAD: usize = 3 << 13;

/// Range of a layer's inputs, which decides how bytes represent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inputs {
    /// Outputs of a ReLU6, or means of them: 0 to 6.
    Clamped,
    /// Any value; the product carries the scale of its inputs.
    Any,
}

/// A layer's panels in an arena.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    panels: Vec<PanelStart>,
    channels: usize,
    /// Words per pixel for these channels.
    words: usize,
    /// Blocks of 16 outputs.
    blocks: usize,
}

/// One panel: where its header begins, its first block and its number of blocks.
#[derive(Debug, Clone)]
struct PanelStart {
    at: usize,
    first: usize,
    blocks: usize,
}

/// A panel, ready to be multiplied with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panel<'a> {
    /// `[words][blocks][16]`.
    pub(crate) weights: &'a [u32],
    /// `[HEADER][blocks][16]`.
    pub(crate) header: &'a [u32],
    /// Weights that will be needed soon.
    pub(crate) ahead: &'a [u32],
    /// Words of a pixel.
    pub(crate) words: usize,
    /// First block of outputs.
    pub(crate) first: usize,
    /// Blocks of outputs.
    pub(crate) blocks: usize,
}

/// Packs layers in sequence into the future arena.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    staged: Vec<u32>,
}

impl Packer {
    /// Packs a layer in panels as wide as registers allow.
    pub(crate) fn pack(&mut self, target: Target, layer: &Layer, inputs: Inputs) -> Packed {
        self.narrow(target, layer, inputs, usize::MAX)
    }

    /// Like [`Packer::pack`], but in panels of at most `widest` blocks.
    pub(crate) fn narrow(
        &mut self,
        target: Target,
        layer: &Layer,
        inputs: Inputs,
        widest: usize,
    ) -> Packed {
        let channels = layer.weight.len() / layer.bias.len();
        let words = channels.div_ceil(target.format().channels());
        let blocks = layer.bias.len().div_ceil(BLOCK);
        let rows: Vec<Row> = (0..blocks * BLOCK)
            .map(|output| Row::new(target.format(), layer, inputs, output))
            .collect();
        let mut panels = Vec::new();
        let mut first = 0;
        for width in widths(blocks, widest_panel(target.isa()).min(widest)) {
            panels.push(PanelStart { at: self.staged.len(), first, blocks: width });
            let rows = &rows[first * BLOCK..(first + width) * BLOCK];
            for row in 0..HEADER {
                self.staged.extend(rows.iter().map(|output| output.header[row]));
            }
            for word in 0..words {
                self.staged.extend(rows.iter().map(|output| output.words[word]));
            }
            first += width;
        }
        Packed { panels, channels, words, blocks }
    }

    /// The arena with every layer.
    pub(crate) fn finish(self) -> Aligned<u32> {
        let mut arena = Aligned::new(self.staged.len());
        arena.copy_from_slice(&self.staged);
        arena
    }
}

/// The weights of one output.
struct Row {
    header: [u32; HEADER],
    words: Vec<u32>,
}

impl Row {
    /// The weights of `output`, or zeros if the layer has no such output.
    fn new(format: Format, layer: &Layer, inputs: Inputs, output: usize) -> Self {
        let channels = layer.weight.len() / layer.bias.len();
        let zeros = vec![0.0; channels];
        let stored = layer.weight.chunks_exact(channels).nth(output);
        let weights = stored.unwrap_or(&zeros);
        let bias = layer.bias.get(output).map_or(0, |bias| bias.to_bits());
        match format {
            Format::F32 => {
                let words = weights.iter().map(|weight| weight.to_bits()).collect();
                Self { header: [bias, 0, 0], words }
            }
            Format::F16 => {
                let half =
                    |at: Option<&f32>| f16::from_f32(at.copied().unwrap_or_default()).to_ne_bytes();
                let word = |pair: &[f32]| {
                    let ([a, b], [c, d]) = (half(pair.first()), half(pair.get(1)));
                    u32::from_ne_bytes([a, b, c, d])
                };
                Self { header: [bias, 0, 0], words: weights.chunks(2).map(word).collect() }
            }
            Format::Int8 => Self::bytes(weights, bias, inputs),
        }
    }

    fn bytes(weights: &[f32], bias: u32, inputs: Inputs) -> Self {
        let largest = weights.iter().fold(0f32, |most, weight| most.max(weight.abs()));
        let scale = if largest > 0.0 { largest / STEPS } else { 1.0 };
        #[allow(clippy::cast_possible_truncation, reason = "at most 127 by construction")]
        let bytes: Vec<i8> = weights.iter().map(|weight| (weight / scale).round() as i8).collect();
        let word = |four: &[i8]| {
            let mut word = [0; 4];
            word[..four.len()].copy_from_slice(four);
            u32::from_ne_bytes(word.map(i8::cast_unsigned))
        };
        let sum: i32 = bytes.iter().copied().map(i32::from).sum();
        #[allow(clippy::cast_possible_truncation, reason = "a small constant")]
        let (factor, start) = match inputs {
            Inputs::Clamped => (6.0 / BYTES, 0),
            Inputs::Any => (1.0, -(ZERO as i32) * sum),
        };
        let header = [bias, (scale * factor).to_bits(), start.cast_unsigned()];
        Self { header, words: bytes.chunks(4).map(word).collect() }
    }
}

impl Packed {
    /// Blocks of 16 outputs.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Input channels of the layer.
    pub(crate) fn channels(&self) -> usize {
        self.channels
    }

    /// Number of blocks in the widest panel.
    pub(crate) fn widest(&self) -> usize {
        self.panels.iter().map(|panel| panel.blocks).max().unwrap_or(0)
    }

    /// Number of panels.
    pub(crate) fn len(&self) -> usize {
        self.panels.len()
    }

    /// Panels `range` in `arena`, which the packer finished.
    pub(crate) fn panels<'a>(
        &'a self,
        arena: &'a Aligned<u32>,
        range: Range<usize>,
    ) -> impl Iterator<Item = Panel<'a>> {
        self.panels[range].iter().map(|&PanelStart { at, first, blocks }| {
            let width = blocks * BLOCK;
            let len = width * (self.words + HEADER);
            let (header, weights) = arena[at..][..len].split_at(width * HEADER);
            let soon = (at + AHEAD).min(arena.len());
            let ahead = &arena[soon..(soon + width * self.words).min(arena.len())];
            Panel { weights, header, ahead, words: self.words, first, blocks }
        })
    }
}

/// Splits blocks into panels of 3, with panels of 4, 2 or 1 for the remainder.
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
