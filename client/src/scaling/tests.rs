use std::time::Duration;

use clap::Parser;

use super::{Args, Measured, Planned, capacity_trial, findings, resume, settings, trial};
use crate::record::Row;
use crate::report::Style;
use crate::workload::generated;
use crate::workload::pictures::Picture;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

/// The default flags, overridden by those in `given`.
fn args(given: &[&str]) -> Args {
    Flags::parse_from([&["scaling"][..], given].concat()).args
}

/// The requests of a closed loop, sent `late` after they were due.
fn rows(late: Duration) -> Vec<Row> {
    let head = "trial,item,warm_up,scheduled_us,dispatched_us,sent_us,first_byte_us,done_us,latency_ms,service_time_ms,outcome,bytes,endpoint,label,correct,worker_ms,queue_ms,compute_ms";
    let late = late.as_micros();
    let row = |number: u128| {
        let due = number * 1000;
        let (sent, done) = (due + late, due + late + 5000);
        format!("t,a,false,{due},{sent},{sent},{done},{done},5.0,5.0,200,1,,,,,,\n")
    };
    let text: String = std::iter::once(format!("{head}\n")).chain((0..3000).map(row)).collect();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().map(Result::unwrap).collect()
}

#[test]
fn the_mean_of_a_cell_with_a_request_that_was_given_up_is_a_least_value() {
    let args = args(&["--servers", "2", "--waits", "0.5"]);
    let planned = Planned { servers: 2, wait: Some(0.5), number: 0 };
    let trial = trial(&args, &planned);
    let mut rows = rows(Duration::ZERO);
    rows[7].outcome = "timeout".to_owned();
    let run = resume::run(&trial, &rows).unwrap();
    let found = findings(&args, &[Measured::new(planned, &trial, run, None)], false);
    let cells = |style| found.table(style).rows()[1].clone();
    assert!(cells(Style::People)[5].starts_with('≥'), "{:?}", cells(Style::People));
    assert!(!cells(Style::People)[7].starts_with('≥'), "{:?}", cells(Style::People));
    let exact = cells(Style::Programs);
    assert!(exact[5].parse::<f64>().is_ok() && exact.last().unwrap() == "mean max", "{exact:?}");
}

#[test]
fn whatever_decides_the_figures_is_a_setting_of_the_run() {
    let picture = generated::picture(16).unwrap();
    let usual = settings(&args(&[]), &picture);
    for other in [
        ["--timeout", "1s"],
        ["--connections", "7"],
        ["--capacity-trials", "5"],
        ["--capacity", "9s"],
        ["--requests", "77"],
    ] {
        assert_ne!(settings(&args(&other), &picture), usual, "{other:?}");
    }
    let name = picture.name.clone();
    let mut bytes = picture.bytes.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let other = Picture { name, bytes: bytes.into(), ..picture };
    assert_ne!(settings(&args(&[]), &other), usual, "a picture of the same name and length");
}

#[test]
fn a_capacity_that_the_client_did_not_reach_says_so() {
    let args = args(&["--servers", "2", "--waits", "0.5"]);
    let planned = Planned { servers: 2, wait: None, number: 1 };
    let trial = capacity_trial(&args, 2);
    let found = |late| {
        let run = resume::run(&trial, &rows(late)).unwrap();
        findings(&args, &[Measured::new(planned, &trial, run, None)], false)
    };
    let good = found(Duration::ZERO);
    assert_eq!((good.capacities.len(), good.remarks().len()), (1, 0));
    let short = found(Duration::from_millis(20));
    let remarks = short.remarks();
    assert!(remarks[0].starts_with("capacity of 2 servers: trial 1: saturated"), "{remarks:?}");
    let table = short.capacity_table(crate::report::number);
    assert_eq!(table.rows()[1].last().map(String::as_str), Some("fell short"));
}
