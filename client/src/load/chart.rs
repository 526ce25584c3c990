//! A load run as charts: the tail of the distribution, and the course of the run.

use plot::{Axis, Chart, Point, Scale, Series, Stroke};

use super::workers::WorkerCount;
use crate::driver::{Moment, Run, Times};

/// Number of worker counts that are shown even if they do not change.
const MAX_COUNTS: usize = 60;

/// File name of the tail of the distribution, which covers the requests of the run's tally.
pub(crate) const TAIL: &str = "load-tail.svg";

/// File names and charts, given the requested rate and which requests the run's tally covers.
pub(crate) fn charts(
    run: &Run,
    moments: &[Moment],
    counts: &[WorkerCount],
    (asked_rate, requests): (Option<f64>, &str),
) -> Vec<(&'static str, Chart)> {
    let mut charts = vec![
        (TAIL, tail(run, asked_rate, requests)),
        ("load-rate.svg", rates(moments)),
        ("load-course.svg", latencies(moments)),
    ];
    let names = |moment: &Moment| moment.endpoints;
    if !counts.is_empty() || moments.iter().map(names).max() > Some(0) {
        charts.push(("load-workers.svg", workers(moments, counts)));
    }
    charts
}

/// Quantiles against rarity: one step to the right is ten times as rare.
fn tail(run: &Run, asked_rate: Option<f64>, requests: &str) -> Chart {
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
    let rate = asked_rate.map_or("closed loop".to_owned(), |r| format!("{r} requests/s"));
    Chart {
        title: "Tail of the latency".to_owned(),
        subtitle: format!(
            "{rate}; {requests}; latency from the scheduled instant, service time from sending"
        ),
        x: Axis::new("one request in ... is slower", Scale::Log),
        y: Axis::new("time (ms)", Scale::Log),
        series: vec![
            series("latency", &run.tally.latency),
            series("service time", &run.tally.service_time),
        ],
    }
}

/// Requests due, answered and failed, part by part of the run.
fn rates(moments: &[Moment]) -> Chart {
    Chart {
        title: "Requests and answers".to_owned(),
        subtitle: "answers when they came, failures when the requests were due; with warm-up"
            .to_owned(),
        x: time(),
        y: Axis::new("requests/s", Scale::Linear),
        series: vec![
            series(moments, "due", |it| Some(it.offered_rate)),
            series(moments, "answered", |it| Some(it.throughput)),
            series(moments, "failed", |it| Some(it.failed_rate)),
        ],
    }
}

/// Quantiles of the latency, part by part of the run.
fn latencies(moments: &[Moment]) -> Chart {
    Chart {
        title: "Latency over the run".to_owned(),
        subtitle: "all requests by the instant at which they were due; with warm-up".to_owned(),
        x: time(),
        y: Axis::new("latency (ms)", Scale::Log),
        series: vec![
            series(moments, "median", |it| it.p50_ms),
            series(moments, "95 %", |it| it.p95_ms),
            series(moments, "slowest", |it| it.max_ms),
        ],
    }
}

/// The number of workers in each part of the run: as the balancer reports it, or else those that
/// answered.
fn workers(moments: &[Moment], counts: &[WorkerCount]) -> Chart {
    let answering =
        |name: &str| series(moments, name, |it| (it.endpoints > 0).then_some(it.endpoints as f64));
    let (subtitle, series) = if counts.is_empty() {
        ("endpoints that answered at least one of the requests that were due", vec![answering("")])
    } else {
        let told = |name: &str, count: fn(&WorkerCount) -> u64| {
            let point = |it: &WorkerCount| Point { x: it.seconds, y: count(it) as f64, bar: None };
            let points = thinned(counts).map(point).collect();
            Series { name: name.to_owned(), points, stroke: Stroke::Measured }
        };
        let all = vec![
            told("in the list", |it| it.workers),
            told("take requests", |it| it.available),
            answering("answered"),
        ];
        ("as the balancer tells them; those that answered a request that was due", all)
    };
    let y = Axis::new("workers", Scale::Linear);
    Chart { title: "Workers".to_owned(), subtitle: subtitle.to_owned(), x: time(), y, series }
}

/// Every change of the numbers, and of the counts between only so many that the chart stays small.
fn thinned(counts: &[WorkerCount]) -> impl Iterator<Item = &WorkerCount> {
    let every = counts.len().div_ceil(MAX_COUNTS).max(1);
    let differ = |one: &WorkerCount, other: Option<&WorkerCount>| {
        other.is_none_or(|it| (it.workers, it.available) != (one.workers, one.available))
    };
    counts.iter().enumerate().filter_map(move |(at, one)| {
        let before = at.checked_sub(1).and_then(|before| counts.get(before));
        let is_shown = at % every == 0 || differ(one, before) || differ(one, counts.get(at + 1));
        is_shown.then_some(one)
    })
}

/// Whether a chart shows the course of the run.
pub(super) fn is_of_course(chart: &Chart) -> bool {
    chart.x.label == TIME
}

/// The course of the run as one drawing: load and answers, latency, workers, above one time axis.
pub(crate) fn course(charts: &[(&'static str, Chart)]) -> String {
    let charts: Vec<&Chart> =
        charts.iter().map(|(_, chart)| chart).filter(|chart| is_of_course(chart)).collect();
    plot::stacked(&charts)
}

/// Label of the time axis in charts of the course of a run.
const TIME: &str = "time since the start (s)";

fn time() -> Axis {
    Axis::new(TIME, Scale::Linear)
}

fn series(moments: &[Moment], name: &str, y: impl Fn(&Moment) -> Option<f64>) -> Series {
    let point = |moment: &Moment| Some(Point { x: moment.seconds, y: y(moment)?, bar: None });
    let points = moments.iter().filter_map(point).collect();
    Series { name: name.to_owned(), points, stroke: Stroke::Measured }
}
