//! The two packings of MobileNetV2 behind one interface: vectors for every CPU, bf16 tiles for CPUs
//! that have them.

use std::time::Duration;

use candle_core::{Result, bail};
use candle_nn::VarBuilder;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::{Options, Precision, ThreadGroup, mobilenet};
use crate::description::Padding;

/// A packed network.
#[derive(Debug)]
pub(super) enum Plan {
    Vectors(mobilenet::Network),
    #[cfg(target_arch = "x86_64")]
    Tiles(amx::Network),
}

/// Memory of one thread's passes, or of a team's.
#[derive(Debug)]
pub(super) enum Memory {
    Vectors(Box<mobilenet::Scratch>),
    #[cfg(target_arch = "x86_64")]
    Tiles(Box<amx::Scratch>),
}

/// Height and width of an image.
pub(super) type Size = (usize, usize);

/// The size that the tiles' geometry is written for.
#[cfg(target_arch = "x86_64")]
const TILED: Size = (224, 224);

impl Plan {
    /// Packs the network according to the options, for images of `size`.
    pub(super) fn load(
        vb: &VarBuilder,
        padding: Padding,
        size: Size,
        options: &Options,
    ) -> Result<Self> {
        if options.wants_tiles()
            && let Some(plan) = Self::tiled(vb, padding, size)?
        {
            return Ok(plan);
        }
        if options.precision == Precision::Bf16 {
            bail!("bf16 needs a CPU with AMX, a kernel that allows it, and images of 224x224")
        }
        Ok(Self::Vectors(mobilenet::Network::load(vb, padding, options.target()?)?))
    }

    #[cfg(target_arch = "x86_64")]
    fn tiled(vb: &VarBuilder, padding: Padding, size: Size) -> Result<Option<Self>> {
        if size != TILED {
            return Ok(None);
        }
        Ok(amx::Network::load(vb, padding)?.map(Self::Tiles))
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn tiled(_: &VarBuilder, _: Padding, _: Size) -> Result<Option<Self>> {
        Ok(None)
    }

    /// Arithmetic and instruction set.
    pub(super) fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Vectors(network) => {
                (network.target().format().name(), network.target().isa().name())
            }
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(_) => ("bf16", "amx"),
        }
    }

    /// Number of logits per image.
    pub(super) fn classes(&self) -> usize {
        match self {
            Self::Vectors(network) => network.classes(),
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(network) => network.classes(),
        }
    }

    /// Whether images of `size` can be run.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(unused_variables, reason = "vectors take any size")
    )]
    pub(super) fn takes(&self, size: Size) -> bool {
        match self {
            Self::Vectors(_) => true,
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(_) => size == TILED,
        }
    }

    /// Whether several threads are faster than one on a single image.
    pub(super) fn splits_images(&self) -> bool {
        matches!(self, Self::Vectors(_))
    }

    /// Memory for `threads` threads on images of `size`.
    pub(super) fn memory(&self, (height, width): Size, threads: usize) -> Memory {
        match self {
            Self::Vectors(network) => {
                Memory::Vectors(Box::new(network.scratch(height, width, threads)))
            }
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(network) => Memory::Tiles(Box::new(network.scratch())),
        }
    }

    /// Time that each stage has taken so far.
    pub(super) fn laps(memory: &Memory) -> &[Duration] {
        match memory {
            Memory::Vectors(scratch) => scratch.laps(),
            #[cfg(target_arch = "x86_64")]
            Memory::Tiles(scratch) => scratch.laps(),
        }
    }

    /// Computes the logits of images, by all of `team` together where that is faster.
    pub(super) fn forward(
        &self,
        images: &[f32],
        memory: &mut Memory,
        team: &ThreadGroup,
        logits: &mut [f32],
    ) {
        match (self, memory) {
            (Self::Vectors(network), Memory::Vectors(scratch)) => {
                network.forward(images, scratch, team, logits);
            }
            #[cfg(target_arch = "x86_64")]
            (Self::Tiles(network), Memory::Tiles(scratch)) => {
                network.forward(images, scratch, logits);
            }
            #[cfg(target_arch = "x86_64")]
            _ => unreachable!("memory comes from the same plan"),
        }
    }
}
