//! Offsets whose largest is known, so that a whole table is checked by one comparison.

use super::BLOCK;
use std::ops::Range;

/// A table of offsets in floats.
#[derive(Debug, Clone)]
pub(super) struct Places {
    offsets: Box<[u32]>,
    largest: usize,
    is_increasing: bool,
}

/// Part of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spots<'a> {
    offsets: &'a [u32],
    reach: usize,
}

impl Places {
    /// A table of these offsets.
    pub(super) fn new(offsets: impl Iterator<Item = usize>) -> Self {
        let narrow = |offset| u32::try_from(offset).expect("buffers are far below 16 GiB");
        let offsets: Box<[u32]> = offsets.map(narrow).collect();
        let largest = offsets.iter().copied().max().map_or(0, |offset| offset as usize);
        let is_increasing = offsets.is_sorted();
        Self { offsets, largest, is_increasing }
    }

    /// Pixels of a block, one after the other.
    pub(super) fn dense(pixels: usize) -> Self {
        Self::every(pixels, BLOCK)
    }

    /// `count` offsets, `stride` apart.
    pub(super) fn every(count: usize, stride: usize) -> Self {
        Self::new((0..count).map(|at| at * stride))
    }

    /// All of it.
    pub(super) fn all(&self) -> Spots<'_> {
        self.part(0..self.offsets.len())
    }

    /// Some of it.
    pub(super) fn part(&self, range: Range<usize>) -> Spots<'_> {
        let offsets = &self.offsets[range];
        let last = offsets.last().map_or(0, |&offset| offset as usize);
        Spots { offsets, reach: if self.is_increasing { last } else { self.largest } }
    }
}

impl Spots<'_> {
    /// Number of offsets.
    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// At least the largest.
    pub(super) fn reach(&self) -> usize {
        self.reach
    }

    pub(super) fn as_ptr(&self) -> *const u32 {
        self.offsets.as_ptr()
    }
}
