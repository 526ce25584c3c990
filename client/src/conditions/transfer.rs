//! Users who post pictures in sequence, measured at each state of the client's link in turn.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::told::Told;
use super::{Common, Figure, is_over, order};
use crate::record::{Folder, MANIFEST, Row, SAMPLES, read_rows};
use crate::report::{Style, Table, shortfall};
use crate::slice::{Impairment, Site};
use crate::stats::mean;
use crate::workload::{generated, pictures};

/// How often to check whether a trial has begun.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Results for one state of the link.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LinkResult {
    /// The state: a share of lost packets, or bits per second.
    pub(super) state: f64,
    /// Trials that were run.
    pub(super) trials: usize,
    /// Bits per second of pictures that were answered in time.
    pub(super) goodput: Figure,
    /// Mean bytes of a picture that was answered in time. Large ones may be answered less often.
    pub(super) answered_bytes: Figure,
    /// Answers per second.
    pub(super) throughput: Figure,
    /// Time from posting a picture to its answer, for answered pictures (ms).
    pub(super) job_ms: Figure,
    /// Share of the requests that were answered in time.
    pub(super) succeeded: Figure,
    /// Share of all requests that were answered in time and correctly, if labels are known.
    pub(super) right: Figure,
    /// The goodput that theory predicts, in bits per second: the capacity of the link, or the
    /// throughput of a TCP model, which is not a bound.
    pub(super) expected: Option<f64>,
    /// The same, by a model that includes TCP's time-outs.
    pub(super) expected_with_timeouts: Option<f64>,
    /// Reasons, by trial, why a trial measured the client more than the link.
    pub(super) generator: Vec<String>,
}

/// A state of the link.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) impairment: Impairment,
}

/// The results for every state of the link, and the inputs of the theory.
pub(super) struct Measured {
    pub(super) lines: Vec<LinkResult>,
    /// Mean bytes of a picture, whether or not it is answered.
    pub(super) picture_bytes: f64,
    /// Shortest time to open a connection on the link as built (seconds).
    pub(super) round_trip: f64,
}

/// A trial: its results, and the mean bytes of an answered picture.
#[derive(Clone)]
struct Trial {
    told: Told,
    answered_bytes: Option<f64>,
    generator: Vec<String>,
}

impl Trial {
    /// Bits per second of answered pictures.
    fn goodput(&self) -> f64 {
        self.told.throughput * self.answered_bytes.unwrap_or(0.0) * 8.0
    }
}

/// Bytes of each picture, by name.
type Sizes = HashMap<String, f64>;

/// Mean bytes of an answered picture; `None` if none was answered.
fn answered_bytes(rows: &[Row], sizes: &Sizes) -> Option<f64> {
    let answered = rows.iter().filter(|row| !row.warm_up && row.outcome().is_success());
    mean(&answered.filter_map(|row| sizes.get(&row.item).copied()).collect::<Vec<_>>())
}

/// Measures every state in every trial.
pub(super) fn measure(
    common: &Common,
    users: usize,
    site: &Site<'_>,
    folder: &Folder,
    states: &[State],
) -> Result<Measured> {
    let Pictures { common, sizes, are_labelled } = with_pictures(common, folder)?;
    let picture_bytes = sizes.values().sum::<f64>() / sizes.len().max(1) as f64;
    let round_trip = site.round_trip()?.as_secs_f64();
    let way = site.client_link()?;
    let mut trials: Vec<Vec<Trial>> = vec![Vec::new(); states.len()];
    let plan = order(states.len(), common.trials, common.seed);
    for (done, (number, trial)) in plan.iter().enumerate() {
        let state = &states[*number];
        tracing::info!("{}/{} {} trial={trial}", done + 1, plan.len(), state.name);
        site.impair(&way, &Impairment::default())?;
        let place = folder.path().join(format!("{}-trial={trial}", state.name));
        let mut words = common.load(&place, *trial);
        words.extend(["--arrivals", "closed", "--users"].map(str::to_owned));
        words.extend([users.to_string(), "--connections".to_owned(), users.to_string()]);
        words.extend(["--keep-samples", "1000000"].map(str::to_owned));
        let mut load = site.start(&words)?;
        // The client checks that the service is reachable before it begins, which could fail on an
        // impaired link. The warm-up hides the change.
        while !place.join(MANIFEST).exists() && load.try_wait()?.is_none() {
            site.sleep(POLL_INTERVAL);
        }
        site.impair(&way, &state.impairment)?;
        let told = Told::of(&load.wait_with_output().context("waiting for a trial")?)?;
        let is_cut = told.interrupted;
        if !is_cut {
            let answered_bytes = answered_bytes(&read_rows(&place.join(SAMPLES))?, &sizes);
            let generator = told.generator(*trial);
            trials[*number].push(Trial { told, answered_bytes, generator });
        }
        if is_cut || is_over() {
            break;
        }
    }
    site.impair(&way, &Impairment::default())?;
    let line = |(state, trials): (&State, &Vec<Trial>)| line(state.value, trials, are_labelled);
    Ok(Measured {
        lines: states.iter().zip(&trials).map(line).collect(),
        picture_bytes,
        round_trip,
    })
}

/// Condenses the trials of one state.
fn line(state: f64, trials: &[Trial], are_labelled: bool) -> LinkResult {
    let told = || trials.iter().map(|trial| &trial.told);
    LinkResult {
        state,
        trials: trials.len(),
        goodput: Figure::of(trials.iter().map(|it| Some(it.goodput()))),
        answered_bytes: Figure::of(trials.iter().map(|it| it.answered_bytes)),
        throughput: Figure::of(told().map(|it| Some(it.throughput))),
        job_ms: Figure::of(told().map(|it| it.succeeded_ms.mean)),
        succeeded: Figure::of_shares(told().map(Told::succeeded)),
        right: Figure::of_shares(told().map(|it| it.right(are_labelled))),
        expected: None,
        expected_with_timeouts: None,
        generator: trials.iter().flat_map(|trial| trial.generator.iter().cloned()).collect(),
    }
}

/// The pictures that users post.
struct Pictures {
    /// The flags, with the pictures to send filled in.
    common: Common,
    sizes: Sizes,
    /// Whether the correct label of any picture is known.
    are_labelled: bool,
}

/// The pictures that the flags name, or a generated one if they name none.
fn with_pictures(common: &Common, folder: &Folder) -> Result<Pictures> {
    const SIDE: u32 = 224;
    let found = match &common.images {
        Some(path) => pictures::read(path)?,
        None => vec![generated::picture(SIDE)?],
    };
    let mut common = common.clone();
    if common.images.is_none() {
        folder.write(&found[0].name, &found[0].bytes)?;
        common.images = Some(folder.path().join(&found[0].name));
    }
    Ok(Pictures {
        common,
        are_labelled: found.iter().any(|picture| picture.label.is_some()),
        sizes: found.into_iter().map(|it| (it.name, it.bytes.len() as f64)).collect(),
    })
}

/// The table. `state` names the first column, whose values are converted by `shown`.
pub(super) fn table(
    lines: &[LinkResult],
    state: &str,
    shown: impl Fn(f64) -> f64,
    style: Style,
) -> Table {
    let mut heads = vec![state, "trials", "goodput kbit/s", "from", "to", "answers/s", "job ms"];
    heads.extend(["from", "to", "answered %", "right %", "expected kbit/s", "with time-outs"]);
    heads.push("client");
    let mut table = Table::new(&heads);
    let number = |value| style.number(value);
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
        cells.push(shortfall(&line.generator));
        table.push(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{Sizes, Trial, answered_bytes, line, table};
    use crate::conditions::told::Told;
    use crate::record::Row;
    use crate::report::Style;

    /// The summary of a trial whose verdict has these reasons.
    fn told(reasons: &serde_json::Value) -> Told {
        let told = serde_json::json!({
            "requests": 4, "throughput": 2.0, "stages_ms": {}, "accuracy": null, "interrupted": false,
            "succeeded_ms": { "count": 2, "mean": 1.0 },
            "verdict": { "is_valid": false, "reasons": reasons },
        });
        serde_json::from_value(told).unwrap()
    }

    #[test]
    fn a_line_says_that_the_client_fell_short() {
        let lines = |cause: &str| {
            let told = told(&serde_json::json!([{ "cause": cause, "text": "saturated" }]));
            let generator = told.generator(3);
            [line(0.0, &[Trial { told, answered_bytes: None, generator }], false)]
        };
        let last = |cause: &str| {
            let table = table(&lines(cause), "lost %", |share| share, Style::Programs);
            table.rows()[1].last().cloned().unwrap()
        };
        assert_eq!(last("generator"), "fell short");
        assert_eq!(lines("generator")[0].generator, ["trial 3: saturated"]);
        // Requests are expected to fail.
        assert_eq!(last("service"), "-");
    }

    /// Pictures of 1,000 and of 9,000 bytes alternate, and the large ones time out.
    #[test]
    fn goodput_is_that_of_the_pictures_that_were_answered() {
        let header = "trial,item,warm_up,scheduled_us,dispatched_us,sent_us,first_byte_us,done_us,latency_ms,service_time_ms,outcome,bytes,endpoint,label,correct,worker_ms,queue_ms,compute_ms\n";
        let requests = [
            ("large", true, "200"),
            ("small", false, "200"),
            ("large", false, "timeout"),
            ("small", false, "200"),
            ("large", false, "timeout"),
        ];
        let lines = requests.map(|(item, warm_up, outcome)| {
            format!("load,{item},{warm_up},0,0,0,0,0,1.0,1.0,{outcome},1,,,,,,\n")
        });
        let text = header.to_owned() + &lines.concat();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows: Vec<Row> = reader.deserialize().map(Result::unwrap).collect();
        let sizes = Sizes::from([("small".to_owned(), 1000.0), ("large".to_owned(), 9000.0)]);
        let told = told(&serde_json::json!([]));
        let answered = answered_bytes(&rows, &sizes);
        let trial = Trial { told, answered_bytes: answered, generator: Vec::new() };
        let line = line(0.0, &[trial], false);
        assert_eq!((line.goodput.mean, line.answered_bytes.mean), (Some(16_000.0), Some(1000.0)));
        assert_eq!(answered_bytes(&rows[4..], &sizes), None, "nothing was answered");
    }
}
