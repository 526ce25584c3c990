//! One simulated worker: a bounded queue in front of executors that take batches.
//!
//! Follows the worker's batcher: a free executor takes a batch when that is full or its oldest
//! request has waited long enough. A batch costs its heaviest request plus a share of the others.

use std::collections::VecDeque;

use super::clock::{Clock, Event, Nanos, nanos, nanos_of};
use super::pace::Pace;
use super::quota::Meter;
use super::requests::Requests;
use super::rest::Rest;
use super::scenario::{Batch, Scenario};

/// A worker and everything on it.
#[derive(Debug)]
pub(crate) struct Worker {
    number: u32,
    /// How many times slower it is than the service times state.
    slowness: f64,
    batch: Batch,
    meter: Option<Meter>,
    pace: Option<Pace>,
    rest: Option<Rest>,
    /// Whether it answers at all.
    pub(crate) is_alive: bool,
    /// Number of crashes so far; events planned in an earlier life are stale.
    pub(crate) life: u32,
    /// Nanoseconds that its executors compute, counted when a batch begins.
    busy: Nanos,
    queue: VecDeque<u32>,
    executors: Vec<Executor>,
    /// Executors that are free.
    idle: usize,
    closing: bool,
}

#[derive(Debug, Default)]
struct Executor {
    batch: Vec<u32>,
    until: Nanos,
}

impl Worker {
    /// Worker `number` of a scenario.
    pub(crate) fn new(number: u32, scenario: &Scenario) -> Self {
        let threads = scenario.threads;
        let slow = scenario.slow.filter(|&(count, _)| (number as usize) < count);
        let seed = scenario.seed.wrapping_add(u64::from(number)).wrapping_add(1);
        Self {
            number,
            slowness: slow.map_or(1.0, |(_, factor)| factor),
            batch: scenario.batch,
            meter: scenario.quota.map(|quota| Meter::new(quota, seed)),
            pace: scenario.pace_of(number as usize).cloned(),
            rest: scenario.rest.clone(),
            is_alive: true,
            life: 0,
            busy: 0,
            queue: VecDeque::new(),
            executors: (0..threads).map(|_| Executor::default()).collect(),
            idle: threads,
            closing: false,
        }
    }

    /// Nanoseconds that its executors have computed so far.
    pub(crate) fn worked(&self, now: Nanos) -> Nanos {
        let running = self.executors.iter().filter(|executor| !executor.batch.is_empty());
        self.busy - running.map(|executor| executor.until.saturating_sub(now)).sum::<Nanos>()
    }

    /// How many requests wait in the worker's queue.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Takes a request into the queue.
    pub(crate) fn push(&mut self, request: u32) {
        self.queue.push_back(request);
    }

    /// Whether a batch can start now; if not, schedules the moment when the oldest request will
    /// have waited long enough.
    pub(crate) fn can_start(&mut self, all: &Requests, clock: &mut Clock) -> bool {
        if self.idle == 0 {
            return false;
        }
        let Some(&oldest) = self.queue.front() else { return false };
        if self.queue.len() >= self.batch.max {
            return true;
        }
        let waited = clock.now() - all[oldest].queued;
        let delay = nanos_of(self.batch.delay);
        if waited >= delay {
            return true;
        }
        if !self.closing {
            self.closing = true;
            clock.after(delay - waited, Event::Close { worker: self.number, life: self.life });
        }
        false
    }

    /// Clears the plan to close a batch.
    pub(crate) fn closed(&mut self) {
        self.closing = false;
    }

    /// Removes the oldest waiting request.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        self.queue.pop_front()
    }

    /// Starts a batch of up to `batch.max` requests, including `first`.
    pub(crate) fn start(&mut self, first: u32, all: &Requests, clock: &mut Clock) {
        let free = self.executors.iter().position(|executor| executor.batch.is_empty());
        let index = free.expect("can_start found a free executor");
        let executor = &mut self.executors[index];
        executor.batch.push(first);
        while executor.batch.len() < self.batch.max {
            let Some(next) = self.queue.pop_front() else { break };
            executor.batch.push(next);
        }
        let demands = executor.batch.iter().map(|&request| all[request].demand);
        let (most, sum) = demands.fold((0.0_f64, 0.0), |(most, sum), d| (most.max(d), sum + d));
        let work = (most + self.batch.marginal * (sum - most)) * self.slowness;
        let now = clock.now();
        let time = match (&mut self.meter, &self.pace) {
            (Some(meter), _) => meter.finish(now, nanos(work)) - now,
            (None, Some(pace)) => pace.finish(now, work) - now,
            (None, None) => nanos(work),
        };
        let time = self.rest.as_ref().map_or(time, |rest| {
            let rested = now.saturating_sub(executor.until) as f64 / 1e9;
            nanos(rest.shortened(time as f64 / 1e9, rested))
        });
        executor.until = clock.now() + time;
        self.idle -= 1;
        self.busy += time;
        let executor = u32::try_from(index).expect("few executors");
        clock.after(time, Event::Finish { worker: self.number, executor, life: self.life });
    }

    /// Ends the batch of an executor; its requests go to `done`.
    pub(crate) fn finish(&mut self, executor: u32, done: &mut Vec<u32>) {
        let executor = &mut self.executors[executor as usize];
        done.append(&mut executor.batch);
        self.idle += 1;
    }

    /// Crashes: all of its requests go to `lost`, and unfinished work is not counted.
    pub(crate) fn crash(&mut self, now: Nanos, lost: &mut Vec<u32>) {
        self.is_alive = false;
        self.life += 1;
        self.closing = false;
        for executor in &mut self.executors {
            if !executor.batch.is_empty() {
                self.busy -= executor.until.saturating_sub(now);
                lost.append(&mut executor.batch);
            }
        }
        lost.extend(self.queue.drain(..));
        self.idle = self.executors.len();
    }
}
