//! `client plan`: how many workers a load needs, by simulation.
//!
//! For every policy it searches for the smallest fleet whose 99th percentile stays within the
//! target: upwards from the smallest fleet that can carry the load at all, then by bisection. All
//! sizes get the same requests, so that the answer depends on the fleet and not on luck.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::builder::BoolishValueParser;
use fleet::policy::Kind;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use serde::Serialize;

use crate::error::Error;
use crate::report::{Table, number};
use crate::simulate::scenario::MAX_WORKERS;
use crate::simulate::service::Measured;
use crate::simulate::validation;
use crate::simulate::{Scenario, Service, ServiceTime, SimulatedRun, simulate, until_steady};
use crate::stats::quantile_of;

const EXAMPLES: &str = "\
Examples:
  client plan --rate 100000 --p99 50ms
  client plan --rate 300 --p99 200ms --service-from results/rtt-…
  client plan --rate 5000 --p99 40ms --service lognormal:12ms:0.4 --policy random,p2c,peak-ewma";

/// Arguments of `client plan`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Arrivals per second.
    #[arg(long, env = "CLIENT_RATE")]
    pub rate: f64,
    /// The 99th percentile of the latency that must be kept.
    #[arg(long, env = "CLIENT_P99", value_parser = humantime::parse_duration)]
    pub p99: Duration,
    /// Policies to try.
    #[arg(long, env = "CLIENT_POLICY", value_delimiter = ',', default_value = "random,p2c")]
    pub policy: Vec<Kind>,
    /// Service time: const:MEAN, exp:MEAN or lognormal:MEAN:VARIATION.
    #[arg(
        long,
        env = "CLIENT_SERVICE",
        default_value = "lognormal:10ms:0.3",
        value_name = "DISTRIBUTION"
    )]
    pub service: ServiceTime,
    /// Service times as measured in a results folder; take a run at low load.
    #[arg(long, env = "CLIENT_SERVICE_FROM", value_name = "DIR")]
    pub service_from: Option<std::path::PathBuf>,
    /// Executors of each worker.
    #[arg(long, env = "CLIENT_EXECUTORS", default_value_t = 1)]
    pub threads: usize,
    /// One-way delay between balancer and worker; at least what --service-from shows.
    #[arg(long, env = "CLIENT_NETWORK", default_value = "200us", value_parser = humantime::parse_duration)]
    pub network: Duration,
    /// The same seed gives the same plan.
    #[arg(long, env = "CLIENT_SEED", default_value_t = 1)]
    pub seed: u64,
    /// JSON instead of text.
    #[arg(long, env = "CLIENT_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
}

/// How many times longer an inconclusive simulation may become.
const GOES_ON: u64 = 8;

/// The fleet that one policy needs.
#[derive(Debug, Serialize)]
pub struct Need {
    /// Name of the policy.
    pub policy: &'static str,
    /// The smallest fleet that meets the target; `None` if no simulated size does.
    pub workers: Option<usize>,
    /// Every size that was simulated, smallest first.
    pub tried: Vec<SimulatedRun>,
}

/// Computes the plan and prints it with the sizes that were tried.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<ExitCode> {
    let service =
        Service { service: args.service.clone(), service_from: args.service_from.clone() };
    let Measured { service, network } = service.resolve()?;
    let args = &Args { network: args.network.max(network), ..args.clone() };
    let least = least_workers(args, &service)?;
    let needs: Vec<Need> = args
        .policy
        .iter()
        .map(|&policy| need(args, &service, policy, least))
        .collect::<Result<_>>()?;
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &needs)?;
        writeln!(out)?;
    } else {
        report(args, &service, least, &needs, out)?;
        if let Some(folder) = &args.service_from {
            for policy in &args.policy {
                let like = scenario(args, &service, *policy, least);
                let worth = validation::worth(folder, &like)?;
                worth.map_or(Ok(()), |worth| writeln!(out, "{worth}"))?;
            }
        }
    }
    let found = needs.iter().any(|need| need.workers.is_some());
    Ok(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The smallest fleet that carries the load at all, if it is fully busy and queues are unbounded.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be small")]
fn least_workers(args: &Args, service: &ServiceTime) -> Result<usize> {
    let usage = |text: String| Err(Error::Usage(text).into());
    if !(args.rate.is_finite() && args.rate > 0.0) {
        return usage(format!("the rate must be a positive number, not {}", args.rate));
    }
    if !(1e-3..=1e9).contains(&args.rate) {
        return usage(format!("a rate from 0.001 to 1e9 requests per second, not {}", args.rate));
    }
    if args.threads == 0 {
        return usage("a worker has at least one executor".to_owned());
    }
    let busy = args.rate * service.mean() / args.threads as f64;
    if busy >= MAX_WORKERS as f64 {
        return usage(format!(
            "{busy:.0} workers would be busy all the time; at most {MAX_WORKERS} can be simulated"
        ));
    }
    Ok(busy as usize + 1)
}

fn scenario(args: &Args, service: &ServiceTime, policy: Kind, workers: usize) -> Scenario {
    // Queues take a while to fill: that part is left out, and larger fleets get more requests.
    let requests = (workers as u64 * 500).clamp(500_000, 5_000_000);
    Scenario {
        policy,
        requests,
        warm_up: 0.0,
        removes_transient: true,
        threads: args.threads,
        network: args.network,
        seed: args.seed,
        ..Scenario::new(workers, args.rate, service.clone())
    }
}

fn need(args: &Args, service: &ServiceTime, policy: Kind, least: usize) -> Result<Need> {
    let mut tried: Vec<SimulatedRun> = Vec::new();
    let limit = args.p99.as_secs_f64();
    if least_p99(args, service) > limit {
        // No fleet helps if even a lone request takes longer.
        let alone =
            simulate(&scenario(args, service, policy, least.saturating_mul(2).min(MAX_WORKERS)))?;
        return Ok(Need { policy: policy.as_str(), workers: None, tried: vec![alone] });
    }
    let mut keeps = |workers: usize| -> Result<bool> {
        let scenario = scenario(args, service, policy, workers);
        let mut outcome = simulate(&scenario)?;
        // A run that exceeds the limit before its steady state exceeds it there as well.
        if outcome.p99 <= limit && outcome.is_too_short() {
            outcome = until_steady(&scenario, scenario.requests.saturating_mul(GOES_ON))?;
        }
        let keeps = outcome.p99 <= limit && outcome.errors() == 0 && outcome.doubt.is_none();
        tracing::info!(
            policy = policy.as_str(),
            workers,
            p99_ms = outcome.p99 * 1e3,
            keeps,
            "tried"
        );
        tried.push(outcome);
        Ok(keeps)
    };
    let workers = smallest(least, MAX_WORKERS, &mut keeps)?;
    tried.sort_by_key(|outcome| outcome.workers);
    Ok(Need { policy: policy.as_str(), workers, tried })
}

/// Lower bound of the 99th percentile in seconds: that of the service time plus the network round
/// trip, slightly reduced to allow for sampling error.
fn least_p99(args: &Args, service: &ServiceTime) -> f64 {
    const DRAWS: usize = 100_000;
    const ABOUT: f64 = 0.985;
    let (mut sampler, mut rng) = (service.sampler(), Xoshiro256PlusPlus::seed_from_u64(args.seed));
    let times: Vec<f64> = (0..DRAWS).map(|_| sampler.draw(&mut rng)).collect();
    quantile_of(&times, ABOUT).unwrap_or_default() + 2.0 * args.network.as_secs_f64()
}

/// The smallest number in `least..=most` that `keeps` accepts, if it accepts all larger ones, too.
fn smallest(
    least: usize,
    most: usize,
    keeps: &mut dyn FnMut(usize) -> Result<bool>,
) -> Result<Option<usize>> {
    let (mut refused, mut step) = (least - 1, (least / 50).max(1));
    let mut accepted = loop {
        let next = (refused + step).min(most);
        if keeps(next)? {
            break next;
        }
        if next == most {
            return Ok(None);
        }
        (refused, step) = (next, step * 2);
    };
    while accepted - refused > 1 {
        let middle = refused.midpoint(accepted);
        if keeps(middle)? { accepted = middle } else { refused = middle }
    }
    Ok(Some(accepted))
}

fn report(
    args: &Args,
    service: &ServiceTime,
    least: usize,
    needs: &[Need],
    out: &mut dyn Write,
) -> Result<()> {
    writeln!(out, "{} requests/s, p99 within {:?}; service time {service}", args.rate, args.p99)?;
    writeln!(out, "{least} workers would be busy all the time; the rest is room for chance:")?;
    let mut table = Table::new(&["policy", "workers", "busy %", "p50 ms", "p95", "p99", ""]);
    for need in needs {
        for outcome in near(need) {
            let times = [outcome.p50, outcome.p95, outcome.p99].map(|it| number(Some(it * 1e3)));
            let mut cells = vec![need.policy.to_owned(), outcome.workers.to_string()];
            cells.push(format!("{:.1}", outcome.utilisation * 100.0));
            cells.extend(times);
            let is_answer = Some(outcome.workers) == need.workers;
            cells.push(if is_answer { "enough".to_owned() } else { String::new() });
            table.push(cells);
        }
    }
    writeln!(out, "\n{table}\n{}", verdict(needs))?;
    Ok(())
}

/// The sizes around the answer; the largest ones if there is none.
fn near(need: &Need) -> &[SimulatedRun] {
    const AROUND: usize = 3;
    let center = need.workers.and_then(|n| need.tried.iter().position(|it| it.workers == n));
    let center = center.unwrap_or(need.tried.len() - 1);
    &need.tried[center.saturating_sub(AROUND)..(center + AROUND).min(need.tried.len())]
}

fn verdict(needs: &[Need]) -> String {
    let found = needs.iter().filter_map(|need| Some((need.workers?, need.policy)));
    let Some((workers, policy)) = found.clone().min() else {
        return format!(
            "No fleet of up to {MAX_WORKERS} workers keeps this: the service time itself may be too long."
        );
    };
    let mut text = format!("Take {workers} workers with {policy}.");
    for (more, other) in found.filter(|&(_, other)| other != policy) {
        let percent = (more as f64 / workers as f64 - 1.0) * 100.0;
        let told = match more - workers {
            0 => format!(" {other} needs as many."),
            _ => format!(" {other} needs {more}, {percent:.0} % more."),
        };
        text.push_str(&told);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_is_found_wherever_it_is() {
        for answer in [7, 8, 20, 999, 1000] {
            let mut asked = 0;
            let mut keeps = |n: usize| {
                asked += 1;
                Ok(n >= answer)
            };
            assert_eq!(smallest(7, 1000, &mut keeps).expect("no error"), Some(answer));
            assert!(asked <= 25, "{asked} tries for {answer}");
        }
        assert_eq!(smallest(7, 1000, &mut |_| Ok(false)).expect("no error"), None);
    }
}
