//! Offset tables with a known maximum, so that one comparison checks a whole table.

use std::ops::Range;

use super::BLOCK;

/// A table of offsets, in floats or other words of 32 bits.
#[derive(Debug, Clone)]
pub(super) struct Offsets {
    table: Box<[u32]>,
    largest: usize,
    is_increasing: bool,
}

/// Part of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct OffsetsRef<'a> {
    part: &'a [u32],
    reach: usize,
}

impl Offsets {
    /// A table of these offsets.
    pub(super) fn new(offsets: impl Iterator<Item = usize>) -> Self {
        let narrow = |offset| u32::try_from(offset).expect("buffers are far below 16 GiB");
        let table: Box<[u32]> = offsets.map(narrow).collect();
        let largest = table.iter().copied().max().map_or(0, |offset| offset as usize);
        let is_increasing = table.is_sorted();
        Self { table, largest, is_increasing }
    }

    /// Contiguous pixels of a block.
    pub(super) fn dense(pixels: usize) -> Self {
        Self::every(pixels, BLOCK)
    }

    /// `count` offsets, `stride` apart.
    pub(super) fn every(count: usize, stride: usize) -> Self {
        Self::new((0..count).map(|at| at * stride))
    }

    /// The whole table.
    pub(super) fn all(&self) -> OffsetsRef<'_> {
        self.part(0..self.table.len())
    }

    /// A range of the table.
    pub(super) fn part(&self, range: Range<usize>) -> OffsetsRef<'_> {
        let part = &self.table[range];
        let last = part.last().map_or(0, |&offset| offset as usize);
        OffsetsRef { part, reach: if self.is_increasing { last } else { self.largest } }
    }
}

impl OffsetsRef<'_> {
    /// Number of offsets.
    pub(super) fn len(&self) -> usize {
        self.part.len()
    }

    /// An upper bound on the offsets.
    pub(super) fn reach(&self) -> usize {
        self.reach
    }

    pub(super) fn as_ptr(&self) -> *const u32 {
        self.part.as_ptr()
    }
}
