//! One inverted residual: expand, filter and project in bands of rows.

use super::super::aligned::words;
use super::super::encode::{Scale, encode};
use super::super::product::{Finish, Gather, Packed, Panel, Product, multiply};
use super::super::target::{Format, Target};
use super::super::{BLOCK, Values, Words, cells};
use super::Pass;
use super::geometry::BlockGeometry;
use super::scratch::Work;
use std::ops::Range;

/// A tensor as the numbers of the products, and what brings them to their true size.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Input<'a> {
    pub(super) words: Words<'a>,
    pub(super) factor: f32,
}

impl Pass<'_> {
    /// Block `at` of one image of the group.
    pub(super) fn block(&self, at: usize, image: usize, work: &mut Work) {
        let shape = &self.geometry.blocks[at];
        let expand = self.expansion(at);
        let planes = if shape.is_whole { expand.widest() } else { expand.blocks() };
        clear_margins(shape, planes, &mut work.ring);
        let input = if at == 0 { Input::default() } else { self.input(at - 1, image) };
        if shape.is_whole {
            self.expand_and_filter((at, image), input, (0, 0..shape.out.height), work);
            self.member.wait();
            let mine = self.member.share(self.network.blocks[at].project.len());
            let filtered = self.shared.filtered;
            self.project(at, image, (filtered, 0..shape.out.height), mine);
        } else {
            let rows = self.member.share(shape.out.height);
            self.bands((at, image), input, rows, work);
        }
        self.member.wait();
    }

    /// What block `at` wrote, as the numbers of the products; all members encode it together.
    pub(super) fn input(&self, at: usize, image: usize) -> Input<'_> {
        let target = self.network.target;
        let values = self.shared.output(at, image);
        if target.format() == Format::F32 {
            return Input { words: words(values), factor: 1.0 };
        }
        let shape = &self.geometry.blocks[at];
        let blocks = self.network.blocks[at].project.blocks() * shape.out.pixels();
        let values = &values[..blocks * BLOCK];
        let scale = Scale::of(target, values);
        let encoded = self.shared.encoded(at, image);
        let mine = self.member.share(blocks);
        let part = &values[mine.start * BLOCK..mine.end * BLOCK];
        encode(target, scale, part, &encoded[mine.start * target.words()..]);
        self.member.wait();
        Input { words: encoded, factor: scale.back() }
    }

    /// The layer that makes the expanded rows.
    fn expansion(&self, at: usize) -> &Packed {
        self.network.blocks[at].expand.as_ref().unwrap_or(&self.network.stem)
    }

    /// Output rows `rows`, band by band.
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
            self.expand_and_filter((at, image), input, (done, band.clone()), work);
            done = shape.rows_needed(band.end).max(done);
            let filtered = cells(&mut work.filtered);
            self.project(at, image, (filtered, band), 0..block.project.len());
        }
    }

    /// Filters output rows `band`, panel by panel, expanding input rows from `done` on just before
    /// they are needed: a panel's few rows stay in the L1 cache.
    fn expand_and_filter(
        &self,
        (at, image): (usize, usize),
        input: Input,
        (done, band): (usize, Range<usize>),
        work: &mut Work,
    ) {
        let shape = &self.geometry.blocks[at];
        let layer = self.expansion(at);
        let mine = if shape.is_whole { self.member.share(layer.len()) } else { 0..layer.len() };
        let Work { ring, filtered, lines, zeros, .. } = work;
        if at == 0 {
            self.copy_lines(image, done..shape.rows_needed(band.end), lines);
        }
        let (ring, zeros, lines) = (cells(ring), cells(zeros), cells(lines));
        let filtered = if shape.is_whole { self.shared.filtered } else { cells(filtered) };
        let step = if shape.is_whole { shape.out.height } else { 1 };
        let row_len = shape.out.width * self.network.target.words();
        for panel in layer.panels(&self.network.arena, mine) {
            let base = if shape.is_whole { 0 } else { panel.first * shape.plane() };
            let planes = &ring[base..][..panel.blocks * shape.plane()];
            let mut expanded = done;
            for top in band.clone().step_by(step) {
                let part = top..(top + step).min(band.end);
                let needed = shape.rows_needed(part.end).max(expanded);
                let rows = expanded..needed;
                if at == 0 {
                    self.stem_rows(rows, (panel, planes), (lines, done));
                } else {
                    self.expand(at, input, rows, (panel, planes));
                }
                expanded = needed;
                for offset in 0..panel.blocks {
                    let plane = &planes[offset * shape.plane()..][..shape.plane()];
                    let index = panel.first + offset;
                    let out = index * shape.filtered_plane() + (top - band.start) * row_len;
                    let out = &filtered[out..][..part.len() * row_len];
                    self.filter(at, index, (plane, zeros), (part.clone(), out));
                }
            }
        }
    }

    /// Expanded rows `rows` of one panel.
    fn expand(
        &self,
        at: usize,
        input: Input,
        rows: Range<usize>,
        (panel, planes): (Panel, Values),
    ) {
        let shape = &self.geometry.blocks[at];
        let row_len = shape.size.width * self.network.target.words();
        let (each, pixels) =
            if shape.is_whole { (0..1, shape.size.pixels()) } else { (rows, shape.size.width) };
        for row in each {
            let product = Product {
                gather: Gather::Blocks,
                input: &input.words[row * row_len..],
                factor: input.factor,
                taps: shape.expand_taps.all(),
                panel: once(panel, row),
                pixels,
                output: &planes[row % shape.ring * shape.pitch()..],
                places: shape.expand_places.all(),
                stride: shape.plane(),
                finish: Finish::Relu6,
            };
            multiply(self.network.target, &product);
        }
    }

    /// Rows `rows` of the first convolution, one panel, out of the lines that begin with row `first`.
    fn stem_rows(
        &self,
        rows: Range<usize>,
        (panel, planes): (Panel, Values),
        (lines, first): (Values, usize),
    ) {
        for row in rows {
            let lines = &lines[self.geometry.stem.row(row - first)..];
            self.stem_row(row, (panel, planes), lines);
        }
    }

    /// Row `row` of the first convolution, one panel, out of the lines that begin with it.
    fn stem_row(&self, row: usize, (panel, planes): (Panel, Values), lines: Values) {
        let shape = &self.geometry.blocks[0];
        let product = Product {
            gather: Gather::Pairs,
            input: words(lines),
            factor: 1.0,
            taps: self.geometry.stem.taps.all(),
            panel,
            pixels: shape.size.width,
            output: &planes[row % shape.ring * shape.pitch()..],
            places: shape.expand_places.part(0..shape.size.width),
            stride: shape.plane(),
            finish: Finish::Relu6,
        };
        multiply(Target::single(self.network.target.isa()), &product);
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

    /// Filters output rows `band` of channel block `index`.
    fn filter(
        &self,
        at: usize,
        index: usize,
        (plane, zeros): (Values, Values),
        (band, out): (Range<usize>, Words),
    ) {
        let shape = &self.geometry.blocks[at];
        let layer = &self.network.blocks[at].depthwise;
        let left = (1 - shape.lead.columns) * BLOCK;
        let row_len = shape.out.width * self.network.target.words();
        for (y, out) in band.zip(out.chunks_exact(row_len)) {
            let rows = std::array::from_fn(|tap| {
                let row = (y * layer.stride() + tap).wrapping_sub(shape.lead.rows);
                if row < shape.size.height {
                    &plane[row % shape.ring * shape.pitch()..][..shape.pitch()][left..]
                } else {
                    &zeros[..shape.pitch()]
                }
            });
            layer.filter(index, rows, (out, shape.out.width));
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
            let finish = if block.has_skip {
                Finish::Skip(&self.shared.output(at - 1, image)[first..])
            } else {
                Finish::Linear
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
                finish,
            };
            multiply(self.network.target, &product);
        }
    }
}

/// The panel, which asks for later weights only when the first row is computed.
fn once(panel: Panel, row: usize) -> Panel {
    let ahead = if row == 0 { panel.ahead } else { &[] };
    Panel { ahead, ..panel }
}

/// Zeroes the pixels left and right of the expanded rows; other blocks used the same memory.
fn clear_margins(shape: &BlockGeometry, planes: usize, ring: &mut [f32]) {
    for row in ring[..planes * shape.plane()].chunks_exact_mut(shape.pitch()) {
        let end = row.len() - BLOCK;
        row[..BLOCK].fill(0.0);
        row[end..].fill(0.0);
    }
}
