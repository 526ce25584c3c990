//! `client bandwidth`: goodput, answers, job time and accuracy against the client's link capacity.

use anyhow::Result;
use plot::{Axis, Chart, Point, Scale, Stroke};
use serde::Serialize;

use super::told::fell_short;
use super::transfer::{self, LinkResult, State};
use super::{Common, Experiment, Section, chart, series};
use crate::error::Error;
use crate::record::Folder;
use crate::report::{Style, Table, number};
use crate::slice::{Impairment, Site, kilobits};

const EXAMPLES: &str = "\
Examples:
  sudo client bandwidth                             eight capacities from 250 kbit/s to 100 Mbit/s
  sudo client bandwidth --capacities 1mbps,10mbps --users 8

The capacity holds in each direction (tbf). No more pictures can be answered than the link carries.";

/// Flags of `client bandwidth`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Capacities of the client's link, such as 500kbps or 10mbps.
    #[arg(long, env = "CLIENT_CAPACITIES", value_delimiter = ',', value_name = "LIST", value_parser = kilobits,
          default_value = "250kbps,500kbps,1mbps,2mbps,5mbps,10mbps,20mbps,100mbps")]
    pub capacities: Vec<u64>,
    /// Users who post one picture after another.
    #[arg(long, env = "CLIENT_USERS", default_value_t = 4, value_name = "N")]
    pub users: usize,
    /// Flags of all conditions.
    #[command(flatten)]
    pub common: Common,
}

/// Results of the experiment.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Findings {
    users: usize,
    picture_bytes: f64,
    lines: Vec<LinkResult>,
}

impl Experiment for Args {
    type Findings = Findings;

    fn check(&self) -> Result<(), Error> {
        if self.users == 0 {
            return Err(Error::Usage("--users: one at least".to_owned()));
        }
        Ok(())
    }

    fn measure(&self, site: &Site<'_>, folder: &Folder) -> Result<Findings> {
        let state = |&kbps: &u64| State {
            name: format!("capacity={kbps}kbps"),
            value: kbps as f64 * 1e3,
            impairment: Impairment { loss: 0.0, capacity_kbps: Some(kbps) },
        };
        let states: Vec<State> = self.capacities.iter().map(state).collect();
        let found = transfer::measure(&self.common, self.users, site, folder, &states)?;
        let mut lines = found.lines;
        for line in &mut lines {
            line.expected = Some(line.state);
        }
        Ok(Findings { users: self.users, picture_bytes: found.picture_bytes, lines })
    }

    fn table(findings: &Findings, style: Style) -> Table {
        transfer::table(&findings.lines, "capacity kbit/s", |bits| bits / 1e3, style)
    }

    fn charts(findings: &Findings) -> Vec<(&'static str, Chart)> {
        let lines = || findings.lines.iter();
        let capacity = || Axis::new("capacity in each direction (kbit/s)", Scale::Log);
        let goodput = |line: &LinkResult| line.goodput.scaled(line.state / 1e3, 1e-3);
        let whole =
            |line: &LinkResult| Some(Point { x: line.state / 1e3, y: line.state / 1e3, bar: None });
        // All users share the link, and the measured time covers answered pictures only.
        let least = |line: &LinkResult| {
            let seconds = findings.users as f64 * line.answered_bytes.mean? * 8.0 / line.state;
            Some(Point { x: line.state / 1e3, y: seconds * 1e3, bar: None })
        };
        vec![
            (
                "goodput.svg",
                chart(
                    "Goodput against capacity",
                    "pictures that were answered in time; bars: 95 % intervals over trials",
                    [capacity(), Axis::new("goodput (kbit/s)", Scale::Log)],
                    vec![
                        series("measured", lines().map(goodput), Stroke::Measured),
                        series("all of the link", lines().map(whole), Stroke::Theory),
                    ],
                ),
            ),
            (
                "job-time.svg",
                chart(
                    "Job time against capacity",
                    "mean from posting a picture to its answer, of answered ones",
                    [capacity(), Axis::new("job time (ms)", Scale::Log)],
                    vec![
                        series(
                            "measured",
                            lines().map(|line| line.job_ms.at(line.state / 1e3)),
                            Stroke::Measured,
                        ),
                        series("time on the link alone", lines().map(least), Stroke::Theory),
                    ],
                ),
            ),
        ]
    }

    fn words(&self, findings: &Findings) -> Section {
        let told = findings.lines.iter().filter(|line| line.trials > 0).map(|line| {
            format!(
                "{} kbit/s: {} answers/s, {} % of the link{}",
                number(Some(line.state / 1e3)),
                number(line.throughput.mean),
                number(line.goodput.mean.map(|bits| 100.0 * bits / line.state)),
                fell_short(&line.generator)
            )
        });
        Section::new(
            "Bandwidth of the client's link",
            format!("{}.", told.collect::<Vec<_>>().join("; ")),
            format!(
                "{} users posted pictures of {} bytes on average one after another (a closed loop), over kept \
                 connections, for {} per trial; {} trials of each capacity in shuffled order. A token \
                 bucket at both ends of the link let no more pass than its capacity. The dashed lines are \
                 what the link allows if it does nothing but carry pictures: where the measured one \
                 leaves them, the workers or the users are the limit. Headers take some percent.",
                findings.users,
                number(Some(findings.picture_bytes)),
                humantime::format_duration(self.common.duration),
                self.common.trials,
            ),
        )
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({
            "capacities_kbps": self.capacities, "users": self.users, "trials": self.common.trials,
            "duration_seconds": self.common.duration.as_secs_f64(),
            "timeout_seconds": self.common.timeout.as_secs_f64(),
        })
    }
}
