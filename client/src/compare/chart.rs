//! Two runs on one page: the medians of one against those of the other.

use std::fmt::Write;
use std::path::PathBuf;

use super::{Difference, difference_table};
use crate::plot::{Axis, Chart, Point, Scale, Series, Stroke, escape};

/// A point a group: above the line the second run is slower.
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

/// The comparison as a page that needs nothing else.
pub(super) fn page(folders: &[PathBuf], differences: &[Difference]) -> String {
    let names: Vec<String> =
        folders.iter().map(|folder| escape(&folder.display().to_string())).collect();
    let mut page = String::from("<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n");
    let chart = medians(differences).to_svg();
    write!(
        page,
        "<title>Comparison of two runs</title>\n<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto}}td,th{{padding:.2rem .6rem;text-align:right}}</style>\n\
         <h1>Comparison of two runs</h1>\n<p>A: {}<br>B: {}</p>\n<figure>{chart}</figure>\n<table>\n",
        names.first().map_or("", String::as_str),
        names.get(1).map_or("", String::as_str)
    )
    .expect("a string takes any text");
    for (number, row) in difference_table(differences).rows().iter().enumerate() {
        let tag = if number == 0 { "th" } else { "td" };
        let cells = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        writeln!(page, "<tr>{}</tr>", cells.collect::<String>()).expect("a string takes any text");
    }
    page.push_str(
        "</table>\n<p>All requests, however they ended; failures are compared first. Change of the median \
         with its 95 % interval by batch means, which know that requests depend on their \
         neighbours; Holm's correction, 5 % level.</p>\n</html>\n",
    );
    page
}
