//! Users who post pictures one after another, at one state of the client's link after the other.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::told::Told;
use super::{Common, Figure, is_over, order};
use crate::record::{Folder, MANIFEST};
use crate::report::Table;
use crate::slice::{Impairment, Site};
use crate::workload::{generated, pictures};

/// How often it is looked whether a trial has begun.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What one state of the link came to.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LinkResult {
    /// The state: a share of lost packets, or bits per second.
    pub(super) state: f64,
    /// Trials that were run.
    pub(super) trials: usize,
    /// Bits of pictures per second that were answered in time.
    pub(super) goodput: Figure,
    /// Answers per second.
    pub(super) throughput: Figure,
    /// From posting a picture to its answer, of answered ones (ms).
    pub(super) job_ms: Figure,
    /// Share of the requests that were answered in time.
    pub(super) succeeded: Figure,
    /// Share of all requests that were answered in time and right, where labels are known.
    pub(super) right: Figure,
    /// The most goodput that theory allows, in bits per second.
    pub(super) expected: Option<f64>,
    /// The same with time-outs of TCP.
    pub(super) expected_with_timeouts: Option<f64>,
}

/// A state of the link.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) impairment: Impairment,
}

/// The figures of every state of the link, and what theory needs beside them.
pub(super) struct Measured {
    pub(super) lines: Vec<LinkResult>,
    /// Bytes of a picture, on average.
    pub(super) picture_bytes: f64,
    /// Opening a connection, at best, on the link as it is (seconds).
    pub(super) round_trip: f64,
}

/// Measures every state in every trial.
pub(super) fn measure(
    common: &Common,
    users: usize,
    site: &Site<'_>,
    folder: &Folder,
    states: &[State],
) -> Result<Measured> {
    let Pictures { common, bytes: picture_bytes, are_labelled } = with_pictures(common, folder)?;
    let round_trip = site.round_trip()?.as_secs_f64();
    let way = site.client_link()?;
    let mut told: Vec<Vec<Told>> = vec![Vec::new(); states.len()];
    let plan = order(states.len(), common.trials, common.seed);
    for (done, (number, trial)) in plan.iter().enumerate() {
        let state = &states[*number];
        tracing::info!("{}/{} {} trial={trial}", done + 1, plan.len(), state.name);
        site.impair(&way, &Impairment::default())?;
        let place = folder.path().join(format!("{}-trial={trial}", state.name));
        let mut words = common.load(&place, *trial);
        words.extend(["--arrivals", "closed", "--users"].map(str::to_owned));
        words.extend([users.to_string(), "--connections".to_owned(), users.to_string()]);
        let mut load = site.start(&words)?;
        // It looks whether the service is there before it begins, which it may not find out on such a
        // link; the warm-up hides the change.
        while !place.join(MANIFEST).exists() && load.try_wait()?.is_none() {
            site.sleep(POLL_INTERVAL);
        }
        site.impair(&way, &state.impairment)?;
        let one = Told::of(&load.wait_with_output().context("waiting for a trial")?)?;
        let is_cut = one.interrupted;
        if !is_cut {
            told[*number].push(one);
        }
        if is_cut || is_over() {
            break;
        }
    }
    site.impair(&way, &Impairment::default())?;
    let line = |(state, told): (&State, &Vec<Told>)| LinkResult {
        state: state.value,
        trials: told.len(),
        goodput: Figure::of(told.iter().map(|it| Some(it.throughput * picture_bytes * 8.0))),
        throughput: Figure::of(told.iter().map(|it| Some(it.throughput))),
        job_ms: Figure::of(told.iter().map(|it| it.succeeded_ms.mean)),
        succeeded: Figure::of_shares(told.iter().map(Told::succeeded)),
        right: Figure::of_shares(told.iter().map(|it| it.right(are_labelled))),
        expected: None,
        expected_with_timeouts: None,
    };
    Ok(Measured { lines: states.iter().zip(&told).map(line).collect(), picture_bytes, round_trip })
}

/// What users post.
struct Pictures {
    /// The flags with pictures to send.
    common: Common,
    /// Bytes of one, on average.
    bytes: f64,
    /// Whether the right label of any is known.
    are_labelled: bool,
}

/// The pictures that the flags name; one that is made here if they name none.
fn with_pictures(common: &Common, folder: &Folder) -> Result<Pictures> {
    const SIDE: u32 = 224;
    let found = match &common.images {
        Some(path) => pictures::read(path)?,
        None => vec![generated::picture(SIDE)?],
    };
    let bytes: usize = found.iter().map(|picture| picture.bytes.len()).sum();
    let mut common = common.clone();
    if common.images.is_none() {
        folder.write(&found[0].name, &found[0].bytes)?;
        common.images = Some(folder.path().join(&found[0].name));
    }
    Ok(Pictures {
        common,
        bytes: bytes as f64 / found.len().max(1) as f64,
        are_labelled: found.iter().any(|picture| picture.label.is_some()),
    })
}

/// The table; `state` names the first column and is written as `shown`.
pub(super) fn table(
    lines: &[LinkResult],
    state: &str,
    shown: impl Fn(f64) -> f64,
    number: fn(Option<f64>) -> String,
) -> Table {
    let mut heads = vec![state, "trials", "goodput kbit/s", "from", "to", "answers/s", "job ms"];
    heads.extend(["from", "to", "answered %", "right %", "expected kbit/s", "with time-outs"]);
    let mut table = Table::new(&heads);
    let scaled = |value: Option<f64>, factor: f64| number(value.map(|value| value * factor));
    for line in lines {
        let ends = |figure: &Figure, factor: f64| {
            let end = |value: fn(&crate::stats::Interval) -> f64| {
                scaled(figure.interval.as_ref().map(value), factor)
            };
            [end(|it| it.low), end(|it| it.high)]
        };
        let mut cells = vec![number(Some(shown(line.state))), line.trials.to_string()];
        cells.push(scaled(line.goodput.mean, 1e-3));
        cells.extend(ends(&line.goodput, 1e-3));
        cells.push(number(line.throughput.mean));
        cells.push(number(line.job_ms.mean));
        cells.extend(ends(&line.job_ms, 1.0));
        cells.push(scaled(line.succeeded.mean, 100.0));
        cells.push(scaled(line.right.mean, 100.0));
        cells.push(scaled(line.expected, 1e-3));
        cells.push(scaled(line.expected_with_timeouts, 1e-3));
        table.push(cells);
    }
    table
}
