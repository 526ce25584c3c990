//! Rates at which latency turns up: shares of the servers' capacity, which a short run estimates.
//!
//! A grid of rates far below the servers' capacity shows the same latency everywhere, and one far
//! above it only shows how long the trials were.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Args, capacity, capacity_trial, workload};
use crate::driver::Destination;
use crate::progress;
use crate::workload::pictures::Picture;

/// Shares of the capacity of the fewest servers ...
const OF_FEWEST: [f64; 2] = [0.5, 0.9];
/// ... and of the most servers: one of them above 1, so that the last line turns up too.
const OF_MOST: [f64; 3] = [0.5, 0.8, 1.1];
/// Rates within this factor of another one are left out.
const APART: f64 = 1.12;
/// Long enough for a guess.
const GUESS: Duration = Duration::from_secs(1);

/// The waits of `args`, and those around the knees of the lines; `None` if the user ended the run.
pub(super) fn waits(
    args: &Args,
    picture: &Picture,
    destination: &Destination,
) -> anyhow::Result<Option<Vec<f64>>> {
    let ends = [args.servers.iter().min(), args.servers.iter().max()];
    let mut rates = BTreeMap::new();
    for servers in ends.into_iter().flatten() {
        let mut trial = capacity_trial(args, *servers);
        let time = if args.capacity.is_zero() { GUESS } else { GUESS.min(args.capacity) };
        trial.warm_up = time / 4;
        trial.duration = Some(time + trial.warm_up);
        let workload = Arc::new(workload(args, picture, *servers)?);
        let observed = progress::run_unseen(&trial, destination, &workload)?;
        if observed.interrupted {
            return Ok(None);
        }
        rates.insert(*servers, capacity::rate(&observed.run));
    }
    let fewest = rates.first_key_value().map_or(0.0, |(_, rate)| *rate);
    let most = rates.last_key_value().map_or(0.0, |(_, rate)| *rate);
    let mut waits = args.waits.clone();
    add(&mut waits, fewest, &OF_FEWEST);
    add(&mut waits, most, &OF_MOST);
    // Slow rates first, as in the tables.
    waits.sort_by(|one, other| other.total_cmp(one));
    Ok(Some(waits))
}

/// Adds the waits at `shares` of `rate`, except those close to an existing one.
fn add(waits: &mut Vec<f64>, rate: f64, shares: &[f64]) {
    for share in shares {
        let Some(wait) = rounded(1.0 / (rate * share)) else { continue };
        let is_near = |other: &f64| (wait / other).max(other / wait) < APART;
        if !waits.iter().any(is_near) {
            waits.push(wait);
        }
    }
}

/// Rounded to two digits, as a person would choose it; `None` if there is no rate.
fn rounded(wait: f64) -> Option<f64> {
    if !wait.is_finite() || wait <= 0.0 {
        return None;
    }
    format!("{wait:.1e}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{OF_FEWEST, OF_MOST, add};

    #[test]
    fn rates_lie_around_what_the_servers_can_do() {
        let mut waits = vec![0.5, 0.1, 0.01];
        add(&mut waits, 100.0, &OF_FEWEST);
        add(&mut waits, 400.0, &OF_MOST);
        // 90/s is close enough to the existing wait of 0.01 s.
        assert_eq!(waits, [0.5, 0.1, 0.01, 0.02, 0.005, 0.0031, 0.0023]);
    }

    #[test]
    fn servers_that_answer_nothing_have_no_knee() {
        let mut waits = vec![0.5];
        add(&mut waits, 0.0, &OF_MOST);
        assert_eq!(waits, [0.5]);
    }
}
