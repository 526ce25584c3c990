//! A forward pass allocates nothing once its memory exists.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod networks;

use engine::mobilenet::Network;
use engine::{Target, ThreadGroup};
use networks::random;
use worker::repository::Padding;

/// Allocations of this thread while `work` runs.
fn count(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

#[test]
fn the_counter_counts() {
    assert_eq!(count(|| drop(std::hint::black_box(Box::new(7)))), 1);
}

#[test]
fn passes_on_vectors_allocate_nothing_after_the_first() {
    let vb = random(100);
    let team = ThreadGroup::alone();
    for target in Target::every().filter(|target| target.isa() == engine::Isa::best()) {
        let network = Network::load(&vb, Padding::TfSame, target).unwrap();
        let mut scratch = network.scratch(64, 64, 1);
        let (images, mut logits) = (vec![0.5; 9 * 3 * 64 * 64], vec![0.0; 9 * 100]);
        for images in [&images[..], &images[..3 * 64 * 64]] {
            let logits = &mut logits[..images.len() / (3 * 64 * 64) * 100];
            let allocations = count(|| network.forward(images, &mut scratch, &team, logits));
            assert_eq!(allocations, 0, "{target:?}");
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn passes_on_tiles_allocate_nothing_after_the_first() {
    let vb = random(100);
    let Some(network) = engine::amx::Network::load(&vb, Padding::TfSame).unwrap() else {
        testdata::skip("this CPU has no AMX, or the kernel refuses its use");
        return;
    };
    let mut scratch = network.scratch();
    let (images, mut logits) = (vec![0.5; 2 * 3 * 224 * 224], vec![0.0; 2 * 100]);
    for _ in 0..2 {
        assert_eq!(count(|| network.forward(&images, &mut scratch, &mut logits)), 0);
    }
}
