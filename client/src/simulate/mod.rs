//! `client simulate`: fleets larger than any machine, by discrete-event simulation.
//!
//! The policies, the endpoints with their moving averages and the health states are the balancer's
//! own code, running on virtual time; only workers, network and faults are modelled. Where queueing
//! theory has an exact result, the simulation is tested against it and prints it beside its own.
//!
//! Flow: `scenario` (the input) -> `engine` (events in the order of `clock`; `fleet` picks,
//! `worker` computes, `elastic` and `scaler` resize) -> `outcome`. `service` and `theory` stand
//! alone; `validation` compares it all with a measured run.

mod args;
mod clock;
mod elastic;
mod engine;
mod fleet;
mod occupancy;
mod outcome;
mod pace;
pub mod quota;
mod replay;
mod requests;
mod rest;
mod scaler;
pub mod scenario;
pub mod service;
mod steady;
mod table;
pub mod theory;
pub(crate) mod validation;
mod worker;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
pub use args::{Args, Service};
pub use elastic::Resize;
pub use engine::simulate;
pub use outcome::SimulatedRun;
pub use pace::Pace;
pub use rest::Rest;
pub use scenario::Scenario;
pub use service::ServiceTime;
use tokio::time::Instant;

/// How many times longer than planned a run may become.
const GOES_ON: u64 = 16;

/// Simulates a scenario, and repeats it with more requests, up to `most`, while it is too short to
/// be conclusive.
pub(crate) fn until_steady(scenario: &Scenario, most: u64) -> Result<SimulatedRun> {
    const STEP: u64 = 4;
    let mut outcome = simulate(scenario)?;
    let mut requests = scenario.requests;
    while outcome.is_too_short() && requests < most {
        requests = requests.saturating_mul(STEP).min(most);
        outcome = simulate(&Scenario { requests, ..scenario.clone() })?;
    }
    Ok(outcome)
}

/// Simulates one scenario under every requested policy.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<ExitCode> {
    let scenarios = args.scenarios()?;
    if let Some(folder) = args.against() {
        let measured = validation::Measured::read(folder)?;
        return measured.hold(&scenarios, args.json, out).map(|()| ExitCode::SUCCESS);
    }
    let start = Instant::now();
    let run = |scenario: &Scenario| {
        let most = scenario.requests.saturating_mul(if args.may_go_on() { GOES_ON } else { 1 });
        until_steady(scenario, most)
    };
    let outcomes: Vec<SimulatedRun> = scenarios.iter().map(run).collect::<Result<_>>()?;
    let seconds = start.elapsed().as_secs_f64();
    let requests: u64 = outcomes.iter().map(|outcome| outcome.arrived).sum();
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &outcomes)?;
        writeln!(out)?;
    } else if let Some(scenario) = scenarios.first() {
        table::write(scenario, &outcomes, out)?;
        if let Some(folder) = args.service_from() {
            for scenario in &scenarios {
                let worth = validation::worth(folder, scenario)?;
                worth.map_or(Ok(()), |worth| writeln!(out, "{worth}"))?;
            }
        }
    }
    tracing::info!("{requests} requests simulated, {:.0} a second", requests as f64 / seconds);
    Ok(ExitCode::SUCCESS)
}
