//! The state of each worker, by number. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// The state of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkerState {
    /// No worker has this number.
    Vacant,
    /// It is starting for the first time, and those after it in the list wait for it.
    Awaited,
    /// It is starting for the first time.
    Starting,
    /// It could not be started so far, or its start takes long.
    Late,
    /// It listens at this address, or did before it ended.
    At(SocketAddr),
    /// It has no requests left, and is being stopped.
    Ending,
}

/// What is known about the worker of one number.
#[derive(Debug, Clone, Copy)]
struct Slot {
    place: WorkerState,
    /// When it entered this state.
    since: Instant,
    /// Whether it is to stop.
    is_leaving: bool,
    /// Starts that failed since it last listened.
    failures: u32,
}

/// The stage of a worker, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It was started just now.
    Starting,
    /// It fails to start, or its start takes long.
    Failing,
    /// It listens, or did.
    Listening {
        /// How long ago it began to listen.
        age: Duration,
    },
    /// It is to stop, or is stopping.
    Stopping,
}

/// All workers, by number.
#[derive(Debug)]
pub(super) struct Slots(Vec<Slot>);

impl Slots {
    pub(super) fn new(max: usize) -> Self {
        let since = Instant::now();
        Self(vec![Slot { place: WorkerState::Vacant, since, is_leaving: false, failures: 0 }; max])
    }

    /// Numbers and addresses of the workers that have reported their address. The position of a
    /// worker in the list must not depend on which starts fastest, so the list ends before the
    /// first that is still awaited; but one that cannot be started, or takes long, does not hold up
    /// the others. Workers that come later delay no request.
    pub(super) fn listed(&self) -> Vec<(usize, SocketAddr)> {
        let settled = self.0.iter().take_while(|slot| slot.place != WorkerState::Awaited);
        let known = settled.enumerate().filter_map(|(number, slot)| match slot.place {
            WorkerState::At(address) => Some((number, address)),
            WorkerState::Vacant
            | WorkerState::Awaited
            | WorkerState::Starting
            | WorkerState::Late
            | WorkerState::Ending => None,
        });
        known.collect()
    }

    pub(super) fn set_place(&mut self, number: usize, place: WorkerState, now: Instant) {
        let slot = &mut self.0[number];
        (slot.place, slot.since) = (place, now);
        if matches!(place, WorkerState::At(_) | WorkerState::Vacant) {
            slot.failures = 0;
        }
        slot.is_leaving &= place != WorkerState::Vacant;
    }

    /// Notes a failed start; returns whether the others no longer need to wait for it.
    pub(super) fn note_failure(&mut self, number: usize) -> bool {
        self.0[number].failures = self.0[number].failures.saturating_add(1);
        self.note_late(number)
    }

    /// Stops the others from waiting for it; returns whether they did.
    pub(super) fn note_late(&mut self, number: usize) -> bool {
        let place = &mut self.0[number].place;
        let was_awaited = matches!(place, WorkerState::Awaited | WorkerState::Starting);
        if was_awaited {
            *place = WorkerState::Late;
        }
        was_awaited
    }

    /// Whether it has not listened since its last failed start.
    pub(super) fn has_failed(&self, number: usize) -> bool {
        self.0[number].failures > 0
    }

    /// Notes that a worker is to stop.
    pub(super) fn set_leaving(&mut self, number: usize) {
        self.0[number].is_leaving = true;
    }

    /// Unused numbers, lowest first.
    pub(super) fn vacant(&self) -> impl Iterator<Item = usize> {
        let of =
            |(number, slot): (usize, &Slot)| (slot.place == WorkerState::Vacant).then_some(number);
        self.0.iter().enumerate().filter_map(of)
    }

    /// Numbers in use, whether the worker's process is running at the moment or not.
    pub(super) fn known(&self) -> impl Iterator<Item = usize> {
        let of =
            |(number, slot): (usize, &Slot)| (slot.place != WorkerState::Vacant).then_some(number);
        self.0.iter().enumerate().filter_map(of)
    }

    /// The stage of each worker.
    pub(super) fn stages(&self, now: Instant) -> impl Iterator<Item = (usize, Stage)> {
        self.0.iter().enumerate().filter_map(move |(number, slot)| {
            let age = now.saturating_duration_since(slot.since);
            let stage = match slot.place {
                WorkerState::Vacant => return None,
                WorkerState::Ending => Stage::Stopping,
                _ if slot.is_leaving => Stage::Stopping,
                WorkerState::Late => Stage::Failing,
                _ if slot.failures > 0 => Stage::Failing,
                WorkerState::Awaited | WorkerState::Starting => Stage::Starting,
                WorkerState::At(_) => Stage::Listening { age },
            };
            Some((number, stage))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> WorkerState {
        WorkerState::At(([127, 0, 0, 1], port).into())
    }

    fn slots(places: &[WorkerState]) -> Slots {
        let mut slots = Slots::new(places.len());
        for (number, place) in places.iter().enumerate() {
            slots.set_place(number, *place, Instant::now());
        }
        slots
    }

    fn numbers(slots: &Slots) -> Vec<usize> {
        slots.listed().into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn the_list_waits_for_the_first_workers_and_for_none_that_comes_later() {
        let mut slots = slots(&[at(1), WorkerState::Awaited, at(3), WorkerState::Vacant, at(5)]);
        assert_eq!(numbers(&slots), [0]);
        assert!(slots.note_failure(1), "it does not hold up the others");
        assert_eq!(numbers(&slots), [0, 2, 4]);
        slots.set_place(3, WorkerState::Starting, Instant::now());
        assert_eq!(
            numbers(&slots),
            [0, 2, 4],
            "one that comes later removes no worker from the list"
        );
        slots.set_place(2, WorkerState::Ending, Instant::now());
        assert_eq!(numbers(&slots), [0, 4]);
    }

    #[test]
    fn a_worker_that_listens_has_not_failed_and_one_that_is_gone_is_not_leaving() {
        let mut slots = slots(&[WorkerState::Starting, at(2)]);
        slots.note_failure(0);
        assert!(slots.has_failed(0));
        slots.set_place(0, at(1), Instant::now());
        assert!(!slots.has_failed(0));
        slots.set_leaving(1);
        let stages = |slots: &Slots| -> Vec<Stage> {
            slots.stages(Instant::now()).map(|(_, stage)| stage).collect()
        };
        assert!(matches!(stages(&slots)[..], [Stage::Listening { .. }, Stage::Stopping]));
        slots.set_place(1, WorkerState::Vacant, Instant::now());
        assert_eq!(slots.vacant().collect::<Vec<_>>(), [1]);
        slots.set_place(1, WorkerState::Starting, Instant::now());
        assert!(matches!(stages(&slots)[..], [Stage::Listening { .. }, Stage::Starting]));
    }
}
