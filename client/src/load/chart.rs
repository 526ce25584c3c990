//! A load run as charts: the tail of the distribution, and the course of the run.

use crate::driver::{Moment, Run, Times};
use crate::plot::{Axis, Chart, Point, Scale, Series, Stroke};

/// File names and charts.
pub(crate) fn charts(
    run: &Run,
    moments: &[Moment],
    offered_rate: Option<f64>,
) -> Vec<(&'static str, Chart)> {
    let mut charts = vec![
        ("load-tail.svg", tail(run, offered_rate)),
        ("load-rate.svg", rates(moments)),
        ("load-course.svg", latencies(moments)),
    ];
    let names = |moment: &Moment| moment.endpoints;
    if moments.iter().map(names).max() > Some(0) {
        charts.push(("load-workers.svg", workers(moments)));
    }
    charts
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

/// What was due, answered and lost, part by part of the run.
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

/// Who answered, part by part of the run.
fn workers(moments: &[Moment]) -> Chart {
    Chart {
        title: "Workers".to_owned(),
        subtitle: "endpoints that answered at least one of the requests that were due".to_owned(),
        x: time(),
        y: Axis::new("workers", Scale::Linear),
        series: vec![series(moments, "", |it| Some(it.endpoints as f64))],
    }
}

fn time() -> Axis {
    Axis::new("time since the start (s)", Scale::Linear)
}

fn series(moments: &[Moment], name: &str, y: impl Fn(&Moment) -> Option<f64>) -> Series {
    let point = |moment: &Moment| Some(Point { x: moment.seconds, y: y(moment)?, bar: None });
    let points = moments.iter().filter_map(point).collect();
    Series { name: name.to_owned(), points, stroke: Stroke::Measured }
}
