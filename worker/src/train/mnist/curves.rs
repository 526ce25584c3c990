//! Loss and accuracy over the epochs, as two SVG files.

use std::path::Path;

use plot::{Axis, Chart, Point, Scale, Series, Stroke};

use super::checkpoint::Epoch;
use crate::Error;
use crate::train::directory;

/// Reads the value that a line plots for an epoch.
type Value = fn(&Epoch) -> Option<f64>;

/// A logarithm needs a floor above zero: an epoch may read every held-out image correctly.
const FLOOR: f64 = 1e-2;

/// Writes `loss.svg` and `accuracy.svg` into `state`.
pub(super) fn draw(state: &Path, history: &[Epoch]) -> Result<(), Error> {
    let loss = chart(history, "Loss", "loss", [|e| Some(e.loss), |e| Some(e.held_out?.0)]);
    let wrong: [Value; 2] =
        [|e| Some(100.0 * (1.0 - e.accuracy)), |e| Some(100.0 * (1.0 - e.held_out?.1))];
    let wrong = chart(history, "Images read wrong", "images read wrong (%)", wrong);
    directory::replace_file(&state.join("loss.svg"), loss.to_svg().as_bytes())?;
    directory::replace_file(&state.join("accuracy.svg"), wrong.to_svg().as_bytes())
}

/// One chart of a value on the training images and the same value on those held out.
fn chart(history: &[Epoch], title: &str, label: &str, [training, held_out]: [Value; 2]) -> Chart {
    let series = |name: &str, value: Value| {
        let values = history.iter().enumerate().filter_map(|(i, e)| Some((i + 1, value(e)?)));
        let points = values
            .map(|(epoch, y)| Point { x: epoch as f64, y: y.max(FLOOR), bar: None })
            .collect();
        Series { name: name.to_owned(), points, stroke: Stroke::Measured }
    };
    let all = [
        series("training, varied images", training),
        series("held out, average weights", held_out),
    ];
    Chart {
        title: title.to_owned(),
        subtitle: "By epoch, on a logarithmic scale".to_owned(),
        x: Axis::new("epoch", Scale::Linear),
        y: Axis::new(label, Scale::Log),
        series: all.into_iter().filter(|series| !series.points.is_empty()).collect(),
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
        let of = |history: &[Epoch]| {
            draw(dir.path(), history).unwrap();
            ["loss.svg", "accuracy.svg"].map(|file| {
                let svg = std::fs::read_to_string(dir.path().join(file)).unwrap();
                assert!(svg.starts_with("<svg") && svg.contains("held out"), "{svg}");
                svg.matches("<polyline").count()
            })
        };
        assert_eq!(of(std::slice::from_ref(&epoch)), [0, 0], "points without lines");
        assert_eq!(of(&[epoch.clone(), epoch]), [2, 2]);
    }
}
