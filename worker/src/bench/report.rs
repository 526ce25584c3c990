//! What `worker bench` prints.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use crate::Error;

/// The results of one measurement.
pub(super) struct Report<'a> {
    pub(super) model: &'a str,
    pub(super) has_made_up_weights: bool,
    pub(super) batch: usize,
    pub(super) threads: usize,
    pub(super) precision: &'a str,
    pub(super) isa: &'a str,
    /// Floating-point operations per image.
    pub(super) flops: Option<f64>,
    /// Peak of the threads, in billions of operations per second.
    pub(super) peak_gflops: Option<f64>,
    pub(super) layers: Vec<(String, Duration)>,
    pub(super) times: Vec<Duration>,
}

/// Summary of a set of times, in milliseconds per pass.
struct Figures {
    p50: f64,
    p90: f64,
    p99: f64,
    min: f64,
    mean: f64,
}

impl Report<'_> {
    /// One line of JSON.
    pub(super) fn json(&self, out: &mut dyn Write) -> Result<(), Error> {
        let Figures { p50, p90, p99, min, mean } = figures(&self.times);
        let gflops = self.gflops(p50);
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|(name, time)| json!({ "name": name, "ms": round(milliseconds(*time)) }))
            .collect();
        let report = json!({
            "model": self.model,
            "made_up_weights": self.has_made_up_weights,
            "batch": self.batch,
            "threads": self.threads,
            "precision": self.precision,
            "isa": self.isa,
            "iterations": self.times.len(),
            "latency_ms": {
                "p50": round(p50), "p90": round(p90), "p99": round(p99), "min": round(min),
                "mean": round(mean),
            },
            "images_per_second": round(self.batch as f64 / mean * 1e3),
            "gflops": gflops.map(round),
            "peak_gflops": self.peak_gflops.map(round),
            "share_of_peak": gflops.zip(self.peak_gflops).map(|(is, could)| round(is / could)),
            "layers": layers,
        });
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)?;
        Ok(())
    }

    /// A table for people.
    pub(super) fn table(&self, out: &mut dyn Write) -> Result<(), Error> {
        let Figures { p50, p90, p99, min, mean } = figures(&self.times);
        let weights = if self.has_made_up_weights { ", made-up weights" } else { "" };
        writeln!(
            out,
            "{}, batch {}, {} thread{}, {} on {}{weights}",
            self.model,
            self.batch,
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            self.precision,
            self.isa
        )?;
        writeln!(
            out,
            "latency   p50 {p50:.3} ms, p90 {p90:.3}, p99 {p99:.3}, min {min:.3} ({} passes)",
            self.times.len()
        )?;
        writeln!(out, "rate      {:.1} images/s", self.batch as f64 / mean * 1e3)?;
        if let Some(gflops) = self.gflops(p50) {
            write!(out, "arithmetic {gflops:.1} GFLOP/s")?;
            match self.peak_gflops {
                Some(peak) => writeln!(out, ", {:.0} % of {peak:.0}", gflops / peak * 100.0)?,
                None => writeln!(out)?,
            }
        }
        let total: Duration = self.layers.iter().map(|(_, time)| time).sum();
        for (name, time) in &self.layers {
            let share = time.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE) * 100.0;
            writeln!(out, "{name:<18} {:>8.3} ms {share:>5.1} %", milliseconds(*time))?;
        }
        Ok(())
    }

    /// Billions of operations per second at `milliseconds` per pass.
    fn gflops(&self, milliseconds: f64) -> Option<f64> {
        Some(self.flops? * self.batch as f64 / milliseconds / 1e6)
    }
}

fn figures(times: &[Duration]) -> Figures {
    let mut sorted: Vec<f64> = times.iter().copied().map(milliseconds).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |percent: usize| {
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    };
    let mean = sorted.iter().sum::<f64>() / sorted.len().max(1) as f64;
    Figures { p50: at(50), p90: at(90), p99: at(99), min: at(0), mean }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Report, figures};

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let times: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let figures = figures(&times);
        let all = [figures.min, figures.p50, figures.p90, figures.p99, figures.mean];
        assert_eq!(format!("{all:?}"), "[1.0, 100.0, 180.0, 198.0, 100.5]");
    }

    #[test]
    fn the_report_is_one_line_of_json_with_the_agreed_keys() {
        let report = Report {
            model: "m",
            has_made_up_weights: true,
            batch: 2,
            threads: 1,
            precision: "f32",
            isa: "avx2",
            flops: Some(1e9),
            peak_gflops: Some(1000.0),
            layers: vec![("stem".to_owned(), Duration::from_millis(3))],
            times: vec![Duration::from_millis(4)],
        };
        let mut out = Vec::new();
        report.json(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 1);
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["latency_ms"]["p50"], 4.0);
        assert_eq!(parsed["images_per_second"], 500.0);
        assert_eq!(parsed["gflops"], 500.0);
        assert_eq!(parsed["share_of_peak"], 0.5);
    }
}
