//! A load run as charts: the tail of the distribution, and the course of the run.

use crate::driver::{Run, Times};
use crate::plot::{Axis, Chart, Point, Scale, Series, Stroke};
use crate::report::milliseconds;
use crate::stats::{quantile, sorted};

/// File names and charts.
pub(crate) fn charts(run: &Run, offered_rate: Option<f64>) -> [(&'static str, Chart); 2] {
    [("load-tail.svg", tail(run, offered_rate)), ("load-course.svg", course(run))]
}

/// Quantiles against rarity: one step to the right is ten times as rare.
fn tail(run: &Run, offered_rate: Option<f64>) -> Chart {
    let series = |name: &str, times: &Times| {
        let sound = times.len() as f64 / 10.0;
        let points = [1.0, 2.0, 4.0]
            .iter()
            .flat_map(|step| (0..6).map(move |decade| step * 10_f64.powi(decade)))
            .filter(|rarity| (2.0..=sound.max(2.0)).contains(rarity))
            .filter_map(|rarity| {
                let y = times.quantile(1.0 - 1.0 / rarity)?.nanos as f64 / 1e6;
                Some(Point { x: rarity, y, bar: None })
            });
        let mut points: Vec<Point> = points.collect();
        points.sort_by(|one, other| one.x.total_cmp(&other.x));
        Series { name: name.to_owned(), points, stroke: Stroke::Measured }
    };
    let rate = offered_rate.map_or("closed loop".to_owned(), |r| format!("{r} requests/s"));
    Chart {
        title: "Tail of the latency".to_owned(),
        subtitle: format!(
            "{rate}; all requests; latency from the scheduled instant, service time from sending"
        ),
        x: Axis::new("one request in ... is slower", Scale::Log),
        y: Axis::new("time (ms)", Scale::Log),
        series: vec![
            series("latency", &run.tally.latency),
            series("service time", &run.tally.service_time),
        ],
    }
}

/// Median and 99 % quantile, part by part of the run.
fn course(run: &Run) -> Chart {
    const PARTS: f64 = 40.0;
    let end = run.samples.last().map_or(1.0, |sample| sample.scheduled.as_secs_f64());
    let width = (end / PARTS).max(1e-3);
    let mut parts: Vec<Vec<f64>> = Vec::new();
    for sample in &run.samples {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most the number of parts"
        )]
        let part = (sample.scheduled.as_secs_f64() / width) as usize;
        if parts.len() <= part {
            parts.resize(part + 1, Vec::new());
        }
        parts[part].push(milliseconds(sample.latency()));
    }
    let series = |name: &str, q: f64| Series {
        name: name.to_owned(),
        points: parts
            .iter()
            .enumerate()
            .filter_map(|(number, latencies)| {
                let x = (number as f64 + 0.5) * width;
                Some(Point { x, y: quantile(&sorted(latencies), q)?, bar: None })
            })
            .collect(),
        stroke: Stroke::Measured,
    };
    Chart {
        title: "Course of the run".to_owned(),
        subtitle: "latency of all requests by scheduled time, warm-up included".to_owned(),
        x: Axis::new("time since the start (s)", Scale::Linear),
        y: Axis::new("latency (ms)", Scale::Linear),
        series: vec![series("median", 0.5), series("99 %", 0.99)],
    }
}
