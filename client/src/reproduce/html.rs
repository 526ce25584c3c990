//! The report: one HTML file with tables and charts inside, readable without a network.

use super::Results;
use crate::conditions::Section;
use crate::page::Page;
use crate::record::Manifest;
use crate::report::{Style, number};
use crate::scaling::Capacity;
use crate::{accuracy, rtt, scaling};

/// The report of all experiments as one HTML page; `others` were run in addition to the three.
pub(super) fn page(manifest: &Manifest, results: &Results, others: &[Section]) -> String {
    let mut page = Page::new(
        &format!("Image recognition as a service: {}", manifest.started),
        "Image recognition as a distributed web service",
    );
    page.paragraph(
        "The three experiments of the GENI mini-project, run again: round-trip time by picture size, \
         scaling by servers and load, accuracy by resolution.",
    );
    rtt_section(&mut page, &results.rtt);
    scaling_section(&mut page, &results.scaling, manifest.cores, &shared(manifest));
    if let Some(findings) = &results.accuracy {
        accuracy_section(&mut page, findings);
    } else {
        page.heading("Accuracy by resolution");
        page.paragraph("Not measured: no photos with labels were given (--photos).");
    }
    for other in others {
        other.show(&mut page);
    }
    page.heading("Method");
    page.paragraph(&method(manifest, results));
    page.conditions(manifest);
    page.paragraph("Every request stands in samples.csv of its experiment.");
    page.finish()
}

/// Describes how the results were measured, based on what was run.
fn method(manifest: &Manifest, results: &Results) -> String {
    let repeats = results.rtt.lines.iter().filter_map(|line| line.rtt_ms).map(|it| it.count).min();
    let trials = results.scaling.cells.iter().map(|cell| cell.trials).max().unwrap_or(0);
    let rates: Vec<String> = {
        let mut rates: Vec<f64> =
            results.scaling.cells.iter().map(|cell| cell.offered_rate).collect();
        rates.sort_by(f64::total_cmp);
        rates.dedup();
        rates.iter().map(|rate| number(Some(*rate))).collect()
    };
    format!(
        "Round-trip times: one request at a time, the pictures in turn, {} answers for each at least; \
         medians with bootstrap intervals. Scaling: Poisson arrivals of {} requests/s drawn before the \
         run (seed {}), {trials} trials a cell in shuffled order; latency counts from the drawn \
         instant and includes requests that failed; intervals are Student's over trials. Capacity: \
         a closed loop with more users than the servers hold. Intervals cover 95 %; a quantile with \
         fewer than ten values beyond it is left out.",
        repeats.unwrap_or(0),
        rates.join(", "),
        manifest.seed
    )
}

fn rtt_section(page: &mut Page, findings: &rtt::Findings) {
    let median = |line: &rtt::PictureTimes| line.rtt_ms.as_ref()?.p50;
    let whole: Vec<&rtt::PictureTimes> =
        findings.lines.iter().filter(|line| !line.stripped).collect();
    let ends = whole.first().zip(whole.last());
    let found = ends.map_or_else(String::new, |(small, large)| {
        let growth =
            findings.growth.map_or_else(String::new, |growth| format!("; {growth}, 95 % interval"));
        let short = match findings.generator.join("; ") {
            reasons if reasons.is_empty() => reasons,
            reasons => format!("; this client fell short: {reasons}"),
        };
        format!(
            "the median goes from {} ms at {} px to {} ms at {} px ({} to {} bytes){growth}{short}",
            number(median(small)),
            small.width,
            number(median(large)),
            large.width,
            small.bytes,
            large.bytes
        )
    });
    section(
        page,
        "Round-trip time by picture size",
        &[
            "Its average was 0.203 s at 16 px, 0.209 s at 224 px and 0.362 s at 2000 px: flat up to the size that the model sees, since inference dominated and about 20 kB of camera metadata made the small files alike.",
            &found,
        ],
    );
    for (_, chart) in &rtt::charts(findings) {
        page.chart(chart);
    }
    page.table(&rtt::table(findings, number));
}

/// What limits the speed-up if servers share processors.
fn shared(manifest: &Manifest) -> String {
    if manifest.slice.is_some() {
        return "each server had its share of the processors to itself".to_owned();
    }
    format!(
        "outside of a slice the servers share processors, if they run on this machine with the balancer, this client and its {} cores: more servers then add queues and no power, so no ideal is drawn (--slice gives each a share of its own)",
        manifest.cores
    )
}

/// What limited the capacities.
fn limit(findings: &scaling::Findings, cores: usize) -> String {
    /// Processors are never busier than this for seconds on end while a task waits for disks.
    const FULL: f64 = 0.9;
    let lines = &findings.capacities;
    let with = |is_meant: fn(&Capacity) -> bool| {
        let these = lines.iter().filter(|line| is_meant(line));
        these.map(|line| line.servers.to_string()).collect::<Vec<_>>().join(", ")
    };
    let short = with(|line| !line.generator.is_empty());
    let full = with(|line| line.machine_busy.is_some_and(|busy| busy >= FULL));
    let has_room = |line: &Capacity| line.sender_busy.is_some_and(|busy| busy < FULL);
    if !short.is_empty() {
        return format!(
            "with {short} servers this client fell short, so what these can do is not known"
        );
    }
    if !full.is_empty() {
        return format!(
            "with {full} servers the {cores} cores of the machine that this client ran on were busy all \
             the time, so that machine, and not the number of servers, is the limit there"
        );
    }
    if lines.iter().all(|line| line.machine_busy.is_none()) {
        return "how busy this machine was is not known".to_owned();
    }
    if lines.iter().all(has_room) {
        return format!(
            "neither the {cores} cores of the machine that this client ran on nor the thread that sent \
             the requests were busy all the time, so the servers (or their shares of processors) are the \
             limit"
        );
    }
    format!(
        "the {cores} cores of the machine that this client ran on were never all busy; whether the servers \
         are the limit or the one thread that sent the requests is not known"
    )
}

fn scaling_section(page: &mut Page, findings: &scaling::Findings, cores: usize, shared: &str) {
    let speed_ups: Vec<String> = findings
        .capacities
        .iter()
        .map(|line| {
            let (rate, share) = (number(Some(line.throughput)), number(Some(line.speed_up)));
            let range = line.speed_up_interval.map_or_else(String::new, |interval| {
                let [low, high] = [interval.low, interval.high].map(|end| number(Some(end)));
                format!(": {share} times as many, {low} to {high}")
            });
            format!("{} answered {rate}/s{range}", line.servers)
        })
        .collect();
    let overloaded = findings
        .cells
        .iter()
        .filter(|cell| cell.throughput.is_some_and(|found| found < 0.8 * cell.offered_rate))
        .map(|cell| format!("{} at {}/s", cell.servers, number(Some(cell.offered_rate))));
    let overloaded: Vec<String> = overloaded.collect();
    let full = if overloaded.is_empty() {
        "no cell of the grid was beyond what its servers can do".to_owned()
    } else {
        format!("beyond what the servers can do: {}", overloaded.join(", "))
    };
    section(
        page,
        "Scaling by servers and load",
        &[
            "At a mean wait of 0.5 s its average was 0.41, 0.45 and 0.35 s with 1, 2 and 4 servers; at 0.1 s 7.16, 1.96 and 0.57 s; at 0.01 s 15.9, 6.83 and 4.12 s: one server was full below 10 requests/s, four just kept up there. Waits were whole seconds, so requests came in bursts.",
            &format!(
                "servers to capacity: {}; {}; {full}; {shared}",
                if speed_ups.is_empty() {
                    "were not driven to capacity".to_owned()
                } else {
                    speed_ups.join("; ")
                },
                limit(findings, cores)
            ),
        ],
    );
    for (_, chart) in &scaling::charts(findings) {
        page.chart(chart);
    }
    page.table(&findings.capacity_table(number));
    page.table(&findings.table(Style::People));
    for remark in findings.remarks() {
        page.remark("This client fell short:", &remark);
    }
}

fn accuracy_section(page: &mut Page, findings: &accuracy::Findings) {
    let share =
        |line: &accuracy::SizeAccuracy| number(line.top_1_share().map(|share| 100.0 * share));
    let ends = findings.lines.first().zip(findings.lines.last());
    let found = ends.map_or_else(String::new, |(small, large)| {
        format!(
            "{} % right at {} px and {} % at {} px, over {} photos",
            share(small),
            small.side,
            share(large),
            large.side,
            large.answered
        )
    });
    section(
        page,
        "Accuracy by resolution",
        &[
            "Over 500 ImageNet photos, 2.2 % were right at 16 px, 17.0 % at 32, 42.0 % at 64, 53.8 % at 96, 61.0 % at 128 and 69.8 % at 224.",
            &found,
        ],
    );
    page.chart(&findings.chart());
    page.table(&findings.table(number));
}

/// Adds a heading, what the original found, and what this run found.
fn section(page: &mut Page, title: &str, [original, found]: &[&str; 2]) {
    page.heading(title);
    page.remark("The original found:", original);
    page.finding("This run found:", &format!("{found}."));
}

#[cfg(test)]
mod tests {
    use super::limit;
    use crate::scaling::{Capacity, Findings, Throughputs};

    /// One server, and how busy all processors and the sender were.
    fn limit_of(machine_busy: Option<f64>, sender_busy: Option<f64>, generator: &[&str]) -> String {
        let line = Capacity::all(&Throughputs::from([(1, vec![50.0])]), false).remove(0);
        let generator = generator.iter().map(|&reason| reason.to_owned()).collect();
        let capacities = vec![Capacity { machine_busy, sender_busy, generator, ..line }];
        limit(&Findings { cells: Vec::new(), capacities, interrupted: false }, 16)
    }

    #[test]
    fn the_servers_are_the_limit_only_where_the_client_is_known_not_to_be() {
        assert!(limit_of(Some(0.03), Some(0.5), &[]).contains("so the servers"));
        let unknown = "is not known";
        for found in [
            // The busy share may be entirely that of the single sending thread.
            limit_of(Some(0.0625), Some(1.0), &[]),
            limit_of(Some(0.0625), None, &[]),
            limit_of(None, None, &[]),
            limit_of(Some(0.03), Some(0.5), &["trial 0: saturated"]),
        ] {
            assert!(found.contains(unknown) && !found.contains("so the servers"), "{found}");
        }
        assert!(limit_of(Some(0.95), Some(1.0), &[]).contains("so that machine"));
    }
}
