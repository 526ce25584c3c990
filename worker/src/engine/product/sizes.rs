//! The sizes of tiles that each instruction set has registers for.
//!
//! A list holds the kernels of one panel width, largest first: one that fills the registers, those
//! that split this network's rows evenly, and one for single pixels. Every size costs compile time.
#![allow(unsafe_code, reason = "kernels carry their instruction set")]

use super::super::isa::{Isa, Kind};
use super::super::vector::Four;
use super::Gather;
use super::tile::{Tile, tile};

/// A kernel for one size of tile.
pub(super) struct Kernel {
    pub(super) pixels: usize,
    /// # Safety
    ///
    /// As [`tile`], for the instruction set that it is listed under.
    pub(super) run: unsafe fn(&Tile),
}

/// The kernel for the next tile when `left` pixels are left.
///
/// As even a split as the list allows, so that the last tile is not a small and slow one.
pub(super) fn next(kernels: &'static [Kernel], left: usize) -> &'static Kernel {
    let even = left.div_ceil(left.div_ceil(kernels[0].pixels));
    let fits = |kernel: &&Kernel| kernel.pixels == even;
    let smaller = |kernel: &&Kernel| kernel.pixels <= left;
    let found = kernels.iter().find(fits).or_else(|| kernels.iter().find(smaller));
    found.expect("every list ends with one pixel")
}

/// Widest panel in blocks of 16 outputs.
pub(super) fn widest_panel(isa: Isa) -> usize {
    match isa.kind() {
        Kind::Avx512 => 4,
        Kind::Avx2 | Kind::Portable => 1,
    }
}

/// Kernels for a panel of `blocks`.
pub(super) fn kernels(isa: Isa, gather: Gather, blocks: usize) -> &'static [Kernel] {
    match (isa.kind(), gather) {
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Gather::Blocks) => avx512::BLOCKS[blocks - 1],
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Gather::Pairs) => avx512::PAIRS[blocks - 1],
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Gather::Singles) => avx512::SINGLES[blocks - 1],
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, Gather::Blocks) => avx2::BLOCKS[blocks - 1],
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, Gather::Pairs) => avx2::PAIRS[blocks - 1],
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, Gather::Singles) => avx2::SINGLES[blocks - 1],
        (_, Gather::Blocks) => portable::BLOCKS[blocks - 1],
        (_, Gather::Pairs) => portable::PAIRS[blocks - 1],
        (_, Gather::Singles) => portable::SINGLES[blocks - 1],
    }
}

/// Lists the kernels of one instruction set: `registers: [pixels…]` for each panel width.
macro_rules! kernels {
    ($name:ident, $vector:ty, [$($feature:meta)?], { $($list:ident: $step:literal, $depth:literal, [$($registers:literal: [$($pixels:literal)*]),*];)* }) => {
        mod $name {
            use super::{Kernel, Tile, tile};

            $(pub(super) const $list: &[&[Kernel]] =
                &[$(&[$(Kernel { pixels: $pixels, run: sized::<$pixels, $registers, $step, $depth> }),*]),*];)*

            /// # Safety
            ///
            /// As [`tile`].
            $(#[$feature])?
            unsafe fn sized<const M: usize, const N: usize, const STEP: usize, const DEPTH: usize>(
                call: &Tile,
            ) {
                // SAFETY: the caller's promise.
                unsafe { tile::<$vector, M, N, STEP, DEPTH>(call) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(avx512, std::arch::x86_64::__m512, [target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")], {
    BLOCKS: 16, 16, [1: [28 7 1], 2: [14 7 1], 3: [9 8 7 1], 4: [6 5 1]];
    PAIRS: 2, 1, [1: [7 1], 2: [14 1]];
    SINGLES: 1, 1, [1: [7 1], 2: [14 1]];
});
#[cfg(target_arch = "x86_64")]
kernels!(avx2, std::arch::x86_64::__m256, [target_feature(enable = "avx2,fma")], {
    BLOCKS: 16, 16, [2: [6 5 1]];
    PAIRS: 2, 1, [2: [6 5 1]];
    SINGLES: 1, 1, [2: [6 5 1]];
});
kernels!(portable, super::Four, [], {
    BLOCKS: 16, 16, [4: [2 1]];
    PAIRS: 2, 1, [4: [2 1]];
    SINGLES: 1, 1, [4: [2 1]];
});
