//! A 1x1 convolution's weights in the order in which tiles are loaded, inside an arena that all
//! layers share. The arena is in order of use, so that upcoming weights can be prefetched.

use half::bf16;

use super::super::aligned::Aligned;
use super::tile::{ROWS, TILE};

/// Channels in a block of activations.
pub(super) const BLOCK: usize = 32;

/// Number of blocks that hold `channels`.
pub(super) fn blocks_of(channels: usize) -> usize {
    channels.div_ceil(BLOCK)
}

/// One layer: the position of its weights in the arena, and its biases.
#[derive(Debug)]
pub(super) struct Pointwise {
    at: usize,
    bias: Aligned<f32>,
    inputs: usize,
    outputs: usize,
}

impl Pointwise {
    /// Appends a layer's weights `[outputs, inputs]` to the arena's `staged` values.
    pub(super) fn pack(staged: &mut Vec<u16>, weight: &[f32], bias: &[f32]) -> Self {
        let outputs = bias.len();
        let inputs = weight.len() / outputs;
        let steps = blocks_of(inputs);
        let at = staged.len();
        staged.resize(at + blocks_of(outputs) * steps * 2 * TILE, 0);
        for (output, row) in weight.chunks_exact(inputs).enumerate() {
            for (input, &value) in row.iter().enumerate() {
                let step = output / BLOCK * steps + input / BLOCK;
                let tile = at + (step * 2 + output % BLOCK / ROWS) * TILE;
                let pair = input % BLOCK / 2 * BLOCK;
                let place = tile + pair + output % ROWS * 2 + input % 2;
                staged[place] = bf16::from_f32(value).to_bits();
            }
        }
        let mut padded = Aligned::new(blocks_of(outputs) * BLOCK);
        padded[..outputs].copy_from_slice(bias);
        Self { at, bias: padded, inputs, outputs }
    }

    /// Number of output blocks.
    pub(super) fn blocks(&self) -> usize {
        blocks_of(self.outputs)
    }

    /// Number of outputs.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of steps of 32 inputs.
    pub(super) fn steps(&self) -> usize {
        blocks_of(self.inputs)
    }
}

/// One block of 32 outputs of a layer, with the arena that holds its weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer<'a> {
    pub(super) pointwise: &'a Pointwise,
    pub(super) arena: &'a [u16],
    pub(super) block: usize,
}

impl<'a> Layer<'a> {
    /// The block's weights, two tiles per step.
    pub(super) fn weights(&self) -> &'a [u16] {
        let len = self.pointwise.steps() * 2 * TILE;
        &self.arena[self.pointwise.at + self.block * len..][..len]
    }

    /// 32 biases, zero where the layer has no output.
    pub(super) fn bias(&self) -> &'a [f32] {
        &self.pointwise.bias[self.block * BLOCK..][..BLOCK]
    }

    /// Whether only the first 16 outputs of the block exist.
    pub(super) fn is_half(&self) -> bool {
        self.pointwise.outputs - self.block * BLOCK <= ROWS
    }
}
