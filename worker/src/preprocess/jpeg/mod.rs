//! JPEG, in safe code, at its size or a fraction of it.
//!
//! Twelve megapixels take longer to decode than to classify, and resizing throws nearly all of them
//! away, so photos are decoded at a half, a quarter or an eighth of their size, without a full-size
//! copy. Progressive files, scans of single channels, any layout of chroma, RGB and CMYK are
//! decoded as well.
//!
//! There is one decoder and one rule for files of every size and coding, that of libjpeg: the end
//! marker may be missing if the picture is complete, and data that stops before the end marker
//! leaves the rest grey. Neither is a cut-off upload, which is refused, as is damaged data.

mod channel;
mod colour;
mod header;
mod huffman;
mod inverse;
mod markers;
mod progressive;
mod sequential;

pub(super) use header::size;

use super::picture::Picture;
use super::{ImageError, IsOver, Limits, formats};
use channel::{Channel, Layout, Plane};
use header::{File, Scan};
use image::metadata::Orientation;
use progressive::Coefficients;

/// Most scans of a progressive file. Encoders write about ten.
const MOST_SCANS: usize = 100;

/// Decodes the picture reduced by what `shrink` returns for its size and orientation: 1, 2, 4 or 8.
pub(super) fn decode(
    bytes: &[u8],
    limits: &Limits,
    is_over: IsOver<'_>,
    shrink: impl Fn((u32, u32), Orientation) -> u32,
) -> Result<Picture, ImageError> {
    let (file, scan) = File::read(bytes)?;
    let stored = file.frame.stored();
    limits.check_size(stored)?;
    let orientation = file.exif.and_then(formats::orientation);
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    check_length(&file)?;
    let shrink = shrink(stored, orientation);
    let size = (stored.0.div_ceil(shrink), stored.1.div_ceil(shrink));
    let colour = file.colour;
    let planes = planes(file, scan, shrink as usize, limits, Stop(is_over))?;
    let pixels = colour::pixels(&planes, colour, size)
        .ok_or_else(|| ImageError::damaged("its channels do not fit together"))?;
    Ok(Picture { pixels, orientation, stored, shrink })
}

/// When to give up decoding.
#[derive(Clone, Copy)]
struct Stop<'a>(IsOver<'a>);

impl Stop<'_> {
    /// Fails if decoding is over; called once per row of blocks.
    fn check(self) -> Result<(), ImageError> {
        if (self.0)() { Err(ImageError::Stopped) } else { Ok(()) }
    }
}

fn no_table() -> ImageError {
    ImageError::damaged("a table is missing")
}

/// The channels of a picture reduced by `shrink`.
fn planes(
    file: File,
    scan: Scan,
    shrink: usize,
    limits: &Limits,
    stop: Stop<'_>,
) -> Result<Vec<Plane>, ImageError> {
    let frame = &file.frame;
    let layouts: Vec<Layout> =
        frame.components.iter().map(|one| Layout::new(frame, one, shrink)).collect();
    check_price(&file, &layouts, shrink, limits)?;
    let channels = if frame.is_progressive {
        progressive(file, scan, &layouts, stop)?
    } else {
        sequential(file, scan, &layouts, stop)?
    };
    Ok(channels.into_iter().map(|channel| channel.plane).collect())
}

/// Refuses a file that cannot be complete, before memory is taken.
fn check_length(file: &File) -> Result<(), ImageError> {
    // A block takes a bit for its first coefficient, and in a scan of whole blocks one for its end.
    let bits = if file.frame.is_progressive { 1 } else { 2 };
    if file.rest.len() < file.frame.blocks_used() * bits / 8 {
        return Err(ImageError::ends_early());
    }
    Ok(())
}

/// Refuses a picture that takes too much memory.
fn check_price(
    file: &File,
    layouts: &[Layout],
    shrink: usize,
    limits: &Limits,
) -> Result<(), ImageError> {
    let frame = &file.frame;
    let colours = if layouts.len() == 1 { 1 } else { 3 };
    let pixels = frame.width.div_ceil(shrink) * frame.height.div_ceil(shrink) * colours;
    let planes: usize = layouts.iter().map(Layout::bytes).sum();
    let kept: usize = layouts.iter().map(Coefficients::bytes).sum();
    let kept = if frame.is_progressive { kept } else { 0 };
    limits.check_bytes((planes + pixels.max(kept)) as u64)
}

fn sequential(
    mut file: File,
    scan: Scan,
    layouts: &[Layout],
    stop: Stop<'_>,
) -> Result<Vec<Channel>, ImageError> {
    let mut channels: Vec<Option<Channel>> = layouts.iter().map(|_| None).collect();
    let mut is_read = vec![false; layouts.len()];
    let mut next = Some(scan);
    while let Some(scan) = next {
        for one in &scan.channels {
            if std::mem::replace(&mut is_read[one.component], true) {
                return Err(ImageError::damaged("a channel comes twice"));
            }
            let table = file.frame.components[one.component].table;
            let steps = file.tables.steps(table).ok_or_else(no_table)?;
            channels[one.component] = Some(Channel::new(&layouts[one.component], &steps));
        }
        let rest = sequential::read(&file, &scan, &mut channels, stop)?;
        // Whatever follows the last channel is not part of the picture.
        next = if is_read.contains(&false) { file.next_scan(rest)? } else { None };
    }
    let all: Option<Vec<Channel>> = channels.into_iter().collect();
    all.ok_or_else(ImageError::ends_early)
}

fn progressive(
    mut file: File,
    scan: Scan,
    layouts: &[Layout],
    stop: Stop<'_>,
) -> Result<Vec<Channel>, ImageError> {
    let sizes = file.frame.components.iter().map(|one| file.frame.size_of(one));
    let mut all: Vec<Coefficients> =
        layouts.iter().zip(sizes).map(|(layout, size)| Coefficients::new(layout, size)).collect();
    let mut steps: Vec<Option<[f32; 64]>> = vec![None; layouts.len()];
    let (mut next, mut scans) = (Some(scan), 0);
    while let Some(scan) = next {
        scans += 1;
        if scans > MOST_SCANS {
            return Err(ImageError::damaged("it has too many scans"));
        }
        for one in &scan.channels {
            let table = file.frame.components[one.component].table;
            let steps = &mut steps[one.component];
            *steps = Some((*steps).or(file.tables.steps(table)).ok_or_else(no_table)?);
        }
        let rest = progressive::read(&file, &scan, &mut all, stop)?;
        next = file.next_scan(rest)?;
    }
    // Without an end marker every block must have arrived.
    if !file.has_ended && !all.iter().all(Coefficients::is_complete) {
        return Err(ImageError::ends_early());
    }
    let mut channels = Vec::with_capacity(all.len());
    for ((coefficients, layout), steps) in all.into_iter().zip(layouts).zip(steps) {
        let steps = steps.filter(|_| !coefficients.is_unknown());
        let steps = steps.ok_or_else(|| ImageError::damaged("a channel is missing"))?;
        let mut channel = Channel::new(layout, &steps);
        coefficients.put(&mut channel);
        stop.check()?;
        channels.push(channel);
    }
    Ok(channels)
}
