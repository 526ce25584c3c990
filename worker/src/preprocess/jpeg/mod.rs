//! Decodes JPEG in safe code, at full size or a fraction of it.
//!
//! Twelve megapixels take longer to decode than to classify, and resizing throws nearly all of them
//! away, so photos are decoded at a half, a quarter or an eighth of their size, without a full-size
//! copy. Progressive files, scans of single channels, any layout of chroma, RGB and CMYK are
//! decoded as well.
//!
//! There is one decoder for files of every size and coding, and one rule, that of libjpeg: the end
//! marker may be missing if the picture is complete, and data that stops before the end marker
//! leaves the rest grey. A cut-off upload is neither of these and is refused, as is damaged data.

mod channel;
mod colour;
mod header;
mod huffman;
mod inverse;
mod markers;
mod progressive;
mod sequential;
mod standard;

use channel::{Channel, Layout, Plane};
use colour::Canvas;
pub(super) use header::size;
use header::{Colour, File, Scan};
use image::metadata::Orientation;
use progressive::Coefficients;
use sequential::Reading;

use super::decode::{Shrinks, Stop};
use super::picture::{Picture, Pixels};
use super::{ImageError, IsOver, Limits, formats};

/// Maximum number of scans in a progressive file. Encoders write about ten.
const MOST_SCANS: usize = 100;

/// Decodes at the first reduction that there is enough memory for, of those that `shrinks` allows
/// for the size and orientation of the picture.
pub(super) fn decode(
    bytes: &[u8],
    limits: &Limits,
    is_over: IsOver<'_>,
    shrinks: impl Fn((u32, u32), Orientation) -> Shrinks,
) -> Result<Picture, ImageError> {
    let (file, scan) = File::read(bytes)?;
    let stored = file.frame.stored();
    limits.check_size(stored)?;
    let orientation = file.exif.and_then(formats::orientation);
    let orientation = orientation.or_else(|| file.xmp.and_then(formats::orientation_of_xmp));
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    check_length(&file)?;
    let shrinks = shrinks(stored, orientation);
    let plan = shrinks.first_within(|shrink| {
        let plan = Plan::new(&file, &scan, shrink);
        limits.check_bytes(plan.price() as u64).map(|()| plan)
    })?;
    let (shrink, stop) = (plan.shrink, Stop(is_over));
    let pixels = match plan.way {
        Way::Coefficients => progressive(file, scan, &plan, stop)?,
        Way::Planes => in_planes(file, scan, &plan, stop)?,
        Way::Bands => in_bands(&file, &scan, &plan, stop)?,
    };
    Ok(Picture { pixels, orientation, stored, shrink })
}

/// How a picture is decoded.
struct Plan {
    shrink: u32,
    /// One per channel.
    layouts: Vec<Layout>,
    way: Way,
    colour: Colour,
    /// Size of the reduced picture.
    size: (u32, u32),
}

/// What is kept in memory until the pixels are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The coefficients of all channels: later scans refine them.
    Coefficients,
    /// The pixels of all channels, which come in sequence.
    Planes,
    /// A row of units, because the channels are interleaved.
    Bands,
}

impl Plan {
    fn new(file: &File, scan: &Scan, shrink: u32) -> Self {
        let frame = &file.frame;
        let layout = |one| Layout::new(frame, one, shrink as usize);
        let layouts: Vec<Layout> = frame.components.iter().map(layout).collect();
        let way = if frame.is_progressive {
            Way::Coefficients
        } else if scan.channels.len() < layouts.len() {
            Way::Planes
        } else {
            Way::Bands
        };
        let (width, height) = frame.stored();
        let size = (width.div_ceil(shrink), height.div_ceil(shrink));
        Self { shrink, layouts, way, colour: file.colour, size }
    }

    /// Peak memory.
    fn price(&self) -> usize {
        let sum = |bytes: fn(&Layout) -> usize| self.layouts.iter().map(bytes).sum::<usize>();
        let colours = if self.layouts.len() == 1 { 1 } else { 3 };
        let pixels = self.size.0 as usize * self.size.1 as usize * colours;
        match self.way {
            Way::Coefficients => sum(Layout::bytes) + pixels.max(sum(Coefficients::bytes)),
            Way::Planes => sum(Layout::bytes) + pixels,
            Way::Bands => sum(Layout::band_bytes) + pixels,
        }
    }

    fn canvas(&self) -> Canvas {
        Canvas::new(self.colour, self.size)
    }

    /// The picture made of complete channels.
    fn pixels(&self, planes: &[Plane]) -> Result<Pixels, ImageError> {
        let mut canvas = self.canvas();
        let planes: Vec<&Plane> = planes.iter().collect();
        canvas.paint(&planes, usize::MAX).ok_or_else(no_picture)?;
        canvas.finish().ok_or_else(no_picture)
    }
}

fn no_picture() -> ImageError {
    ImageError::damaged("its channels do not fit together")
}

fn no_table() -> ImageError {
    ImageError::damaged("a table is missing")
}

/// Refuses a file that cannot be complete, before memory is allocated.
fn check_length(file: &File) -> Result<(), ImageError> {
    // A block takes a bit for its first coefficient and, in a scan of whole blocks, one for
    // its end.
    let bits = if file.frame.is_progressive { 1 } else { 2 };
    if file.rest.len() < file.frame.blocks_used() * bits / 8 {
        return Err(ImageError::ends_early());
    }
    Ok(())
}

/// The steps of a channel's quantisation table.
fn steps(file: &File, component: usize) -> Result<[f32; 64], ImageError> {
    file.tables.steps(file.frame.components[component].table).ok_or_else(no_table)
}

/// Decodes interleaved channels, a row of units at a time.
fn in_bands(file: &File, scan: &Scan, plan: &Plan, stop: Stop<'_>) -> Result<Pixels, ImageError> {
    let mut channels = Vec::with_capacity(plan.layouts.len());
    for (component, layout) in plan.layouts.iter().enumerate() {
        channels.push(Some(Channel::band(layout, &steps(file, component)?)));
    }
    let mut canvas = plan.canvas();
    let mut reading = Reading::begin(file, scan, &mut channels)?;
    let height = 8 * file.frame.most().1 / plan.shrink as usize;
    let rows = reading.rows();
    for row in rows.clone() {
        reading.read_row(row, stop)?;
        // Channels that are enlarged mix their last line with the first of the next band.
        let end = if row + 1 == rows.end { usize::MAX } else { (row + 1) * height - 1 };
        canvas.paint(&reading.planes(), end).ok_or_else(no_picture)?;
        reading.advance(row);
    }
    canvas.finish().ok_or_else(no_picture)
}

/// Decodes channels that are spread over several scans.
fn in_planes(
    mut file: File,
    scan: Scan,
    plan: &Plan,
    stop: Stop<'_>,
) -> Result<Pixels, ImageError> {
    let mut channels: Vec<Option<Channel>> = plan.layouts.iter().map(|_| None).collect();
    let mut is_read = vec![false; plan.layouts.len()];
    let mut next = Some(scan);
    while let Some(scan) = next {
        for one in &scan.channels {
            if std::mem::replace(&mut is_read[one.component], true) {
                return Err(ImageError::damaged("a channel comes twice"));
            }
            let steps = steps(&file, one.component)?;
            channels[one.component] = Some(Channel::new(&plan.layouts[one.component], &steps));
        }
        let mut reading = Reading::begin(&file, &scan, &mut channels)?;
        for row in reading.rows() {
            reading.read_row(row, stop)?;
        }
        let rest = reading.end(&mut channels);
        // Whatever follows the last channel is not part of the picture.
        next = if is_read.contains(&false) { file.next_scan(rest)? } else { None };
    }
    let all: Option<Vec<Plane>> =
        channels.into_iter().map(|channel| channel.map(|channel| channel.plane)).collect();
    plan.pixels(&all.ok_or_else(ImageError::ends_early)?)
}

/// Decodes channels that arrive bit by bit.
fn progressive(
    mut file: File,
    scan: Scan,
    plan: &Plan,
    stop: Stop<'_>,
) -> Result<Pixels, ImageError> {
    let layouts = &plan.layouts;
    let sizes = file.frame.components.iter().map(|one| file.frame.size_of(one));
    let mut all: Vec<Coefficients> =
        layouts.iter().zip(sizes).map(|(layout, size)| Coefficients::new(layout, size)).collect();
    let mut known: Vec<Option<[f32; 64]>> = vec![None; layouts.len()];
    let (mut next, mut scans) = (Some(scan), 0);
    while let Some(scan) = next {
        scans += 1;
        if scans > MOST_SCANS {
            return Err(ImageError::damaged("it has too many scans"));
        }
        for one in &scan.channels {
            let known = &mut known[one.component];
            *known = Some(known.map_or_else(|| steps(&file, one.component), Ok)?);
        }
        let rest = progressive::read(&file, &scan, &mut all, stop)?;
        next = file.next_scan(rest)?;
    }
    // Without an end marker every block must have arrived.
    if !file.has_ended && !all.iter().all(Coefficients::is_complete) {
        return Err(ImageError::ends_early());
    }
    let mut planes = Vec::with_capacity(all.len());
    for ((coefficients, layout), steps) in all.into_iter().zip(layouts).zip(known) {
        let steps = steps.filter(|_| !coefficients.is_unknown());
        let steps = steps.ok_or_else(|| ImageError::damaged("a channel is missing"))?;
        let mut channel = Channel::new(layout, &steps);
        coefficients.put(&mut channel);
        stop.check()?;
        planes.push(channel.plane);
    }
    plan.pixels(&planes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 14] = [
        "410.jpg",
        "411.jpg",
        "420.jpg",
        "422.jpg",
        "440.jpg",
        "444.jpg",
        "cmyk.jpg",
        "coarse_luma.jpg",
        "grey.jpg",
        "mixed.jpg",
        "restarts.jpg",
        "rgb.jpg",
        "420_scans.jpg",
        "progressive.jpg",
    ];

    fn fixture(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/jpeg/");
        std::fs::read(format!("{folder}{name}")).unwrap()
    }

    /// The same header for a picture of another size.
    fn resized(bytes: &[u8], (width, height): (u16, u16)) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let frame = bytes.windows(2).position(|two| matches!(two, [0xFF, 0xC0 | 0xC2])).unwrap();
        bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
        bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
        bytes
    }

    fn bytes_of(pixels: Pixels) -> Vec<u8> {
        match pixels {
            Pixels::Gray(image) => image.into_raw(),
            Pixels::Rgb(image) => image.into_raw(),
        }
    }

    #[test]
    fn bands_have_the_pixels_of_whole_channels_at_every_scale_and_where_data_ends_early() {
        let stop = Stop(&|| false);
        for name in &NAMES[..12] {
            let whole = fixture(name);
            let cut = [&whole[..whole.len() * 3 / 4], b"\xFF\xD9"].concat();
            for (bytes, shrink) in
                [&whole, &cut].into_iter().flat_map(|bytes| [1, 2, 4, 8].map(|by| (bytes, by)))
            {
                let (file, scan) = File::read(bytes).unwrap();
                let mut plan = Plan::new(&file, &scan, shrink);
                assert!(plan.way == Way::Bands, "{name}");
                let banded = in_bands(&file, &scan, &plan, stop).map(bytes_of);
                plan.way = Way::Planes;
                let planed = in_planes(file, scan, &plan, stop).map(bytes_of);
                assert_eq!(banded.is_ok(), planed.is_ok(), "{name} by {shrink}");
                assert!(banded.ok() == planed.ok(), "{name} by {shrink}");
            }
        }
    }

    #[test]
    fn there_is_memory_for_twelve_megapixels_in_any_layout_and_order() {
        // What the default leaves for a request with a body of eight megabytes.
        let limits = Limits { max_bytes: 56 << 20, ..Limits::default() };
        for size in [(4000, 3000), (6000, 2000), (3000, 4000)] {
            for name in NAMES {
                let bytes = resized(&fixture(name), size);
                let (file, scan) = File::read(&bytes).unwrap();
                let price = |shrink| Plan::new(&file, &scan, shrink).price() as u64;
                let is_banded = Plan::new(&file, &scan, 1).way == Way::Bands;
                let whole = price(1) <= limits.max_bytes;
                assert!(whole || !is_banded, "{name}: {} whole", price(1));
                assert!(price(2) <= limits.max_bytes, "{name}: {} at half its size", price(2));
            }
        }
    }
}
