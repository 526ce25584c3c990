//! The network: packed layers and the order in which they run.

use candle_core::Result;
use candle_nn::VarBuilder;
use half::bf16;

use super::super::aligned::Aligned;
use super::block::{Block, flat, plane_index, values};
use super::classifier::classify;
use super::pointwise::{BLOCK, Layer, Pointwise};
use super::product::{PASS, Source, multiply};
use super::scratch::{Activations, FEATURES, LAST, Scratch, Work};
use super::sink::Sink;
use super::stem;
use super::tile::{Permit, ROWS, Tiles};
use crate::description::{self, Padding};

/// Images that share a pass over the weights of the last stage.
pub(super) const GROUP: usize = 8;
/// Values of one input image.
const IMAGE: usize = 3 * stem::SIDE * stem::SIDE;

/// MobileNetV2, packed for tiles.
#[derive(Debug)]
pub struct Network {
    permit: Permit,
    /// Zeros before the image at stride 2: 0 with TensorFlow's padding, else 1.
    margin: usize,
    arena: Aligned<u16>,
    stem: Pointwise,
    blocks: Vec<Block>,
    head: Pointwise,
    classifier: Pointwise,
}

impl Network {
    /// Packs the network, or returns `None` when this CPU or kernel does not let us use tiles.
    pub fn load(vb: &VarBuilder, padding: Padding) -> Result<Option<Self>> {
        let Some(permit) = Permit::request() else { return Ok(None) };
        let mut staged = Vec::new();
        let (weight, bias) = values(vb, &description::stem())?;
        let stem = Pointwise::pack(&mut staged, &stem::patch_weights(&weight), &bias);
        let mut side = stem::OUT;
        let mut blocks = Vec::new();
        for block in description::blocks() {
            blocks.push(Block::pack(&mut staged, vb, &block, side)?);
            side = blocks.last().map_or(side, |block| block.out_side);
        }
        let (weight, bias) = values(vb, &description::head())?;
        let head = Pointwise::pack(&mut staged, &weight, &bias);
        let weight = flat(&vb.get_unchecked("classifier.1.weight")?)?;
        let bias = flat(&vb.get_unchecked("classifier.1.bias")?)?;
        let classifier = Pointwise::pack(&mut staged, &weight, &bias);
        let mut arena = Aligned::new(staged.len());
        arena.copy_from_slice(&staged);
        let margin = usize::from(padding == Padding::Symmetric);
        Ok(Some(Self { permit, margin, arena, stem, blocks, head, classifier }))
    }

    /// Number of logits per image.
    pub fn classes(&self) -> usize {
        self.classifier.outputs()
    }

    /// Memory for one thread that runs this network.
    pub fn scratch(&self) -> Scratch {
        let mut planes = [0; 5];
        let mut filtered = 0;
        for block in &self.blocks {
            let images = block.images_at_most();
            let blocks = block.depthwise_blocks();
            let plane = block.planes(blocks) * images * block.plane_len();
            let at = plane_index(block.side);
            planes[at] = plane.max(planes[at]);
            let pixels = images * block.band * block.out_side;
            filtered = filtered.max(blocks * pixels * BLOCK);
        }
        let patches = self.blocks[0].ring * stem::OUT * BLOCK;
        Scratch::new(planes, (filtered, patches), self.blocks.len() + 2)
    }

    /// Logits `[n, classes]` for images `[n, 3, 224, 224]`.
    ///
    /// # Panics
    ///
    /// If the lengths imply different numbers of images.
    pub fn forward(&self, images: &[f32], scratch: &mut Scratch, logits: &mut [f32]) {
        assert!(images.len().is_multiple_of(IMAGE));
        assert_eq!(images.len() / IMAGE * self.classes(), logits.len());
        let tiles = Tiles::configure(self.permit);
        let groups = images.chunks(GROUP * IMAGE).zip(logits.chunks_mut(GROUP * self.classes()));
        for (images, logits) in groups {
            self.forward_group(&tiles, images, scratch, logits);
        }
    }

    /// Runs early blocks image by image, so that activations stay in cache, and late blocks, whose
    /// weights outweigh their activations, for the whole group.
    fn forward_group(
        &self,
        tiles: &Tiles,
        images: &[f32],
        scratch: &mut Scratch,
        logits: &mut [f32],
    ) {
        let group = images.len() / IMAGE;
        let early = self.blocks.iter().position(|block| block.side == 7).unwrap_or(0);
        scratch.work.laps.begin();
        for (index, image) in images.chunks_exact(IMAGE).enumerate() {
            stem::interleave(self.permit, image, &mut scratch.interleaved);
            for at in 0..early {
                let [even, odd] = &mut scratch.single;
                let (from, own) = if at % 2 == 0 { (even, odd) } else { (odd, even) };
                let is_last = at + 1 == early;
                let to = if is_last { &mut scratch.grouped[0] } else { own };
                let pixels = self.blocks[at].out_side * self.blocks[at].out_side;
                let place = if is_last {
                    OutputStart { plane: group * pixels, first: index * pixels }
                } else {
                    OutputStart { plane: pixels, first: 0 }
                };
                let run = Run { tiles, at, images: 1, interleaved: &scratch.interleaved };
                self.run(&run, from, (to, place), &mut scratch.work);
                scratch.work.laps.note(at);
            }
        }
        for at in early..self.blocks.len() {
            let [even, odd] = &mut scratch.grouped;
            let (from, to) = if (at - early) % 2 == 0 { (even, odd) } else { (odd, even) };
            let run = Run { tiles, at, images: group, interleaved: &[] };
            let place = OutputStart { plane: group * LAST, first: 0 };
            self.run(&run, from, (to, place), &mut scratch.work);
            scratch.work.laps.note(at);
        }
        let last = (self.blocks.len() - early) % 2;
        self.pool(tiles, group, last, scratch);
        scratch.work.laps.note(self.blocks.len());
        let staging = &mut scratch.work.staging;
        let layer = (&self.classifier, &self.arena[..]);
        classify(tiles, layer, &scratch.features, staging, logits);
        scratch.work.laps.note(self.blocks.len() + 1);
    }

    /// Runs one block for `run.images` images.
    fn run(
        &self,
        run: &Run,
        from: &Activations,
        (to, place): (&mut Activations, OutputStart),
        work: &mut Work,
    ) {
        let block = &self.blocks[run.at];
        let mut done = 0;
        for top in (0..block.out_side).step_by(block.band) {
            let band = top..(top + block.band).min(block.out_side);
            let needed = block.rows_needed(band.end, self.margin);
            self.expand_and_filter(run, from, (done..needed, band.clone()), work);
            self.project(run, from, (to, place), (band, work));
            done = needed;
        }
    }

    /// Expands input rows `rows` and filters output rows `band`, one channel block at a time.
    fn expand_and_filter(
        &self,
        run: &Run,
        from: &Activations,
        (rows, band): (std::ops::Range<usize>, std::ops::Range<usize>),
        work: &mut Work,
    ) {
        let block = &self.blocks[run.at];
        let pixels = run.images * rows.len() * block.side;
        let (layer, source) = if let Some(expand) = &block.expand {
            let values = &from.bf16[rows.start * block.side * BLOCK..];
            (expand, Source { values, plane: run.images * block.side * block.side, pixels })
        } else {
            let lead = 1 - self.margin;
            stem::patches(self.permit, run.interleaved, rows.clone(), lead, &mut work.patches);
            (&self.stem, Source { values: &work.patches, plane: pixels, pixels })
        };
        let planes = &mut work.planes[plane_index(block.side)];
        let plane = run.images * block.plane_len();
        let filtered_plane = run.images * band.len() * block.out_side;
        for at in 0..layer.blocks() {
            let keep = block.planes(layer.blocks());
            let expanded = &mut planes[at % keep * plane..][..plane];
            let first = rows.start * block.side;
            let offsets = block.offsets.part(first..first + pixels.max(PASS));
            let sink = Sink::Expanded { plane: expanded, offsets };
            let part = Layer { pointwise: layer, arena: &self.arena, block: at };
            multiply(run.tiles, part, source, &mut work.staging, sink);
            let filtered = &mut work.filtered[at * filtered_plane * BLOCK..];
            for image in 0..run.images {
                let expanded = &expanded[image * block.plane_len()..];
                let first = image * band.len() * block.out_side * BLOCK;
                let out = &mut filtered[first..];
                self.filter(block, at, (expanded, &work.zeros), (band.clone(), out));
            }
        }
    }

    /// Filters output rows `band` of one image and one channel block.
    fn filter(
        &self,
        block: &Block,
        at: usize,
        (expanded, zeros): (&[u16], &[u16]),
        (band, out): (std::ops::Range<usize>, &mut [u16]),
    ) {
        let margin = if block.depthwise.stride == 1 { 1 } else { self.margin };
        let row_len = block.out_side * BLOCK;
        for (y, out) in band.zip(out.chunks_exact_mut(row_len)) {
            let rows = std::array::from_fn(|tap| {
                let row = (y * block.depthwise.stride + tap).wrapping_sub(margin);
                if row < block.side {
                    &expanded[row % block.ring * block.pitch() + (1 - margin) * BLOCK..]
                } else {
                    zeros
                }
            });
            block.depthwise.filter(self.permit, at, rows, (out, block.out_side));
        }
    }

    /// Projects the filtered band into the block's output.
    fn project(
        &self,
        run: &Run,
        from: &Activations,
        (to, place): (&mut Activations, OutputStart),
        (band, work): (std::ops::Range<usize>, &mut Work),
    ) {
        let block = &self.blocks[run.at];
        let pixels = run.images * band.len() * block.out_side;
        let source = Source { values: &work.filtered, plane: pixels, pixels };
        let keeps = self.blocks.get(run.at + 1).is_some_and(|next| next.has_skip);
        let before = run.images * block.side * block.side;
        for at in 0..block.project.blocks() {
            let row = band.start * block.out_side;
            let first = (at * place.plane + place.first + row) * BLOCK;
            let skip = block.has_skip.then(|| &from.f32[(at * before + row) * BLOCK..]);
            let keep = keeps.then(|| &mut to.f32[first..]);
            let sink = Sink::Projected { out: &mut to.bf16[first..], skip, keep };
            let layer = Layer { pointwise: &block.project, arena: &self.arena, block: at };
            multiply(run.tiles, layer, source, &mut work.staging, sink);
        }
    }

    /// Runs the head and averages over the pixels, into rows of classifier tiles.
    fn pool(&self, tiles: &Tiles, group: usize, last: usize, scratch: &mut Scratch) {
        let pixels = group * LAST;
        let source = Source { values: &scratch.grouped[last].bf16, plane: pixels, pixels };
        scratch.pooled.fill(0.0);
        for at in 0..FEATURES / BLOCK {
            let sums = &mut scratch.pooled[at * GROUP * BLOCK..][..group * BLOCK];
            let sink = Sink::Pooled { sums, pixels: LAST };
            let layer = Layer { pointwise: &self.head, arena: &self.arena, block: at };
            multiply(tiles, layer, source, &mut scratch.work.staging, sink);
            let rows = scratch.features[at * ROWS * BLOCK..].iter_mut();
            let sums = &scratch.pooled[at * GROUP * BLOCK..][..group * BLOCK];
            for (feature, sum) in rows.zip(sums) {
                *feature = bf16::from_f32(sum / LAST as f32).to_bits();
            }
        }
    }
}

/// One run of block `at`.
struct Run<'a> {
    tiles: &'a Tiles,
    at: usize,
    images: usize,
    interleaved: &'a [u16],
}

/// Where an output begins: pixels per channel block, and the first pixel to write.
#[derive(Clone, Copy)]
struct OutputStart {
    plane: usize,
    first: usize,
}
