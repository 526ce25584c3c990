//! A scan whose blocks arrive whole and in sequence: baseline and extended sequential JPEG.
//!
//! A block becomes pixels as soon as it is read, so no coefficients are kept. Where one scan has
//! all channels, as in nearly every photo, no channel is kept either: rows of units become rows of
//! the picture.

#![allow(clippy::inline_always, reason = "the reader must stay in registers over a whole block")]

use super::channel::{Channel, Plane};
use super::header::{File, Scan};
use super::huffman::{Bits, Table};
use super::{Stop, markers, no_table};
use crate::preprocess::ImageError;

/// A scan that is read a row of units at a time.
pub(super) struct Reading<'a> {
    parts: Vec<Part>,
    units: (usize, usize),
    bits: Bits<'a>,
    /// Units between restarts, and units so far.
    interval: usize,
    done: usize,
    /// Whether the data ended before the picture.
    has_ended: bool,
}

impl<'a> Reading<'a> {
    /// Takes the channels of a scan.
    pub(super) fn begin(
        file: &File<'a>,
        scan: &Scan,
        channels: &mut [Option<Channel>],
    ) -> Result<Self, ImageError> {
        let (units, is_single) = match scan.channels.as_slice() {
            [only] => {
                let size = file.frame.size_of(&file.frame.components[only.component]);
                ((size.0.div_ceil(8), size.1.div_ceil(8)), true)
            }
            _ => (file.frame.units(), false),
        };
        let mut parts = Vec::with_capacity(scan.channels.len());
        for one in &scan.channels {
            let component = one.component;
            let channel = channels[component].take();
            let blocks = if is_single { (1, 1) } else { file.frame.components[component].blocks };
            let dc = file.tables.dc(one.dc).ok_or_else(no_table)?;
            let ac = file.tables.ac(one.ac).ok_or_else(no_table)?;
            let channel = channel.ok_or_else(|| ImageError::damaged("a channel comes twice"))?;
            let ac = if channel.last < 63 { ac.with_runs() } else { ac.with_values() };
            parts.push(Part { component, channel, blocks, dc, ac, before: 0 });
        }
        let (bits, interval) = (Bits::new(file.rest), file.tables.restart_interval);
        Ok(Self { parts, units, bits, interval, done: 0, has_ended: false })
    }

    /// Rows of units.
    pub(super) fn rows(&self) -> std::ops::Range<usize> {
        0..self.units.1
    }

    /// Reads a row of units; after the end of the data it is left as it is.
    pub(super) fn read_row(&mut self, row: usize, stop: Stop<'_>) -> Result<(), ImageError> {
        if self.has_ended {
            return Ok(());
        }
        for column in 0..self.units.0 {
            let (done, interval) = (self.done, self.interval);
            if done > 0 && interval > 0 && done.is_multiple_of(interval) {
                self.bits.restart(done / interval - 1).ok_or_else(|| fault(&self.bits))?;
                for part in &mut self.parts {
                    part.before = 0;
                }
            }
            self.done += 1;
            let mut parts = self.parts.iter_mut();
            let is_read = parts.all(|part| part.read_unit(&mut self.bits, column, row).is_some());
            if !is_read || self.bits.is_overrun() {
                self.has_ended = true;
                return given_up(&self.bits);
            }
        }
        stop.check()
    }

    /// The channels in the picture's order, for a scan that has all of them.
    pub(super) fn planes(&self) -> Vec<&Plane> {
        let mut parts: Vec<&Part> = self.parts.iter().collect();
        parts.sort_by_key(|part| part.component);
        parts.into_iter().map(|part| &part.channel.plane).collect()
    }

    /// Moves past the row of units that was read last.
    pub(super) fn advance(&mut self, row: usize) {
        for part in &mut self.parts {
            part.channel.advance(row);
        }
    }

    /// Gives the channels back and returns what follows the data of the scan.
    pub(super) fn end(self, channels: &mut [Option<Channel>]) -> &'a [u8] {
        for part in self.parts {
            channels[part.component] = Some(part.channel);
        }
        self.bits.rest()
    }
}

/// Handles a block that could not be read: data that stops before the picture does but is followed
/// by the end marker leaves the rest grey, as in libjpeg.
#[cold]
pub(super) fn given_up(bits: &Bits) -> Result<(), ImageError> {
    let mut rest = bits.rest();
    let is_end = markers::next(&mut rest) == Some(markers::END_OF_IMAGE);
    if bits.is_overrun() && is_end { Ok(()) } else { Err(fault(bits)) }
}

/// Why a block or a marker could not be read.
#[cold]
pub(super) fn fault(bits: &Bits) -> ImageError {
    if bits.is_overrun() {
        ImageError::ends_early()
    } else {
        ImageError::damaged("its data is damaged")
    }
}

/// A channel in a scan.
struct Part {
    /// Index of the channel in the picture.
    component: usize,
    channel: Channel,
    /// Blocks per unit, across and down.
    blocks: (usize, usize),
    dc: Table,
    ac: Table,
    /// DC coefficient of the previous block.
    before: i32,
}

impl Part {
    fn read_unit(&mut self, bits: &mut Bits, column: usize, row: usize) -> Option<()> {
        let mut reader = *bits;
        let read = self.read_blocks(&mut reader, column, row);
        *bits = reader;
        read
    }

    #[inline(always)]
    fn read_blocks(&mut self, bits: &mut Bits, column: usize, row: usize) -> Option<()> {
        let (across, down) = self.blocks;
        for y in 0..down {
            for x in 0..across {
                let corner = self.channel.corner(column * across + x, row * down + y);
                self.read_block(bits, corner)?;
            }
        }
        Some(())
    }

    #[inline(always)]
    fn read_block(&mut self, bits: &mut Bits, corner: usize) -> Option<()> {
        let channel = &mut self.channel;
        self.before = self.before.wrapping_add(bits.dc(&self.dc)?);
        let average = self.before as f32 * channel.steps[0].0;
        if channel.last == 0 {
            bits.ac(&self.ac, 0, |_, _| {})?;
            channel.put_pixel(average, corner);
            return Some(());
        }
        let mut coefficients = [0.0; 64];
        let (steps, mut highest) = (&channel.steps, 0);
        let keep = |place: usize, value: i32| {
            let (step, at) = steps[place];
            coefficients[usize::from(at)] = value as f32 * step;
            highest = place;
        };
        if channel.last == 63 {
            bits.all_ac(&self.ac, keep)?;
        } else {
            bits.ac(&self.ac, channel.last, keep)?;
        }
        coefficients[0] = average;
        channel.put(&coefficients, highest, corner);
        Some(())
    }
}
