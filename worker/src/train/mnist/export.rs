//! From trained weights to a served version: folds the norms, turns the layouts, writes the files.

use super::{
    dataset::{CLASSES, MEAN, SIDE, STD},
    network::{CHANNELS, HIDDEN, Weights},
    norm_pool::EPSILON,
};
use crate::{Error, repository::Manifest, train::directory};
use candle_core::{Device, Result, Tensor};
use std::{collections::HashMap, path::Path};

/// Writes `model.toml`, the weights and the labels as the version folder `out`.
pub(super) fn write(weights: &Weights, out: &Path) -> std::result::Result<(), Error> {
    let tensors = fold(weights)?;
    let digits = (0..CLASSES).map(|digit| digit.to_string()).collect::<Vec<_>>().join("\n") + "\n";
    directory::replace(out, |dir| {
        directory::write_model(dir, &manifest(), &tensors)?;
        directory::write_file(&dir.join("labels.txt"), digits.as_bytes())
    })
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
    // Served features are ordered by channel, then by place.
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
