//! The 5x5 convolution of the training network, and its gradients.
//!
//! candle's own backward pass for `conv2d` on a CPU is far slower than its matrix product, so all
//! three directions are matrix products of unrolled patches (im2col), a few images at a time: the
//! patches, 25 times the input, stay in the second-level cache and are unrolled again for the
//! gradient instead of being kept. Images are stored with channels last: a row of a patch is then
//! one contiguous copy. Beyond the border there are zeros; the rows of a weight are ordered by
//! kernel row, kernel column, channel.

use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, Tensor, bail};

const KERNEL: usize = 5;
const MARGIN: usize = KERNEL / 2;
/// Patch values unrolled at a time: 1.25 MB, well inside a second-level cache of 2 MB.
const TILE: usize = 320 * 1024;

/// `[n, h, w, c] * [25 c, k] -> [n, h, w, k]`.
pub(super) fn forward(input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (n, plane) = Plane::of(input.shape())?;
    let outputs = weight.dim(1)?;
    let mut out = Vec::with_capacity(n * plane.pixels() * outputs);
    for images in plane.tiles(n) {
        let product = plane.unroll(&images.of(input)?)?.matmul(weight)?;
        read(&product, |values| out.extend_from_slice(values))?;
    }
    Tensor::from_vec(out, (n, plane.height, plane.width, outputs), &Device::Cpu)
}

/// The gradient of the weight, flattened, from that of the output.
pub(super) fn weight_gradient(input: &Tensor, gradient: &Tensor) -> Result<Vec<f32>> {
    let (n, plane) = Plane::of(input.shape())?;
    let outputs = gradient.dim(3)?;
    let mut sum = vec![0.0; plane.patch() * outputs];
    for images in plane.tiles(n) {
        let rows = images.of(gradient)?.reshape(((), outputs))?;
        let product = plane.unroll(&images.of(input)?)?.t()?.matmul(&rows)?;
        read(&product, |values| add(&mut sum, values))?;
    }
    Ok(sum)
}

/// The gradient of the input from that of the output.
pub(super) fn input_gradient(weight: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let (n, height, width, outputs) = gradient.dims4()?;
    let plane = Plane { height, width, channels: weight.dim(0)? / (KERNEL * KERNEL) };
    let transposed = weight.t()?;
    let mut sum = vec![0.0; n * plane.len()];
    for (images, target) in plane.tiles(n).zip(sum.chunks_mut(plane.tile() * plane.len())) {
        let rows = images.of(gradient)?.reshape(((), outputs))?;
        read(&rows.matmul(&transposed)?, |patches| plane.roll(patches, target))?;
    }
    Tensor::from_vec(sum, (n, height, width, plane.channels), &Device::Cpu)
}

/// Consecutive images of a batch.
struct Images {
    first: usize,
    count: usize,
}

impl Images {
    fn of(&self, batch: &Tensor) -> Result<Tensor> {
        batch.narrow(0, self.first, self.count)
    }
}

/// The sizes of one image.
#[derive(Clone, Copy)]
struct Plane {
    height: usize,
    width: usize,
    channels: usize,
}

impl Plane {
    fn of(shape: &Shape) -> Result<(usize, Self)> {
        let (n, height, width, channels) = shape.dims4()?;
        Ok((n, Self { height, width, channels }))
    }

    fn pixels(self) -> usize {
        self.height * self.width
    }

    fn len(self) -> usize {
        self.pixels() * self.channels
    }

    fn patch(self) -> usize {
        KERNEL * KERNEL * self.channels
    }

    /// Images unrolled at a time.
    fn tile(self) -> usize {
        (TILE / (self.pixels() * self.patch())).max(1)
    }

    fn tiles(self, n: usize) -> impl Iterator<Item = Images> {
        let tile = self.tile();
        (0..n).step_by(tile).map(move |first| Images { first, count: tile.min(n - first) })
    }

    /// For output pixel (`x`, `y`) and each kernel row: where the run of values starts in the image
    /// and in the patch, and its length. Rows and columns beyond the border are left out.
    fn runs(self, x: usize, y: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let first = x.saturating_sub(MARGIN);
        let last = (x + MARGIN + 1).min(self.width);
        let skipped = (first + MARGIN - x) * self.channels;
        let run = (last - first) * self.channels;
        let top = y.saturating_sub(MARGIN)..(y + MARGIN + 1).min(self.height);
        top.map(move |row| {
            let kernel_row = row + MARGIN - y;
            let in_patch = kernel_row * KERNEL * self.channels + skipped;
            ((row * self.width + first) * self.channels, in_patch, run)
        })
    }

    fn positions(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.height).flat_map(move |y| (0..self.width).map(move |x| (x, y)))
    }

    /// Patches of `images`, one row each: `[images * pixels, patch]`.
    fn unroll(self, images: &Tensor) -> Result<Tensor> {
        let rows = images.dim(0)? * self.pixels();
        let mut patches = Vec::with_capacity(rows * self.patch());
        read(images, |images| {
            images.chunks_exact(self.len()).for_each(|image| self.unroll_one(image, &mut patches));
        })?;
        Tensor::from_vec(patches, (rows, self.patch()), &Device::Cpu)
    }

    fn unroll_one(self, image: &[f32], patches: &mut Vec<f32>) {
        for (x, y) in self.positions() {
            let start = patches.len();
            for (from, to, run) in self.runs(x, y) {
                patches.resize(start + to, 0.0);
                patches.extend_from_slice(&image[from..from + run]);
            }
            patches.resize(start + self.patch(), 0.0);
        }
    }

    /// The transpose of [`Plane::unroll`]: adds each patch onto the images it was cut from.
    fn roll(self, patches: &[f32], images: &mut [f32]) {
        for (image, block) in images
            .chunks_exact_mut(self.len())
            .zip(patches.chunks_exact(self.pixels() * self.patch()))
        {
            for ((x, y), patch) in self.positions().zip(block.chunks_exact(self.patch())) {
                for (to, from, run) in self.runs(x, y) {
                    add(&mut image[to..to + run], &patch[from..from + run]);
                }
            }
        }
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// The values of an operand that must be contiguous f32.
fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a contiguous tensor is needed");
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Passes the values of a contiguous f32 tensor to `look` without copying them.
pub(super) fn read<T>(tensor: &Tensor, look: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(look(contiguous(storage, layout)?)),
        Storage::Cuda(_) | Storage::Metal(_) => {
            bail!("training runs on the CPU")
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;

    /// The same convolution by candle: channels first, weight `[k, c, 5, 5]`.
    fn reference(input: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (channels, outputs) = (input.dim(3)?, weight.dim(1)?);
        let weight = weight.reshape((KERNEL, KERNEL, channels, outputs))?.permute((3, 2, 0, 1))?;
        let input = input.permute((0, 3, 1, 2))?.contiguous()?;
        input.conv2d(&weight.contiguous()?, MARGIN, 1, 1, 1)?.permute((0, 2, 3, 1))?.contiguous()
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        difference.max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn values_and_gradients_are_those_of_candles_own_convolution() {
        for (n, height, width, channels, outputs) in
            [(1, 5, 5, 1, 3), (3, 7, 4, 2, 5), (2, 1, 2, 3, 1), (70, 14, 14, 3, 8)]
        {
            let shape = (n, height, width, channels);
            let input = Var::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
            let weight = Var::randn(0f32, 1.0, (25 * channels, outputs), &Device::Cpu).unwrap();
            let ours = forward(&input, &weight).unwrap();
            let theirs = reference(&input, &weight).unwrap();
            assert!(largest_difference(&ours, &theirs) < 1e-3, "values for {shape:?}");
            let pull = Tensor::randn(0f32, 1.0, ours.shape(), &Device::Cpu).unwrap();
            let theirs = (theirs * &pull).unwrap().backward().unwrap();
            let to_weight = weight_gradient(&input, &pull).unwrap();
            let to_weight = Tensor::from_vec(to_weight, weight.shape(), &Device::Cpu).unwrap();
            let to_input = input_gradient(&weight, &pull).unwrap();
            for (ours, var) in [(to_weight, &weight), (to_input, &input)] {
                let theirs = theirs.get(var).unwrap();
                let scale = theirs.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                let difference = largest_difference(&ours, theirs);
                assert!(difference < 1e-5 * scale.max(100.0), "{difference} for {shape:?}");
            }
        }
    }

    #[test]
    fn a_weight_of_another_size_is_refused() {
        let input = Tensor::zeros((1, 4, 4, 2), DType::F32, &Device::Cpu).unwrap();
        let weight = Tensor::zeros((25, 8), DType::F32, &Device::Cpu).unwrap();
        assert!(forward(&input, &weight).is_err());
    }
}
