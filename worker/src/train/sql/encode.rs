//! Turns a frame into numbers: the features, encoded by the manifest's own [`Table`], and
//! the targets.
//!
//! The table that is fitted here is the one that the served model reads, so training and serving
//! cannot encode differently. As BigQuery ML does, a missing number counts as the mean, a missing
//! text as none of the known ones, and a row without a label is left out.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use super::{
    frame::Frame,
    lexer::Complaint,
    statement::{ModelType, Statement},
};
use crate::repository::{Cell, Column, Encoding, MAX_SCALE, Table, Task};

/// Maximum numbers in all features, or probabilities of all classes, over all rows.
const MAX_NUMBERS: usize = 100_000_000;
/// Maximum bytes of a class's name.
const MAX_CLASS: usize = 4096;
/// A text column with more values than this is an identifier, not a category.
const MAX_VALUES: usize = 1000;

/// The data of a training run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Examples {
    /// How rows become features.
    pub(super) table: Table,
    /// Features of each row, `rows * width`.
    pub(super) features: Vec<f32>,
    /// The label of each row: the number of its class, or its value.
    pub(super) targets: Vec<f64>,
    /// Names of the classes in order; empty for a regression.
    pub(super) classes: Vec<String>,
}

/// Fits the encoding of `statement` to `frame`, the result of its query, and applies it.
///
/// A complaint about the label points to where the options name it, one about another column to
/// where the query starts.
pub(super) fn encode(frame: &Frame, statement: &Statement) -> Result<Examples, Complaint> {
    let options = &statement.options;
    let blame = |place| move |message: String| Complaint { place, message };
    let at = frame.names.iter().position(|name| *name == options.label).ok_or_else(|| {
        let names = frame.names.join(", ");
        let label = &options.label;
        blame(options.label_place)(format!(
            "the query has no column {label}: set input_label_cols to one of {names}"
        ))
    })?;
    let rows: Vec<&Vec<Option<Cell>>> = frame.rows.iter().filter(|row| row[at].is_some()).collect();
    let labels: Vec<&Cell> = rows.iter().filter_map(|row| row[at].as_ref()).collect();
    let (task, targets, classes) = match options.model_type {
        ModelType::Logistic => {
            let (targets, classes) =
                classify(&labels, &options.label).map_err(blame(options.label_place))?;
            (Task::Classification, targets, classes)
        }
        ModelType::Linear => {
            let targets =
                values(&labels, &options.label).map_err(blame(options.model_type_place))?;
            (Task::Regression, targets, Vec::new())
        }
    };
    let columns = columns(frame, at, &rows).map_err(blame(statement.query_place))?;
    let table = Table { label: options.label.clone(), task, columns };
    for (count, what) in [(table.width(), "features"), (classes.len(), "classes")] {
        if rows.len().saturating_mul(count) > MAX_NUMBERS {
            let message = format!(
                "{} rows of {count} {what} are more than {MAX_NUMBERS} numbers: add LIMIT, or group \
                 columns of many texts",
                rows.len()
            );
            return Err(blame(statement.query_place)(message));
        }
    }
    let features = features(&table, at, &rows).map_err(blame(statement.query_place))?;
    Ok(Examples { table, features, targets, classes })
}

/// The encoding of every column but the label, which is column `label` of `rows`.
fn columns(
    frame: &Frame,
    label: usize,
    rows: &[&Vec<Option<Cell>>],
) -> Result<Vec<Column>, String> {
    let mut columns = Vec::new();
    for (i, name) in frame.names.iter().enumerate().filter(|(i, _)| *i != label) {
        let cells: Vec<&Cell> = rows.iter().filter_map(|row| row[i].as_ref()).collect();
        columns.push(Column { name: name.clone(), encoding: fit(&cells, name)? });
    }
    if columns.is_empty() {
        return Err(format!("select at least one column beside {}", frame.names[label]));
    }
    Ok(columns)
}

/// Features of each row, without column `label`.
fn features(table: &Table, label: usize, rows: &[&Vec<Option<Cell>>]) -> Result<Vec<f32>, String> {
    let mut features = Vec::with_capacity(rows.len() * table.width());
    for row in rows {
        let inputs = row.iter().enumerate().filter(|(i, _)| *i != label);
        let cells: Vec<Cell> = inputs
            .zip(&table.columns)
            .map(|((_, cell), column)| fill(cell.as_ref(), column))
            .collect();
        features.extend(table.encode(&cells).ok_or("a row does not fit its columns")?);
    }
    Ok(features)
}

/// Mean and deviation of numbers, or the values of texts.
fn fit(cells: &[&Cell], name: &str) -> Result<Encoding, String> {
    let numbers: Vec<f64> = cells.iter().filter_map(|cell| number(cell)).collect();
    if cells.is_empty() {
        return Err(format!("column {name} is empty: leave it out"));
    }
    if numbers.len() == cells.len() {
        return scale(&numbers, name);
    }
    if !numbers.is_empty() {
        return Err(format!("column {name} mixes numbers and texts: CAST it to one of them"));
    }
    let mut values = BTreeSet::new();
    for cell in cells {
        values.insert(text(cell));
        if values.len() > MAX_VALUES {
            return Err(format!(
                "column {name} has more than {MAX_VALUES} different texts: leave it out or group it"
            ));
        }
    }
    Ok(Encoding::Text { values: values.into_iter().map(Cow::into_owned).collect() })
}

/// Mean and deviation of numbers.
fn scale(numbers: &[f64], name: &str) -> Result<Encoding, String> {
    check_size(numbers, name)?;
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    let variance = numbers.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
    // A constant column carries no information; dividing it by one keeps it finite.
    let least = (1e-12 * mean.abs()).max(1.0 / MAX_SCALE);
    let std = if variance.sqrt() > least { variance.sqrt() } else { 1.0 };
    Ok(Encoding::Number { mean, std })
}

/// Refuses numbers whose squares and sums would overflow.
fn check_size(numbers: &[f64], name: &str) -> Result<(), String> {
    match numbers.iter().find(|number| number.abs() > MAX_SCALE) {
        Some(number) => Err(format!(
            "column {name} holds {number:e}, and numbers are at most {MAX_SCALE:e}: scale it in the SELECT"
        )),
        None => Ok(()),
    }
}

fn fill(cell: Option<&Cell>, column: &Column) -> Cell {
    match (cell, &column.encoding) {
        (Some(cell), _) => cell.clone(),
        (None, Encoding::Number { mean, .. }) => Cell::Number(*mean),
        // No known value contains a NUL, so this is none of them.
        (None, Encoding::Text { .. }) => Cell::Text("\0".to_owned()),
    }
}

/// The class of each row, and the names of the classes.
type Classes = (Vec<f64>, Vec<String>);

/// The class number of each row, and the class names in order: numeric for numbers, else by text.
fn classify(labels: &[&Cell], name: &str) -> Result<Classes, String> {
    let mut names = BTreeSet::new();
    for label in labels {
        names.insert(text(label));
        if names.len() > MAX_VALUES {
            let fix = "use model_type='linear_reg' to predict a number";
            return Err(format!("{name} has more than {MAX_VALUES} classes; {fix}"));
        }
    }
    if names.len() < 2 {
        return Err(format!("{name} has {} class: at least two are needed", names.len()));
    }
    let is_line =
        |class: &str| !class.contains(['\n', '\r']) && (1..=MAX_CLASS).contains(&class.len());
    if let Some(bad) = names.iter().find(|class| !is_line(class)) {
        let start: String = bad.chars().take(40).collect();
        return Err(format!("class {start:?} of {name} is not one line of text"));
    }
    let mut names: Vec<Cow<'_, str>> = names.into_iter().collect();
    if labels.iter().all(|label| number(label).is_some()) {
        names.sort_by(|a, b| value(a).total_cmp(&value(b)));
    }
    let index: HashMap<&str, usize> =
        names.iter().enumerate().map(|(i, class)| (class.as_ref(), i)).collect();
    let targets = labels.iter().map(|label| index[text(label).as_ref()] as f64).collect();
    Ok((targets, names.iter().map(|class| class.clone().into_owned()).collect()))
}

/// Parses a number that [`text`] has written.
fn value(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}

fn values(labels: &[&Cell], name: &str) -> Result<Vec<f64>, String> {
    let values: Option<Vec<f64>> = labels.iter().map(|label| number(label)).collect();
    let values = values.filter(|values| !values.is_empty()).ok_or_else(|| {
        format!("{name} holds no numbers only: model_type='logistic_reg' takes texts")
    })?;
    check_size(&values, name)?;
    Ok(values)
}

fn number(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Number(number) => Some(*number),
        Cell::Text(_) => None,
    }
}

fn text(cell: &Cell) -> Cow<'_, str> {
    match cell {
        // Zero has two signs and one name.
        Cell::Number(number) => Cow::Owned((number + 0.0).to_string()),
        Cell::Text(text) => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::statement, *};

    fn statement(model_type: &str) -> Statement {
        let head = format!("OPTIONS(model_type='{model_type}',\n input_label_cols=['y'])");
        statement::parse(&format!("CREATE MODEL m\n{head}\nAS SELECT * FROM t")).unwrap()
    }

    type Row<'a> = (Option<f64>, Option<&'a str>, Option<Cell>);

    fn frame(rows: &[Row<'_>]) -> Frame {
        let row = |(a, b, y): &Row<'_>| {
            vec![a.map(Cell::Number), b.map(|b| Cell::Text(b.to_owned())), y.clone()]
        };
        let names = ["a", "b", "y"].map(str::to_owned).to_vec();
        Frame { names, rows: rows.iter().map(row).collect() }
    }

    #[test]
    fn gaps_become_the_mean_or_no_category_and_rows_without_label_are_left_out() {
        let y = |v| Some(Cell::Number(v));
        let rows = [
            (Some(1.0), Some("u"), y(10.0)),
            (Some(3.0), None, y(2.0)),
            (None, Some("v"), y(10.0)),
            (Some(9e9), Some("w"), None),
        ];
        let examples = encode(&frame(&rows), &statement("logistic_reg")).unwrap();
        assert_eq!(examples.classes, ["2", "10"]);
        assert_eq!(examples.targets, [1.0, 0.0, 1.0]);
        let expected = [-1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        assert_eq!(examples.features, expected);
    }

    #[test]
    fn what_cannot_be_learnt_is_told_with_the_place_and_the_column() {
        let refused = |frame: &Frame, model_type, place: &str| {
            let error = encode(frame, &statement(model_type)).unwrap_err().to_string();
            assert!(error.starts_with(place), "{error}");
            error
        };
        let one = frame(&[(Some(1.0), Some("u"), Some(Cell::Number(1.0)))]);
        let error = refused(&one, "logistic_reg", "line 3, column 19: ");
        assert!(error.contains("y has 1 class"), "{error}");
        let texts = frame(&[(Some(1.0), Some("u"), Some(Cell::Text("k".to_owned())))]);
        let error = refused(&texts, "linear_reg", "line 2, column 20: ");
        assert!(error.contains("logistic_reg"), "{error}");
        let empty = frame(&[(None, Some("u"), Some(Cell::Number(1.0)))]);
        let error = refused(&empty, "linear_reg", "line 4, column 4: ");
        assert!(error.contains("column a is empty"), "{error}");
        let mut missing = one;
        missing.names[2] = "z".to_owned();
        let error = refused(&missing, "linear_reg", "line 3, column 19: ");
        assert!(error.contains("no column y") && error.contains("a, b, z"), "{error}");
    }

    #[test]
    fn numbers_that_would_overflow_are_told_and_tiny_ones_are_constant() {
        let y = |v| Some(Cell::Number(v));
        let train = |a: f64, b: f64, model_type| {
            let rows = [(Some(a), Some("u"), y(b)), (Some(0.0), Some("u"), y(1.0))];
            encode(&frame(&rows), &statement(model_type)).map_err(|complaint| complaint.to_string())
        };
        for huge in [1e200, -1e200, 2e30] {
            let error = train(huge, 0.0, "linear_reg").unwrap_err();
            assert!(error.contains("column a") && error.contains("1e30"), "{error}");
            let error = train(0.0, huge, "linear_reg").unwrap_err();
            assert!(error.contains("column y"), "{error}");
        }
        for number in [1e-200, 5e-324, 1e30, -1e30] {
            let examples = train(number, number, "linear_reg").unwrap();
            assert!(examples.features.iter().all(|feature| feature.is_finite()));
        }
    }

    #[test]
    fn classes_of_any_kind_have_an_order_and_one_name_each() {
        let number = |v| Some(Cell::Number(v));
        let label = |text: &str| Some(Cell::Text(text.to_owned()));
        let classes = |labels: Vec<Option<Cell>>| {
            let rows: Vec<Row<'_>> =
                labels.into_iter().map(|y| (Some(1.0), Some("u"), y)).collect();
            let examples = encode(&frame(&rows), &statement("logistic_reg")).unwrap();
            (examples.classes, examples.targets)
        };
        let (names, targets) = classes(vec![number(-0.0), number(10.0), number(0.0), number(-2.0)]);
        assert_eq!(names, ["-2", "0", "10"]);
        assert_eq!(targets, [1.0, 2.0, 1.0, 0.0]);
        let mixed = (0..40)
            .map(|i| if i % 3 == 0 { label(&format!("{i}x")) } else { number(f64::from(i)) });
        let (names, _) = classes(mixed.chain([label("7")]).collect());
        assert_eq!(names.len(), 40, "the number 7 and the text 7 are one class");
    }
}
