//! The last layer: features of a group of images to logits.
//!
//! One row of a tile is one image, so the 2.5 MB of weights are read once for the whole group.
#![allow(unsafe_code, reason = "tiles over slices that were checked at the door")]

use super::pointwise::{BLOCK, Layer, Pointwise};
use super::product::STAGING;
use super::tile::{ROWS, SUMS, TILE, Tiles, dot, load, store, zero};

/// Writes `[images][classes]` logits for features `[feature block][16 images][32]`.
pub(super) fn classify(
    tiles: &Tiles,
    (layer, arena): (&Pointwise, &[u16]),
    features: &[u16],
    staging: &mut [f32],
    logits: &mut [f32],
) {
    let classes = layer.outputs();
    assert!(staging.len() >= STAGING && logits.len() <= ROWS * classes);
    for block in 0..layer.blocks() {
        let part = Layer { pointwise: layer, arena, block };
        sums(tiles, part, features, staging);
        let first = block * BLOCK;
        let columns = BLOCK.min(classes - first);
        let bias = part.bias();
        for (image, row) in logits.chunks_exact_mut(classes).enumerate() {
            for (column, to) in row[first..first + columns].iter_mut().enumerate() {
                let at = column / ROWS * SUMS + image * ROWS + column % ROWS;
                *to = staging[at] + bias[column];
            }
        }
    }
}

/// Products of sixteen rows of features with one block of 32 classes, into two tiles of `staging`.
fn sums(_: &Tiles, part: Layer, features: &[u16], staging: &mut [f32]) {
    let steps = part.pointwise.steps();
    let weights = part.weights();
    assert!(features.len() >= steps * TILE && staging.len() >= 2 * SUMS);
    // SAFETY: tiles are configured on this thread; features and staging are as long as asserted and
    // the weights are `steps` pairs of tiles.
    unsafe {
        zero!(0);
        zero!(1);
        for step in 0..steps {
            let weights = weights.as_ptr().add(step * 2 * TILE);
            load!(4, features.as_ptr().add(step * TILE));
            load!(6, weights);
            load!(7, weights.add(TILE));
            dot!(0, 4, 6);
            dot!(1, 4, 7);
        }
        store!(0, staging.as_mut_ptr());
        store!(1, staging.as_mut_ptr().add(SUMS));
    }
}
