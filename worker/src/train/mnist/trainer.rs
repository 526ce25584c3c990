//! One epoch of training, and the score of weights on a set of images.
//!
//! Every random draw comes from a generator seeded by (seed, epoch, image), and partial sums are
//! added in the order of the micro-batches, so neither the number of threads nor an interruption
//! changes a bit of the result.

use indicatif::{ProgressBar, ProgressStyle};
use rand::{Rng, RngExt, SeedableRng, rngs::Xoshiro256PlusPlus, seq::SliceRandom};
use tokio::time::Instant;

use super::{
    augment::augment,
    checkpoint::{Epoch, Recipe},
    dataset::{CLASSES, Dataset, PIXELS, normalise},
    network::{self, Gradient, HIDDEN, MicroBatch, Weights},
    optimizer::{Learner, Schedule},
    thread_pool::ThreadPool,
};
use crate::Error;

/// Images in one graph: few enough for the caches, enough for batch statistics.
const MICRO_BATCH: usize = 32;
const DROPOUT: f32 = 0.3;
const SMOOTHING: f32 = 0.05;
const WEIGHT_DECAY: f32 = 0.02;
/// The last epochs see images closer to real ones: the variation fades to this share.
const FINAL_AUGMENT: f32 = 0.5;
const FADING_SHARE: f32 = 0.25;

/// What an epoch needs besides the learner.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trainer<'a> {
    /// The threads that compute gradients.
    pub pool: &'a ThreadPool,
    /// The settings that determine the result.
    pub recipe: &'a Recipe,
    /// The images to learn from.
    pub training: &'a Dataset,
}

/// How weights perform on a set of images.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Score {
    /// Mean cross-entropy per image.
    pub loss: f64,
    /// Images read correctly.
    pub correct: usize,
    /// The digit read in each image.
    pub labels: Vec<usize>,
}

impl Score {
    /// Share of images read correctly.
    pub(super) fn accuracy(&self) -> f64 {
        self.correct as f64 / self.labels.len().max(1) as f64
    }
}

impl Trainer<'_> {
    /// A bar over the steps of the run; hidden if stderr is not a terminal.
    pub(super) fn progress_bar(&self, epochs_done: usize) -> ProgressBar {
        let steps = self.steps_per_epoch();
        let style =
            "{bar:32} {percent:>3} %  step {pos}/{len}  {elapsed} elapsed, {eta} left  {msg}";
        let style = ProgressStyle::with_template(style).expect("the template is valid");
        ProgressBar::new((steps * self.recipe.epochs) as u64)
            .with_style(style)
            .with_position((steps * epochs_done) as u64)
    }

    fn steps_per_epoch(&self) -> usize {
        self.training.len().div_ceil(self.recipe.batch_size)
    }

    /// Shows `learner` every training image once.
    pub(super) fn epoch(
        &self,
        learner: &mut Learner,
        number: usize,
        bar: &ProgressBar,
    ) -> Result<Epoch, Error> {
        let started = Instant::now();
        let mut order: Vec<usize> = (0..self.training.len()).collect();
        order.shuffle(&mut generator(&[self.recipe.seed, number as u64]));
        let schedule = Schedule {
            steps: self.steps_per_epoch() * self.recipe.epochs,
            peak: self.recipe.rate,
            decay: WEIGHT_DECAY,
        };
        let (mut loss, mut correct) = (0.0, 0);
        for batch in order.chunks(self.recipe.batch_size) {
            let sum = self.batch(learner, batch, number)?;
            learner.learn(&sum.parameters, &sum.statistics, &schedule);
            loss += sum.loss;
            correct += sum.correct;
            bar.inc(1);
        }
        let images = order.len() as f64;
        if !loss.is_finite() {
            return Err(Error::Invalid("the loss overflowed: try a smaller --rate".to_owned()));
        }
        bar.set_message(format!("loss {:.4}", loss / images));
        Ok(Epoch {
            loss: loss / images,
            accuracy: correct as f64 / images,
            rate: schedule.rate(learner.step),
            seconds: started.elapsed().as_secs_f64(),
            held_out: None,
        })
    }

    /// The mean gradient over the images in `batch`; loss and correct answers are sums.
    fn batch(&self, learner: &Learner, batch: &[usize], epoch: usize) -> Result<Gradient, Error> {
        let layers = learner.weights.layers()?;
        let strength = self.strength(epoch);
        let parts: Vec<&[usize]> = batch.chunks(MICRO_BATCH).collect();
        let gradients = self.pool.map(parts.len(), |at| {
            let batch = self.micro_batch(parts[at], epoch, strength);
            network::gradient(&layers, batch)
        });
        let mut sum = Gradient {
            parameters: vec![0.0; learner.weights.parameters.len()],
            statistics: vec![0.0; learner.weights.statistics.len()],
            loss: 0.0,
            correct: 0,
        };
        let (per_image, per_part) = (1.0 / batch.len() as f32, 1.0 / parts.len() as f32);
        for gradient in gradients {
            let gradient = gradient?;
            add_scaled(&mut sum.parameters, &gradient.parameters, per_image);
            add_scaled(&mut sum.statistics, &gradient.statistics, per_part);
            sum.loss += gradient.loss;
            sum.correct += gradient.correct;
        }
        Ok(sum)
    }

    fn micro_batch(&self, images: &[usize], epoch: usize, strength: f32) -> MicroBatch {
        let mut batch = MicroBatch {
            pixels: Vec::with_capacity(images.len() * PIXELS),
            labels: Vec::with_capacity(images.len()),
            mask: Vec::with_capacity(images.len() * HIDDEN),
            smoothing: SMOOTHING,
        };
        for &image in images {
            let mut rng = generator(&[self.recipe.seed, epoch as u64, image as u64]);
            let drawn = augment(self.training.image(image), strength, &mut rng);
            batch.pixels.extend(drawn.into_iter().map(normalise));
            batch.labels.push(self.training.label(image));
            batch.mask.extend((0..HIDDEN).map(|_| dropout(&mut rng)));
        }
        batch
    }

    fn strength(&self, epoch: usize) -> f32 {
        let left = 1.0 - epoch as f32 / self.recipe.epochs as f32;
        let faded = FINAL_AUGMENT + (1.0 - FINAL_AUGMENT) * (left / FADING_SHARE).min(1.0);
        self.recipe.augment * faded
    }
}

/// How `weights` perform on `images` without variation.
pub(super) fn score(
    pool: &ThreadPool,
    weights: &Weights,
    images: &Dataset,
) -> Result<Score, Error> {
    let layers = weights.layers()?;
    let running = weights.running();
    let parts = pool.map(images.len().div_ceil(MICRO_BATCH), |part| {
        let range = part * MICRO_BATCH..((part + 1) * MICRO_BATCH).min(images.len());
        let pixels = range.clone().flat_map(|i| images.normalised(i)).collect();
        let logits = layers.logits(&running, pixels)?;
        Ok::<_, Error>(judge(&logits, &range.map(|i| images.label(i)).collect::<Vec<_>>()))
    });
    let mut total = Score { loss: 0.0, correct: 0, labels: Vec::with_capacity(images.len()) };
    for part in parts {
        let part = part?;
        total.loss += part.loss;
        total.correct += part.correct;
        total.labels.extend(part.labels);
    }
    total.loss /= images.len().max(1) as f64;
    Ok(total)
}

/// Summed loss, number of hits and digits read for rows of logits.
fn judge(logits: &[f32], labels: &[usize]) -> Score {
    let rows = || logits.chunks_exact(CLASSES);
    let loss = |(row, label): (&[f32], &usize)| {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|v| (v - top).exp()).sum();
        f64::from(top + sum.ln() - row[*label])
    };
    Score {
        loss: rows().zip(labels).map(loss).sum(),
        correct: network::correct(logits, labels),
        labels: rows().map(network::largest).collect(),
    }
}

/// A separate generator for each path of numbers.
pub(super) fn generator(path: &[u64]) -> Xoshiro256PlusPlus {
    let mix = |state: u64, part: &u64| {
        // SplitMix64's finaliser (Steele et al., 2014): neighbours become unrelated seeds.
        let mut z = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    Xoshiro256PlusPlus::seed_from_u64(path.iter().fold(0, mix))
}

fn dropout<R: Rng>(rng: &mut R) -> f32 {
    if rng.random::<f32>() < DROPOUT { 0.0 } else { 1.0 / (1.0 - DROPOUT) }
}

fn add_scaled(to: &mut [f32], from: &[f32], factor: f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from * factor;
    }
}
