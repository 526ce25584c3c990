//! From trained weights to a served version: folds the norms, converts the layouts, writes
//! the files.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use candle_core::{Device, Result, Tensor};

use super::{
    dataset::{CLASSES, MEAN, SIDE, STD},
    network::{CHANNELS, HIDDEN, Weights},
    norm_pool::EPSILON,
};
use crate::{
    Error,
    repository::{Manifest, Name, version_number},
    train::directory,
};

/// The model that is trained without `--out`.
const MODEL: &str = "models/mnist";

/// Where a training run writes its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The model's folder.
    folder: PathBuf,
    /// Name of the version; if that is taken or `None`, the next number is used.
    name: Option<String>,
}

impl Target {
    /// The version folder `out`, or the next version of the digit model.
    pub(super) fn new(out: Option<&Path>) -> std::result::Result<Self, Error> {
        let Some(out) = out else { return Ok(Self { folder: MODEL.into(), name: None }) };
        let refuse =
            |reason: &str| Err(Error::Invalid(format!("--out {} {reason}", out.display())));
        let Some(name) = out.file_name().and_then(|name| name.to_str()) else {
            return refuse("names no folder");
        };
        if version_number(name).is_none() && out.exists() {
            return refuse("is there already: name a version, as models/mnist/2, or a new folder");
        }
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        Ok(Self { folder, name: Some(name.to_owned()) })
    }

    fn name(&self) -> Name<'_> {
        match &self.name {
            Some(name) if !self.folder.join(name).exists() => Name::Exactly(name),
            _ => Name::Next,
        }
    }
}

/// Writes `model.toml`, the weights and the labels as a new version and returns its folder.
pub(super) fn write(weights: &Weights, target: &Target) -> std::result::Result<PathBuf, Error> {
    let tensors = fold(weights)?;
    let digits = (0..CLASSES).map(|digit| digit.to_string()).collect::<Vec<_>>().join("\n") + "\n";
    let labels = ("labels.txt", digits.as_bytes());
    directory::install_model(&target.folder, target.name(), &manifest(), &tensors, &[labels])
}

/// The eight tensors of [`crate::model::mnist`].
pub(super) fn fold(weights: &Weights) -> Result<HashMap<String, Tensor>> {
    let [first, second] = weights.running();
    let mut tensors = HashMap::new();
    let mut channels_in = 1;
    for (at, statistics) in [first, second].into_iter().enumerate() {
        let number = at + 1;
        let outputs = CHANNELS[at];
        let part = |name: &str| weights.parameter(&format!("{name}{number}"));
        let scale: Vec<f32> = std::iter::zip(part("gamma"), &statistics.variance)
            .map(|(gamma, variance)| gamma / (variance + EPSILON).sqrt())
            .collect();
        let bias: Vec<f32> = std::iter::zip(part("beta"), std::iter::zip(&scale, &statistics.mean))
            .map(|(beta, (scale, mean))| beta - scale * mean)
            .collect();
        let kernel = Tensor::from_slice(part("conv"), (5, 5, channels_in, outputs), &Device::Cpu)?
            .broadcast_mul(&Tensor::from_vec(scale, outputs, &Device::Cpu)?)?
            .permute((3, 2, 0, 1))?
            .contiguous()?;
        tensors.insert(format!("conv{number}.weight"), kernel);
        tensors
            .insert(format!("conv{number}.bias"), Tensor::from_vec(bias, outputs, &Device::Cpu)?);
        channels_in = outputs;
    }
    let side = SIDE / 4;
    let fc1 = Tensor::from_slice(
        weights.parameter("fc1"),
        (side * side, CHANNELS[1], HIDDEN),
        &Device::Cpu,
    )?;
    // Served features are ordered by channel, then by position.
    let fc1 = fc1.permute((2, 1, 0))?.contiguous()?.flatten_from(1)?;
    let fc2 = Tensor::from_slice(weights.parameter("fc2"), (HIDDEN, CLASSES), &Device::Cpu)?;
    tensors.insert("fc1.weight".to_owned(), fc1);
    tensors.insert("fc2.weight".to_owned(), fc2.t()?.contiguous()?);
    for name in ["fc1", "fc2"] {
        let bias = weights.parameter(&format!("{name}_bias"));
        let bias = Tensor::from_slice(bias, bias.len(), &Device::Cpu)?;
        tensors.insert(format!("{name}.bias"), bias);
    }
    Ok(tensors)
}

fn manifest() -> Manifest {
    let text = format!(
        "architecture = 'mnist_cnn'
         max_batch_size = 64
         [input]
         width = {SIDE}
         height = {SIDE}
         resize = {{ mode = 'digit' }}
         mean = [{MEAN}]
         std = [{STD}]"
    );
    Manifest::parse(&text).expect("the constants make a valid manifest")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::train::mnist::trainer::generator;

    #[test]
    fn a_version_that_is_there_is_never_written_over() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("mnist/1");
        let target = Target::new(Some(&out)).unwrap();
        let mut weights = Weights::random(&mut generator(&[1]));
        assert_eq!(write(&weights, &target).unwrap(), out);
        let first = fs::read(out.join("weights.safetensors")).unwrap();
        weights.parameters[0] += 1.0;
        assert_eq!(write(&weights, &target).unwrap(), root.path().join("mnist/2"));
        assert_eq!(fs::read(out.join("weights.safetensors")).unwrap(), first);
        assert!(Target::new(Some(&root.path().join("mnist"))).is_err());
        assert!(Target::new(Some(Path::new("/"))).is_err());
        let named = Target::new(Some(&root.path().join("best"))).unwrap();
        assert!(write(&weights, &named).unwrap().ends_with("best"));
    }

    #[test]
    fn weights_that_are_not_finite_are_not_written() {
        let root = tempfile::tempdir().unwrap();
        let target = Target::new(Some(&root.path().join("mnist/1"))).unwrap();
        let mut weights = Weights::random(&mut generator(&[1]));
        for wrong in [f32::NAN, f32::INFINITY, 1e30] {
            weights.parameters[0] = wrong;
            let error = write(&weights, &target).unwrap_err().to_string();
            assert!(error.contains("conv1.weight"), "{error}");
        }
        assert_eq!(fs::read_dir(root.path().join("mnist")).unwrap().count(), 0);
    }
}
