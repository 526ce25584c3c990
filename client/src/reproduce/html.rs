//! The report: one HTML file with tables and charts inside, readable without a network.

use std::fmt::Write;

use super::Results;
use crate::plot::escape;
use crate::record::Manifest;
use crate::report::{Table, number};
use crate::{accuracy, rtt, scaling};

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#222}\
table{border-collapse:collapse;font-size:.85rem;margin:1rem 0}\
th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}\
th:first-child,td:first-child{text-align:left}\
svg{max-width:100%;height:auto}\
dt{font-weight:bold}dd{margin:0 0 .4rem 1rem;overflow-wrap:anywhere}\
blockquote{margin:1rem 0;padding:.1rem 1rem;border-left:4px solid #0072b2;background:#f4f8fb}";

/// The whole page.
pub(super) fn page(manifest: &Manifest, results: &Results) -> String {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n");
    push(
        &mut page,
        format_args!(
            "<title>Image recognition as a service: {}</title>\n<style>{STYLE}</style>\n<h1>Image recognition as a distributed web service</h1>\n",
            escape(&manifest.started)
        ),
    );
    page.push_str("<p>The three experiments of the GENI mini-project, run again: round-trip time by picture size, scaling by servers and load, accuracy by resolution.</p>\n");
    rtt_section(&mut page, &results.rtt);
    scaling_section(&mut page, &results.scaling, &shared(manifest));
    match &results.accuracy {
        Some(findings) => accuracy_section(&mut page, findings),
        None => page.push_str("<h2>Accuracy by resolution</h2>\n<p>Not measured: no photos with labels were given (<code>--photos</code>).</p>\n"),
    }
    conditions(&mut page, manifest);
    page
}

fn rtt_section(page: &mut String, findings: &rtt::Findings) {
    let median = |line: &rtt::Line| line.rtt_ms.as_ref()?.p50;
    let whole: Vec<&rtt::Line> = findings.lines.iter().filter(|line| !line.stripped).collect();
    let ends = whole.first().zip(whole.last());
    let found = ends.map_or_else(String::new, |(small, large)| {
        let growth =
            findings.growth.map_or_else(String::new, |growth| format!("; {growth}, 95 % interval"));
        format!(
            "the median goes from {} ms at {} px to {} ms at {} px ({} to {} bytes){growth}",
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
    charts(page, rtt::charts(findings).map(|(_, chart)| chart));
    table(page, &rtt::table(findings, number));
}

/// What limits the speed-up where servers have nothing to themselves.
fn shared(manifest: &Manifest) -> String {
    if manifest.slice.is_some() {
        return "each server had its share of the processors to itself".to_owned();
    }
    format!(
        "outside of a slice the servers share processors, if they run on this machine with the balancer, this client and its {} cores: more servers then add queues and no power, so no ideal is drawn (--slice gives each a share of its own)",
        manifest.cores
    )
}

fn scaling_section(page: &mut String, findings: &scaling::Findings, shared: &str) {
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
                "servers to capacity: {}; {full}; {shared}",
                if speed_ups.is_empty() {
                    "were not driven to capacity".to_owned()
                } else {
                    speed_ups.join("; ")
                }
            ),
        ],
    );
    charts(page, scaling::charts(findings).into_iter().map(|(_, chart)| chart));
    table(page, &findings.capacity_table(number));
    table(page, &findings.table(number));
}

fn accuracy_section(page: &mut String, findings: &accuracy::Findings) {
    let share = |line: &accuracy::Line| number(line.top_1_share().map(|share| 100.0 * share));
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
    charts(page, [findings.chart()]);
    table(page, &findings.table(number));
}

/// A heading, what the original found, and what this run found.
fn section(page: &mut String, title: &str, [original, found]: &[&str; 2]) {
    push(
        page,
        format_args!(
            "<h2>{}</h2>\n<p><strong>The original found:</strong> {}</p>\n<blockquote><p><strong>This run found:</strong> {}.</p></blockquote>\n",
            escape(title),
            escape(original),
            escape(found)
        ),
    );
}

fn charts(page: &mut String, charts: impl IntoIterator<Item = crate::plot::Chart>) {
    for chart in charts {
        push(page, format_args!("<figure>{}</figure>\n", chart.to_svg()));
    }
}

fn table(page: &mut String, table: &Table) {
    page.push_str("<table>\n");
    for (number, row) in table.rows().iter().enumerate() {
        let tag = if number == 0 { "th" } else { "td" };
        page.push_str("<tr>");
        for cell in row {
            push(page, format_args!("<{tag}>{}</{tag}>", escape(cell)));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

fn conditions(page: &mut String, manifest: &Manifest) {
    let unknown = || "unknown".to_owned();
    let rows = [
        ("started", manifest.started.clone()),
        ("command", manifest.command.join(" ")),
        ("service", manifest.target.clone()),
        ("slice", manifest.slice.clone().unwrap_or_else(|| "none".to_owned())),
        ("seed", manifest.seed.to_string()),
        ("commit", manifest.git_commit.clone().unwrap_or_else(unknown)),
        (
            "processor",
            format!("{} x {}", manifest.cores, manifest.cpu.clone().unwrap_or_else(unknown)),
        ),
        ("kernel", manifest.kernel.clone().unwrap_or_else(unknown)),
        ("settings", manifest.settings.to_string()),
    ];
    page.push_str("<h2>Conditions</h2>\n<dl>\n");
    for (term, text) in rows {
        push(page, format_args!("<dt>{term}</dt><dd>{}</dd>\n", escape(&text)));
    }
    page.push_str("</dl>\n<p>Every request stands in <code>samples.csv</code> of its experiment.</p>\n</html>\n");
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a string takes any text");
}
