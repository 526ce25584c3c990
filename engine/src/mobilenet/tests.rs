//! Compares the members of a team with a single thread, on images so small that Miri can follow
//! every step.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::super::isa::{Isa, Kind};
use super::super::target::{Format, Target};
use super::super::team::ThreadGroup;
use super::Network;
use crate::description::{Padding, blocks, head, stem};

/// Rows and columns of an image, and outputs.
const SIDE: usize = 16;
const CLASSES: usize = 10;

/// Small numbers without a pattern that a layer could share.
fn numbers(seed: usize, len: usize, size: f32) -> Vec<f32> {
    let number = |at: usize| (at * at + seed) % 251;
    let some: Vec<f32> = (0..251).map(|at| (number(at) as f32 / 125.0 - 1.0) * size).collect();
    let mut numbers = some.repeat(len.div_ceil(some.len()));
    numbers.truncate(len);
    numbers
}

fn weights() -> VarBuilder<'static> {
    let mut map = HashMap::new();
    let mut add = |name: &str, shape: &[usize], size: f32| {
        let len = shape.iter().product();
        let values = numbers(name.len() + map.len(), len, size);
        let tensor =
            Tensor::from_vec(values, shape, &Device::Cpu).expect("as many as its shape says");
        map.insert(name.to_owned(), tensor);
    };
    let inner = blocks().into_iter().flat_map(|block| block.layers);
    for spec in inner.chain([stem(), head()]) {
        let (outputs, inputs, rows, columns) = spec.weight_shape();
        let size = (6.0 / (inputs * rows * columns) as f32).sqrt();
        add(&format!("{}.weight", spec.name), &[outputs, inputs, rows, columns], size);
        add(&format!("{}.bias", spec.name), &[outputs], 0.5);
    }
    add("classifier.1.weight", &[CLASSES, head().outputs], 0.05);
    add("classifier.1.bias", &[CLASSES], 0.5);
    VarBuilder::from_tensors(map, DType::F32, &Device::Cpu)
}

fn logits(network: &Network, team: &ThreadGroup, images: &[f32]) -> Vec<f32> {
    let mut scratch = network.scratch(SIDE, SIDE, team.size());
    let mut logits = vec![0.0; images.len() / (3 * SIDE * SIDE) * CLASSES];
    network.forward(images, &mut scratch, team, &mut logits);
    logits
}

/// Compares bit by bit, because members do the same arithmetic as a single thread, only in
/// other places.
fn agree(format: Format, images: usize) {
    let isa = Isa::available(Kind::Portable).expect("every CPU has it");
    let target = Target::available(isa, format).expect("in plain Rust");
    let network =
        Network::load(&weights(), Padding::TfSame, target).expect("all weights are there");
    let images = numbers(7, images * 3 * SIDE * SIDE, 1.0);
    let alone = logits(&network, &ThreadGroup::alone(), &images);
    assert!(alone.iter().all(|logit| logit.is_finite()), "{alone:?}");
    let together = logits(&network, &ThreadGroup::new(2, false), &images);
    assert_eq!(alone, together, "{format:?}");
}

#[test]
fn two_threads_compute_what_one_does() {
    agree(Format::F32, 1);
}

#[test]
fn two_threads_share_the_scale_of_bytes() {
    agree(Format::Int8, 1);
}

#[test]
#[cfg_attr(miri, ignore = "the same steps many times")]
fn threads_agree_on_groups_of_images() {
    for format in [Format::F32, Format::F16, Format::Int8] {
        agree(format, 11);
    }
}
