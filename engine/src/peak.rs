//! The peak arithmetic rate of one core of this machine, measured on request.
//!
//! A share of the peak says more than milliseconds: the clock speed of a rented core varies, and
//! both figures vary with it. Loops run in registers only, with enough independent sums to hide the
//! latency of the unit.
#![allow(unsafe_code, reason = "instructions that plain Rust cannot name")]

use std::hint::black_box;
use std::time::Duration;

use tokio::time::Instant;

use super::isa::Kind;
#[cfg(target_arch = "x86_64")]
use super::number::{Byte256, Byte512, Float256, Float512, Half512};
use super::number::{ByteFour, FloatFour, HalfFour, Number};
use super::target::{Format, Target};
use super::vector::Vector;

/// Independent sums; more than latency times units of any CPU that has the instructions.
const SUMS: usize = 12;
/// Iterations of a loop; a few milliseconds.
const TURNS: u32 = 400_000;
/// Repetitions, of which the fastest counts.
const REPEATS: usize = 7;

/// Billions of operations per second of one core with the named instruction set and precision;
/// `None` for names that have no loop here or that this CPU lacks.
pub fn gflops(isa: &str, precision: &str) -> Option<f64> {
    if isa == "amx" {
        return tiles();
    }
    let target = Target::every()
        .find(|target| target.isa().name() == isa && target.format().name() == precision)?;
    Some(vectors(target))
}

#[cfg(target_arch = "x86_64")]
fn tiles() -> Option<f64> {
    let turns = TURNS / 2;
    let operations = super::amx::spin(1)?;
    Some(rate(f64::from(turns) * operations, || {
        black_box(super::amx::spin(turns));
    }))
}

#[cfg(not(target_arch = "x86_64"))]
fn tiles() -> Option<f64> {
    None
}

fn vectors(target: Target) -> f64 {
    let Spin { run, operations } = spin(target);
    let turns = if target.isa().kind() == Kind::Portable { TURNS / 20 } else { TURNS };
    rate(f64::from(turns) * operations as f64, || {
        // SAFETY: a target exists only where the CPU has it.
        unsafe { run(turns) };
    })
}

/// Billions of operations per second of `work`, which does `operations`.
fn rate(operations: f64, mut work: impl FnMut()) -> f64 {
    let mut time = || {
        let begun = Instant::now();
        work();
        begun.elapsed()
    };
    let fastest = (0..REPEATS).map(|_| time()).min().unwrap_or(Duration::MAX);
    operations / fastest.as_secs_f64() / 1e9
}

/// A loop of products, and the operations of one iteration.
struct Spin {
    run: unsafe fn(u32),
    operations: usize,
}

/// Products and sums of registers, `turns` times.
///
/// The float sums are factors as well, so that no product can be hoisted out of the loop; bytes and
/// halves have instructions that compilers do not take apart.
///
/// # Safety
///
/// The CPU has the instructions of `D`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "inlined into the function that carries the set")]
unsafe fn products<D: Number>(turns: u32) {
    let words = black_box([0x0101_0101u32; 16]);
    // SAFETY: the caller's promise; a register has at most 16 words.
    unsafe {
        if D::CHANNELS == 1 {
            let factor = D::Floats::splat(black_box(0.999));
            let term = D::Floats::splat(black_box(0.001));
            let mut sums = [factor; SUMS];
            for _ in 0..turns {
                for sum in &mut sums {
                    *sum = term.plus_product(*sum, factor);
                }
            }
            black_box(sums);
        } else {
            let header = super::number::Header { bias: [0u32; 48].as_ptr(), width: 16 };
            let (left, right) = (D::splat(words.as_ptr()), D::load(words.as_ptr()));
            let mut sums: [D::Sums; SUMS] = std::array::from_fn(|_| D::start(header));
            for _ in 0..turns {
                for sum in &mut sums {
                    *sum = D::plus_product(*sum, left, right);
                }
            }
            black_box(sums);
        }
    }
}

/// Compiles the loop for an instruction set.
macro_rules! spin {
    ($number:ty, [$($feature:meta)?]) => {{
        /// # Safety
        ///
        /// Same as [`products`].
        $(#[$feature])?
        unsafe fn run(turns: u32) {
            // SAFETY: the caller's promise.
            unsafe { products::<$number>(turns) }
        }
        let lanes = <$number as Number>::Floats::LANES * <$number as Number>::CHANNELS;
        Spin { run, operations: SUMS * lanes * 2 }
    }};
}

fn spin(target: Target) -> Spin {
    match (target.isa().kind(), target.format()) {
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Format::F32) => {
            spin!(Float512, [target_feature(enable = "avx512f,avx2,fma")])
        }
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Format::F16) => {
            spin!(Half512, [target_feature(enable = "avx512f,avx512fp16,avx2,fma")])
        }
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Format::Int8) => {
            spin!(Byte512, [target_feature(enable = "avx512f,avx512vnni,avx2,fma")])
        }
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, Format::F32) => spin!(Float256, [target_feature(enable = "avx2,fma")]),
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, Format::Int8) => {
            spin!(Byte256, [target_feature(enable = "avx2,fma,avxvnni")])
        }
        (_, Format::F32) => spin!(FloatFour, []),
        (_, Format::F16) => spin!(HalfFour, []),
        (_, Format::Int8) => spin!(ByteFour, []),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Target;
    use super::gflops;

    #[test]
    fn targets_of_this_cpu_have_a_figure_and_unknown_ones_none() {
        assert_eq!(gflops("abacus", "f32"), None);
        for target in Target::every() {
            let peak = gflops(target.isa().name(), target.format().name());
            assert!(peak.is_some_and(|peak| peak > 0.0), "{target:?}");
        }
    }
}
