//! The tile unit: permission, configuration and its instructions.
//!
//! The instructions are inline assembly because their intrinsics are not stable. A tile here is
//! always 16 rows of 64 bytes: 16x32 bf16 of activations, 16x16 pairs of bf16 weights, or 16x16 f32
//! sums (Intel, "Instruction Set Extensions Programming Reference", chapter on AMX).
#![allow(unsafe_code, reason = "tile instructions are inline assembly")]

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::cell::Cell;

/// Rows of a tile.
pub(super) const ROWS: usize = 16;
/// Values in a tile of bf16.
pub(super) const TILE: usize = 512;
/// Values in a tile of f32.
pub(super) const SUMS: usize = 256;
/// Bytes from one row of a tile to the next in memory, everywhere in this module.
pub(super) const STRIDE: usize = 64;

/// Proof that this CPU has every instruction used here and that the kernel lets us use tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Permit(());

impl Permit {
    /// Checks the CPU and asks the kernel, which remembers its answer for the whole process.
    pub(super) fn request() -> Option<Self> {
        (has_amx_bf16() && has_vectors() && kernel_permits()).then_some(Self(()))
    }
}

fn has_vectors() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512fp16")
        && is_x86_feature_detected!("avx512bf16")
}

/// CPUID leaf 7: bit 22 of EDX is AMX-BF16, bit 24 AMX-TILE.
fn has_amx_bf16() -> bool {
    const WANTED: u32 = 1 << 22 | 1 << 24;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & WANTED == WANTED
}

/// Linux saves the eight kilobytes of tile data only for processes that ask.
#[cfg(target_os = "linux")]
fn kernel_permits() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call reads its two integers and touches no memory of ours.
    let status =
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) };
    status == 0
}

/// Other systems do not document how to request tiles.
#[cfg(not(target_os = "linux"))]
fn kernel_permits() -> bool {
    false
}

/// The 64 bytes that `ldtilecfg` reads.
#[repr(C, align(64))]
struct Palette {
    id: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles configured on the current thread; released when dropped, so that context switches do not
/// have to save them.
#[derive(Debug)]
pub(super) struct Tiles {
    /// The configuration belongs to a thread: neither `Send` nor `Sync`.
    thread: std::marker::PhantomData<*const ()>,
}

std::thread_local! {
    /// Whether a [`Tiles`] of this thread is alive: a second would release the tiles of the first.
    static IS_CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

impl Tiles {
    /// Configures the tiles of the calling thread.
    ///
    /// # Panics
    ///
    /// When they are in use.
    pub(super) fn configure(_: Permit) -> Self {
        assert!(!IS_CONFIGURED.replace(true), "a thread has one set of tiles");
        let mut palette =
            Palette { id: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        palette.row_bytes[..8].fill(64);
        palette.rows[..8].fill(16);
        // SAFETY: the permit proves that the instruction exists and is allowed; it reads 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const palette, options(nostack, readonly)) };
        Self { thread: std::marker::PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: tiles were configured on this thread by `configure`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
        IS_CONFIGURED.set(false);
    }
}

/// Loads tile `$tile` from the kilobyte at `$from`.
macro_rules! load {
    ($tile:literal, $from:expr) => {
        ::std::arch::asm!(
            concat!("tileloadd tmm", $tile, ", [{from} + {stride}*1]"),
            from = in(reg) $from,
            stride = in(reg) $crate::amx::tile::STRIDE,
            options(nostack, readonly, preserves_flags)
        )
    };
}

/// Stores tile `$tile` to the kilobyte at `$to`.
macro_rules! store {
    ($tile:literal, $to:expr) => {
        ::std::arch::asm!(
            concat!("tilestored [{to} + {stride}*1], tmm", $tile),
            to = in(reg) $to,
            stride = in(reg) $crate::amx::tile::STRIDE,
            options(nostack, preserves_flags)
        )
    };
}

/// Sets tile `$tile` to zero.
macro_rules! zero {
    ($tile:literal) => {
        ::std::arch::asm!(concat!("tilezero tmm", $tile), options(nostack, nomem, preserves_flags))
    };
}

/// `sums += activations * weights` for bf16 tiles.
macro_rules! dot {
    ($sums:literal, $activations:literal, $weights:literal) => {
        ::std::arch::asm!(
            concat!("tdpbf16ps tmm", $sums, ", tmm", $activations, ", tmm", $weights),
            options(nostack, nomem, preserves_flags)
        )
    };
}

pub(super) use {dot, load, store, zero};
