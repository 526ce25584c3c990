//! Latencies as a percentile distribution in the text form that `HdrHistogram` prints, which its
//! plotter and wrk2's readers accept: in milliseconds, of all requests, with lower bounds where
//! there was no answer.

use std::fmt::Write;

use crate::driver::Times;

/// The text of an `.hgrm` file, which the plotter of `HdrHistogram` reads.
pub(super) fn text(times: &Times) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    for step in times.steps() {
        let rarity = 1.0 / (1.0 - step.quantile);
        let rarity = if rarity.is_finite() { format!("{rarity:14.2}") } else { String::new() };
        let line = format!(
            "{:12.3} {:14.12} {:10} {rarity}",
            step.nanos as f64 / 1e6,
            step.quantile,
            step.count
        );
        writeln!(text, "{}", line.trim_end()).expect("a string takes any text");
    }
    let max = times.max().map_or(0.0, |bound| bound.nanos as f64 / 1e6);
    let (mean, deviation) = (times.mean() / 1e6, times.deviation() / 1e6);
    write!(
        text,
        "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]\n\
         #[Max     = {max:12.3}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]\n",
        times.len(),
        32,
        2048
    )
    .expect("a string takes any text");
    text
}
