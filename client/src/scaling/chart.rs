//! The grid as charts: latency and throughput against the rate, one line per number of servers.

use plot::{Axis, Chart, Point, Scale, Series, Stroke};

use super::capacity::Capacity;
use super::findings::{Cell, Findings};

/// File names and charts.
pub(crate) fn charts(findings: &Findings) -> Vec<(&'static str, Chart)> {
    let mut charts = vec![
        ("scaling-latency.svg", latency(findings)),
        ("scaling-throughput.svg", throughput(findings)),
        ("scaling-knee.svg", knee(findings)),
    ];
    if !findings.capacities.is_empty() {
        charts.push(("scaling-speed-up.svg", speed_up(findings)));
    }
    charts
}

/// The knee: what each further answer per second costs in tail latency.
fn knee(findings: &Findings) -> Chart {
    let point = |cell: &Cell| {
        let bar = cell.p95_interval.map(|interval| (interval.low, interval.high));
        Some(Point { x: cell.throughput?, y: cell.latency_ms?.p95?, bar })
    };
    Chart {
        title: "Latency against throughput".to_owned(),
        subtitle: "where a line turns up, its servers are full; bars: 95 % intervals".to_owned(),
        x: Axis::new("throughput (answers/s)", Scale::Log),
        y: Axis::new("latency, 95 % quantile (ms)", Scale::Log),
        series: by_servers(findings, point),
    }
}

/// Capacity relative to that of the smallest number of servers, beside the ideal.
fn speed_up(findings: &Findings) -> Chart {
    let measured = |line: &Capacity| {
        let bar = line.speed_up_interval.map(|interval| (interval.low, interval.high));
        Point { x: f64::from(line.servers), y: line.speed_up, bar }
    };
    let ideal =
        |line: &Capacity| Some(Point { x: f64::from(line.servers), y: line.ideal?, bar: None });
    let series = |name: &str, points, stroke| Series { name: name.to_owned(), points, stroke };
    let lines = || findings.capacities.iter();
    let mut all = vec![series("measured", lines().map(measured).collect(), Stroke::Measured)];
    let ideal: Vec<Point> = lines().filter_map(ideal).collect();
    all.extend((!ideal.is_empty()).then(|| series("ideal", ideal, Stroke::Theory)));
    Chart {
        title: "Speed-up by number of servers".to_owned(),
        subtitle: "capacity in a closed loop with many users; bars: 95 % intervals".to_owned(),
        x: Axis::new("servers", Scale::Linear),
        y: Axis::new("speed-up", Scale::Linear),
        series: all,
    }
}

/// Mean latency, as the original reports it, with its interval.
fn latency(findings: &Findings) -> Chart {
    let point = |cell: &Cell| {
        let bar = cell.mean_interval.map(|interval| (interval.low, interval.high));
        Some(Point { x: cell.offered_rate, y: cell.latency_ms?.mean, bar })
    };
    Chart {
        title: "Latency by load and number of servers".to_owned(),
        subtitle: "mean from the scheduled instant, with its 95 % interval".to_owned(),
        x: Axis::new("offered rate (requests/s)", Scale::Log),
        y: Axis::new("latency (ms)", Scale::Log),
        series: by_servers(findings, point),
    }
}

/// Achieved against offered rate, beside the line of a service that answers everything.
fn throughput(findings: &Findings) -> Chart {
    let point = |cell: &Cell| {
        let bar = cell.throughput_interval.map(|interval| (interval.low, interval.high));
        Some(Point { x: cell.offered_rate, y: cell.throughput?, bar })
    };
    let mut series = by_servers(findings, point);
    let mut rates: Vec<f64> = findings.cells.iter().map(|cell| cell.offered_rate).collect();
    rates.sort_by(f64::total_cmp);
    series.push(Series {
        name: "all answered".to_owned(),
        points: rates.iter().map(|&rate| Point { x: rate, y: rate, bar: None }).collect(),
        stroke: Stroke::Theory,
    });
    Chart {
        title: "Throughput by load and number of servers".to_owned(),
        subtitle: "successful answers a second; bars: 95 % intervals over trials".to_owned(),
        x: Axis::new("offered rate (requests/s)", Scale::Log),
        y: Axis::new("throughput (answers/s)", Scale::Log),
        series,
    }
}

fn by_servers(findings: &Findings, point: impl Fn(&Cell) -> Option<Point>) -> Vec<Series> {
    let mut servers: Vec<u32> = findings.cells.iter().map(|cell| cell.servers).collect();
    servers.sort_unstable();
    servers.dedup();
    servers
        .into_iter()
        .map(|count| {
            let of_count = findings.cells.iter().filter(|cell| cell.servers == count);
            let mut points: Vec<Point> = of_count.filter_map(&point).collect();
            points.sort_by(|one, other| one.x.total_cmp(&other.x));
            let name = if count == 1 { "1 server".to_owned() } else { format!("{count} servers") };
            Series { name, points, stroke: Stroke::Measured }
        })
        .collect()
}
