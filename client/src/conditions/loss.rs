//! `client loss`: goodput, answers, job time and accuracy against packet loss on the client's link.

use anyhow::Result;
use plot::{Axis, Chart, Scale, Stroke};
use serde::Serialize;

use super::told::fell_short;
use super::transfer::{self, LinkResult, State};
use super::{Common, Experiment, Section, chart, linear, series};
use crate::error::Error;
use crate::record::Folder;
use crate::report::{Style, Table, number};
use crate::slice::{Impairment, Site};

const EXAMPLES: &str = "\
Examples:
  sudo client loss                                  ten losses from 0 to 60 %, three trials of 10 s
  sudo client loss --losses 0,0.01,0.02,0.05 --users 1
  sudo client loss --images photos --timeout 3s     accuracy too, if photos/labels.csv is there

Packets are dropped at random at both ends of the client's link, in both directions (iptables' statistic
match). What theory expects: Mathis et al., \"The macroscopic behavior of the TCP congestion avoidance
algorithm\" (1997), and with time-outs Padhye et al., \"Modeling TCP throughput\" (1998).";

/// Flags of `client loss`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Shares of packets that are lost in each direction.
    #[arg(
        long,
        env = "CLIENT_LOSSES",
        value_delimiter = ',',
        value_name = "LIST",
        default_value = "0,0.01,0.02,0.05,0.1,0.2,0.3,0.4,0.5,0.6"
    )]
    pub losses: Vec<f64>,
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
    round_trip_ms: f64,
    lines: Vec<LinkResult>,
}

/// TCP's maximum segment size in bytes, for packets of 1,500 bytes with timestamps.
const SEGMENT: f64 = 1448.0;
/// Minimum retransmission timeout of Linux, in seconds.
const LEAST_TIMEOUT: f64 = 0.2;

/// Throughput of one connection under packet loss, in bits per second, by Mathis' law.
fn mathis(round_trip: f64, loss: f64) -> f64 {
    SEGMENT * 8.0 / round_trip * (1.5 / loss).sqrt()
}

/// The same with time-outs, by Padhye's model. At high loss most losses end in a time-out.
fn padhye(round_trip: f64, loss: f64) -> f64 {
    /// Packets covered by one acknowledgement.
    const ACKNOWLEDGED: f64 = 2.0;
    let duplicates = round_trip * (2.0 * ACKNOWLEDGED * loss / 3.0).sqrt();
    let chance = (3.0 * (3.0 * ACKNOWLEDGED * loss / 8.0).sqrt()).min(1.0);
    let waits = LEAST_TIMEOUT.max(round_trip) * chance * loss * (1.0 + 32.0 * loss * loss);
    SEGMENT * 8.0 / (duplicates + waits)
}

impl Experiment for Args {
    type Findings = Findings;

    fn check(&self) -> Result<(), Error> {
        let wrong = self.losses.iter().find(|loss| !(0.0..=0.95).contains(*loss));
        match wrong {
            Some(loss) => Err(Error::Usage(format!("--losses: {loss} is no share from 0 to 0.95"))),
            None if self.users == 0 => Err(Error::Usage("--users: one at least".to_owned())),
            None => Ok(()),
        }
    }

    fn measure(&self, site: &Site<'_>, folder: &Folder) -> Result<Findings> {
        let state = |&loss: &f64| State {
            name: format!("loss={loss}"),
            value: loss,
            impairment: Impairment { loss, capacity_kbps: None },
        };
        let states: Vec<State> = self.losses.iter().map(state).collect();
        let found = transfer::measure(&self.common, self.users, site, folder, &states)?;
        let mut lines = found.lines;
        for line in lines.iter_mut().filter(|line| line.state > 0.0) {
            let all = |one: f64| Some(one * self.users as f64);
            line.expected = all(mathis(found.round_trip, line.state));
            line.expected_with_timeouts = all(padhye(found.round_trip, line.state));
        }
        Ok(Findings {
            users: self.users,
            picture_bytes: found.picture_bytes,
            round_trip_ms: found.round_trip * 1e3,
            lines,
        })
    }

    fn table(findings: &Findings, style: Style) -> Table {
        transfer::table(&findings.lines, "lost %", |share| 100.0 * share, style)
    }

    fn charts(findings: &Findings) -> Vec<(&'static str, Chart)> {
        let lines = || findings.lines.iter();
        let lost = || linear("packets lost in each direction (%)");
        let percent = |line: &LinkResult| 100.0 * line.state;
        let goodput = |line: &LinkResult| line.goodput.scaled(percent(line), 1e-3);
        let expected = |line: &LinkResult| {
            let y = line.expected_with_timeouts? / 1e3;
            Some(plot::Point { x: percent(line), y, bar: None })
        };
        let share = |figure: fn(&LinkResult) -> &super::Figure| {
            lines().map(move |line| {
                let mut point = figure(line).scaled(percent(line), 100.0)?;
                point.bar = point.bar.map(|(low, high)| (low, high.min(100.0)));
                Some(point)
            })
        };
        let mut shares = vec![series("answered", share(|line| &line.succeeded), Stroke::Measured)];
        let right = series("answered and right", share(|line| &line.right), Stroke::Measured);
        shares.extend((!right.points.is_empty()).then_some(right));
        vec![
            (
                "goodput.svg",
                chart(
                    "Goodput against loss",
                    "pictures that were answered in time; bars: 95 % intervals over trials",
                    [lost(), Axis::new("goodput (kbit/s)", Scale::Log)],
                    vec![
                        series("measured", lines().map(goodput), Stroke::Measured),
                        series("TCP by Padhye's model", lines().map(expected), Stroke::Theory),
                    ],
                ),
            ),
            (
                "job-time.svg",
                chart(
                    "Job time against loss",
                    "mean from posting a picture to its answer, of answered ones",
                    [lost(), Axis::new("job time (ms)", Scale::Log)],
                    vec![series(
                        "measured",
                        lines().map(|line| line.job_ms.at(percent(line))),
                        Stroke::Measured,
                    )],
                ),
            ),
            (
                "answered.svg",
                chart(
                    "Answered in time against loss",
                    "share of all requests",
                    [lost(), linear("share (%)")],
                    shares,
                ),
            ),
        ]
    }

    fn words(&self, findings: &Findings) -> Section {
        let told = findings.lines.iter().filter(|line| line.trials > 0).map(|line| {
            format!(
                "{} % lost: {} answers/s, {} % of the requests answered within {}{}",
                number(Some(100.0 * line.state)),
                number(line.throughput.mean),
                number(line.succeeded.mean.map(|share| 100.0 * share)),
                humantime::format_duration(self.common.timeout),
                fell_short(&line.generator)
            )
        });
        Section::new(
            "Loss on the client's link",
            format!("{}.", told.collect::<Vec<_>>().join("; ")),
            format!(
                "{} users posted pictures of {} bytes on average one after another (a closed loop), over kept \
                 connections, for {} per trial; {} trials of each loss in shuffled order. Packets were \
                 dropped at random in both directions where they arrive. Opening a connection took {} ms \
                 without loss, which stands for the round trip. The expected figures are what models \
                 of TCP give for so many connections that always have something to send: Mathis' law \
                 (segment over round trip times the root of 1.5 over the loss), and Padhye's with \
                 time-outs of {LEAST_TIMEOUT} s, which dominate from some percent on. They are models and \
                 no bounds: users who wait for answers send less, and what TCP has learned since then \
                 (selective acknowledgements, probes for a lost tail) gets more through. Mathis' law \
                 holds for small losses only.",
                findings.users,
                number(Some(findings.picture_bytes)),
                humantime::format_duration(self.common.duration),
                self.common.trials,
                number(Some(findings.round_trip_ms)),
            ),
        )
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({
            "losses": self.losses, "users": self.users, "trials": self.common.trials,
            "duration_seconds": self.common.duration.as_secs_f64(),
            "timeout_seconds": self.common.timeout.as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{mathis, padhye};

    #[test]
    fn theory_has_the_figures_of_its_papers() {
        // 1,448 bytes over 100 ms at 1 %: 1.42 Mbit/s.
        assert!((mathis(0.1, 0.01) / 1.4187e6 - 1.0).abs() < 1e-3);
        // Four times the loss halves the throughput.
        assert!((mathis(0.1, 0.04) / mathis(0.1, 0.01) - 0.5).abs() < 1e-9);
        // With negligible time-outs it is Mathis' law with delayed acknowledgements.
        let ratio = padhye(0.1, 1e-6) / mathis(0.1, 1e-6);
        assert!((ratio - 0.5_f64.sqrt()).abs() < 0.01, "{ratio}");
        assert!(padhye(0.001, 0.3) < 0.02 * mathis(0.001, 0.3));
    }
}
