//! Files made to break decoders: truncated, damaged, random after the first bytes, or with a wrong
//! size. Decoding always ends soon, without a panic, in bounded memory.
//!
//! A single test, so that the memory it measures is its own.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod harm;

use std::time::Duration;

use harm::{harm, seeds};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::time::Instant;
use worker::preprocess::{Limits, decode, decode_for, prepare};
use worker::repository::{Filter, Input, Resize};

const LIMITS: Limits = Limits { max_pixels: 4_000_000, max_bytes: 24 << 20 };
/// Memory that a decoder may take beyond its limit: a rotated copy, buffers, the allocator's slack.
const SLACK: u64 = 64 << 20;
/// Far beyond what a busy machine needs, far below what a bomb takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most resident memory of this process so far, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes << 10
}

#[test]
fn hostile_pictures_neither_panic_nor_stall_nor_fill_the_memory() {
    let resize = Resize::Squash { filter: Filter::Bilinear };
    let input = Input { width: 8, height: 8, resize, mean: vec![0.0; 3], std: vec![1.0; 3] };
    let seeds = seeds();
    for seed in &seeds {
        decode(seed, &LIMITS).unwrap();
    }
    let cases = (prop::sample::select(seeds), prop::collection::vec(harm(), 1..3));
    let before = peak_memory();
    let config = ProptestConfig { cases: 12_000, failure_persistence: None, ..Default::default() };
    let outcome = TestRunner::new(config).run(&cases, |(mut bytes, harms)| {
        for harm in &harms {
            if !bytes.is_empty() {
                harm.apply(&mut bytes);
            }
        }
        let begun = Instant::now();
        let outcomes = [decode(&bytes, &LIMITS), decode_for(&bytes, &LIMITS, &|| false, &input)];
        for picture in outcomes.into_iter().flatten() {
            let pixels = u64::from(picture.width()) * u64::from(picture.height());
            prop_assert!(pixels <= LIMITS.max_pixels);
            prop_assert_eq!(prepare(&picture, &input).unwrap().len(), 3 * 64);
        }
        let grown = peak_memory() - before;
        prop_assert!(grown <= LIMITS.max_bytes + SLACK, "{} bytes more", grown);
        prop_assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        Ok(())
    });
    outcome.unwrap();
}
