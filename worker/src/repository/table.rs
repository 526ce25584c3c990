//! Named columns of a tabular model, and how one row becomes numbers.
//!
//! Numbers are standardised and texts one-hot encoded with what the manifest says, so that a
//! request is fed exactly as the training data was.

use super::ManifestError;
use serde::{Deserialize, Serialize};

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
    /// One feature a known value, 1 where it is equal; an unknown text is all zeros.
    Text {
        /// The values of the training data.
        values: Vec<String>,
    },
}

/// One value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

impl Table {
    /// Features a row has.
    pub fn width(&self) -> usize {
        self.columns.iter().map(|column| column.encoding.width()).sum()
    }

    /// The features of one row, whose cells stand in column order.
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
        let invalid = |rule| Err(ManifestError::Invalid { key: "table.columns", rule });
        if self.columns.is_empty() {
            return invalid("at least one column is needed");
        }
        for (position, column) in self.columns.iter().enumerate() {
            if self.columns[..position].iter().any(|other| other.name == column.name) {
                return invalid("column names must differ");
            }
            match &column.encoding {
                Encoding::Number { mean, std } => {
                    if !mean.is_finite() || !std.is_finite() || *std <= 0.0 {
                        return invalid("mean must be finite and std above zero");
                    }
                }
                Encoding::Text { values } => {
                    if values.is_empty() {
                        return invalid("values must not be empty");
                    }
                }
            }
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
}
