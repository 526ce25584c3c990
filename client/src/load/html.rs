//! A load run as a page: its results, its course, and how it was measured.

use plot::Chart;

use super::Summary;
use super::chart::{course, is_of_course};
use super::summary::{sentence, times};
use crate::experiment::{Protocol, Reuse, Trial};
use crate::page::Page;
use crate::record::Manifest;
use crate::report::{Table, number};
use crate::schedule::Arrivals;

/// The report of a run as one HTML page.
pub(super) fn page(
    manifest: &Manifest,
    trial: &Trial,
    summary: &Summary,
    charts: &[(&'static str, Chart)],
) -> String {
    let title = format!("Load on {}", manifest.target);
    let mut page = Page::new(&format!("{title}, {}", manifest.started), &title);
    let verdict = &summary.verdict;
    page.finding(
        if verdict.is_valid { "VALID:" } else { "INVALID:" },
        &if verdict.is_valid {
            "the figures mean what they say.".to_owned()
        } else {
            let told = |it: &super::verdict::Reason| format!("{}: {}", it.cause, it.text);
            verdict.reasons.iter().map(told).collect::<Vec<_>>().join("; ")
        },
    );
    page.paragraph(&sentence(summary));
    if !summary.thresholds.is_empty() {
        page.heading("Thresholds");
        for checked in &summary.thresholds {
            page.paragraph(&checked.to_string());
        }
    }
    page.heading("Times");
    page.table(&times(summary));
    charts.iter().filter(|(_, chart)| !is_of_course(chart)).for_each(|(_, it)| page.chart(it));
    page.figure(&course(charts));
    page.heading("Outcomes");
    page.table(&outcomes(summary));
    if let Some(accuracy) = &summary.accuracy {
        page.paragraph(&format!("{accuracy}."));
    }
    if !summary.endpoints.is_empty() {
        page.heading("Workers");
        page.table(&super::summary::shares(summary));
    }
    if !summary.generators.is_empty() {
        page.heading("Generators");
        page.table(&super::summary::generators(summary));
    }
    page.heading("Method");
    page.paragraph(&method(trial));
    page.conditions(manifest);
    page.paragraph("Requests stand one by one in samples.csv, all figures in summary.json.");
    page.finish()
}

fn outcomes(summary: &Summary) -> Table {
    let mut table = Table::new(&["outcome", "requests", "share"]);
    for (outcome, count) in &summary.outcomes {
        let share = 100.0 * *count as f64 / summary.requests.max(1) as f64;
        let share = format!("{} %", number(Some(share)));
        table.push(vec![outcome.clone(), count.to_string(), share]);
    }
    table
}

/// Describes how the run was measured, from its trial.
fn method(trial: &Trial) -> String {
    let time = |time| humantime::format_duration(time).to_string();
    let arrivals = match &trial.arrivals {
        Arrivals::Poisson { rate } => format!(
            "Requests arrived as a Poisson process of {rate} a second, drawn before the run (seed {})",
            trial.seed
        ),
        Arrivals::Uniform { rate } => {
            format!("Requests arrived at equal distances, {rate} a second")
        }
        Arrivals::SeedCompat { mean_wait } => format!(
            "Requests arrived after whole seconds that were drawn from a Poisson distribution with \
             mean {mean_wait} (seed {})",
            trial.seed
        ),
        Arrivals::Staged { stages, is_uniform } => format!(
            "Requests arrived {} at a rate that changed in stages, {stages} a second (seed {})",
            if *is_uniform { "evenly" } else { "as a Poisson process" },
            trial.seed
        ),
        Arrivals::Recorded { .. } => {
            "Requests were sent at the instants at which they were recorded".to_owned()
        }
        Arrivals::Closed { users, think } => format!(
            "{users} users each waited for an answer, thought for {} and asked again (a closed loop: a \
             slow service is asked less often)",
            time(*think)
        ),
    };
    let protocol = match trial.protocol {
        Protocol::Http1 => "HTTP/1.1",
        Protocol::H2 => "HTTP/2",
    };
    let reuse = match trial.reuse {
        Reuse::KeepAlive => "kept alive",
        Reuse::Close => "closed after each answer",
    };
    let duration = trial.duration.map_or_else(String::new, |it| format!(", for {}", time(it)));
    format!(
        "{arrivals}{duration}; those of the first {} do not count. {} sender threads had at most {} \
         connections of {protocol}, {reuse}. A request without an answer {} after it was due has \
         failed. Latency counts from the instant at which a request was due, whether or not a \
         connection was free, and includes requests that failed; quantiles are exact to three digits \
         and left out where fewer than ten values lie beyond them.",
        time(trial.warm_up),
        trial.threads,
        trial.connections,
        time(trial.timeout)
    )
}
