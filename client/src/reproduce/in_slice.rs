//! `reproduce --slice`: runs the same command inside a slice built for it, and removes the slice.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::BoolishValueParser;

use super::Args;
use crate::conditions::{self, BandwidthArgs, ChurnArgs, Common, LossArgs};
use crate::error::Error;
use crate::record::{Folder, SECTION};
use crate::signals;
use crate::slice::{self, OwnSlice, RunArgs};

/// Flags of the slice.
#[derive(Debug, Clone, clap::Args)]
pub struct InSlice {
    /// Build a slice on this machine, start balancer and workers in it, measure from its node
    /// `client`, and remove it. Needs root.
    #[arg(long, env = "CLIENT_SLICE", value_parser = BoolishValueParser::new(), help_heading = "Slice")]
    pub slice: bool,
    /// The flags of that slice.
    #[command(flatten)]
    pub own: OwnSlice,
}

/// The flags of an experiment with their default values.
fn defaults<T: clap::Args>() -> T {
    let command = T::augment_args(clap::Command::new("client"));
    let matches = command.get_matches_from(["client"]);
    T::from_arg_matches(&matches).expect("every flag has a default")
}

/// Whether an experiment has not been completed yet; removes its partial results if so.
fn missing(report: &Folder, part: &str) -> anyhow::Result<bool> {
    super::stop_if(signals::count() > 0)?;
    if report.path().join(part).join(SECTION).is_file() {
        return Ok(false);
    }
    report.inside_anew(part).map(|_empty| true)
}

impl Args {
    /// Whether a slice has to be built first. Inside it the same flags do not build another one.
    pub(super) fn wants_slice(&self) -> bool {
        self.in_slice.slice && self.options.within_slice.is_none()
    }

    /// Runs this program's own command line in a new slice.
    pub(super) fn run_in_slice(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        if self.options.target.is_elsewhere() {
            return Err(Error::Usage("--slice brings its own --target".to_owned()).into());
        }
        let command = std::env::args().skip(1).collect();
        let run = self.in_slice.own.run("reproduce", &self.models, command);
        if !self.all {
            return slice::run_once(&run, out);
        }
        // All experiments share one folder, so its name is chosen in advance.
        let place = self.options.out.clone().unwrap_or_else(|| Folder::fresh("reproduce"));
        let run = RunArgs { command: self.command_with(&place), ..run };
        let code = slice::run_once(&run, out)?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
        self.conditions(&place, out)
    }

    /// This program's own command line, with results in `place`.
    fn command_with(&self, place: &Path) -> Vec<String> {
        let mut command: Vec<String> = std::env::args().skip(1).collect();
        if self.options.out.is_none() {
            command.extend(["--out".to_owned(), place.display().to_string()]);
        }
        command
    }

    /// The experiments that change the slice from outside, each in a folder beside the others.
    fn conditions(&self, place: &Path, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let (trials, seconds) = match (self.quick, self.full) {
            (true, _) => (2, 5),
            (_, true) => (5, 20),
            (false, false) => (3, 10),
        };
        let common = |name: &str| Common {
            images: None,
            trials,
            duration: self.trial_time.unwrap_or(Duration::from_secs(seconds)),
            timeout: Duration::from_secs(3),
            models: self.models.clone(),
            slice: self.in_slice.own.clone(),
            slice_name: Some("reproduce".to_owned()),
            out: Some(place.join(name)),
            json: self.options.json,
            seed: self.options.seed,
        };
        let report = Folder::open(place);
        if missing(&report, "loss")? {
            conditions::loss(&LossArgs { common: common("loss"), ..defaults() }, out)?;
        }
        if missing(&report, "bandwidth")? {
            let bandwidth = BandwidthArgs { common: common("bandwidth"), ..defaults() };
            conditions::bandwidth(&bandwidth, out)?;
        }
        if missing(&report, "churn")? {
            conditions::churn(&ChurnArgs { common: common("churn"), ..defaults() }, out)?;
        }
        super::stop_if(signals::count() > 0)?;
        super::redraw(&report)?;
        Ok(ExitCode::SUCCESS)
    }
}
