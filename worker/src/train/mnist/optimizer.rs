//! The learning rule: `AdamW` (Loshchilov and Hutter, 2019) under a one-cycle schedule, and the
//! moving average of what it learns.
//!
//! The state is plain vectors, so a checkpoint holds all of it and a resumed run takes the same
//! steps bit for bit.

use super::network::{PARAMETERS, Weights};
use crate::model::weights::LARGEST;

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.99;
const EPSILON: f32 = 1e-8;
/// Share of the steps in which the rate rises.
const WARM_UP: f32 = 0.15;
/// The average forgets over about this many steps, fewer at the start.
const AVERAGE_STEPS: f32 = 1000.0;
/// The same for the running statistics of the norms.
const STATISTICS_STEPS: f32 = 20.0;

/// Weights with everything that determines their next step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Learner {
    /// The weights at which the gradient is taken.
    pub weights: Weights,
    /// The moving average: what is evaluated and served.
    pub average: Weights,
    /// Mean of the gradient.
    pub momentum: Vec<f32>,
    /// Mean of its square.
    pub second_moment: Vec<f32>,
    /// Optimiser steps taken so far.
    pub step: usize,
}

/// The learning rate over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Schedule {
    /// Steps of the whole run.
    pub steps: usize,
    /// The largest rate.
    pub peak: f32,
    /// Pull of matrices towards zero, relative to the rate.
    pub decay: f32,
}

impl Schedule {
    /// Rises linearly, then falls along a cosine to zero.
    pub(super) fn rate(&self, step: usize) -> f32 {
        let progress = (step as f32 + 0.5) / self.steps.max(1) as f32;
        if progress < WARM_UP {
            return self.peak * (0.04 + 0.96 * progress / WARM_UP);
        }
        let fallen = ((progress - WARM_UP) / (1.0 - WARM_UP)).min(1.0);
        self.peak * 0.5 * (1.0 + (std::f32::consts::PI * fallen).cos())
    }
}

impl Learner {
    /// The state before the first step.
    pub(super) fn new(weights: Weights) -> Self {
        let zeros = vec![0.0; weights.parameters.len()];
        let average = weights.clone();
        Self { weights, average, momentum: zeros.clone(), second_moment: zeros, step: 0 }
    }

    /// Whether its weights are small enough for networks to compute with.
    pub(super) fn is_moderate(&self) -> bool {
        [&self.weights, &self.average].into_iter().all(|Weights { parameters, statistics }| {
            parameters.iter().chain(statistics).all(|value| value.abs() <= LARGEST)
        })
    }

    /// One step along the mean `gradient`, with the mean batch `statistics`.
    pub(super) fn learn(&mut self, gradient: &[f32], statistics: &[f32], schedule: &Schedule) {
        let rate = schedule.rate(self.step);
        self.step += 1;
        self.descend(gradient, rate, schedule.decay);
        let share = self.share(STATISTICS_STEPS);
        blend(&mut self.weights.statistics, statistics, share);
        let share = self.share(AVERAGE_STEPS);
        blend(&mut self.average.parameters, &self.weights.parameters, share);
        blend(&mut self.average.statistics, &self.weights.statistics, share);
    }

    /// `1 / steps`, but more while fewer than ten times that many steps have been taken.
    fn share(&self, steps: f32) -> f32 {
        (1.0 / steps).max(10.0 / (9.0 + self.step as f32)).min(1.0)
    }

    fn descend(&mut self, gradient: &[f32], rate: f32, decay: f32) {
        let step = i32::try_from(self.step).unwrap_or(i32::MAX);
        let correction1 = 1.0 / (1.0 - BETA1.powi(step));
        let correction2 = 1.0 / (1.0 - BETA2.powi(step));
        let mut from = 0;
        for (_, shape) in PARAMETERS {
            let range = from..from + shape.iter().product::<usize>();
            from = range.end;
            let keep = if shape.len() == 2 { 1.0 - rate * decay } else { 1.0 };
            let state =
                self.momentum[range.clone()].iter_mut().zip(&mut self.second_moment[range.clone()]);
            let weights = self.weights.parameters[range.clone()].iter_mut().zip(&gradient[range]);
            for ((w, g), (momentum, second_moment)) in weights.zip(state) {
                *momentum += (g - *momentum) * (1.0 - BETA1);
                *second_moment += (g * g - *second_moment) * (1.0 - BETA2);
                let direction =
                    *momentum * correction1 / ((*second_moment * correction2).sqrt() + EPSILON);
                *w = *w * keep - rate * direction;
            }
        }
    }
}

fn blend(into: &mut [f32], from: &[f32], share: f32) {
    for (to, from) in into.iter_mut().zip(from) {
        *to += (from - *to) * share;
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

    use super::*;

    #[test]
    fn the_rate_rises_to_its_peak_and_falls_to_nothing() {
        let schedule = Schedule { steps: 1000, peak: 2.0, decay: 0.0 };
        let rates: Vec<f32> = (0..1000).map(|step| schedule.rate(step)).collect();
        let top = rates.iter().copied().fold(0.0, f32::max);
        assert!((top - 2.0).abs() < 0.02);
        assert!(rates[..149].windows(2).all(|w| w[0] < w[1]));
        assert!(rates[151..].windows(2).all(|w| w[0] > w[1]));
        assert!(rates[0] < 0.1 && rates[999] < 0.001);
    }

    #[test]
    fn steps_descend_a_parabola_and_the_average_follows() {
        let mut learner = Learner::new(Weights::random(&mut Xoshiro256PlusPlus::seed_from_u64(1)));
        let schedule = Schedule { steps: 400, peak: 0.05, decay: 0.0 };
        let statistics = vec![3.0; learner.weights.statistics.len()];
        for _ in 0..400 {
            let gradient: Vec<f32> = learner.weights.parameters.iter().map(|w| w - 0.5).collect();
            learner.learn(&gradient, &statistics, &schedule);
        }
        let far =
            |values: &[f32], goal: f32| values.iter().map(|v| (v - goal).abs()).fold(0.0, f32::max);
        assert!(far(&learner.weights.parameters, 0.5) < 0.01);
        assert!(far(&learner.average.parameters, 0.5) < 0.1);
        assert!(far(&learner.average.statistics, 3.0) < 0.1);
    }
}
