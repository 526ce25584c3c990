//! What a JPEG file says about itself before and between its scans.
//!
//! Nothing is built from a table before a scan selects it: a file may define a table for every 18 of
//! its bytes.

use super::huffman::Table;
use super::{markers, standard};
use crate::preprocess::ImageError;

/// A file, read up to a scan.
#[derive(Debug)]
pub(super) struct File<'a> {
    pub(super) frame: Frame,
    pub(super) tables: Tables<'a>,
    pub(super) colour: Colour,
    /// The EXIF segment.
    pub(super) exif: Option<&'a [u8]>,
    /// The XMP packet.
    pub(super) xmp: Option<&'a [u8]>,
    /// Entropy-coded data and whatever follows it.
    pub(super) rest: &'a [u8],
    /// Whether the end marker has been seen.
    pub(super) has_ended: bool,
}

/// The frame header.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) is_progressive: bool,
    pub(super) components: Vec<Component>,
}

/// One channel, as the frame header describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Blocks per minimum coded unit, across and down.
    pub(super) blocks: (usize, usize),
    /// Number of its quantisation table.
    pub(super) table: usize,
}

/// What the channels represent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Gray,
    YCbCr,
    Rgb,
    Cmyk,
    Ycck,
}

/// The header of a scan.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) channels: Vec<Selected>,
    /// The first and the last coefficient, in zigzag order.
    pub(super) band: (usize, usize),
    /// The lowest bit known before the scan (zero for none) and the one that the scan adds.
    pub(super) bits: (u32, u32),
}

/// A channel in a scan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selected {
    /// Index of the component in the frame.
    pub(super) component: usize,
    /// Number of its Huffman table for DC coefficients.
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// Definitions that apply to the next scan.
#[derive(Debug, Default)]
pub(super) struct Tables<'a> {
    quantisation: [Option<[u16; 64]>; 4],
    dc: [Option<Code<'a>>; 4],
    ac: [Option<Code<'a>>; 4],
    /// Units between restarts; zero for none.
    pub(super) restart_interval: usize,
}

/// The definition of a Huffman code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code<'a> {
    pub(super) counts: &'a [u8; 16],
    pub(super) symbols: &'a [u8],
}

/// Information about the channels in application segments.
#[derive(Debug, Default)]
struct Hints {
    is_jfif: bool,
    adobe: Option<u8>,
}

/// Prefix of an application segment with an XMP packet.
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// Maximum number of segments before the frame header if only the size is read.
const MOST_BEFORE: usize = 1000;

/// Reads only the width and height; `None` if there is no frame header or it comes too late.
pub(in crate::preprocess) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut rest = bytes.strip_prefix(&[0xFF, 0xD8])?;
    for _ in 0..MOST_BEFORE {
        match markers::next(&mut rest)? {
            0x01 | 0xD0..=0xD8 => {}
            0xC4 | 0xC8 | 0xCC => drop(markers::payload(&mut rest)?),
            0xC0..=0xCF => {
                let &[_, h1, h0, w1, w0, ..] = markers::payload(&mut rest)? else { return None };
                return Some((
                    u16::from_be_bytes([w1, w0]).into(),
                    u16::from_be_bytes([h1, h0]).into(),
                ));
            }
            0xD9 | 0xDA => return None,
            _ => drop(markers::payload(&mut rest)?),
        }
    }
    None
}

const ARITHMETIC: ImageError =
    ImageError::NotDecoded("JPEG with arithmetic coding is not decoded here; save it as JPEG anew");
const LOSSLESS: ImageError =
    ImageError::NotDecoded("lossless or hierarchical JPEG is not decoded here; export as PNG");
const DEEP: ImageError =
    ImageError::NotDecoded("JPEG of more than 8 bits is not decoded here; save it with 8 bits");

impl<'a> File<'a> {
    /// Reads up to the first scan.
    pub(super) fn read(bytes: &'a [u8]) -> Result<(Self, Scan), ImageError> {
        let mut reader = Reader {
            rest: bytes,
            tables: Tables::default(),
            frame: None,
            hints: Hints::default(),
            exif: None,
            xmp: None,
        };
        let Some(content) = reader.next_header()? else { return Err(ImageError::ends_early()) };
        let frame = reader.frame.ok_or_else(|| damaged("a scan comes before the frame header"))?;
        let scan = Scan::read(content, &frame)?;
        if !frame.is_progressive {
            reader.tables.complete();
        }
        let file = File {
            colour: reader.hints.colour(&frame.components)?,
            frame,
            tables: reader.tables,
            exif: reader.exif,
            xmp: reader.xmp,
            rest: reader.rest,
            has_ended: false,
        };
        Ok((file, scan))
    }

    /// Continues to the next scan from `rest`; `None` at the end of the picture or of the file.
    pub(super) fn next_scan(&mut self, rest: &'a [u8]) -> Result<Option<Scan>, ImageError> {
        let mut reader = Reader {
            rest,
            tables: std::mem::take(&mut self.tables),
            frame: None,
            hints: Hints::default(),
            exif: self.exif,
            xmp: self.xmp,
        };
        let found = reader.next_header()?;
        if reader.frame.is_some() {
            return Err(damaged("it has two frame headers"));
        }
        self.has_ended = found.is_none() && reader.has_ended();
        self.rest = reader.rest;
        self.tables = reader.tables;
        found.map(|content| Scan::read(content, &self.frame)).transpose()
    }
}

fn damaged(what: &str) -> ImageError {
    ImageError::damaged(what)
}

/// The content of a segment, if there is one.
type Content<'a> = Option<&'a [u8]>;

/// Walks over segments.
struct Reader<'a> {
    rest: &'a [u8],
    tables: Tables<'a>,
    frame: Option<Frame>,
    hints: Hints,
    exif: Option<&'a [u8]>,
    xmp: Option<&'a [u8]>,
}

impl<'a> Reader<'a> {
    /// The content of the next scan header; `None` if the picture or the file ends first.
    fn next_header(&mut self) -> Result<Content<'a>, ImageError> {
        loop {
            let before = self.rest;
            let Some(marker) = markers::next(&mut self.rest) else { return Ok(None) };
            if matches!(marker, 0x01 | 0xD0..=0xD8) {
                continue;
            }
            if marker == markers::END_OF_IMAGE {
                self.rest = before;
                return Ok(None);
            }
            let content = markers::payload(&mut self.rest).ok_or_else(ImageError::ends_early)?;
            if marker == 0xDA {
                return Ok(Some(content));
            }
            self.segment(marker, content)?;
        }
    }

    fn has_ended(&self) -> bool {
        let mut rest = self.rest;
        markers::next(&mut rest) == Some(markers::END_OF_IMAGE)
    }

    fn segment(&mut self, marker: u8, content: &'a [u8]) -> Result<(), ImageError> {
        let bad = || damaged("a table in it is damaged");
        match marker {
            0xC0..=0xC2 if self.frame.is_some() => {
                return Err(damaged("it has two frame headers"));
            }
            0xC0..=0xC2 => self.frame = Some(Frame::read(content, marker == 0xC2)?),
            0xC4 => self.tables.read_huffman(content).ok_or_else(bad)?,
            0xC9..=0xCC => return Err(ARITHMETIC),
            0xC3 | 0xC5..=0xC8 | 0xCD..=0xCF => return Err(LOSSLESS),
            0xDB => self.tables.read_quantisation(content).ok_or_else(bad)?,
            0xDD => {
                let &[high, low] = content else { return Err(bad()) };
                self.tables.restart_interval = usize::from(u16::from_be_bytes([high, low]));
            }
            0xE0 if content.len() >= 14 => self.hints.is_jfif |= content.starts_with(b"JFIF\0"),
            0xE1 if content.starts_with(b"Exif\0\0") => self.exif = self.exif.or(Some(content)),
            // Of several packets the last one applies, as in Pillow.
            0xE1 if content.starts_with(XMP) => self.xmp = Some(content),
            0xEE if content.starts_with(b"Adobe") => {
                self.hints.adobe = content.get(11).copied().or(self.hints.adobe);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Hints {
    /// Decides as libjpeg does: JFIF means YCbCr, whatever an Adobe segment says.
    fn colour(&self, components: &[Component]) -> Result<Colour, ImageError> {
        match (components, self.adobe) {
            ([_], _) => Ok(Colour::Gray),
            ([_, _, _], _) if self.is_jfif => Ok(Colour::YCbCr),
            ([_, _, _], Some(0)) => Ok(Colour::Rgb),
            ([a, b, c], None) if [a.id, b.id, c.id] == *b"RGB" => Ok(Colour::Rgb),
            ([_, _, _], _) => Ok(Colour::YCbCr),
            ([_, _, _, _], None | Some(0)) => Ok(Colour::Cmyk),
            ([_, _, _, _], Some(_)) => Ok(Colour::Ycck),
            _ => Err(damaged("it has neither 1, 3 nor 4 channels")),
        }
    }
}

impl Frame {
    fn read(content: &[u8], is_progressive: bool) -> Result<Self, ImageError> {
        let bad = || damaged("its frame header is damaged");
        let (&[precision, h1, h0, w1, w0, count], rest) =
            content.split_first_chunk().ok_or_else(bad)?;
        if precision != 8 {
            return Err(DEEP);
        }
        let (triples, []) = rest.as_chunks::<3>() else { return Err(bad()) };
        if triples.len() != usize::from(count) {
            return Err(bad());
        }
        let mut components = Vec::with_capacity(triples.len());
        for &[id, sampling, table] in triples {
            let blocks = (usize::from(sampling >> 4), usize::from(sampling & 15));
            let is_usual = (1..=4).contains(&blocks.0) && (1..=4).contains(&blocks.1);
            if !is_usual || components.iter().any(|other: &Component| other.id == id) {
                return Err(bad());
            }
            components.push(Component { id, blocks, table: usize::from(table) });
        }
        if let [only] = components.as_mut_slice() {
            // A scan of one component has one block per unit, whatever the header says.
            only.blocks = (1, 1);
        }
        let frame = Self {
            width: usize::from(u16::from_be_bytes([w1, w0])),
            height: usize::from(u16::from_be_bytes([h1, h0])),
            is_progressive,
            components,
        };
        let most = frame.most();
        let is_whole = |one: &Component| {
            most.0.is_multiple_of(one.blocks.0) && most.1.is_multiple_of(one.blocks.1)
        };
        if !frame.components.iter().all(is_whole) {
            return Err(ImageError::NotDecoded(
                "JPEG whose channels differ by fractions is not decoded here; save it anew",
            ));
        }
        Ok(frame)
    }

    /// Blocks of the finest channel in a minimum coded unit, across and down.
    pub(super) fn most(&self) -> (usize, usize) {
        self.components.iter().fold((1, 1), |most, component| {
            (most.0.max(component.blocks.0), most.1.max(component.blocks.1))
        })
    }

    /// Minimum coded units of a scan of several channels, across and down.
    pub(super) fn units(&self) -> (usize, usize) {
        let most = self.most();
        (self.width.div_ceil(8 * most.0), self.height.div_ceil(8 * most.1))
    }

    /// Pixels of a channel, across and down.
    pub(super) fn size_of(&self, component: &Component) -> (usize, usize) {
        let most = self.most();
        let (across, down) = component.blocks;
        ((self.width * across).div_ceil(most.0), (self.height * down).div_ceil(most.1))
    }

    /// Number of blocks of all channels that belong to the picture.
    pub(super) fn blocks_used(&self) -> usize {
        let sizes = self.components.iter().map(|one| self.size_of(one));
        sizes.map(|(width, height)| width.div_ceil(8) * height.div_ceil(8)).sum()
    }

    /// Width and height.
    pub(super) fn stored(&self) -> (u32, u32) {
        let narrow = |side| u32::try_from(side).expect("sides have 16 bits");
        (narrow(self.width), narrow(self.height))
    }
}

/// Maximum number of blocks in a unit of several channels.
const LARGEST_UNIT: usize = 10;

impl Scan {
    fn read(content: &[u8], frame: &Frame) -> Result<Self, ImageError> {
        let bad = || damaged("a scan header is damaged");
        let (&count, rest) = content.split_first().ok_or_else(bad)?;
        let (pairs, &[first, last, bits]) =
            rest.split_at_checked(2 * usize::from(count)).ok_or_else(bad)?
        else {
            return Err(bad());
        };
        let mut channels: Vec<Selected> = Vec::new();
        for &[id, coding] in pairs.as_chunks::<2>().0 {
            let component = frame.components.iter().position(|one| one.id == id);
            let component = component.ok_or_else(bad)?;
            if channels.iter().any(|other| other.component == component) {
                return Err(bad());
            }
            let (dc, ac) = (usize::from(coding >> 4), usize::from(coding & 15));
            channels.push(Selected { component, dc, ac });
        }
        let unit = |one: &Selected| {
            let (across, down) = frame.components[one.component].blocks;
            across * down
        };
        let blocks: usize = channels.iter().map(unit).sum();
        if channels.is_empty() || channels.len() > 1 && blocks > LARGEST_UNIT {
            return Err(bad());
        }
        let scan = Self {
            channels,
            band: (usize::from(first), usize::from(last)),
            bits: (u32::from(bits >> 4), u32::from(bits & 15)),
        };
        if frame.is_progressive && !scan.is_progression() {
            return Err(bad());
        }
        Ok(scan)
    }

    fn is_progression(&self) -> bool {
        let band_is_right = match self.band {
            (0, last) => last == 0,
            (first, last) => first <= last && last < 64 && self.channels.len() == 1,
        };
        let (before, now) = self.bits;
        band_is_right && now <= 13 && (before == 0 || before == now + 1)
    }
}

impl<'a> Tables<'a> {
    /// The steps of a quantisation table, in zigzag order.
    pub(super) fn steps(&self, slot: usize) -> Option<[f32; 64]> {
        let table = self.quantisation.get(slot).copied()??;
        Some(table.map(f32::from))
    }

    /// Builds the table for DC coefficients.
    pub(super) fn dc(&self, slot: usize) -> Option<Table> {
        let code = self.dc.get(slot).copied()??;
        Table::new(code.counts, code.symbols)
    }

    /// Builds the table for AC coefficients.
    pub(super) fn ac(&self, slot: usize) -> Option<Table> {
        let code = self.ac.get(slot).copied()??;
        Table::new(code.counts, code.symbols)
    }

    /// Fills in the codes of the standard where the file defines none, as libjpeg does.
    fn complete(&mut self) {
        for (slot, standard) in self.dc.iter_mut().zip(standard::DC) {
            slot.get_or_insert(standard);
        }
        for (slot, standard) in self.ac.iter_mut().zip(standard::AC) {
            slot.get_or_insert(standard);
        }
    }

    fn read_quantisation(&mut self, mut content: &[u8]) -> Option<()> {
        while let Some((&kind, rest)) = content.split_first() {
            let slot = self.quantisation.get_mut(usize::from(kind & 15))?;
            let is_wide = kind >> 4 != 0;
            let values = rest.get(..if is_wide { 128 } else { 64 })?;
            *slot = Some(std::array::from_fn(|at| {
                if is_wide {
                    u16::from_be_bytes([values[2 * at], values[2 * at + 1]])
                } else {
                    u16::from(values[at])
                }
            }));
            content = &rest[values.len()..];
        }
        Some(())
    }

    fn read_huffman(&mut self, mut content: &'a [u8]) -> Option<()> {
        while let Some((&kind, rest)) = content.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let total: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let symbols = rest.get(..total)?;
            let class = if kind >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *class.get_mut(usize::from(kind & 15))? = Some(Code { counts, symbols });
            content = &rest[total..];
        }
        Some(())
    }
}
