//! Named columns of a tabular model, and how one row becomes numbers.
//!
//! Numbers are standardised and texts one-hot encoded with what the manifest says, so that a
//! request is fed exactly as the training data was.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::ManifestError;

/// Columns of a table, and features of a row.
const MAX_COLUMNS: usize = 4096;
const MAX_WIDTH: usize = 65_536;
/// Bytes of a column's name, and of a text that it knows.
const MAX_NAME: usize = 1000;
const MAX_VALUE: usize = 65_536;
/// The largest mean, and deviation, of numbers that are computed with as f32; the inverse of the
/// smallest deviation.
pub(crate) const MAX_SCALE: f64 = 1e30;

/// The input of a tabular model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Name of the predicted column.
    pub label: String,
    /// What is predicted.
    pub task: Task,
    /// Input columns in the order of the features.
    pub columns: Vec<Column>,
}

/// What a tabular model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One of the labels; the model's outputs are logits.
    Classification,
    /// A number; the model has one output.
    Regression,
}

/// One input column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name in a request.
    pub name: String,
    /// How its value becomes features.
    #[serde(flatten)]
    pub encoding: Encoding,
}

/// How a value becomes features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Encoding {
    /// One feature: `(value - mean) / std`.
    Number {
        /// Mean of the training data.
        mean: f64,
        /// Standard deviation of the training data, above zero.
        std: f64,
    },
    /// One feature per known value, 1 where it is equal; an unknown text is all zeros.
    Text {
        /// The values of the training data.
        values: Vec<String>,
    },
}

/// One value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// A numeric value.
    Number(f64),
    /// A category, or any other text.
    Text(String),
}

impl Table {
    /// Number of features per row.
    pub fn width(&self) -> usize {
        self.columns.iter().map(|column| column.encoding.width()).sum()
    }

    /// The features of one row, whose cells are in column order.
    ///
    /// `None` when a cell is missing, surplus or of the wrong kind.
    pub fn encode(&self, row: &[Cell]) -> Option<Vec<f32>> {
        if row.len() != self.columns.len() {
            return None;
        }
        let mut features = Vec::with_capacity(self.width());
        for (column, cell) in self.columns.iter().zip(row) {
            match (&column.encoding, cell) {
                (Encoding::Number { mean, std }, Cell::Number(value)) => {
                    features.push(narrow((value - mean) / std));
                }
                (Encoding::Text { values }, Cell::Text(text)) => {
                    features.extend(values.iter().map(|v| if v == text { 1.0 } else { 0.0 }));
                }
                (Encoding::Number { .. }, Cell::Text(_))
                | (Encoding::Text { .. }, Cell::Number(_)) => return None,
            }
        }
        Some(features)
    }

    pub(super) fn check(&self) -> Result<(), ManifestError> {
        let invalid = |key, rule| Err(ManifestError::Invalid { key, rule });
        let is_named = |name: &str| (1..=MAX_NAME).contains(&name.len());
        if !is_named(&self.label) {
            return invalid("table.label", "must be a name of 1 to 1000 bytes");
        }
        if !(1..=MAX_COLUMNS).contains(&self.columns.len()) {
            return invalid("table.columns", "must be 1 to 4096");
        }
        let mut names = HashSet::new();
        for Column { name, encoding } in &self.columns {
            if !is_named(name) {
                return invalid("table.columns", "must have names of 1 to 1000 bytes");
            }
            if !names.insert(name) {
                return invalid("table.columns", "column names must differ");
            }
            encoding.check()?;
        }
        if self.width() > MAX_WIDTH {
            return invalid("table.columns", "must be at most 65536 features in all");
        }
        Ok(())
    }
}

impl Encoding {
    fn width(&self) -> usize {
        match self {
            Self::Number { .. } => 1,
            Self::Text { values } => values.len(),
        }
    }

    fn check(&self) -> Result<(), ManifestError> {
        let rule = match self {
            Self::Number { mean, .. } if mean.abs() > MAX_SCALE || mean.is_nan() => {
                "mean must be -1e30 to 1e30"
            }
            Self::Number { std, .. } if !(1.0 / MAX_SCALE..=MAX_SCALE).contains(std) => {
                "std must be 1e-30 to 1e30"
            }
            Self::Text { values } if values.is_empty() => "values must not be empty",
            Self::Text { values } if values.iter().any(|value| value.len() > MAX_VALUE) => {
                "values must be at most 65536 bytes each"
            }
            Self::Number { .. } | Self::Text { .. } => return Ok(()),
        };
        Err(ManifestError::Invalid { key: "table.columns", rule })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "networks compute in f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::{Cell, Column, Encoding, Table, Task};

    fn table() -> Table {
        Table {
            label: "price".to_owned(),
            task: Task::Regression,
            columns: vec![
                Column {
                    name: "area".to_owned(),
                    encoding: Encoding::Number { mean: 100.0, std: 50.0 },
                },
                Column {
                    name: "town".to_owned(),
                    encoding: Encoding::Text { values: vec!["Ulm".to_owned(), "Bonn".to_owned()] },
                },
            ],
        }
    }

    #[test]
    fn numbers_are_standardised_and_texts_one_hot() {
        let row = [Cell::Number(150.0), Cell::Text("Bonn".to_owned())];
        assert_eq!(table().encode(&row), Some(vec![1.0, 0.0, 1.0]));
        assert_eq!(table().width(), 3);
    }

    #[test]
    fn an_unknown_text_is_all_zeros() {
        let row = [Cell::Number(100.0), Cell::Text("Kiel".to_owned())];
        assert_eq!(table().encode(&row), Some(vec![0.0, 0.0, 0.0]));
    }

    #[test]
    fn a_row_of_the_wrong_kind_or_length_has_no_features() {
        assert_eq!(table().encode(&[Cell::Number(1.0), Cell::Number(2.0)]), None);
        assert_eq!(table().encode(&[Cell::Number(1.0)]), None);
    }

    type Change<'a> = &'a dyn Fn(&mut Table);

    #[test]
    fn what_a_table_may_say_is_bounded() {
        let refused = |change: Change<'_>| {
            let mut table = table();
            change(&mut table);
            table.check().unwrap_err().to_string()
        };
        assert!(table().check().is_ok());
        let number = |mean, std| {
            refused(&|table| table.columns[0].encoding = Encoding::Number { mean, std })
        };
        assert!(number(f64::NAN, 1.0).contains("mean"));
        assert!(number(1e31, 1.0).contains("mean"));
        assert!(number(0.0, 1e-31).contains("std"));
        assert!(number(0.0, f64::NAN).contains("std"));
        assert!(refused(&|table| table.label = String::new()).starts_with("table.label"));
        assert!(refused(&|table| table.columns.clear()).contains("1 to 4096"));
        assert!(refused(&|table| table.columns[1].name = "area".to_owned()).contains("differ"));
        assert!(refused(&|table| table.columns[1].name = "x".repeat(1001)).contains("names"));
        let long = refused(&|table| {
            table.columns[1].encoding = Encoding::Text { values: vec!["x".repeat(65_537)] };
        });
        assert!(long.contains("bytes"), "{long}");
        let many: Vec<String> = (0..65_536).map(|value| value.to_string()).collect();
        let wide = refused(&|table| {
            table.columns[1].encoding = Encoding::Text { values: many.clone() };
        });
        assert!(wide.contains("65536 features"), "{wide}");
    }
}
