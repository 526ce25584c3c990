//! Progressive JPEG: coefficients that arrive band by band and bit by bit.
//!
//! Later scans refine earlier ones, so coefficients are kept until the last scan. Reading a
//! refinement requires knowing whether each coefficient is zero, but only those that a reduced
//! block uses need a value. For the others one bit is kept, so a photo at an eighth of its size
//! takes a thirteenth of the memory.

use super::channel::{Channel, Layout};
use super::header::{File, Scan};
use super::huffman::{Bits, Table};
use super::sequential::{fault, given_up};
use super::{Stop, no_table};
use crate::preprocess::ImageError;

/// The coefficients of a channel.
#[derive(Debug)]
pub(super) struct Coefficients {
    /// Blocks in whole units, across and down.
    blocks: (usize, usize),
    /// Blocks that belong to the picture.
    used: (usize, usize),
    /// Values kept per block, in zigzag order.
    kept: usize,
    values: Vec<i16>,
    /// By block: a bit for each coefficient that is not zero.
    marks: Vec<u64>,
    /// By coefficient: the lowest bit that is known, `UNKNOWN` for none.
    known: [u32; 64],
}

const UNKNOWN: u32 = 16;

impl Coefficients {
    pub(super) fn new(layout: &Layout, size: (usize, usize)) -> Self {
        let (blocks, kept) = (layout.blocks, layout.last() + 1);
        let count = blocks.0 * blocks.1;
        Self {
            blocks,
            used: (size.0.div_ceil(8), size.1.div_ceil(8)),
            kept,
            values: vec![0; count * kept],
            marks: vec![0; count],
            known: [UNKNOWN; 64],
        }
    }

    /// Memory of the coefficients of a channel.
    pub(super) fn bytes(layout: &Layout) -> usize {
        layout.blocks.0 * layout.blocks.1 * (2 * (layout.last() + 1) + 8)
    }

    /// Whether no scan has covered the channel yet.
    pub(super) fn is_unknown(&self) -> bool {
        self.known[0] == UNKNOWN
    }

    /// Whether no scan is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.known.iter().all(|&bit| bit == 0)
    }

    /// Turns the coefficients into pixels.
    pub(super) fn put(&self, channel: &mut Channel) {
        let blocks = self.values.chunks_exact(self.kept);
        for (index, block) in blocks.enumerate() {
            let corner = channel.corner(index % self.blocks.0, index / self.blocks.0);
            let highest = block.iter().rposition(|&value| value != 0).unwrap_or(0);
            let mut coefficients = [0.0; 64];
            for (&value, &(step, at)) in block.iter().zip(&channel.steps) {
                coefficients[usize::from(at)] = f32::from(value) * step;
            }
            channel.put(&coefficients, highest, corner);
        }
    }

    fn block(&mut self, index: usize) -> Block<'_> {
        Block {
            values: &mut self.values[index * self.kept..][..self.kept],
            marks: &mut self.marks[index],
        }
    }
}

/// The coefficients of a block.
struct Block<'a> {
    values: &'a mut [i16],
    marks: &'a mut u64,
}

impl Block<'_> {
    fn set(&mut self, place: usize, value: i32) {
        *self.marks |= 1 << place;
        if let Some(kept) = self.values.get_mut(place) {
            *kept = narrow(value);
        }
    }

    fn is_zero(&self, place: usize) -> bool {
        *self.marks >> place & 1 == 0
    }

    /// Adds a bit to a nonzero coefficient, away from zero.
    fn refine(&mut self, place: usize, bit: i32) {
        if let Some(kept) = self.values.get_mut(place)
            && i32::from(*kept) & bit == 0
        {
            let value = i32::from(*kept);
            *kept = narrow(if value < 0 { value - bit } else { value + bit });
        }
    }
}

/// Coefficients of eight-bit pictures have twelve bits; more is damage.
fn narrow(value: i32) -> i16 {
    i16::try_from(value).unwrap_or(if value < 0 { i16::MIN } else { i16::MAX })
}

/// Reads a scan into the coefficients; returns what follows its data.
pub(super) fn read<'a>(
    file: &File<'a>,
    scan: &Scan,
    all: &mut [Coefficients],
    stop: Stop<'_>,
) -> Result<&'a [u8], ImageError> {
    for one in &scan.channels {
        learn(&mut all[one.component], scan)?;
    }
    let mut pass = Pass {
        bits: Bits::new(file.rest),
        before: [0; 4],
        run: 0,
        band: scan.band,
        bit: 1 << scan.bits.1,
        is_first: scan.bits.0 == 0,
        shift: scan.bits.1,
        interval: file.tables.restart_interval,
        done: 0,
        stop,
    };
    if let [only] = scan.channels.as_slice() {
        let coefficients = &mut all[only.component];
        let table = match (scan.band.0, pass.is_first) {
            (0, false) => None,
            (0, true) => Some(file.tables.dc(only.dc).ok_or_else(no_table)?),
            _ => Some(file.tables.ac(only.ac).ok_or_else(no_table)?),
        };
        for row in 0..coefficients.used.1 {
            for column in 0..coefficients.used.0 {
                pass.begin_unit()?;
                let mut block = coefficients.block(row * coefficients.blocks.0 + column);
                if pass.read(&mut block, 0, table.as_ref()).is_none() {
                    given_up(&pass.bits)?;
                    return Ok(pass.bits.rest());
                }
            }
            if pass.end_row()? {
                break;
            }
        }
        return Ok(pass.bits.rest());
    }
    read_together(file, scan, all, &mut pass)?;
    Ok(pass.bits.rest())
}

/// Reads DC coefficients of several channels.
fn read_together(
    file: &File,
    scan: &Scan,
    all: &mut [Coefficients],
    pass: &mut Pass,
) -> Result<(), ImageError> {
    let mut tables = Vec::with_capacity(scan.channels.len());
    for one in &scan.channels {
        tables.push(if pass.is_first {
            Some(file.tables.dc(one.dc).ok_or_else(no_table)?)
        } else {
            None
        });
    }
    let units = file.frame.units();
    for row in 0..units.1 {
        for column in 0..units.0 {
            pass.begin_unit()?;
            for (at, (one, table)) in scan.channels.iter().zip(&tables).enumerate() {
                let (across, down) = file.frame.components[one.component].blocks;
                let coefficients = &mut all[one.component];
                let stride = coefficients.blocks.0;
                let corner = row * down * stride + column * across;
                let unit = (0..across * down).map(|at| corner + at / across * stride + at % across);
                if pass.read_unit(coefficients, unit, at, table.as_ref()).is_none() {
                    return given_up(&pass.bits);
                }
            }
        }
        if pass.end_row()? {
            break;
        }
    }
    Ok(())
}

/// Records the bits that a scan adds; fails if it does not continue the earlier scans.
fn learn(coefficients: &mut Coefficients, scan: &Scan) -> Result<(), ImageError> {
    let expected = if scan.bits.0 == 0 { UNKNOWN } else { scan.bits.0 };
    for known in &mut coefficients.known[scan.band.0..=scan.band.1] {
        if *known != expected {
            return Err(ImageError::damaged("its scans do not follow one another"));
        }
        *known = scan.bits.1;
    }
    Ok(())
}

/// A scan that is being read.
struct Pass<'a, 's> {
    bits: Bits<'a>,
    /// DC coefficients of the previous blocks, by channel of the scan.
    before: [i32; 4],
    /// Number of blocks from here on without any more new coefficients in this band.
    run: u32,
    band: (usize, usize),
    /// The bit that the scan adds, as a number and as a place.
    bit: i32,
    shift: u32,
    is_first: bool,
    /// Units between restarts, and units so far.
    interval: usize,
    done: usize,
    stop: Stop<'s>,
}

impl Pass<'_, '_> {
    fn begin_unit(&mut self) -> Result<(), ImageError> {
        let (done, interval) = (self.done, self.interval);
        if done > 0 && interval > 0 && done.is_multiple_of(interval) {
            self.bits.restart(done / interval - 1).ok_or_else(|| fault(&self.bits))?;
            (self.before, self.run) = ([0; 4], 0);
        }
        self.done += 1;
        Ok(())
    }

    /// Whether the picture ends here, before its last row.
    fn end_row(&self) -> Result<bool, ImageError> {
        if self.bits.is_overrun() {
            given_up(&self.bits)?;
            return Ok(true);
        }
        self.stop.check()?;
        Ok(false)
    }

    /// Reads the blocks of a channel whose indices are in `unit`.
    fn read_unit(
        &mut self,
        coefficients: &mut Coefficients,
        mut unit: impl Iterator<Item = usize>,
        channel: usize,
        table: Option<&Table>,
    ) -> Option<()> {
        unit.try_for_each(|index| self.read(&mut coefficients.block(index), channel, table))
    }

    fn read(&mut self, block: &mut Block, channel: usize, table: Option<&Table>) -> Option<()> {
        match (self.band.0, table) {
            (0, Some(table)) => {
                let before = &mut self.before[channel];
                *before = before.wrapping_add(self.bits.dc(table)?);
                block.set(0, before.wrapping_shl(self.shift));
                Some(())
            }
            (0, None) => {
                if self.bits.bit() {
                    block.values[0] |= narrow(self.bit);
                }
                Some(())
            }
            (_, table) if self.is_first => self.first(block, table?),
            (_, table) => self.refine(block, table?),
        }
    }

    /// Reads new coefficients of a band.
    fn first(&mut self, block: &mut Block, table: &Table) -> Option<()> {
        if self.run > 0 {
            self.run -= 1;
            return Some(());
        }
        let (mut place, last) = self.band;
        while place <= last {
            let symbol = self.bits.symbol(table)?;
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if size == 0 {
                if run < 15 {
                    self.run = (1 << run) - 1 + self.bits.unsigned(u32::from(symbol >> 4));
                    return Some(());
                }
                place += 16;
                continue;
            }
            place += run;
            let value = self.bits.number(size).wrapping_shl(self.shift);
            if place > last {
                return None;
            }
            block.set(place, value);
            place += 1;
        }
        Some(())
    }

    /// Reads one more bit of the coefficients of a band, and the coefficients that begin with it.
    fn refine(&mut self, block: &mut Block, table: &Table) -> Option<()> {
        let (mut place, last) = self.band;
        while self.run == 0 && place <= last {
            let symbol = self.bits.symbol(table)?;
            let (run, size) = (u32::from(symbol >> 4), symbol & 15);
            let new = match (run, size) {
                (0..15, 0) => {
                    self.run = (1 << run) + self.bits.unsigned(run);
                    break;
                }
                (15, 0) => None,
                (_, 1) => Some(if self.bits.bit() { self.bit } else { -self.bit }),
                _ => return None,
            };
            place = self.refine_to(block, place, run);
            if let Some(new) = new {
                if place > last {
                    return None;
                }
                block.set(place, new);
            }
            place += 1;
        }
        if self.run > 0 {
            self.run -= 1;
            self.refine_rest(block, place);
        }
        Some(())
    }

    /// Refines all nonzero coefficients from a place on; a block of zeros costs nothing.
    fn refine_rest(&mut self, block: &mut Block, from: usize) {
        for place in from..=self.band.1 {
            if *block.marks >> place == 0 {
                return;
            }
            if !block.is_zero(place) && self.bits.bit() {
                block.refine(place, self.bit);
            }
        }
    }

    /// Refines the nonzero coefficients up to the zero after `zeros` other zeros, and returns
    /// its place.
    fn refine_to(&mut self, block: &mut Block, from: usize, mut zeros: u32) -> usize {
        for place in from..=self.band.1 {
            if !block.is_zero(place) {
                if self.bits.bit() {
                    block.refine(place, self.bit);
                }
            } else if zeros == 0 {
                return place;
            } else {
                zeros -= 1;
            }
        }
        self.band.1 + 1
    }
}
