//! Memory layout for one input size: bands, rings, paddings and offsets of every block.

use super::super::BLOCK;
use super::super::offsets::Offsets;
use super::super::product::Packed;
use super::{CHANNELS, Network};
use crate::description::Padding;

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Size {
    pub(super) fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Size after a stride.
    fn strided(self, stride: usize) -> Self {
        Self { height: self.height.div_ceil(stride), width: self.width.div_ceil(stride) }
    }
}

/// Geometry of a whole network.
#[derive(Debug)]
pub(super) struct Geometry {
    pub(super) input: Size,
    pub(super) stem: StemGeometry,
    pub(super) blocks: Vec<BlockGeometry>,
    /// Offsets of the blocks of the last convolution's input, for one image.
    pub(super) head_taps: Offsets,
    /// Size of that input.
    pub(super) last: Size,
}

/// Geometry of the first convolution.
#[derive(Debug)]
pub(super) struct StemGeometry {
    /// Zeros above and left of the image.
    pub(super) lead: Lead,
    /// Floats per line of the copied rows.
    pub(super) line: usize,
    /// Lines per colour, as many as the largest band of outputs needs.
    pub(super) rows: usize,
    /// Where the rows of a pixel's window begin in these lines, colour by colour.
    pub(super) taps: Offsets,
}

/// Zeros above and left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lead {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// Geometry of one inverted residual.
#[derive(Debug)]
pub(super) struct BlockGeometry {
    pub(super) size: Size,
    pub(super) out: Size,
    pub(super) lead: Lead,
    pub(super) stride: usize,
    /// The band is the whole image; panels may then be filtered in sequence.
    pub(super) is_whole: bool,
    /// Output rows per band.
    pub(super) band: usize,
    /// Output rows that are filtered together.
    pub(super) step: usize,
    /// Expanded rows that are live at the same time.
    pub(super) ring: usize,
    /// Words per block of a pixel, in the format that products read.
    pub(super) words: usize,
    /// Offsets of the input's blocks.
    pub(super) expand_taps: Offsets,
    /// Where expanded pixels go in a padded plane. The table repeats the rows of the ring once, so
    /// that any rows that are live at the same time are neighbours in it.
    pub(super) expand_places: Offsets,
    /// Where each row that the filter may read begins in a padded plane; rows above and below the
    /// image are the plane's row of zeros.
    pub(super) filter_rows: Offsets,
    /// Offsets of the filtered band's blocks.
    pub(super) project_taps: Offsets,
    /// Offsets of the projected band's pixels.
    pub(super) project_places: Offsets,
}

/// Pixels of the largest image that is a single band: its expanded panel stays in the L1 or
/// L2 cache.
const WHOLE: usize = 256;
/// Rows of a filter's window.
pub(super) const WINDOW: usize = 3;
/// Pixels that are worth a product of their own: shorter rows are expanded and filtered together.
const STEP: usize = 56;

impl Geometry {
    /// Geometry for images of size `input`.
    pub(super) fn new(network: &Network, input: Size) -> Self {
        let mut size = input.strided(2);
        let mut blocks = Vec::new();
        for block in &network.blocks {
            let channels = block.expand.as_ref().map_or(0, Packed::channels);
            let stride = block.depthwise.stride();
            let lead = lead(size, stride, network.padding);
            let mut geometry = BlockGeometry::new(size, stride, lead, network.target.words());
            let hidden = block.project.channels().div_ceil(BLOCK);
            geometry.set_taps(channels, hidden);
            blocks.push(geometry);
            size = size.strided(stride);
        }
        let stem = StemGeometry::new(input, network.padding, &blocks[0]);
        let head_taps = block_taps(network.head.channels(), size.pixels() * network.target.words());
        Self { input, stem, blocks, head_taps, last: size }
    }
}

impl StemGeometry {
    fn new(input: Size, padding: Padding, reader: &BlockGeometry) -> Self {
        let line = (input.width + 3).next_multiple_of(BLOCK);
        let outputs = if reader.is_whole { reader.size.height } else { reader.band + WINDOW - 1 };
        let rows = 2 * outputs + 1;
        let tap = |at: usize| (at / WINDOW * rows + at % WINDOW) * line;
        let taps = Offsets::new((0..CHANNELS * WINDOW).map(tap));
        Self { lead: lead(input, 2, padding), line, rows, taps }
    }

    /// Where the lines of output row `at` of a band begin.
    pub(super) fn row(&self, at: usize) -> usize {
        2 * at * self.line
    }
}

impl BlockGeometry {
    fn new(size: Size, stride: usize, lead: Lead, words: usize) -> Self {
        let out = size.strided(stride);
        let is_whole = size.pixels() <= WHOLE;
        let band = match size.height {
            _ if is_whole => out.height,
            40..80 => 2,
            _ => 4,
        };
        let step = if is_whole { out.height } else { (STEP / size.width).clamp(1, band) };
        let ring = if is_whole { size.height } else { (step - 1) * stride + WINDOW };
        let pitch = (size.width + 2) * BLOCK;
        let place = |at: usize| at / size.width % ring * pitch + (at % size.width + 1) * BLOCK;
        let window_row = |at: usize| {
            let row = at.wrapping_sub(lead.rows);
            let place = if row < size.height { row % ring } else { ring };
            place * pitch + (1 - lead.columns) * BLOCK
        };
        Self {
            size,
            out,
            lead,
            stride,
            is_whole,
            band,
            step,
            ring,
            words,
            expand_taps: Offsets::every(0, 0),
            expand_places: Offsets::new((0..2 * ring * size.width).map(place)),
            filter_rows: Offsets::new((0..(out.height - 1) * stride + WINDOW).map(window_row)),
            project_taps: Offsets::every(0, 0),
            project_places: Offsets::dense(band * out.width),
        }
    }

    fn set_taps(&mut self, channels: usize, hidden_blocks: usize) {
        self.expand_taps = block_taps(channels, self.size.pixels() * self.words);
        self.project_taps = Offsets::every(hidden_blocks, self.filtered_plane());
    }

    /// Floats of a padded row of the expanded plane.
    pub(super) fn pitch(&self) -> usize {
        (self.size.width + 2) * BLOCK
    }

    /// Floats of one block of the expanded plane.
    pub(super) fn plane(&self) -> usize {
        (self.ring + 1) * self.pitch()
    }

    /// Words of one block of the filtered band.
    pub(super) fn filtered_plane(&self) -> usize {
        self.band * self.out.width * self.words
    }

    /// Input rows that the output rows before `end` need.
    pub(super) fn rows_needed(&self, end: usize) -> usize {
        ((end - 1) * self.stride + WINDOW - self.lead.rows).min(self.size.height)
    }
}

/// Offsets of the channel blocks of an image with `plane` words per block.
fn block_taps(channels: usize, plane: usize) -> Offsets {
    Offsets::every(channels.div_ceil(BLOCK), plane)
}

/// Zeros that a 3x3 convolution needs above and left of an image.
fn lead(size: Size, stride: usize, padding: Padding) -> Lead {
    let before = |length: usize| match padding {
        Padding::Symmetric => 1,
        Padding::TfSame => {
            let total = ((length.div_ceil(stride) - 1) * stride + 3).saturating_sub(length);
            total / 2
        }
    };
    Lead { rows: before(size.height), columns: before(size.width) }
}

#[cfg(test)]
mod tests {
    use super::{Size, lead};
    use crate::description::Padding;

    #[test]
    fn tensorflow_puts_no_zeros_before_an_even_length_at_stride_2() {
        let size = Size { height: 224, width: 225 };
        let strided = lead(size, 2, Padding::TfSame);
        assert_eq!((strided.rows, strided.columns), (0, 1));
        let symmetric = lead(size, 2, Padding::Symmetric);
        assert_eq!((symmetric.rows, symmetric.columns), (1, 1));
        assert_eq!(lead(size, 1, Padding::TfSame).rows, 1);
    }
}
