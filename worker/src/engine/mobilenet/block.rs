//! One inverted residual: expand, filter and project in bands of rows.

use super::super::aligned::words;
use super::super::encode::{Scale, encode};
use super::super::product::{Finish, Gather, Packed, Panel, Product, multiply};
use super::super::target::{Format, Target};
use super::super::{BLOCK, Values, Words, cells};
use super::geometry::BlockGeometry;
use super::scratch::Work;
use super::{CHANNELS, Pass};
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
            let all = (0..shape.size.height, 0..shape.out.height);
            self.expand_and_filter((at, image), input, all, work);
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
        let stride = block.depthwise.stride();
        let mut done = (rows.start * stride).saturating_sub(shape.lead.rows);
        for top in rows.clone().step_by(shape.band) {
            let band = top..(top + shape.band).min(rows.end);
            let needed = shape.rows_needed(band.end, stride);
            self.expand_and_filter((at, image), input, (done..needed, band.clone()), work);
            let filtered = cells(&mut work.filtered);
            self.project(at, image, (filtered, band), 0..block.project.len());
            done = needed.max(done);
        }
    }

    /// Expands input rows `rows` and filters output rows `band`, panel by panel.
    fn expand_and_filter(
        &self,
        (at, image): (usize, usize),
        input: Input,
        (rows, band): (Range<usize>, Range<usize>),
        work: &mut Work,
    ) {
        let shape = &self.geometry.blocks[at];
        let layer = self.expansion(at);
        let mine = if shape.is_whole { self.member.share(layer.len()) } else { 0..layer.len() };
        let Work { ring, filtered, lines, zeros, .. } = work;
        let (ring, zeros) = (cells(ring), cells(zeros));
        let filtered = if shape.is_whole { self.shared.filtered } else { cells(filtered) };
        for panel in layer.panels(&self.network.arena, mine) {
            let base = if shape.is_whole { 0 } else { panel.first * shape.plane() };
            let planes = &ring[base..][..panel.blocks * shape.plane()];
            if at == 0 {
                for row in rows.clone() {
                    self.stem_row(image, row, (panel, planes), lines);
                }
            } else {
                self.expand(at, input, rows.clone(), (panel, planes));
            }
            for offset in 0..panel.blocks {
                let plane = &planes[offset * shape.plane()..][..shape.plane()];
                let index = panel.first + offset;
                let out = &filtered[index * shape.filtered_plane()..][..shape.filtered_plane()];
                self.filter(at, index, (plane, zeros), (band.clone(), out));
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

    /// Row `row` of the first convolution, one panel.
    fn stem_row(
        &self,
        image: usize,
        row: usize,
        (panel, planes): (Panel, Values),
        lines: &mut [f32],
    ) {
        self.copy_lines(image, row, lines);
        let shape = &self.geometry.blocks[0];
        let product = Product {
            gather: Gather::Pairs,
            input: words(cells(lines)),
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

    /// Copies the rows of the image that output row `row` of the first convolution needs, with zeros
    /// around them.
    fn copy_lines(&self, image: usize, row: usize, lines: &mut [f32]) {
        let size = self.geometry.input;
        let stem = &self.geometry.stem;
        let image = &self.images[image * self.image_len()..][..self.image_len()];
        for (at, line) in lines.chunks_exact_mut(stem.line).enumerate().take(CHANNELS * 3) {
            let (channel, y) = (at / 3, (2 * row + at % 3).wrapping_sub(stem.lead.rows));
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
