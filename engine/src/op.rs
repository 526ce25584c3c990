//! The fused network as a candle operation: one op from images to logits.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use candle_nn::VarBuilder;

use super::plan::{Memory, Plan, Size};
use super::{Options, ThreadGroup};
use crate::description::Padding;

/// MobileNetV2 on the fused kernels.
#[derive(Debug)]
pub struct MobileNetV2 {
    plan: Plan,
    team: ThreadGroup,
    alone: ThreadGroup,
    memory: Mutex<Kept>,
}

/// Memory kept from one pass to the next.
#[derive(Debug, Default)]
struct Kept {
    size: Size,
    /// One per thread; the first also serves runs of the whole team.
    memories: Vec<Memory>,
}

impl MobileNetV2 {
    /// Packs the weights for this CPU, in either layout that the reference knows, for images of
    /// `size` rows and columns; all formats but tiles accept other sizes as well.
    pub fn load(
        vb: &VarBuilder,
        padding: Padding,
        size: (usize, usize),
        options: &Options,
    ) -> Result<Self> {
        let plan = Plan::load(vb, padding, size, options)?;
        let team = ThreadGroup::new(options.threads.get(), options.is_pinned);
        let (precision, isa) = plan.names();
        tracing::info!(isa, precision, threads = team.size(), "MobileNetV2 on fused kernels");
        Ok(Self { plan, team, alone: ThreadGroup::alone(), memory: Mutex::default() })
    }

    /// The chosen arithmetic and instruction set.
    pub fn names(&self) -> (&'static str, &'static str) {
        self.plan.names()
    }

    /// Time that each block, the last convolution and the classifier have taken so far on the
    /// first thread.
    pub fn laps(&self) -> Vec<Duration> {
        let kept = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        kept.memories.first().map_or_else(Vec::new, |memory| Plan::laps(memory).to_vec())
    }

    /// Logits of a batch `[n, 3, height, width]`.
    pub fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        batch.contiguous()?.apply_op1_no_bwd(self)
    }

    /// Logits of `count` images: a batch smaller than the team is split inside the network, a
    /// larger one by images.
    fn run(&self, images: &[f32], count: usize, size: Size) -> Vec<f32> {
        let mut logits = vec![0.0; count * self.plan.classes()];
        let mut kept = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = self.team.size();
        if kept.size != size || kept.memories.is_empty() {
            *kept = Kept { size, memories: vec![self.plan.memory(size, threads)] };
        }
        if threads == 1 || count == 1 || (count < threads && self.plan.splits_images()) {
            self.plan.forward(images, &mut kept.memories[0], &self.team, &mut logits);
            return logits;
        }
        while kept.memories.len() < threads.min(count) {
            kept.memories.push(self.plan.memory(size, 1));
        }
        let each = count.div_ceil(threads);
        let images = images.chunks(each * (images.len() / count));
        let rows = logits.chunks_mut(each * self.plan.classes());
        let mut shares: Vec<_> = images.zip(rows).zip(kept.memories.iter_mut()).collect();
        self.team.spread(&mut shares, |((images, logits), memory)| {
            self.plan.forward(images, memory, &self.alone, logits);
        });
        logits
    }
}

impl CustomOp1 for MobileNetV2 {
    fn name(&self) -> &'static str {
        "mobilenet-v2"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (count, channels, height, width) = layout.shape().dims4()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("images must be contiguous")
        };
        if channels != 3 || count * height * width == 0 || !self.plan.takes((height, width)) {
            bail!("no images of {channels}x{height}x{width} here, only 3x224x224")
        }
        let images = &storage.as_slice::<f32>()?[start..end];
        let logits = self.run(images, count, (height, width));
        Ok((CpuStorage::F32(logits), (count, self.plan.classes()).into()))
    }
}
