//! Loss and accuracy over the epochs, as two SVG files.

use super::checkpoint::Epoch;
use crate::{
    Error,
    train::{directory, invalid},
};
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (720, 400);
const BLUE_LINE: RGBColor = RGBColor(31, 119, 180);
const ORANGE_LINE: RGBColor = RGBColor(214, 90, 14);

/// One figure: a name, its axis, and the two lines.
struct Figure {
    file: &'static str,
    title: &'static str,
    training: Vec<(f64, f64)>,
    held_out: Vec<(f64, f64)>,
}

/// Reads the value of an epoch that a line shows.
type Value = fn(&Epoch) -> Option<f64>;

/// Writes `loss.svg` and `accuracy.svg` into `state`.
pub(super) fn draw(state: &Path, history: &[Epoch]) -> Result<(), Error> {
    let line = |value: Value| {
        let points = history.iter().enumerate();
        points.filter_map(|(i, e)| Some(((i + 1) as f64, value(e)?))).collect::<Vec<_>>()
    };
    let figures = [
        Figure {
            file: "loss.svg",
            title: "Loss",
            training: line(|e| Some(e.loss)),
            held_out: line(|e| Some(e.held_out?.0)),
        },
        Figure {
            file: "accuracy.svg",
            title: "Images read wrong, %: accuracy is the rest to 100",
            training: line(|e| Some(100.0 * (1.0 - e.accuracy))),
            held_out: line(|e| Some(100.0 * (1.0 - e.held_out?.1))),
        },
    ];
    for figure in &figures {
        let path = state.join(figure.file);
        let mut svg = String::new();
        figure.plot(&mut svg).map_err(|e| invalid(&path, e))?;
        directory::replace_file(&path, svg.as_bytes())?;
    }
    Ok(())
}

impl Figure {
    fn plot(&self, svg: &mut String) -> Result<(), String> {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        self.plot_on(&root).map_err(|e| e.to_string())?;
        root.present().map_err(|e| e.to_string())
    }

    fn plot_on<B: DrawingBackend>(
        &self,
        root: &DrawingArea<B, plotters::coord::Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        root.fill(&WHITE)?;
        let values = || self.training.iter().chain(&self.held_out).map(|(_, value)| *value);
        // A logarithm needs a floor above zero: an epoch may read every held-out image right.
        let floor = values().fold(f64::INFINITY, f64::min).max(1e-2) * 0.8;
        let ceiling = values().fold(floor * 1.1, f64::max) * 1.25;
        let epochs = self.training.len().max(2) as f64;
        let mut chart = ChartBuilder::on(root)
            .caption(self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(1.0..epochs, (floor..ceiling).log_scale())?;
        chart.configure_mesh().x_desc("epoch").light_line_style(WHITE.mix(0.0)).draw()?;
        let lines = [
            (&self.training, BLUE_LINE, "training, varied images"),
            (&self.held_out, ORANGE_LINE, "held out, average weights"),
        ];
        for (points, colour, name) in lines {
            let points = points.iter().map(|&(x, y)| (x, y.max(floor))).collect::<Vec<_>>();
            if points.is_empty() {
                continue;
            }
            chart
                .draw_series(std::iter::once(PathElement::new(points, colour.stroke_width(2))))?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
        }
        chart.configure_series_labels().border_style(BLACK.mix(0.3)).background_style(WHITE).draw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_figures_are_svg_with_two_lines_even_for_one_perfect_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let epoch =
            Epoch { loss: 0.4, accuracy: 0.9, rate: 0.1, seconds: 1.0, held_out: Some((0.1, 1.0)) };
        draw(dir.path(), std::slice::from_ref(&epoch)).unwrap();
        draw(dir.path(), &[epoch.clone(), epoch]).unwrap();
        for file in ["loss.svg", "accuracy.svg"] {
            let svg = std::fs::read_to_string(dir.path().join(file)).unwrap();
            assert!(svg.starts_with("<svg") && svg.contains("held out"), "{svg}");
            assert!(svg.matches("#D65A0E").count() >= 2, "{svg}");
        }
    }
}
