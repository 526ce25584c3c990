//! From sums to activations: bias, skip connection, clamp, conversion, mean.
#![allow(unsafe_code, reason = "vectors over slices that were checked at the door")]

#[allow(clippy::wildcard_imports, reason = "intrinsics")]
use std::arch::x86_64::*;
use std::ops::Range;

use super::super::offsets::OffsetsRef;
use super::pointwise::BLOCK;
use super::tile::{ROWS, SUMS};

/// Where the sums of one output block go.
#[derive(Debug)]
pub(super) enum Sink<'a> {
    /// ReLU6, then f16 at `offsets[pixel]` of the expanded plane.
    Expanded { plane: &'a mut [u16], offsets: OffsetsRef<'a> },
    /// Linear, then bf16 `[pixel][32]`; `skip` is added first, `keep` receives the f32 values.
    Projected { out: &'a mut [u16], skip: Option<&'a [f32]>, keep: Option<&'a mut [f32]> },
    /// ReLU6, then added up over each run of `pixels` pixels into `[image][32]` sums.
    Pooled { sums: &'a mut [f32], pixels: usize },
}

/// A [`Sink`] whose bounds have been checked.
#[derive(Clone, Copy)]
pub(super) enum Drain {
    Expanded { plane: *mut u16, offsets: *const u32 },
    Projected { out: *mut u16, skip: *const f32, keep: *mut f32 },
    Pooled { sums: *mut f32, pixels: usize },
}

impl Sink<'_> {
    /// Panics when a pixel of `0..pixels` would fall outside the sink.
    pub(super) fn check(self, pixels: usize) -> Drain {
        match self {
            Sink::Expanded { plane, offsets } => {
                assert!(offsets.len() >= pixels && offsets.reach() + BLOCK <= plane.len());
                Drain::Expanded { plane: plane.as_mut_ptr(), offsets: offsets.as_ptr() }
            }
            Sink::Projected { out, skip, keep } => {
                assert!(out.len() >= pixels * BLOCK);
                assert!(skip.is_none_or(|skip| skip.len() >= pixels * BLOCK));
                assert!(keep.as_ref().is_none_or(|keep| keep.len() >= pixels * BLOCK));
                Drain::Projected {
                    out: out.as_mut_ptr(),
                    skip: skip.map_or(std::ptr::null(), <[f32]>::as_ptr),
                    keep: keep.map_or(std::ptr::null_mut(), <[f32]>::as_mut_ptr),
                }
            }
            Sink::Pooled { sums, pixels: image } => {
                assert!(sums.len() >= pixels.div_ceil(image) * BLOCK);
                Drain::Pooled { sums: sums.as_mut_ptr(), pixels: image }
            }
        }
    }
}

/// Sums waiting in the staging buffer.
#[derive(Clone, Copy)]
pub(super) struct Pending {
    /// Four tiles of `[16 pixels][16 outputs]`: two halves of the pixels by two of the outputs.
    pub(super) sums: *const f32,
    /// Pixel of the first row.
    pub(super) first: usize,
    /// Rows before this one were drained by an earlier pass.
    pub(super) fresh: usize,
    /// 32 biases.
    pub(super) bias: *const f32,
}

impl Drain {
    /// Turns some rows of pending sums into activations.
    ///
    /// # Safety
    ///
    /// `pending` holds a pass of sums and 32 biases, this drain covers the pass's pixels, and the
    /// CPU has the features listed below.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,avx512bf16")]
    pub(super) unsafe fn rows(self, pending: Pending, rows: Range<usize>) {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Drain::Expanded { plane, offsets } => expand(pending, rows, (plane, offsets)),
                Drain::Projected { out, skip, keep } => project(pending, rows, (out, skip, keep)),
                Drain::Pooled { sums, pixels } => pool(pending, rows, (sums, pixels)),
            }
        }
    }
}

/// # Safety
///
/// Same as [`Drain::rows`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,avx512bf16")]
unsafe fn expand(pending: Pending, rows: Range<usize>, to: (*mut u16, *const u32)) {
    let (plane, offsets) = to;
    // SAFETY: the sink was checked to hold every pixel's offset and 32 values from there.
    unsafe {
        let bias = pending.biases();
        for row in rows {
            let offset = *offsets.add(pending.first + row) as usize;
            let value = relu6_f16(pending.row(row, bias));
            _mm512_storeu_si512(plane.add(offset).cast(), value);
        }
    }
}

/// # Safety
///
/// Same as [`Drain::rows`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,avx512bf16")]
unsafe fn project(pending: Pending, rows: Range<usize>, to: (*mut u16, *const f32, *mut f32)) {
    let (out, skip, keep) = to;
    // SAFETY: the sink was checked to hold 32 values per pixel.
    unsafe {
        let bias = pending.biases();
        for row in rows {
            let at = (pending.first + row) * BLOCK;
            let mut value = pending.row(row, bias);
            if !skip.is_null() {
                value[0] = _mm512_add_ps(value[0], _mm512_loadu_ps(skip.add(at)));
                value[1] = _mm512_add_ps(value[1], _mm512_loadu_ps(skip.add(at + ROWS)));
            }
            if !keep.is_null() {
                _mm512_storeu_ps(keep.add(at), value[0]);
                _mm512_storeu_ps(keep.add(at + ROWS), value[1]);
            }
            let packed = _mm512_cvtne2ps_pbh(value[1], value[0]);
            let packed = std::mem::transmute::<__m512bh, __m512i>(packed);
            _mm512_storeu_si512(out.add(at).cast(), packed);
        }
    }
}

/// # Safety
///
/// Same as [`Drain::rows`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,avx512bf16")]
unsafe fn pool(pending: Pending, rows: Range<usize>, to: (*mut f32, usize)) {
    let (sums, pixels) = to;
    // SAFETY: the sink was checked to hold 32 sums per image.
    unsafe {
        let bias = pending.biases();
        let mut row = rows.start.max(pending.fresh);
        while row < rows.end {
            let image = (pending.first + row) / pixels;
            let end = rows.end.min((image + 1) * pixels - pending.first);
            let sum = sums.add(image * BLOCK);
            let mut total = [_mm512_loadu_ps(sum), _mm512_loadu_ps(sum.add(ROWS))];
            for row in row..end {
                let value = pending.row(row, bias);
                total[0] = _mm512_add_ps(total[0], relu6(value[0]));
                total[1] = _mm512_add_ps(total[1], relu6(value[1]));
            }
            _mm512_storeu_ps(sum, total[0]);
            _mm512_storeu_ps(sum.add(ROWS), total[1]);
            row = end;
        }
    }
}

impl Pending {
    /// The biases of this output block.
    ///
    /// # Safety
    ///
    /// Same as [`Drain::rows`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn biases(&self) -> [__m512; 2] {
        // SAFETY: a block has 32 biases.
        unsafe { [_mm512_loadu_ps(self.bias), _mm512_loadu_ps(self.bias.add(ROWS))] }
    }

    /// The 32 sums of one pixel with their biases.
    ///
    /// # Safety
    ///
    /// `row` is below [`PASS`](super::product::PASS) and the four tiles of sums are readable.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn row(&self, row: usize, bias: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: tiles are ordered by halves of the pixels, then of the outputs, and have 16
        // rows each.
        unsafe {
            let at = self.sums.add(row / ROWS * 2 * SUMS + row % ROWS * ROWS);
            [
                _mm512_add_ps(_mm512_loadu_ps(at), bias[0]),
                _mm512_add_ps(_mm512_loadu_ps(at.add(SUMS)), bias[1]),
            ]
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn relu6(value: __m512) -> __m512 {
    _mm512_min_ps(_mm512_max_ps(value, _mm512_setzero_ps()), _mm512_set1_ps(6.0))
}

/// Converts 32 sums to f16, then clamps, so that one clamp suffices for all 32 instead of two.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16")]
fn relu6_f16(value: [__m512; 2]) -> __m512i {
    let lower = _mm256_castph_si256(_mm512_cvtxps_ph(value[0]));
    let upper = _mm256_castph_si256(_mm512_cvtxps_ph(value[1]));
    let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(lower), upper);
    let six = _mm512_castsi512_ph(_mm512_set1_epi16(super::depthwise::SIX));
    let clamped = _mm512_max_ph(_mm512_castsi512_ph(both), _mm512_setzero_ph());
    _mm512_castph_si512(_mm512_min_ph(clamped, six))
}
