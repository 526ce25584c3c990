//! Faults, actions of operators, and what probes notice of them.

use std::time::Duration;

use fleet::Event as Happening;
use rand::RngExt;

use super::{Event, World, entries};
use crate::checks;
use crate::machine::{Mode, Outcome};
use crate::request::Request;

impl World {
    /// Something goes wrong, or an operator acts.
    pub(super) fn trouble(&mut self) {
        if self.over_since.is_some() {
            return;
        }
        let gap = Duration::from_millis(self.rng.random_range(50..600));
        self.plan(gap, Event::Trouble);
        let machine = self.rng.random_range(0..self.machines.len());
        let kinds = if self.is_calm { 0..4 } else { 0..14 };
        match self.rng.random_range(kinds) {
            0 | 1 => self.set_drained(machine, !self.machines[machine].is_drained),
            2 => {
                if let Some(endpoint) = self.endpoint_of(machine) {
                    endpoint.set_limit(self.rng.random_range(1..5));
                    self.view.serve_waiting(self.now());
                }
            }
            3 => {
                self.machines[machine].is_listed ^= true;
                self.list();
            }
            4 => {
                // The whole machine is paused: events that are due meanwhile happen too late.
                let pause = Duration::from_millis(self.rng.random_range(100..2500));
                self.time.0.set(self.now() + pause);
            }
            5 => {
                let weight = self.rng.random_range(0..3);
                if let Some(endpoint) = self.endpoint_of(machine) {
                    let changes = self.pool().set_weight(&endpoint, weight);
                    self.tell(&changes);
                    self.view.serve_waiting(self.now());
                }
            }
            6..10 => {
                let mode = Mode::any(&mut self.rng);
                self.set_mode(machine, mode);
            }
            _ => self.set_mode(machine, Mode::Well),
        }
    }

    pub(super) fn set_mode(&mut self, machine: usize, mode: Mode) {
        self.note(|| format!("  machine {machine}: {mode:?}"));
        let it = &mut self.machines[machine];
        let is_restart = mode == Mode::Dead || it.mode == Mode::Dead || it.mode == Mode::Frozen;
        it.mode = mode;
        it.was_always_well &= mode == Mode::Well;
        if !is_restart {
            return;
        }
        it.life += 1;
        let of_machine = |it: &Request| {
            let running = it.running.iter().filter(|one| one.machine == machine && one.is_sent);
            running.map(|one| (it.number, one.number)).collect::<Vec<_>>()
        };
        let lost: Vec<_> = self.requests.values().flat_map(of_machine).collect();
        for (request, attempt) in lost {
            let (life, outcome) = (u32::MAX, Outcome::Reset);
            self.plan(Duration::ZERO, Event::Answer { request, attempt, life, outcome });
        }
    }

    pub(super) fn set_drained(&mut self, machine: usize, is_drained: bool) {
        self.machines[machine].is_drained = is_drained;
        if let Some(endpoint) = self.endpoint_of(machine) {
            let event = if is_drained { Happening::Drain } else { Happening::Undrain };
            let changes = self.pool().apply(&endpoint, event, self.now());
            self.tell(&changes);
            self.view.serve_waiting(self.now());
        }
    }

    /// Probes every machine, which reports its models if it is well.
    pub(super) fn probe(&mut self) {
        for machine in 0..self.machines.len() {
            let Some(endpoint) = self.endpoint_of(machine) else { continue };
            let (pool, now) = (self.pool(), self.now());
            let sign = self.machines[machine].mode.probe();
            let (was_silent, generation) = (endpoint.is_silent(), pool.snapshot().generation());
            // A worker that leaves, or loads its models, reports that before it stops or is ready.
            let may_be_unready = !self.is_calm && self.over_since.is_none() && sign.is_some();
            let is_unready = may_be_unready && self.rng.random_bool(0.05);
            let changes = if is_unready {
                let event = Happening::ProbeNotReady;
                pool.record_failed_probe(&endpoint, event, false, "not ready", now)
            } else if sign == Some(true) {
                let models = entries(&self.machines[machine].models);
                if let Some(changes) = pool.learn_models(&endpoint, models) {
                    self.tell(&changes);
                }
                pool.apply(&endpoint, Happening::ProbePassed, now)
            } else {
                let (event, is_mute) = (Happening::ProbeFailed, sign.is_none());
                pool.record_failed_probe(&endpoint, event, is_mute, "no answer", now)
            };
            self.tell(&changes);
            let is_told = pool.snapshot().generation() != generation;
            checks::after_a_probe(&endpoint, sign, was_silent || is_told);
        }
        self.view.serve_waiting(self.now());
        self.plan(Duration::from_millis(200), Event::Probe);
    }

    /// Ends the trouble: from now on all is well.
    pub(super) fn end_of_trouble(&mut self) {
        self.over_since = Some(self.now());
        self.arrivals = self.arrived;
        for machine in 0..self.machines.len() {
            self.machines[machine].is_listed = true;
            self.set_mode(machine, Mode::Well);
        }
        self.list();
        for machine in 0..self.machines.len() {
            self.set_drained(machine, false);
            if let Some(endpoint) = self.endpoint_of(machine) {
                let changes = self.pool().set_weight(&endpoint, 1);
                self.tell(&changes);
            }
        }
        self.view.serve_waiting(self.now());
    }
}
