//! A scan whose blocks come whole, one after the other: baseline and extended sequential JPEG.
//!
//! A block becomes pixels as soon as it is read, so that no coefficients are kept.

#![allow(clippy::inline_always, reason = "the reader must stay in registers over a whole block")]

use super::channel::Channel;
use super::header::{File, Scan};
use super::huffman::{Bits, Table};
use super::{Stop, markers, no_table};
use crate::preprocess::ImageError;

/// Reads a scan into its channels; returns what follows its data.
pub(super) fn read<'a>(
    file: &File<'a>,
    scan: &Scan,
    channels: &mut [Option<Channel>],
    stop: Stop<'_>,
) -> Result<&'a [u8], ImageError> {
    let (units, is_single) = match scan.channels.as_slice() {
        [only] => {
            let size = file.frame.size_of(&file.frame.components[only.component]);
            ((size.0.div_ceil(8), size.1.div_ceil(8)), true)
        }
        _ => (file.frame.units(), false),
    };
    let mut readings = Vec::with_capacity(scan.channels.len());
    for one in &scan.channels {
        let channel = channels[one.component].take();
        let blocks = if is_single { (1, 1) } else { file.frame.components[one.component].blocks };
        let dc = file.tables.dc(one.dc).ok_or_else(no_table)?;
        let ac = file.tables.ac(one.ac).ok_or_else(no_table)?;
        let channel = channel.ok_or_else(|| ImageError::damaged("a channel comes twice"))?;
        let ac = if channel.last < 63 { ac.with_runs() } else { ac.with_values() };
        readings.push(Reading { channel, blocks, dc, ac, before: 0 });
    }
    let mut bits = Bits::new(file.rest);
    let interval = file.tables.restart_interval;
    let mut done = 0;
    'rows: for row in 0..units.1 {
        for column in 0..units.0 {
            if done > 0 && interval > 0 && done % interval == 0 {
                bits.restart(done / interval - 1).ok_or_else(|| fault(&bits))?;
                for reading in &mut readings {
                    reading.before = 0;
                }
            }
            done += 1;
            for reading in &mut readings {
                if reading.read_unit(&mut bits, column, row).is_none() {
                    given_up(&bits)?;
                    break 'rows;
                }
            }
            if bits.is_overrun() {
                given_up(&bits)?;
                break 'rows;
            }
        }
        stop.check()?;
    }
    for (one, reading) in scan.channels.iter().zip(readings) {
        channels[one.component] = Some(reading.channel);
    }
    Ok(bits.rest())
}

/// What to do where a block could not be read: data that stops before the picture does and is
/// followed by the marker of the end leaves the rest grey, as with libjpeg.
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
struct Reading {
    channel: Channel,
    /// Blocks per unit, across and down.
    blocks: (usize, usize),
    dc: Table,
    ac: Table,
    /// DC coefficient of the block before.
    before: i32,
}

impl Reading {
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
