//! The first directory of a TIFF file, as far as the cost of decoding depends on it.

use image::metadata::Orientation;

use super::exif::Order;
use super::{Survey, xmp};
use crate::preprocess::{ImageError, jpeg};

const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;
const DEPTHS: u16 = 258;
const COMPRESSION: u16 = 259;
const BIT_ORDER: u16 = 266;
const STRIPS: u16 = 273;
const ORIENTATION: u16 = 274;
const SAMPLES: u16 = 277;
const STRIP_ROWS: u16 = 278;
const PLANES: u16 = 284;
const TILE_WIDTH: u16 = 322;
const TILE_HEIGHT: u16 = 323;
const TILES: u16 = 324;
const EXTRA_SAMPLES: u16 = 338;
const XMP: u16 = 700;

const UNCOMPRESSED: u64 = 1;
const JPEG: u64 = 7;
const IN_PLANES: u64 = 2;
const LOWEST_BIT_FIRST: u64 = 2;
const PREMULTIPLIED: u64 = 1;

/// Maximum number of strips or tiles in a file; the library starts afresh for each of them.
const MOST_PARTS: u64 = 65_536;

/// The library decodes into memory of its own, which is then copied.
pub(super) fn survey(bytes: &[u8]) -> Result<Survey, ImageError> {
    let Some(directory) = Directory::read(bytes) else { return Ok(Survey::default()) };
    // The library reserves memory for as many values as an entry announces.
    if directory.counts().any(|count| count > bytes.len() as u64) {
        return Err(ImageError::damaged(
            "an entry of its directory has more values than the file has bytes",
        ));
    }
    let number = |tag| directory.number(tag, 0);
    let depth = number(DEPTHS).unwrap_or(1).saturating_mul(number(SAMPLES).unwrap_or(1));
    let size =
        |width: u64, height: u64| width.saturating_mul(height).saturating_mul(depth).div_ceil(8);
    let (width, height) = (number(WIDTH).unwrap_or(0), number(HEIGHT).unwrap_or(0));
    let compression = number(COMPRESSION).unwrap_or(UNCOMPRESSED);
    let stored = size(width, height);
    if compression == UNCOMPRESSED && stored > bytes.len() as u64 {
        return Err(ImageError::ends_early());
    }
    if number(BIT_ORDER) == Some(LOWEST_BIT_FIRST) {
        return Err(ImageError::NotDecoded(
            "TIFF with its bits in reverse order is not decoded here; export as PNG",
        ));
    }
    let tile = number(TILE_WIDTH).zip(number(TILE_HEIGHT));
    if tile.is_some() && number(PLANES) == Some(IN_PLANES) {
        // The library mistakes the tiles of one plane for the whole plane, and panics or mixes them
        // up.
        return Err(ImageError::Malformed(
            "a TIFF of tiles with a plane for each colour; export it as PNG".to_owned(),
        ));
    }
    let strip = (width, number(STRIP_ROWS).unwrap_or(height).min(height));
    let part = tile.unwrap_or(strip);
    if let Some(parts) = directory.values(TILES).or_else(|| directory.values(STRIPS)) {
        if parts.count > MOST_PARTS {
            return Err(ImageError::damaged("it has too many strips or tiles"));
        }
        if compression == JPEG {
            directory.check_jpegs(&parts, part)?;
        }
    }
    Ok(Survey {
        orientation: directory.orientation(),
        working: stored.saturating_add(size(part.0, part.1)),
        is_premultiplied: number(EXTRA_SAMPLES) == Some(PREMULTIPLIED),
    })
}

/// The entries of a directory: 12 bytes each, or 20 in a big TIFF.
struct Directory<'a> {
    bytes: &'a [u8],
    order: Order,
    is_big: bool,
    entries: &'a [u8],
}

/// Number of values of an entry, and its field.
type Counted<'a> = (u64, &'a [u8]);

/// The values of an entry.
struct Values<'a> {
    kind: u16,
    count: u64,
    /// Starts at the first value.
    bytes: &'a [u8],
}

impl<'a> Directory<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let order = Order::of(bytes)?;
        let is_big = order.short(bytes.get(2..)?)? == 43;
        let (at, prefix) = if is_big {
            (order.long8(bytes.get(8..)?)?, 8)
        } else {
            (u64::from(order.long(bytes.get(4..)?)?), 2)
        };
        let start = bytes.get(usize::try_from(at).ok()?..)?;
        let count = if is_big { order.long8(start)? } else { u64::from(order.short(start)?) };
        let size = usize::try_from(count).ok()?.checked_mul(if is_big { 20 } else { 12 })?;
        let entries = start.get(prefix..)?;
        Some(Self { bytes, order, is_big, entries: &entries[..size.min(entries.len())] })
    }

    fn each(&self) -> impl Iterator<Item = &'a [u8]> {
        self.entries.chunks_exact(if self.is_big { 20 } else { 12 })
    }

    /// Number of values of an entry, and the field that contains them or their offset.
    fn count(&self, entry: &'a [u8]) -> Option<Counted<'a>> {
        Some(if self.is_big {
            (self.order.long8(&entry[4..])?, &entry[12..])
        } else {
            (u64::from(self.order.long(&entry[4..])?), &entry[8..])
        })
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.each().filter_map(|entry| Some(self.count(entry)?.0))
    }

    fn values(&self, tag: u16) -> Option<Values<'a>> {
        let entry = self.each().find(|entry| self.order.short(entry) == Some(tag))?;
        let kind = self.order.short(&entry[2..])?;
        let (count, field) = self.count(entry)?;
        if count.checked_mul(width_of(kind)?)? <= field.len() as u64 {
            return Some(Values { kind, count, bytes: field });
        }
        let at =
            if self.is_big { self.order.long8(field)? } else { self.order.long(field)?.into() };
        let bytes = self.bytes.get(usize::try_from(at).ok()?..)?;
        Some(Values { kind, count, bytes })
    }

    /// From its own entry, or else from XMP.
    fn orientation(&self) -> Option<Orientation> {
        if let Some(number) = self.number(ORIENTATION, 0) {
            return u8::try_from(number).ok().and_then(Orientation::from_exif);
        }
        let packet = self.values(XMP).filter(|values| width_of(values.kind) == Some(1))?;
        let length = usize::try_from(packet.count).unwrap_or(usize::MAX);
        xmp::orientation(packet.bytes.get(..length).unwrap_or(packet.bytes))
    }

    /// One of the numbers of an entry.
    fn number(&self, tag: u16, index: usize) -> Option<u64> {
        self.values(tag)?.number(self.order, index)
    }

    /// Refuses a JPEG that is larger than its strip or tile and would take memory beyond it.
    fn check_jpegs(&self, parts: &Values<'_>, size: (u64, u64)) -> Result<(), ImageError> {
        for at in (0..).map_while(|index| parts.number(self.order, index)) {
            let file = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..));
            let found = file.and_then(jpeg::size);
            let found = found.ok_or_else(|| ImageError::damaged("a JPEG in it has no header"))?;
            if u64::from(found.0) > size.0 || u64::from(found.1) > size.1 {
                return Err(ImageError::damaged("a JPEG in it is larger than its place"));
            }
        }
        Ok(())
    }
}

impl Values<'_> {
    fn number(&self, order: Order, index: usize) -> Option<u64> {
        let width = usize::try_from(width_of(self.kind)?).ok()?;
        let is_one = (index as u64) < self.count;
        let value = self.bytes.get(index.checked_mul(width)?..).filter(|_| is_one)?;
        match width {
            1 => value.first().map(|&byte| u64::from(byte)),
            2 => order.short(value).map(u64::from),
            4 => order.long(value).map(u64::from),
            _ => order.long8(value),
        }
    }
}

/// Size in bytes of an integer of this kind.
fn width_of(kind: u16) -> Option<u64> {
    match kind {
        1 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 13 => Some(4),
        16..=18 => Some(8),
        _ => None,
    }
}
