//! What a baseline JPEG says about itself before its pixels.

use super::huffman::Table;
use super::markers;

/// Everything that decoding the only scan needs.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: Vec<Component>,
    /// Blocks of the scan between restarts, in minimum coded units; zero for none.
    pub(super) restart_interval: usize,
    /// The TIFF structure inside the EXIF segment.
    pub(super) exif: Option<&'a [u8]>,
    /// Entropy-coded data and whatever follows it.
    pub(super) data: &'a [u8],
}

/// One colour channel.
#[derive(Debug)]
pub(super) struct Component {
    /// Blocks a minimum coded unit, across and down.
    pub(super) blocks: (usize, usize),
    /// In zigzag order.
    pub(super) quantisation: [f32; 64],
    pub(super) dc: Table,
    pub(super) ac: Table,
}

#[derive(Default)]
struct Tables {
    quantisation: [Option<[f32; 64]>; 4],
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    restart_interval: usize,
    is_rgb: bool,
}

/// Width and height, read without the tables; `None` when there is no frame header.
pub(in crate::preprocess) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut rest = bytes.strip_prefix(&[0xFF, 0xD8])?;
    loop {
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
}

impl<'a> Header<'a> {
    /// Reads up to the first scan. `None` for what is left to the general decoder: progressive,
    /// arithmetic or lossless coding, more than eight bits, several scans, RGB and CMYK, damage.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut tables = Tables::default();
        let mut frame = None;
        let mut exif = None;
        loop {
            match markers::next(&mut rest)? {
                0x01 | 0xD0..=0xD8 => {}
                0xC0 | 0xC1 => frame = Some(Frame::read(markers::payload(&mut rest)?)?),
                0xC2..=0xC3 | 0xC5..=0xCF | markers::END_OF_IMAGE => return None,
                0xC4 => tables.read_huffman(markers::payload(&mut rest)?)?,
                0xDB => tables.read_quantisation(markers::payload(&mut rest)?)?,
                0xDD => {
                    let &[high, low] = markers::payload(&mut rest)? else { return None };
                    tables.restart_interval = usize::from(u16::from_be_bytes([high, low]));
                }
                0xE1 => {
                    let content = markers::payload(&mut rest)?;
                    exif = exif.or(content.strip_prefix(b"Exif\0\0"));
                }
                0xEE => {
                    let content = markers::payload(&mut rest)?;
                    tables.is_rgb |= content.starts_with(b"Adobe") && content.get(11) == Some(&0);
                }
                0xDA => {
                    let scan = markers::payload(&mut rest)?;
                    return frame?.join(&tables, scan, exif, rest);
                }
                _ => drop(markers::payload(&mut rest)?),
            }
        }
    }
}

struct Frame {
    width: usize,
    height: usize,
    components: Vec<Channel>,
}

/// What the frame header says about a component.
struct Channel {
    id: u8,
    blocks: (usize, usize),
    table: usize,
}

impl Frame {
    fn read(content: &[u8]) -> Option<Self> {
        let (&[precision, h1, h0, w1, w0, count], rest) = content.split_first_chunk()?;
        let width = usize::from(u16::from_be_bytes([w1, w0]));
        let height = usize::from(u16::from_be_bytes([h1, h0]));
        let is_usual = precision == 8 && width > 0 && height > 0 && matches!(count, 1 | 3);
        let (triples, []) = rest.as_chunks::<3>() else { return None };
        if !is_usual || triples.len() != usize::from(count) {
            return None;
        }
        let component = |&[id, sampling, table]: &[u8; 3]| {
            let blocks = (usize::from(sampling >> 4), usize::from(sampling & 15));
            let is_valid = |n: usize| matches!(n, 1 | 2 | 4);
            let channel = Channel { id, blocks, table: usize::from(table) };
            (is_valid(blocks.0) && is_valid(blocks.1)).then_some(channel)
        };
        let mut components: Vec<_> = triples.iter().map(component).collect::<Option<_>>()?;
        if let [only] = components.as_mut_slice() {
            // A scan of one component has one block a unit, whatever the header says.
            only.blocks = (1, 1);
        }
        Some(Self { width, height, components })
    }

    fn join<'a>(
        &self,
        tables: &Tables,
        scan: &[u8],
        exif: Option<&'a [u8]>,
        data: &'a [u8],
    ) -> Option<Header<'a>> {
        let (&count, rest) = scan.split_first()?;
        let ids: Vec<u8> = self.components.iter().map(|channel| channel.id).collect();
        if usize::from(count) != ids.len() || tables.is_rgb || ids == *b"RGB" {
            return None;
        }
        let selectors = rest.get(..2 * ids.len())?.as_chunks::<2>().0;
        let mut components = Vec::new();
        for (channel, &[selected, coding]) in self.components.iter().zip(selectors) {
            if channel.id != selected {
                return None;
            }
            let dc = tables.dc.get(usize::from(coding >> 4))?.clone()?;
            let ac = tables.ac.get(usize::from(coding & 15))?.clone()?;
            let quantisation = tables.quantisation.get(channel.table).copied()??;
            components.push(Component { blocks: channel.blocks, quantisation, dc, ac });
        }
        Some(Header {
            width: self.width,
            height: self.height,
            components,
            restart_interval: tables.restart_interval,
            exif,
            data,
        })
    }
}

impl Tables {
    fn read_quantisation(&mut self, mut content: &[u8]) -> Option<()> {
        while let Some((&kind, rest)) = content.split_first() {
            let slot = self.quantisation.get_mut(usize::from(kind & 15))?;
            let is_wide = kind >> 4 != 0;
            let values = rest.get(..if is_wide { 128 } else { 64 })?;
            *slot = Some(std::array::from_fn(|at| {
                if is_wide {
                    f32::from(u16::from_be_bytes([values[2 * at], values[2 * at + 1]]))
                } else {
                    f32::from(values[at])
                }
            }));
            content = &rest[values.len()..];
        }
        Some(())
    }

    fn read_huffman(&mut self, mut content: &[u8]) -> Option<()> {
        while let Some((&kind, rest)) = content.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let total: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let symbols = rest.get(..total)?;
            let table = Table::new(counts, symbols)?;
            let (class, table) = match kind >> 4 {
                0 => (&mut self.dc, table),
                _ => (&mut self.ac, table.with_runs()),
            };
            *class.get_mut(usize::from(kind & 15))? = Some(table);
            content = &rest[total..];
        }
        Some(())
    }
}
