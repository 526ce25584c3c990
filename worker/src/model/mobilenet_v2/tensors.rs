//! What a weights file of this network must contain.

use super::super::weights::{Spec, Values};
use super::{LayerSpec, blocks, head, stem};

/// The tensors of a file's layout, for this many classes.
pub(crate) fn describe(has_tensor: impl Fn(&str) -> bool, classes: usize) -> Vec<Spec> {
    let features = head().outputs;
    let mut specs = vec![
        Spec::new("classifier.1.weight", &[classes, features], Values::Moderate),
        Spec::new("classifier.1.bias", &[classes], Values::Moderate),
    ];
    // If tensors are missing, the first layer decides which layout is expected.
    let is_folded = has_tensor(&format!("{}.bias", stem().name));
    let inner = blocks().into_iter().flat_map(|block| block.layers);
    for layer in std::iter::once(stem()).chain(inner).chain([head()]) {
        add(&mut specs, &layer, is_folded);
    }
    specs
}

/// The tensors of one convolution, with its batch norm folded in or beside it.
fn add(specs: &mut Vec<Spec>, layer: &LayerSpec, is_folded: bool) {
    let LayerSpec { name, norm, outputs, .. } = layer;
    let (rows, inputs, height, width) = layer.weight_shape();
    let shape = [rows, inputs, height, width];
    specs.push(Spec::new(format!("{name}.weight"), &shape, Values::Moderate));
    let mut vector = |name: String, values| specs.push(Spec::new(name, &[*outputs], values));
    if is_folded {
        vector(format!("{name}.bias"), Values::Moderate);
        return;
    }
    for part in ["weight", "bias", "running_mean"] {
        vector(format!("{norm}.{part}"), Values::Moderate);
    }
    vector(format!("{norm}.running_var"), Values::Variance);
}
