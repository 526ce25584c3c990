//! A reference network on a device of its own, in the precision of that device.
//!
//! Rows and outputs are f32 in CPU memory, so that callers need not know where a network runs. A
//! batch is copied to the device and back once; the weights stay there.

use candle_core::{DType, Device, DeviceLocation, Result, Tensor, bail};
use candle_nn::VarBuilder;
use engine::{Options, Precision};

use super::{Model, mnist, mobilenet_v2, weights};
use crate::repository::{Architecture, Version};

/// A network and where it runs.
pub struct Placed {
    network: Box<dyn Model>,
    device: Device,
    dtype: DType,
}

impl Placed {
    /// Reads the weights of a version and moves them to the device of `options`.
    pub fn load(version: &Version, options: &Options) -> Result<Self> {
        match version.manifest.architecture {
            Architecture::MobilenetV2 => {
                // Folded in full precision first.
                let vb = mobilenet_v2::variables(version)?;
                let network = mobilenet_v2::MobileNetV2::load(&vb, version.manifest.padding)?;
                Self::photo_model(&network, options)
            }
            Architecture::MnistCnn => {
                let (device, dtype) = (options.place.open()?, dtype(options.precision)?);
                let bytes = weights::read(&version.weights(), mnist::describe)?;
                let vb = VarBuilder::from_buffered_safetensors(bytes, dtype, &device)?;
                Ok(Self::new(mnist::MnistCnn::new(&vb)?, device, dtype))
            }
            Architecture::Linear => bail!("linear models run on the CPU"),
        }
    }

    /// Copies the photo model to the device of `options`.
    pub fn photo_model(network: &mobilenet_v2::MobileNetV2, options: &Options) -> Result<Self> {
        let (device, dtype) = (options.place.open()?, dtype(options.precision)?);
        Ok(Self::new(network.to(&device, dtype)?, device, dtype))
    }

    /// A network whose weights are on `device` in `dtype` already.
    pub fn new(network: impl Model + 'static, device: Device, dtype: DType) -> Self {
        let place = match device.location() {
            DeviceLocation::Cpu => "cpu".to_owned(),
            DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        };
        tracing::info!(device = place, precision = dtype.as_str(), "reference network");
        Self { network: Box::new(network), device, dtype }
    }

    /// Name of the precision.
    pub fn precision(&self) -> &'static str {
        self.dtype.as_str()
    }
}

impl Model for Placed {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        let batch = batch.to_device(&self.device)?.to_dtype(self.dtype)?;
        let outputs = self.network.forward(&batch)?;
        outputs.to_dtype(DType::F32)?.to_device(&Device::Cpu)
    }
}

/// Half precision has more digits than bf16, and nothing here needs the range of the latter.
fn dtype(precision: Precision) -> Result<DType> {
    match precision {
        Precision::Auto | Precision::F16 => Ok(DType::F16),
        Precision::Bf16 => Ok(DType::BF16),
        Precision::F32 => Ok(DType::F32),
        Precision::Int8 => {
            bail!("int8 runs on CPUs only: take --device cpu, or --precision f16, bf16 or f32")
        }
    }
}

impl std::fmt::Debug for Placed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (device, dtype) = (&self.device, &self.dtype);
        f.debug_struct("Placed")
            .field("device", device)
            .field("dtype", dtype)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Precision, dtype};

    #[test]
    fn int8_on_a_gpu_is_refused_and_not_another_precision() {
        let refused = dtype(Precision::Int8).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|text| text.contains("--device cpu")));
        assert!(dtype(Precision::Auto).is_ok());
    }
}
