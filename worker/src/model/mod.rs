//! Networks: a batch of input tensors in, a row of logits for each out. Knows no HTTP and no files.

use candle_core::{Result, Tensor};

/// A network that is ready to run.
pub trait Model: Send {
    /// Logits of shape `[n, classes]` for a batch of shape `[n, channels, height, width]`.
    fn forward(&self, batch: &Tensor) -> Result<Tensor>;
}
