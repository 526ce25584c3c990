//! Records as text: aligned tables, short numbers, outcomes in one cell.
//!
//! Uses no network and measures nothing: the same records give the same text.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sample::Outcome;

/// A table of text. The first column is flush left, the others flush right.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|&head| head.to_owned()).collect()] }
    }

    /// Adds a row of cells.
    pub fn push(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The rows, heads first.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// A number with three significant digits, or a dash.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if !value.is_finite() => "-".to_owned(),
        Some(value) if value == 0.0 || value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) if value.abs() >= 1.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.3}"),
    }
}

/// A number with all its digits, for programs; empty for `None`.
pub fn exact(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// The same as [`number`], with a mark if the value is a lower bound.
pub fn bound(value: Option<f64>, at_least: bool) -> String {
    format!("{}{}", if at_least { "≥" } else { "" }, number(value))
}

/// The audience for which numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Three digits, with lower bounds marked.
    People,
    /// All digits and nothing else; a separate column names lower bounds.
    Programs,
}

impl Style {
    /// A number.
    pub fn number(self, value: Option<f64>) -> String {
        self.bound(value, false)
    }

    /// A number, or a lower bound.
    pub fn bound(self, value: Option<f64>, at_least: bool) -> String {
        match self {
            Self::People => bound(value, at_least),
            Self::Programs => exact(value),
        }
    }

    /// Adds a cell about lower bounds to a table row, if this style has a column for them.
    pub(crate) fn push_least(self, row: &mut Vec<String>, cell: impl FnOnce() -> String) {
        if self == Self::Programs {
            row.push(cell());
        }
    }
}

/// A duration in milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Total number of requests.
pub fn count(outcomes: &BTreeMap<Outcome, u64>) -> u64 {
    outcomes.values().sum()
}

/// Everything that was not a success, by class: `503 x 4, timeout x 1`; a dash if there is nothing.
pub fn errors(outcomes: &BTreeMap<Outcome, u64>) -> String {
    let classes: Vec<String> = outcomes
        .iter()
        .filter(|(outcome, _)| !outcome.is_success())
        .map(|(outcome, count)| format!("{outcome} x {count}"))
        .collect();
    if classes.is_empty() { "-".to_owned() } else { classes.join(", ") }
}

/// Table cell that states whether there are reasons to say that the client fell short.
pub(crate) fn shortfall(reasons: &[String]) -> String {
    if reasons.is_empty() { "-" } else { "fell short" }.to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Table, errors, number};
    use crate::sample::{Failure, Outcome};

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", "ms"]);
        table.push(vec!["a".into(), "100".into()]);
        table.push(vec!["long name".into(), "2".into()]);
        assert_eq!(table.to_string(), "name        ms\na          100\nlong name    2\n");
    }

    #[test]
    fn numbers_have_three_digits() {
        let texts = [Some(0.0), Some(0.1234), Some(2.345), Some(45.67), Some(1234.5), None];
        assert_eq!(texts.map(number), ["0", "0.123", "2.35", "45.7", "1234", "-"]);
    }

    #[test]
    fn only_failures_are_errors() {
        let outcomes = BTreeMap::from([
            (Outcome::Answered(200), 10),
            (Outcome::Answered(503), 4),
            (Outcome::Failed(Failure::Timeout), 1),
        ]);
        assert_eq!(errors(&outcomes), "503 x 4, timeout x 1");
    }
}
