//! One inverted residual: expand, filter and project in bands of rows.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::super::aligned::{bits, words};
use super::super::encode::{Scale, encode};
use super::super::product::{Epilogue, Gather, Packed, Panel, Product, multiply};
use super::super::target::{Format, Target};
use super::super::{BLOCK, Values, Words, cells};
use super::geometry::{BlockGeometry, Size, WINDOW};
use super::scratch::Work;
use super::{CHANNELS, Pass};

/// A tensor in the number format of the products, and the factor that scales it back.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Input<'a> {
    pub(super) words: Words<'a>,
    pub(super) factor: f32,
}

/// The rows and panels that are expanded and filtered in one go.
struct Part {
    panels: Range<usize>,
    /// Input rows before this one were expanded with the previous part.
    done: usize,
    /// Output rows of this part.
    rows: Range<usize>,
}

impl Pass<'_> {
    /// Runs block `at` for one image of the group.
    pub(super) fn block(&self, at: usize, image: usize, work: &mut Work) {
        let shape = &self.geometry.blocks[at];
        let input = if at == 0 { Input::default() } else { self.input(at - 1, image) };
        // Once for all parts that this member takes.
        let mut is_clear = false;
        let mut clear = |planes, ring: &mut [f32]| {
            if !std::mem::replace(&mut is_clear, true) {
                clear_zeros(shape, planes, ring);
            }
        };
        let expand = self.expansion(at);
        if shape.is_whole {
            let rows = 0..shape.out.height;
            self.member.each(expand.len(), |panels| {
                clear(expand.widest(), &mut work.ring);
                let part = Part { panels, done: 0, rows: rows.clone() };
                self.expand_and_filter((at, image), input, part, work);
            });
            self.member.each(self.network.blocks[at].project.len(), |panels| {
                self.project(at, image, (self.shared.filtered, rows.clone()), panels);
            });
        } else {
            self.member.each(shape.out.height, |rows| {
                clear(expand.blocks(), &mut work.ring);
                self.bands((at, image), input, rows, work);
            });
        }
    }

    /// Output of block `at` in the number format of the products; all members encode it together.
    pub(super) fn input(&self, at: usize, image: usize) -> Input<'_> {
        let target = self.network.target;
        let values = self.shared.output(at, image);
        if target.format() == Format::F32 {
            return Input { words: words(values), factor: 1.0 };
        }
        let shape = &self.geometry.blocks[at];
        let blocks = self.network.blocks[at].project.blocks() * shape.out.pixels();
        let values = &values[..blocks * BLOCK];
        let encoded = self.shared.encoded(at, image);
        let factor = &self.shared.factors[image];
        let mut scale = None;
        self.member.each(blocks, |mine| {
            // Each member computes the same scale: sharing it would cost a phase.
            let scale = *scale.get_or_insert_with(|| Scale::of(target, values));
            let part = &values[mine.start * BLOCK..mine.end * BLOCK];
            encode(target, scale, part, &encoded[mine.start * target.words()..]);
            factor.store(scale.back().to_bits(), Ordering::Relaxed);
        });
        Input { words: encoded, factor: f32::from_bits(factor.load(Ordering::Relaxed)) }
    }

    /// The layer that produces the expanded rows.
    fn expansion(&self, at: usize) -> &Packed {
        self.network.blocks[at].expand.as_ref().unwrap_or(&self.network.stem)
    }

    /// Computes output rows `rows`, band by band.
    fn bands(
        &self,
        (at, image): (usize, usize),
        input: Input,
        rows: Range<usize>,
        work: &mut Work,
    ) {
        let shape = &self.geometry.blocks[at];
        let block = &self.network.blocks[at];
        let mut done = (rows.start * shape.stride).saturating_sub(shape.lead.rows);
        for top in rows.clone().step_by(shape.band) {
            let band = top..(top + shape.band).min(rows.end);
            let part = Part { panels: 0..self.expansion(at).len(), done, rows: band.clone() };
            self.expand_and_filter((at, image), input, part, work);
            done = shape.rows_needed(band.end).max(done);
            let filtered = cells(&mut work.filtered);
            self.project(at, image, (filtered, band), 0..block.project.len());
        }
    }

    /// Filters the output rows of a part, panel by panel, expanding input rows just before they are
    /// needed: a panel's few rows stay in the L1 cache.
    fn expand_and_filter(
        &self,
        (at, image): (usize, usize),
        input: Input,
        Part { panels, done, rows: band }: Part,
        work: &mut Work,
    ) {
        let shape = &self.geometry.blocks[at];
        let layer = self.expansion(at);
        let Work { ring, filtered, lines, .. } = work;
        if at == 0 {
            self.copy_lines(image, done..shape.rows_needed(band.end), lines);
        }
        let (ring, lines) = (cells(ring), cells(lines));
        let filtered = if shape.is_whole { self.shared.filtered } else { cells(filtered) };
        for panel in layer.panels(&self.network.arena, panels) {
            let base = if shape.is_whole { 0 } else { panel.first * shape.plane() };
            let planes = &ring[base..][..panel.blocks * shape.plane()];
            let mut expanded = done;
            for top in band.clone().step_by(shape.step) {
                let part = top..(top + shape.step).min(band.end);
                let rows = expanded..shape.rows_needed(part.end).max(expanded);
                expanded = rows.end;
                if at == 0 {
                    self.stem(image, rows, (panel, planes), (lines, done));
                } else {
                    self.expand(at, input, rows, (panel, planes));
                }
                self.filter(at, part, (panel, planes), (filtered, band.start));
            }
        }
    }

    /// Computes expanded rows `rows` of one panel.
    fn expand(
        &self,
        at: usize,
        input: Input,
        rows: Range<usize>,
        (panel, planes): (Panel, Values),
    ) {
        let shape = &self.geometry.blocks[at];
        let width = shape.size.width;
        let place = rows.start % shape.ring * width;
        let pixels = rows.len() * width;
        let product = Product {
            gather: Gather::Blocks,
            input: &input.words[rows.start * width * shape.words..],
            factor: input.factor,
            taps: shape.expand_taps.all(),
            panel: once(panel, rows.start),
            pixels,
            output: planes,
            places: shape.expand_places.part(place..place + pixels),
            stride: shape.plane(),
            epilogue: Epilogue::Relu6,
        };
        multiply(self.network.target, &product);
    }

    /// Computes rows `rows` of one panel of the first convolution from the lines that begin with
    /// row `first`.
    fn stem(
        &self,
        image: usize,
        rows: Range<usize>,
        (panel, planes): (Panel, Values),
        (lines, first): (Values, usize),
    ) {
        let shape = &self.geometry.blocks[0];
        let stem = &self.geometry.stem;
        let width = shape.size.width;
        for row in rows {
            let place = row % shape.ring * width;
            let product = Product {
                gather: Gather::Threes,
                input: words(&lines[stem.row(row - first)..]),
                factor: 1.0,
                taps: stem.taps.all(),
                panel: Panel { ahead: self.lines_ahead(image, row), ..panel },
                pixels: width,
                output: planes,
                places: shape.expand_places.part(place..place + width),
                stride: shape.plane(),
                epilogue: Epilogue::Relu6,
            };
            multiply(Target::single(self.network.target.isa()), &product);
        }
    }

    /// Part of the image to prefetch while output row `row` of the first convolution is computed:
    /// for one colour in turn, the input of the rows two bands later.
    fn lines_ahead(&self, image: usize, row: usize) -> &[u32] {
        let Size { height, width } = self.geometry.input;
        let first = 2 * (row + 2 * self.geometry.blocks[0].band);
        let rows = first.min(height)..(first + 2 * CHANNELS).min(height);
        let colour = image * self.image_len() + row % CHANNELS * height * width;
        bits(&self.images[colour + rows.start * width..colour + rows.end * width])
    }

    /// Copies the rows of the image that output rows `rows` of the first convolution need, with
    /// zeros around them.
    fn copy_lines(&self, image: usize, rows: Range<usize>, lines: &mut [f32]) {
        let size = self.geometry.input;
        let stem = &self.geometry.stem;
        let image = &self.images[image * self.image_len()..][..self.image_len()];
        let first = (2 * rows.start).wrapping_sub(stem.lead.rows);
        for (channel, lines) in lines.chunks_exact_mut(stem.rows * stem.line).enumerate() {
            let needed = lines.chunks_exact_mut(stem.line).take(2 * rows.len() + 1);
            for (at, line) in needed.enumerate() {
                let y = first.wrapping_add(at);
                if y < size.height {
                    let from = &image[(channel * size.height + y) * size.width..][..size.width];
                    line[..stem.lead.columns].fill(0.0);
                    line[stem.lead.columns..][..size.width].copy_from_slice(from);
                    line[stem.lead.columns + size.width..].fill(0.0);
                } else {
                    line.fill(0.0);
                }
            }
        }
    }

    /// Filters rows `rows` of one panel into a band that begins with row `first`.
    fn filter(
        &self,
        at: usize,
        rows: Range<usize>,
        (panel, planes): (Panel, Values),
        (filtered, first): (Words, usize),
    ) {
        let shape = &self.geometry.blocks[at];
        let layer = &self.network.blocks[at].depthwise;
        let top = rows.start * shape.stride;
        let window = top..top + (rows.len() - 1) * shape.stride + WINDOW;
        let starts = shape.filter_rows.part(window);
        let row_len = shape.out.width * shape.words;
        for (offset, plane) in planes.chunks_exact(shape.plane()).enumerate() {
            let block = panel.first + offset;
            let out = block * shape.filtered_plane() + (rows.start - first) * row_len;
            let out = &filtered[out..][..rows.len() * row_len];
            layer.filter(block, (plane, starts), (out, shape.out.width));
        }
    }

    /// Projects the filtered rows `band` through panels `panels`.
    fn project(
        &self,
        at: usize,
        image: usize,
        (filtered, band): (Words, Range<usize>),
        panels: Range<usize>,
    ) {
        let shape = &self.geometry.blocks[at];
        let block = &self.network.blocks[at];
        let pixels = band.len() * shape.out.width;
        let plane = shape.out.pixels() * BLOCK;
        for panel in block.project.panels(&self.network.arena, panels) {
            let first = panel.first * plane + band.start * shape.out.width * BLOCK;
            let epilogue = if block.has_skip {
                Epilogue::Skip(&self.shared.output(at - 1, image)[first..])
            } else {
                Epilogue::Linear
            };
            let product = Product {
                gather: Gather::Blocks,
                input: filtered,
                factor: 1.0,
                taps: shape.project_taps.all(),
                panel: once(panel, band.start),
                pixels,
                output: &self.shared.output(at, image)[first..],
                places: shape.project_places.part(0..pixels),
                stride: plane,
                epilogue,
            };
            multiply(self.network.target, &product);
        }
    }
}

/// The panel, which prefetches later weights only while the first row is computed.
fn once(panel: Panel, row: usize) -> Panel {
    let ahead = if row == 0 { panel.ahead } else { &[] };
    Panel { ahead, ..panel }
}

/// Zeroes the pixels left and right of the expanded rows and the row after them, because other
/// blocks used the same memory.
fn clear_zeros(shape: &BlockGeometry, planes: usize, ring: &mut [f32]) {
    for plane in ring[..planes * shape.plane()].chunks_exact_mut(shape.plane()) {
        let (rows, zeros) = plane.split_at_mut(shape.ring * shape.pitch());
        for row in rows.chunks_exact_mut(shape.pitch()) {
            let end = row.len() - BLOCK;
            row[..BLOCK].fill(0.0);
            row[end..].fill(0.0);
        }
        zeros.fill(0.0);
    }
}
