//! Charts as SVG, from numbers alone.
//!
//! Readable in black and white and without colour vision: every series has its own marker and dash
//! besides its colour (the palette of Okabe and Ito). Axes carry units; error bars and theory
//! curves are part of the chart, not decoration. The text is small enough for a report.

#![forbid(unsafe_code)]

mod axis;

use std::fmt::Write;

pub use axis::{Axis, Scale};

/// Colours that can be distinguished with all common kinds of colour vision, darkest first.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#aa4499", "#000000", "#b8860b"];
const DASHES: [&str; 6] = ["none", "7 4", "2 3", "9 3 2 3", "12 4", "4 2"];

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 72.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 62.0;

/// A point, optionally with an error bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Its position on the horizontal axis.
    pub x: f64,
    /// Its position on the vertical axis.
    pub y: f64,
    /// Both ends of the error bar.
    pub bar: Option<(f64, f64)>,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    /// Measured: markers, joined by a line.
    Measured,
    /// Single observations: markers only.
    Markers,
    /// Computed: a thin, solid grey line without markers.
    Theory,
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its entry in the legend.
    pub name: String,
    /// The points, in the order in which the line joins them.
    pub points: Vec<Point>,
    /// How it is drawn.
    pub stroke: Stroke,
}

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What the chart shows, as its heading.
    pub title: String,
    /// A second, smaller line: conditions, meaning of the error bars.
    pub subtitle: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The series to draw, in the order of the legend.
    pub series: Vec<Series>,
}

impl Chart {
    /// The chart as a complete SVG document. Points that an axis cannot show (not finite, or not
    /// positive on a logarithmic one) are left out; an error bar that begins at such a value is
    /// drawn from the edge.
    pub fn to_svg(&self) -> String {
        self.drawn(self.legend_width(), &[])
    }

    /// Draws the chart beside a legend of this width, on a horizontal axis that also shows `along`.
    fn drawn(&self, legend: f64, along: &[f64]) -> String {
        let right = WIDTH - legend;
        let shown: Vec<Point> = self.series.iter().flat_map(|s| self.visible(s)).collect();
        let bars = || shown.iter().filter_map(|p| p.bar).flat_map(|(low, high)| [low, high]);
        let along = shown.iter().map(|p| p.x).chain(along.iter().copied());
        let x = self.x.fit(along, (LEFT, right - 16.0));
        let y = self.y.fit(shown.iter().map(|p| p.y).chain(bars()), (HEIGHT - BOTTOM, TOP));
        let mut svg = self.head();
        grid(&mut svg, &x, &y, right - 16.0);
        self.axis_labels(&mut svg, right);
        let mut measured = 0;
        for (row, series) in self.series.iter().enumerate() {
            let look = Look::of(series.stroke, measured);
            measured += usize::from(series.stroke != Stroke::Theory);
            draw(&mut svg, &self.visible(series), &look, (&x, &y));
            let at = (right, TOP + 10.0 + 20.0 * row as f64);
            legend_entry(&mut svg, &series.name, &look, at);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn visible(&self, series: &Series) -> Vec<Point> {
        let fits = |p: &&Point| self.x.scale.shows(p.x) && self.y.scale.shows(p.y);
        series
            .points
            .iter()
            .filter(fits)
            .map(|p| Point {
                bar: p.bar.filter(|(l, h)| l.is_finite() && self.y.scale.shows(*h)),
                ..*p
            })
            .collect()
    }

    fn legend_width(&self) -> f64 {
        let longest = self.series.iter().map(|s| s.name.chars().count()).max().unwrap_or(0);
        if longest == 0 { 8.0 } else { (48.0 + 6.6 * longest as f64).min(WIDTH / 2.0) }
    }

    fn head(&self) -> String {
        let title = escape(&self.title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{title}\" \
             font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"20\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n\
             <text x=\"{LEFT}\" y=\"38\" font-size=\"11\" fill=\"#555\">{}</text>\n",
            escape(&self.subtitle)
        )
    }

    fn axis_labels(&self, svg: &mut String, right: f64) {
        let centre = f64::midpoint(LEFT, right - 16.0);
        let middle = f64::midpoint(TOP, HEIGHT - BOTTOM);
        let (x, y) = (escape(&self.x.label), escape(&self.y.label));
        push(
            svg,
            format_args!(
                "<text x=\"{centre:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x}</text>\n\
                 <text transform=\"translate(18 {middle:.1}) rotate(-90)\" \
                 text-anchor=\"middle\">{y}</text>\n",
                HEIGHT - 18.0
            ),
        );
    }
}

/// Charts with the same horizontal axis as one document, stacked so that equal values are aligned.
pub fn stacked(charts: &[&Chart]) -> String {
    let legend = charts.iter().map(|chart| chart.legend_width()).fold(0.0, f64::max);
    let shown = |chart: &&Chart| -> Vec<f64> {
        chart.series.iter().flat_map(|series| chart.visible(series)).map(|point| point.x).collect()
    };
    let along: Vec<f64> = charts.iter().flat_map(shown).collect();
    let height = HEIGHT * charts.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\">\n"
    );
    for (number, chart) in charts.iter().enumerate() {
        let top = HEIGHT * number as f64;
        let panel = chart.drawn(legend, &along);
        svg.push_str(&panel.replacen("<svg ", &format!("<svg y=\"{top}\" "), 1));
    }
    svg.push_str("</svg>\n");
    svg
}

/// Colour, dash and marker of a series.
struct Look {
    colour: &'static str,
    dash: &'static str,
    marker: Option<usize>,
    has_line: bool,
}

impl Look {
    fn of(stroke: Stroke, measured: usize) -> Self {
        let number = measured % COLOURS.len();
        match stroke {
            Stroke::Theory => {
                Self { colour: "#777777", dash: "none", marker: None, has_line: true }
            }
            Stroke::Measured | Stroke::Markers => Self {
                colour: COLOURS[number],
                dash: DASHES[number],
                marker: Some(number),
                has_line: stroke == Stroke::Measured,
            },
        }
    }
}

/// Writing to a string cannot fail; this says so once.
fn push(svg: &mut String, text: std::fmt::Arguments<'_>) {
    svg.write_fmt(text).expect("a string takes any text");
}

fn grid(svg: &mut String, x: &axis::Fitted, y: &axis::Fitted, right: f64) {
    let base = HEIGHT - BOTTOM;
    for (at, label) in y.ticks() {
        push(
            svg,
            format_args!(
                "<path d=\"M{LEFT} {at:.1}H{right:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n",
                LEFT - 7.0,
                at + 4.0
            ),
        );
    }
    for (at, label) in x.ticks() {
        push(
            svg,
            format_args!(
                "<path d=\"M{at:.1} {base}V{:.1}\" stroke=\"#222\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>\n",
                base + 5.0,
                base + 19.0
            ),
        );
    }
    push(
        svg,
        format_args!(
            "<path d=\"M{LEFT} {TOP}V{base}H{right:.1}\" fill=\"none\" stroke=\"#222\"/>\n"
        ),
    );
}

fn draw(svg: &mut String, points: &[Point], look: &Look, (x, y): (&axis::Fitted, &axis::Fitted)) {
    let Look { colour, dash, .. } = look;
    if look.has_line && points.len() > 1 {
        let path: Vec<String> =
            points.iter().map(|p| format!("{:.1},{:.1}", x.at(p.x), y.at(p.y))).collect();
        push(
            svg,
            format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{}\" \
                 stroke-dasharray=\"{dash}\"/>\n",
                path.join(" "),
                if look.marker.is_some() { 2 } else { 1 }
            ),
        );
    }
    for point in points {
        let (px, py) = (x.at(point.x), y.at(point.y));
        if let Some((low, high)) = point.bar {
            let (high, left) = (y.at(high), px - 4.0);
            // An end beyond the range of the axis has no cap.
            let (low, cap) = if y.shows(low) {
                (y.at(low), format!("M{left:.1} {:.1}h8", y.at(low)))
            } else {
                (y.base(), String::new())
            };
            push(
                svg,
                format_args!(
                    "<path d=\"M{px:.1} {low:.1}V{high:.1}{cap}M{left:.1} {high:.1}h8\" \
                     stroke=\"{colour}\"/>\n"
                ),
            );
        }
        mark(svg, look, (px, py));
    }
}

fn legend_entry(svg: &mut String, name: &str, look: &Look, (x, y): (f64, f64)) {
    if name.is_empty() {
        return;
    }
    let Look { colour, dash, .. } = look;
    if look.has_line {
        push(
            svg,
            format_args!(
                "<path d=\"M{x:.1} {y:.1}h30\" stroke=\"{colour}\" stroke-width=\"2\" \
                 stroke-dasharray=\"{dash}\"/>\n"
            ),
        );
    }
    mark(svg, look, (x + 15.0, y));
    push(
        svg,
        format_args!("<text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n", x + 37.0, y + 4.0, escape(name)),
    );
}

/// Circle, square, triangle, diamond, hollow circle, hollow square.
fn mark(svg: &mut String, look: &Look, (x, y): (f64, f64)) {
    let Some(marker) = look.marker else { return };
    let colour = look.colour;
    let fill = if marker >= 4 { "#fff" } else { colour };
    let shape = match marker {
        0 | 4 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\""),
        1 | 5 => {
            format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\"", x - 4.0, y - 4.0)
        }
        2 => format!("<path d=\"M{:.1} {:.1}h10l-5 -9z\"", x - 5.0, y + 4.0),
        _ => format!("<path d=\"M{:.1} {y:.1}l5 -5l5 5l-5 5z\"", x - 5.0),
    };
    push(svg, format_args!("{shape} fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n"));
}

/// Escapes text for use inside an element or an attribute.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::{Axis, Chart, Point, Scale, Series, Stroke, stacked};

    fn chart(points: Vec<Point>) -> Chart {
        Chart {
            title: "a < b & c".to_owned(),
            subtitle: String::new(),
            x: Axis::new("rate (1/s)", Scale::Log),
            y: Axis::new("time (ms)", Scale::Log),
            series: vec![Series { name: "one".to_owned(), points, stroke: Stroke::Measured }],
        }
    }

    #[test]
    fn text_is_escaped() {
        let svg = chart(vec![]).to_svg();
        assert!(svg.contains("a &lt; b &amp; c"));
    }

    #[test]
    fn charts_above_one_another_show_the_same_time_at_the_same_place() {
        let of = |name: &str, x: f64| {
            let points = vec![Point { x, y: 1.0, bar: None }, Point { x: 10.0, y: 2.0, bar: None }];
            let stroke = Stroke::Measured;
            let series = vec![Series { name: name.to_owned(), points, stroke }];
            Chart { x: Axis::new("time (s)", Scale::Linear), series, ..chart(vec![]) }
        };
        let (short, long) = (of("", 5.0), of("a series of a long name", 0.0));
        let svg = stacked(&[&short, &long]);
        let panels: Vec<&str> = svg.split("<svg ").skip(2).collect();
        let [first, second] = panels[..] else { panic!("two panels: {svg}") };
        assert!(first.starts_with("y=\"0\" ") && second.starts_with("y=\"440\" "), "{svg}");
        let times = |panel: &str| -> Vec<String> {
            let texts =
                panel.split("<text ").filter(|text| text.contains("text-anchor=\"middle\""));
            texts.filter_map(|text| text.split_once('>')).map(|(at, _)| at.to_owned()).collect()
        };
        assert_eq!(times(first), times(second));
        assert_eq!(svg.matches("</svg>").count(), 3);
    }

    #[test]
    fn a_bar_that_reaches_zero_comes_from_the_edge_of_a_logarithmic_axis() {
        let bar = |low| {
            let svg = chart(vec![Point { x: 1.0, y: 2.0, bar: Some((low, 40.0)) }]).to_svg();
            assert!(low.is_nan() || svg.contains(">50<"), "the axis holds the high end: {svg}");
            let bars = svg.lines().filter(|line| line.contains("h8\"")).map(str::to_owned);
            bars.collect::<Vec<_>>()
        };
        for low in [0.0, -3.0] {
            let bars = bar(low);
            assert_eq!(bars.len(), 1, "{bars:?}");
            // The lower edge of the chart, and a cap at the high end alone.
            assert!(bars[0].contains(" 378.0V"), "{bars:?}");
            assert_eq!(bars[0].matches("h8").count(), 1, "{bars:?}");
        }
        assert_eq!(bar(1.5)[0].matches("h8").count(), 2);
        assert!(bar(f64::NAN).is_empty());
    }

    #[test]
    fn points_that_cannot_be_shown_are_left_out_and_leave_no_nan() {
        let at = |x, y| Point { x, y, bar: Some((0.0, y)) };
        let svg =
            chart(vec![at(1.0, 2.0), at(0.0, 1.0), at(f64::NAN, 1.0), at(9.0, f64::INFINITY)])
                .to_svg();
        assert_eq!(svg.matches("<circle").count(), 2, "one point and its legend");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
