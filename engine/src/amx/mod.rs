//! MobileNetV2 in bf16 on AMX tiles, for CPUs from Sapphire Rapids on.
//!
//! The 1x1 convolutions are 95 % of the arithmetic and run as tile products of bf16 with f32 sums;
//! the depthwise layers run in f16, 32 channels per register, because AVX512-FP16 does twice the
//! work of f32 there and every CPU with AMX has it. Activations are laid out as
//! `[channel block][pixel][32]`, so a tile of 16 pixels by 32 channels is one contiguous kilobyte.
//!
//! A block runs in bands of rows: expand into a ring of rows, filter each channel block while it is
//! in L1, project the band. All weights are in one arena, in order of use, and are prefetched,
//! since at batch 1 streaming them takes a fifth of the time. From 7x7 pixels on, a whole group of
//! images goes through each layer together and shares that stream.
//!
//! [`Network::load`] returns `None` if the CPU or the kernel does not support this. Nothing else
//! here may run then: a [`tile::Permit`] is the proof that both were checked.

mod block;
mod classifier;
mod depthwise;
mod network;
mod pointwise;
mod product;
mod scratch;
mod sink;
mod spin;
mod stem;
mod tile;
#[cfg(test)]
mod twins;

pub use network::Network;
pub use scratch::Scratch;
pub(super) use spin::spin;
