//! The instruction sets that the kernels are compiled for.
//!
//! One binary contains kernels for all of them and checks the CPU at start. [`Isa::available`] is
//! the proof that a kernel may run, so nothing here may hand out a set that the machine lacks.

use std::fmt;

/// An instruction set that has its own kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Kind);

/// Names of the instruction sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Kind {
    /// 32 registers of 16 floats.
    Avx512,
    /// 16 registers of 8 floats, with fused multiply-add.
    Avx2,
    /// Whatever the compiler makes of plain Rust.
    Portable,
}

impl Kind {
    /// Its name, as `--isa` and the log spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }
}

impl Isa {
    /// The fastest set of this CPU.
    pub fn best() -> Self {
        Self::every().next().unwrap_or(Self(Kind::Portable))
    }

    /// Every set of this CPU, fastest first.
    pub fn every() -> impl Iterator<Item = Self> {
        [Kind::Avx512, Kind::Avx2, Kind::Portable].into_iter().filter_map(Self::available)
    }

    /// The set of this kind, if this CPU has it.
    pub fn available(kind: Kind) -> Option<Self> {
        has(kind).then_some(Self(kind))
    }

    /// The kind of the set.
    pub fn kind(self) -> Kind {
        self.0
    }

    /// Its name, as `--isa` and the log spell it.
    pub fn name(self) -> &'static str {
        self.0.name()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn has(kind: Kind) -> bool {
    let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    match kind {
        Kind::Avx512 => {
            has_avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        }
        Kind::Avx2 => has_avx2,
        Kind::Portable => true,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has(kind: Kind) -> bool {
    kind == Kind::Portable
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::{Isa, Kind};

    /// Kernel tests run on the sets that this CPU has; the sets that they skip are reported
    /// here, once.
    #[test]
    fn the_kernels_of_every_set_are_tested() {
        for kind in Kind::value_variants() {
            if Isa::available(*kind).is_none() {
                testdata::skip(&format!(
                    "this CPU has no {}: its kernels are not tested",
                    kind.name()
                ));
            }
        }
    }

    #[test]
    fn every_machine_has_at_least_the_portable_set() {
        assert_eq!(Isa::every().last().map(Isa::kind), Some(Kind::Portable));
        assert_eq!(Isa::every().next(), Some(Isa::best()));
    }
}
