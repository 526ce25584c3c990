//! The fast inference path: fused kernels for the instruction set of this CPU.
//!
//! A network is packed once for one [`Isa`] and runs behind a candle op: tensors in, tensors out
//! ([`MobileNetV2`], [`MnistCnn`]). [`description`] lists the layers of a network, and [`Options`]
//! determines how and where it runs. The worker's networks in plain candle remain the reference for
//! tests and the path for devices without kernels. This is a crate of its own because the kernels
//! seldom change and take long to compile. It contains all unsafe code of the worker: kernels take
//! slices, check every length once per call, and document why each block is sound.

mod aligned;
#[cfg(target_arch = "x86_64")]
pub mod amx;
mod depthwise;
pub mod description;
pub mod device;
mod encode;
mod heap;
mod isa;
mod laps;
mod layers;
mod mnist;
pub mod mobilenet;
mod number;
mod offsets;
mod op;
mod options;
mod peak;
mod plan;
mod product;
mod target;
mod team;
mod vector;

use std::cell::Cell;

pub use heap::{give_back_large_buffers, give_back_small_buffers};
pub use isa::{Isa, Kind as IsaKind};
pub use mnist::MnistCnn;
pub use op::MobileNetV2;
pub use options::{Flags, Options, Precision};
pub use peak::gflops as peak_gflops;
pub use target::{Format, Target};
pub use team::ThreadGroup;

/// Channels of a block: one AVX-512 register, and a cache line.
const BLOCK: usize = 16;

/// Activations: buffers shared by several layers, and by threads in turn.
type Values<'a> = &'a [Cell<f32>];

/// The same as 32-bit words, each of which holds one or several numbers.
type Words<'a> = &'a [Cell<u32>];

fn cells<T>(values: &mut [T]) -> &[Cell<T>] {
    Cell::from_mut(values).as_slice_of_cells()
}
