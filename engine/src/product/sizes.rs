//! The tile sizes that each instruction set has registers for.
//!
//! A list contains the kernels of one panel width, largest first: one that fills the registers,
//! those that split this network's rows evenly, and one for single pixels. Every size costs
//! compile time.
#![allow(unsafe_code, reason = "kernels carry their instruction set")]

use super::super::isa::{Isa, Kind};
use super::super::target::{Format, Target};
use super::Gather;
use super::tile::{Tiles, tiles};

/// A kernel for one size of tile.
pub(super) struct Kernel {
    pub(super) pixels: usize,
    /// # Safety
    ///
    /// Same as [`tiles`], for the instruction set that it is listed under.
    pub(super) run: unsafe fn(&mut Tiles),
}

/// The kernel for the next tiles when `left` pixels are left, and the number of tiles to run.
///
/// The split is as even as the list allows, so that the last tile is not small and slow: tiles of
/// two sizes that differ by one pixel, if there are such kernels.
pub(super) fn next(kernels: &'static [Kernel], left: usize) -> (&'static Kernel, usize) {
    let tiles = left.div_ceil(kernels[0].pixels);
    let even = left.div_ceil(tiles);
    if let Some(kernel) = kernels.iter().find(|kernel| kernel.pixels == even) {
        return (kernel, left - tiles * (even - 1));
    }
    let smaller = kernels.iter().find(|kernel| kernel.pixels <= left);
    let kernel = smaller.expect("every list ends with one pixel");
    (kernel, left / kernel.pixels)
}

/// Widest panel in blocks of 16 outputs.
pub(super) fn widest_panel(isa: Isa) -> usize {
    match isa.kind() {
        Kind::Avx512 => 4,
        Kind::Avx2 | Kind::Portable => 1,
    }
}

/// Kernels for a panel of `blocks`.
///
/// # Panics
///
/// If single channels are to be gathered from anything but floats.
pub(super) fn kernels(target: Target, gather: Gather, blocks: usize) -> &'static [Kernel] {
    let lists = match (target.isa().kind(), target.format()) {
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Format::F32) => &avx512::LISTS,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Format::F16) => &avx512_f16::LISTS,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Format::Int8) => &avx512_int8::LISTS,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, Format::F32) => &avx2::LISTS,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, Format::Int8) => &avx2_int8::LISTS,
        (_, Format::F32) => &portable::LISTS,
        (_, Format::F16) => &portable_f16::LISTS,
        (_, Format::Int8) => &portable_int8::LISTS,
    };
    match gather {
        Gather::Blocks => lists.blocks[blocks - 1],
        Gather::Threes => lists.threes[blocks - 1],
        Gather::Fives => lists.fives[blocks - 1],
    }
}

/// The kernels of one target: for each way to gather and each panel width, sizes in
/// descending order.
struct Lists {
    blocks: &'static [&'static [Kernel]],
    threes: &'static [&'static [Kernel]],
    fives: &'static [&'static [Kernel]],
}

/// Lists the kernels of one target: `list: step, depth, [registers: [pixels…]]`, steps and depths in
/// words.
macro_rules! kernels {
    ($name:ident, $number:ident, [$($feature:meta)?], { $($list:ident: $step:literal, $depth:literal, [$($registers:literal: [$($pixels:literal)*]),*];)* }) => {
        mod $name {
            use super::super::super::number::$number;
            use super::{Kernel, Lists, Tiles, tiles};

            pub(super) const LISTS: Lists = Lists {
                $($list: &[$(&[$(Kernel { pixels: $pixels, run: sized::<$pixels, $registers, $step, $depth> }),*]),*]),*
            };

            /// # Safety
            ///
            /// Same as [`tiles`].
            $(#[$feature])?
            unsafe fn sized<const M: usize, const N: usize, const STEP: usize, const DEPTH: usize>(
                call: &mut Tiles,
            ) {
                // SAFETY: the caller's promise.
                unsafe { tiles::<$number, M, N, STEP, DEPTH>(call) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(avx512, Float512, [target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")], {
    blocks: 16, 16, [1: [28 7 1], 2: [14 7 1], 3: [9 8 7 1], 4: [6 5 1]];
    threes: 2, 3, [1: [7 1], 2: [14 1]];
    fives: 1, 5, [1: [7 1], 2: [14 1]];
});
#[cfg(target_arch = "x86_64")]
kernels!(avx512_f16, Half512, [target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,avx2,fma")], {
    blocks: 8, 8, [1: [28 7 1], 2: [14 7 1], 3: [9 8 7 1], 4: [6 5 1]];
    threes: 2, 3, [];
    fives: 1, 5, [];
});
#[cfg(target_arch = "x86_64")]
kernels!(avx512_int8, Byte512, [target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")], {
    blocks: 4, 4, [1: [28 7 1], 2: [14 7 1], 3: [9 8 7 1], 4: [6 5 1]];
    threes: 2, 3, [];
    fives: 1, 5, [];
});
#[cfg(target_arch = "x86_64")]
kernels!(avx2, Float256, [target_feature(enable = "avx2,fma")], {
    blocks: 16, 16, [2: [6 5 1]];
    threes: 2, 3, [2: [6 5 1]];
    fives: 1, 5, [2: [6 5 1]];
});
#[cfg(target_arch = "x86_64")]
kernels!(avx2_int8, Byte256, [target_feature(enable = "avx2,fma,avxvnni")], {
    blocks: 4, 4, [2: [6 5 1]];
    threes: 2, 3, [];
    fives: 1, 5, [];
});
kernels!(portable, FloatFour, [], {
    blocks: 16, 16, [4: [2 1]];
    threes: 2, 3, [4: [2 1]];
    fives: 1, 5, [4: [2 1]];
});
kernels!(portable_f16, HalfFour, [], {
    blocks: 8, 8, [4: [2 1]];
    threes: 2, 3, [];
    fives: 1, 5, [];
});
kernels!(portable_int8, ByteFour, [], {
    blocks: 4, 4, [4: [2 1]];
    threes: 2, 3, [];
    fives: 1, 5, [];
});
