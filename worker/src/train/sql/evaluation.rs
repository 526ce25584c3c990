//! How the fitted layer performs on rows it has not seen.

use std::io::{self, Write};

use serde::Serialize;

/// Smaller probabilities count as this one.
const FLOOR: f64 = f32::MIN_POSITIVE as f64;

/// The measures of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub(super) enum Evaluation {
    /// Of a classifier.
    Classification {
        /// Share of rows whose most probable class is right.
        accuracy: f64,
        /// Mean negative logarithm of the right class's probability.
        log_loss: f64,
        /// The class names, in the order of the table's rows and columns.
        classes: Vec<String>,
        /// `confusion[actual][predicted]`.
        confusion: Vec<Vec<usize>>,
    },
    /// Of a regression.
    Regression {
        /// Share of the variance that is explained.
        r2: f64,
        /// Mean absolute error.
        mean_absolute_error: f64,
    },
}

/// Measures class probabilities, one row per example, against the numbers of the right classes.
pub(super) fn classification(
    probabilities: &[Vec<f32>],
    actual: &[usize],
    classes: &[String],
) -> Evaluation {
    let mut confusion = vec![vec![0; classes.len()]; classes.len()];
    let mut loss = 0.0;
    for (row, &actual) in probabilities.iter().zip(actual) {
        let predicted = crate::model::top_k(row, 1).first().copied().unwrap_or(0);
        confusion[actual][predicted] += 1;
        let probability = f64::from(row[actual]);
        // Not `max`, which hides NaN.
        loss -= if probability < FLOOR { FLOOR.ln() } else { probability.ln() };
    }
    let rows = actual.len().max(1) as f64;
    let correct: usize = (0..classes.len()).map(|i| confusion[i][i]).sum();
    let (accuracy, log_loss) = (correct as f64 / rows, loss / rows);
    Evaluation::Classification { accuracy, log_loss, classes: classes.to_vec(), confusion }
}

/// Measures predicted values against the actual ones.
pub(super) fn regression(predicted: &[f64], actual: &[f64]) -> Evaluation {
    let rows = actual.len().max(1) as f64;
    let mean = actual.iter().sum::<f64>() / rows;
    let spread: f64 = actual.iter().map(|v| (v - mean).powi(2)).sum();
    let error = |power: i32| -> f64 {
        predicted.iter().zip(actual).map(|(p, a)| (p - a).abs().powi(power)).sum()
    };
    let r2 = if spread > 0.0 { 1.0 - error(2) / spread } else { 0.0 };
    Evaluation::Regression { r2, mean_absolute_error: error(1) / rows }
}

impl Evaluation {
    /// Whether every measure is a number.
    pub(super) fn is_finite(&self) -> bool {
        match self {
            Self::Classification { log_loss, .. } => log_loss.is_finite(),
            Self::Regression { r2, mean_absolute_error } => {
                r2.is_finite() && mean_absolute_error.is_finite()
            }
        }
    }

    /// Prints a short table.
    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Classification { accuracy, log_loss, classes, confusion } => {
                writeln!(out, "accuracy    {:.2} %", 100.0 * accuracy)?;
                writeln!(out, "log loss    {log_loss:.4}")?;
                if classes.len() > 20 {
                    return Ok(());
                }
                let width = classes.iter().map(|class| class.chars().count()).max().unwrap_or(0);
                let width = width.max("actual \\ predicted".len());
                write!(out, "\n{:>width$}", "actual \\ predicted")?;
                classes.iter().try_for_each(|class| write!(out, "  {class}"))?;
                for (class, row) in classes.iter().zip(confusion) {
                    write!(out, "\n{class:>width$}")?;
                    row.iter().zip(classes).try_for_each(|(count, above)| {
                        write!(out, "  {count:>width$}", width = above.chars().count())
                    })?;
                }
                writeln!(out)
            }
            Self::Regression { r2, mean_absolute_error } => {
                writeln!(out, "R2          {r2:.4}")?;
                writeln!(out, "mean error  {mean_absolute_error:.6}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_classifier_is_measured_by_hits_and_by_probability() {
        let classes = ["a".to_owned(), "b".to_owned()];
        let rows = [vec![0.5, 0.5], vec![0.25, 0.75], vec![0.9, 0.1], vec![0.2, 0.8]];
        let Evaluation::Classification { accuracy, log_loss, confusion, .. } =
            classification(&rows, &[0, 1, 1, 1], &classes)
        else {
            panic!("a classifier has the measures of one");
        };
        assert!((accuracy - 0.75).abs() < 1e-12);
        assert_eq!(confusion, [[1, 0], [1, 2]]);
        let expected = -(0.5f64.ln() + 0.75f64.ln() + 0.1f64.ln() + 0.8f64.ln()) / 4.0;
        assert!((log_loss - expected).abs() < 1e-6);
    }

    #[test]
    fn a_regression_is_measured_against_the_mean() {
        let Evaluation::Regression { r2, mean_absolute_error } =
            regression(&[1.0, 2.0, 4.0], &[1.0, 2.0, 3.0])
        else {
            panic!("a regression has the measures of one");
        };
        assert!((r2 - 0.5).abs() < 1e-12 && (mean_absolute_error - 1.0 / 3.0).abs() < 1e-12);
    }
}
