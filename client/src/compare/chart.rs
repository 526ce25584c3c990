//! The page that compares two runs: the medians of one against those of the other.

use std::path::PathBuf;

use plot::{Axis, Chart, Point, Scale, Series, Stroke};

use super::{Difference, difference_table};
use crate::page::Page;

/// One point per group; above the line the second run is slower.
pub(super) fn medians(differences: &[Difference]) -> Chart {
    let points = |is_difference: bool| {
        let these = differences.iter().filter(|it| it.finding.is_difference() == is_difference);
        let point = |it: &Difference| {
            let (x, y) = (it.a.p50?, it.b.p50?);
            Some(Point { x, y, bar: it.interval.map(|change| (x + change.low, x + change.high)) })
        };
        these.filter_map(point).collect()
    };
    let all = || differences.iter().flat_map(|it| [it.a.p50, it.b.p50]).flatten();
    let ends = [all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max)];
    let series = |name: &str, points, stroke| Series { name: name.to_owned(), points, stroke };
    Chart {
        title: "Median latency of two runs".to_owned(),
        subtitle: "a point a group of requests; bars: 95 % interval of the change".to_owned(),
        x: Axis::new("run A (ms)", Scale::Log),
        y: Axis::new("run B (ms)", Scale::Log),
        series: vec![
            series("differs", points(true), Stroke::Markers),
            series("no difference shown", points(false), Stroke::Markers),
            series("equal", ends.map(|x| Point { x, y: x, bar: None }).into(), Stroke::Theory),
        ],
    }
}

/// The comparison as a self-contained page.
pub(super) fn page(folders: &[PathBuf], differences: &[Difference]) -> String {
    let mut page = Page::new("Comparison of two runs", "Comparison of two runs");
    let names = ["run A", "run B"].into_iter().zip(folders);
    let terms: Vec<(&str, String)> =
        names.map(|(name, folder)| (name, folder.display().to_string())).collect();
    page.terms(&terms);
    page.chart(&medians(differences));
    page.table(&difference_table(differences));
    page.paragraph(
        "All requests, however they ended; failures are compared first. Change of the median with its \
         95 % interval by batch means, which know that requests depend on their neighbours; Holm's \
         correction, 5 % level.",
    );
    page.finish()
}
