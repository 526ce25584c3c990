//! The arithmetic that one core of this machine can do, measured on the spot.
//!
//! A share of the peak says more than milliseconds: the clock of a rented core swings, and both
//! figures swing with it. Loops run in registers only, with enough independent sums to hide the
//! latency of the unit.
#![cfg_attr(target_arch = "x86_64", allow(clippy::wildcard_imports, reason = "intrinsics"))]
#![allow(unsafe_code, reason = "instructions that plain Rust cannot name")]

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::amx;
    use super::super::{Isa, IsaKind};
    use std::arch::x86_64::*;
    use std::hint::black_box;
    use std::time::Duration;
    use tokio::time::Instant;

    /// Independent sums; more than latency times units of any CPU that has the instructions.
    const SUMS: usize = 12;
    /// Turns of a loop; a few milliseconds.
    const TURNS: u32 = 400_000;
    /// Repetitions, of which the fastest counts.
    const REPEATS: usize = 7;

    pub(super) fn gflops(isa: &str) -> Option<f64> {
        match isa {
            "avx512" => {
                Isa::available(IsaKind::Avx512)?;
                let work = || {
                    // SAFETY: the CPU has AVX-512F.
                    black_box(unsafe { fma512(TURNS) });
                };
                Some(rate(f64::from(TURNS) * (SUMS * 16 * 2) as f64, work))
            }
            "avx2" => {
                Isa::available(IsaKind::Avx2)?;
                let work = || {
                    // SAFETY: the CPU has AVX2 and FMA.
                    black_box(unsafe { fma256(TURNS) });
                };
                Some(rate(f64::from(TURNS) * (SUMS * 8 * 2) as f64, work))
            }
            "amx" => {
                let turns = TURNS / 2;
                let operations = amx::spin(1)?;
                Some(rate(f64::from(turns) * operations, || {
                    black_box(amx::spin(turns));
                }))
            }
            _ => None,
        }
    }

    /// Billions of operations a second of `work`, which does `operations`.
    fn rate(operations: f64, mut work: impl FnMut()) -> f64 {
        let mut time = || {
            let begun = Instant::now();
            work();
            begun.elapsed()
        };
        let fastest = (0..REPEATS).map(|_| time()).min().unwrap_or(Duration::MAX);
        operations / fastest.as_secs_f64() / 1e9
    }

    /// # Safety
    ///
    /// The CPU has AVX-512F.
    #[target_feature(enable = "avx512f")]
    unsafe fn fma512(turns: u32) -> f32 {
        let (factor, term) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut sums = [_mm512_set1_ps(1.0); SUMS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, term);
            }
        }
        sums.iter().map(|&sum| _mm512_reduce_add_ps(sum)).sum()
    }

    /// # Safety
    ///
    /// The CPU has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn fma256(turns: u32) -> f32 {
        let (factor, term) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut sums = [_mm256_set1_ps(1.0); SUMS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, term);
            }
        }
        sums.iter().map(|&sum| _mm_cvtss_f32(_mm256_castps256_ps128(sum))).sum()
    }
}

/// Billions of floating-point operations a second of one core with the instruction set of that
/// name; `None` for a set without a loop here or that this CPU lacks.
pub fn gflops(isa: &str) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    return x86::gflops(isa);
    #[cfg(not(target_arch = "x86_64"))]
    return isa.is_empty().then_some(0.0);
}

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::gflops;

    #[test]
    fn sets_of_this_cpu_have_a_figure_and_unknown_ones_none() {
        assert_eq!(gflops("abacus"), None);
        for isa in Isa::every().filter(|isa| isa.name() != "portable") {
            assert!(gflops(isa.name()).is_some_and(|peak| peak > 0.0), "{isa}");
        }
    }
}
