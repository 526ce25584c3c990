//! How networks run: the flags that `serve`, `classify` and `bench` share, and what they mean.

use std::num::NonZeroUsize;

use candle_core::{Result, bail};

use super::{Format, Isa, IsaKind, Target};
use crate::device::{DeviceRequest, Placement};

/// Flags of every command that runs networks.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Flags {
    /// Arithmetic of the large products: auto takes the fastest that keeps the labels of f32.
    #[arg(long, env = "WORKER_PRECISION", value_enum, default_value_t)]
    pub precision: Precision,
    /// Instruction set; default: the fastest of this CPU.
    #[arg(long, env = "WORKER_ISA", value_enum, value_name = "SET")]
    pub isa: Option<IsaKind>,
    /// Pin each inference thread to a core of its own.
    #[arg(long, env = "WORKER_PIN")]
    pub pin: bool,
    /// auto, cpu or cuda:N; without such a GPU the log says so and the CPU is used.
    #[arg(long, env = "WORKER_DEVICE", default_value_t, value_name = "DEVICE")]
    pub device: DeviceRequest,
}

/// Arithmetic of the large products.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// The fastest that this CPU has instructions for: bf16, int8, f16 or f32.
    #[default]
    Auto,
    /// 32-bit floats throughout.
    F32,
    /// Products of bf16 with sums of f32, on AMX tiles.
    Bf16,
    /// Products and sums of f16, with AVX512-FP16.
    F16,
    /// Products of bytes, scaled anew for every image, with VNNI or in plain code.
    Int8,
}

/// How one network runs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Instruction set; default: the fastest of this CPU.
    pub isa: Option<IsaKind>,
    /// Arithmetic of the large products.
    pub precision: Precision,
    /// Threads of one forward pass, the caller included.
    pub threads: NonZeroUsize,
    /// Whether each thread stays on a core of its own.
    pub is_pinned: bool,
    /// The CPU, or a GPU that is known to work.
    pub place: Placement,
}

impl Default for Options {
    fn default() -> Self {
        Self::new(&Flags { device: DeviceRequest::Cpu, ..Flags::default() }, NonZeroUsize::MIN)
    }
}

impl Options {
    /// Resolves the flags for `threads` threads; tries the GPU if one is requested.
    pub fn new(flags: &Flags, threads: NonZeroUsize) -> Self {
        let Flags { precision, isa, pin: is_pinned, device } = *flags;
        let place = match device {
            // int8 runs on CPUs only; a GPU requested by name together with int8 is refused later.
            DeviceRequest::Auto if precision == Precision::Int8 => Placement::Cpu,
            DeviceRequest::Auto | DeviceRequest::Cpu | DeviceRequest::Cuda(_) => device.resolve(),
        };
        Self { isa, precision, threads, is_pinned, place }
    }

    /// The instruction set to use, if this CPU has it.
    pub(super) fn isa(&self) -> Result<Isa> {
        match self.isa {
            None => Ok(Isa::best()),
            Some(kind) => match Isa::available(kind) {
                Some(isa) => Ok(isa),
                None => bail!("this CPU has no {} instructions", kind.name()),
            },
        }
    }

    /// The instruction set and numbers to use where there are no tiles.
    pub(super) fn target(&self) -> Result<Target> {
        let isa = self.isa()?;
        let format = match self.precision {
            Precision::Auto => return Ok(Target::fastest(isa)),
            Precision::F32 | Precision::Bf16 => Format::F32,
            Precision::F16 if isa.kind() == IsaKind::Portable => bail!("f16 needs AVX512-FP16"),
            Precision::F16 => Format::F16,
            Precision::Int8 => Format::Int8,
        };
        match Target::available(isa, format) {
            Some(target) => Ok(target),
            None if format == Format::F16 => bail!("f16 needs AVX512-FP16"),
            None => bail!("int8 with {isa} needs its VNNI instructions, which this CPU lacks"),
        }
    }

    /// Whether tiles may be tried: naming an instruction set selects its own kernels.
    pub(super) fn wants_tiles(&self) -> bool {
        match self.precision {
            Precision::Bf16 => true,
            Precision::Auto => self.isa.is_none(),
            Precision::F32 | Precision::F16 | Precision::Int8 => false,
        }
    }
}
