//! Where networks run: on the CPU with the fused kernels, or on a GPU with the reference networks.
//!
//! `--device` is a request that is resolved once, when the program starts. If the GPU is missing,
//! networks run on the CPU and one line in the log gives the reason, so a fleet of mixed machines
//! can be started with the same flags. Later code cannot fail because of the choice.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device, Error, Result, Tensor};

/// Value of `--device`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceRequest {
    /// The first GPU if this build and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU, even if there is a GPU.
    Cpu,
    /// The NVIDIA GPU with this number.
    Cuda(usize),
}

/// Where networks run, once the request is resolved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Placement {
    /// The fused kernels.
    #[default]
    Cpu,
    /// The reference networks on the NVIDIA GPU with this number.
    Cuda(usize),
}

/// The text does not name a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a device is `auto`, `cpu`, `cuda` or `cuda:N`")]
pub struct NoDevice;

impl FromStr for DeviceRequest {
    type Err = NoDevice;

    fn from_str(text: &str) -> std::result::Result<Self, NoDevice> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                number.map(Self::Cuda).ok_or(NoDevice)
            }
        }
    }
}

impl fmt::Display for DeviceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl DeviceRequest {
    /// Tries the requested GPU; if that fails, logs where networks run instead.
    pub fn resolve(self) -> Placement {
        let number = match self {
            Self::Cpu => return Placement::Cpu,
            Self::Auto => 0,
            Self::Cuda(number) => number,
        };
        match try_out(number) {
            Ok(()) => {
                tracing::info!(device = %Self::Cuda(number), "networks run on the GPU");
                Placement::Cuda(number)
            }
            Err(Error::NotCompiledWithCudaSupport) if self == Self::Auto => Placement::Cpu,
            Err(error) if self == Self::Auto => {
                tracing::info!(reason = %reason(&error), "no GPU, networks run on the CPU");
                Placement::Cpu
            }
            Err(error) => {
                let reason = reason(&error);
                tracing::warn!(device = %self, reason, "networks run on the CPU instead");
                Placement::Cpu
            }
        }
    }
}

impl Placement {
    /// The device for candle.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(number) => Device::new_cuda(number),
        }
    }
}

/// Runs a small sum, because a GPU that opens may still fail to compute: kernels built for another
/// generation, no memory left.
fn try_out(number: usize) -> Result<()> {
    let device = Device::new_cuda(number)?;
    let ones = Tensor::ones(16, DType::F16, &device)?;
    let sum = ones.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
    if sum.to_bits() == 16f32.to_bits() {
        Ok(())
    } else {
        candle_core::bail!("it adds sixteen ones to {sum}")
    }
}

/// The error as one line for the log.
fn reason(error: &Error) -> String {
    if matches!(error, Error::NotCompiledWithCudaSupport) {
        return "this build has no GPU support (cargo feature `cuda`)".to_owned();
    }
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_as_it_is_printed() {
        for request in [
            DeviceRequest::Auto,
            DeviceRequest::Cpu,
            DeviceRequest::Cuda(0),
            DeviceRequest::Cuda(13),
        ] {
            assert_eq!(request.to_string().parse(), Ok(request));
        }
        assert_eq!("cuda".parse(), Ok(DeviceRequest::Cuda(0)));
        for wrong in ["", "gpu", "CUDA:0", "cuda:", "cuda:-1", "cuda:x", "cuda:1:2", "metal"] {
            assert_eq!(wrong.parse::<DeviceRequest>(), Err(NoDevice), "{wrong}");
        }
    }

    #[test]
    fn a_gpu_that_nobody_has_becomes_the_cpu() {
        assert_eq!(DeviceRequest::Cuda(9999).resolve(), Placement::Cpu);
        assert_eq!(DeviceRequest::Cpu.resolve(), Placement::Cpu);
        assert!(Placement::Cpu.open().is_ok_and(|device| device.is_cpu()));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_gpu_support_auto_is_the_cpu_and_the_reason_names_the_feature() {
        assert_eq!(DeviceRequest::Auto.resolve(), Placement::Cpu);
        let error = try_out(0).expect_err("there is no GPU support");
        assert!(reason(&error).contains("cargo feature `cuda`"), "{error}");
    }
}
