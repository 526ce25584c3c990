//! Networks: a batch of input rows in, a row of outputs for each out. Independent of HTTP.
//!
//! One file per architecture, each with a `load` that reads the weights a manifest names, and a
//! description that [`weights`] checks the file against. Only [`load`] chooses among them.

pub mod linear;
mod memory;
pub mod mnist;
pub mod mobilenet_v2;
mod placed;
pub(crate) mod weights;

use candle_core::{Result, Tensor};
use engine::device::Placement;
pub use memory::MAX_MEMORY;
pub(crate) use memory::check_memory;
pub use placed::Placed;
use wire::Candidate;

use crate::repository::{Architecture, Version};

/// A network that is ready to run.
pub trait Model: Send {
    /// Raw outputs of shape `[n, outputs]`: logits for classifiers, values for regressions.
    ///
    /// The batch has shape `[n, channels, height, width]` for images and `[n, features]` for
    /// tables.
    fn forward(&self, batch: &Tensor) -> Result<Tensor>;
}

/// Loads the network of a version from its folder, to run as `options` say.
pub fn load(version: &Version, options: &engine::Options) -> Result<Box<dyn Model>> {
    if let (Placement::Cuda(_), Architecture::MobilenetV2 | Architecture::MnistCnn) =
        (options.place, version.manifest.architecture)
    {
        return Ok(Box::new(Placed::load(version, options)?));
    }
    match version.manifest.architecture {
        Architecture::MobilenetV2 => mobilenet_v2::load(version, options),
        Architecture::MnistCnn => mnist::load(version, options),
        Architecture::Linear => linear::load(version),
    }
}

/// Why a computation failed, without the source locations that candle adds if backtraces are on,
/// because clients of the server see it, too.
pub fn told(error: &candle_core::Error) -> String {
    use candle_core::Error;
    if let Error::WithBacktrace { inner, .. } = error {
        return told(inner);
    }
    if let Error::Context { inner, context } = error {
        return format!("{context}: {}", told(inner));
    }
    if let Error::WithPath { inner, path } = error {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        return format!("{file}: {}", told(inner));
    }
    error.to_string()
}

/// The system error that made a computation fail, if one did.
pub(crate) fn system_error(error: &candle_core::Error) -> Option<&std::io::Error> {
    use candle_core::Error;
    if let Error::WithBacktrace { inner, .. }
    | Error::Context { inner, .. }
    | Error::WithPath { inner, .. } = error
    {
        return system_error(inner);
    }
    if let Error::Io(error) = error { Some(error) } else { None }
}

/// Turns logits into probabilities, in place.
///
/// The largest logit is subtracted first, so that `exp` cannot overflow.
pub fn softmax(logits: &mut [f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in logits.iter_mut() {
        *value = (*value - largest).exp();
        sum += *value;
    }
    for value in logits.iter_mut() {
        *value /= sum;
    }
}

/// Indices of the `k` largest values, largest first; equal values in index order.
pub fn top_k(values: &[f32], k: usize) -> Vec<usize> {
    let k = k.min(values.len());
    let mut indices: Vec<usize> = (0..values.len()).collect();
    let by_value = |&a: &usize, &b: &usize| values[b].total_cmp(&values[a]).then(a.cmp(&b));
    if k < indices.len() && k > 0 {
        indices.select_nth_unstable_by(k - 1, by_value);
    }
    indices.truncate(k);
    indices.sort_unstable_by(by_value);
    indices
}

/// The `k` most likely classes of one row of logits, best first; `labels` names every class.
pub fn rank(labels: &[String], mut logits: Vec<f32>, k: usize) -> Vec<Candidate> {
    softmax(&mut logits);
    top_k(&logits, k)
        .into_iter()
        .map(|index| Candidate { label: labels[index].clone(), index, confidence: logits[index] })
        .collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Error;
    use proptest::prelude::*;

    use super::{softmax, told, top_k};

    #[test]
    fn softmax_survives_logits_that_overflow_exp() {
        let mut values = [1000.0, 999.0, -1000.0];
        softmax(&mut values);
        assert!((values[0] - 0.731_058_6).abs() < 1e-6, "{values:?}");
        assert!((values.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn backtraces_and_folders_are_not_told() {
        let backtrace = Box::new(std::backtrace::Backtrace::force_capture());
        let inner = Box::new(Error::Msg("no such tensor".to_owned()));
        let error = Error::WithBacktrace { inner, backtrace };
        assert!(error.to_string().lines().count() > 1, "it comes with a backtrace: {error}");
        let error = error.with_path("/home/alice/weights.safetensors").context("loading");
        assert_eq!(told(&error), "loading: weights.safetensors: no such tensor");
    }

    proptest! {
        #[test]
        fn top_k_equals_a_full_sort(values in proptest::collection::vec(-3i8..3, 0..40), k in 0usize..50) {
            let values: Vec<f32> = values.into_iter().map(f32::from).collect();
            let mut all: Vec<usize> = (0..values.len()).collect();
            all.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
            all.truncate(k);
            prop_assert_eq!(top_k(&values, k), all);
        }
    }
}
