//! What kernels compute with: an instruction set, and the numbers that products multiply.
//!
//! A [`Target`] is the proof that this CPU has both, so nothing here may hand out one that the
//! CPU lacks.

use super::BLOCK;
use super::isa::{Isa, Kind};

/// The numbers that products multiply. Everything around products is f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32-bit floats.
    F32,
    /// Half precision, with sums in half precision.
    F16,
    /// Bytes, with 32-bit sums: weights scaled per output, activations per image.
    Int8,
}

/// An instruction set with numbers it has kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    isa: Isa,
    format: Format,
}

impl Target {
    /// Single precision, which every set has.
    pub fn single(isa: Isa) -> Self {
        Self { isa, format: Format::F32 }
    }

    /// The target of this set and format, if this CPU has it.
    pub fn available(isa: Isa, format: Format) -> Option<Self> {
        has(isa.kind(), format).then_some(Self { isa, format })
    }

    /// Every target of this CPU.
    pub fn every() -> impl Iterator<Item = Self> {
        let formats = [Format::F32, Format::F16, Format::Int8];
        Isa::every()
            .flat_map(move |isa| formats.into_iter().filter_map(move |f| Self::available(isa, f)))
    }

    /// The fastest format of a set: bytes if it has dot products for them, because they do four
    /// times the work of floats, then halves, which do twice the work.
    pub fn fastest(isa: Isa) -> Self {
        let has_units = isa.kind() != Kind::Portable;
        let quicker = [Format::Int8, Format::F16].into_iter().filter(|_| has_units);
        let mut quicker = quicker.filter_map(|format| Self::available(isa, format));
        quicker.next().unwrap_or(Self::single(isa))
    }

    /// The instruction set.
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// The numbers that products multiply.
    pub fn format(self) -> Format {
        self.format
    }

    /// Words of 32 bits that 16 channels of a pixel take.
    pub(super) fn words(self) -> usize {
        BLOCK / self.format.channels()
    }
}

impl Format {
    /// Its name, as the log and `worker bench` spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }

    /// Channels in a word of 32 bits.
    pub(super) fn channels(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::F16 => 2,
            Self::Int8 => 4,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has(kind: Kind, format: Format) -> bool {
    match (kind, format) {
        (Kind::Avx512, Format::F16) => is_x86_feature_detected!("avx512fp16"),
        (Kind::Avx512, Format::Int8) => is_x86_feature_detected!("avx512vnni"),
        (Kind::Avx2, Format::F16) => false,
        (Kind::Avx2, Format::Int8) => is_x86_feature_detected!("avxvnni"),
        (_, Format::F32) | (Kind::Portable, _) => true,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has(kind: Kind, _: Format) -> bool {
    kind == Kind::Portable
}

#[cfg(test)]
mod tests {
    use super::{Format, Isa, Target};

    #[test]
    fn every_instruction_set_has_a_target_of_floats_and_a_fastest() {
        for isa in Isa::every() {
            assert_eq!(Target::available(isa, Format::F32), Some(Target::single(isa)));
            assert!(Target::every().any(|target| target == Target::fastest(isa)), "{isa}");
        }
    }
}
