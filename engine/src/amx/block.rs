//! One inverted residual: its packed layers and the geometry of its planes.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::super::offsets::Offsets;
use super::depthwise::Depthwise;
use super::network::GROUP;
use super::pointwise::{BLOCK, Pointwise};
use super::stem;
use crate::description::{self, LayerSpec, conv_weights};

/// An inverted residual with the geometry of its input.
#[derive(Debug)]
pub(super) struct Block {
    /// `None` in the first block, whose expanded plane the stem writes.
    pub(super) expand: Option<Pointwise>,
    pub(super) depthwise: Depthwise,
    pub(super) project: Pointwise,
    pub(super) has_skip: bool,
    /// Pixels per side, before and after the block.
    pub(super) side: usize,
    pub(super) out_side: usize,
    /// Output rows per band, and rows of the expanded plane that are live at the same time.
    pub(super) band: usize,
    pub(super) ring: usize,
    /// Position of each input pixel in the expanded plane.
    pub(super) offsets: Offsets,
}

impl Block {
    pub(super) fn pack(
        staged: &mut Vec<u16>,
        vb: &VarBuilder,
        block: &description::Block,
        side: usize,
    ) -> Result<Self> {
        let mut expand = None;
        let [inner @ .., depthwise, project] = &block.layers[..] else {
            candle_core::bail!("a block has a depthwise layer and a projection")
        };
        if let [layer] = inner {
            let (weight, bias) = values(vb, layer)?;
            expand = Some(Pointwise::pack(staged, &weight, &bias));
        }
        let (weight, bias) = values(vb, depthwise)?;
        let stride = depthwise.stride;
        let depthwise = Depthwise::pack(&weight, &bias, stride);
        let (weight, bias) = values(vb, project)?;
        let project = Pointwise::pack(staged, &weight, &bias);
        let out_side = side / stride;
        let band = band_of(side).min(out_side);
        let ring = (band * stride + 2).min(side);
        let mut packed = Self {
            expand,
            depthwise,
            project,
            has_skip: block.has_skip,
            side,
            out_side,
            band,
            ring,
            offsets: Offsets::new(std::iter::empty()),
        };
        packed.offsets = packed.place_pixels();
        Ok(packed)
    }

    /// Number of values in a padded row of the expanded plane.
    pub(super) fn pitch(&self) -> usize {
        (self.side + 2) * BLOCK
    }

    /// Number of values in one channel block of one image's expanded plane.
    pub(super) fn plane_len(&self) -> usize {
        self.ring * self.pitch()
    }

    /// Number of expanded planes that must be live at the same time: one if a band is the whole
    /// image, else one per channel block, because the next band continues from their last rows.
    pub(super) fn planes(&self, blocks: usize) -> usize {
        if self.band == self.out_side { 1 } else { blocks }
    }

    pub(super) fn images_at_most(&self) -> usize {
        if self.side == 7 { GROUP } else { 1 }
    }

    pub(super) fn depthwise_blocks(&self) -> usize {
        self.project.steps()
    }

    /// Number of input rows that the output rows before `end` need.
    pub(super) fn rows_needed(&self, end: usize, margin: usize) -> usize {
        let margin = if self.depthwise.stride == 1 { 1 } else { margin };
        ((end - 1) * self.depthwise.stride + 3 - margin).min(self.side)
    }

    fn place_pixels(&self) -> Offsets {
        let place = |image: usize, pixel: usize| {
            let (y, x) = (pixel / self.side, pixel % self.side);
            image * self.plane_len() + y % self.ring * self.pitch() + (x + 1) * BLOCK
        };
        let pixels = self.side * self.side;
        let all = 0..self.images_at_most() * pixels;
        Offsets::new(all.map(|at| place(at / pixels, at % pixels)))
    }
}

/// Output rows per band: few enough that a band's planes stay in the L2 cache.
fn band_of(side: usize) -> usize {
    match side {
        112 | 56 => 8,
        _ => side,
    }
}

/// Index of the scratch planes for a block of `side`, in the order 112, 56, 28, 14, 7.
pub(super) fn plane_index(side: usize) -> usize {
    (stem::OUT / side).trailing_zeros() as usize
}

/// Weight and bias of one convolution, flat.
pub(super) type Values = (Vec<f32>, Vec<f32>);

pub(super) fn values(vb: &VarBuilder, spec: &LayerSpec) -> Result<Values> {
    let folded = conv_weights(vb, spec)?;
    Ok((flat(&folded.weight)?, flat(&folded.bias)?))
}

pub(super) fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()
}
