//! Turns model outputs into the JSON of an answer.

use super::pretty::Pretty;
use super::request::Form;
use crate::api::signature::{Column, Values};

/// Longest text of a float, with its comma.
const FLOAT: usize = 18;
/// Bytes around the values of an answer or a row, with all indentation.
const FRAME: usize = 64;

/// Largest size of the answer to `:predict`, in bytes.
pub(super) fn length(columns: &[Column<'_>], rows: usize) -> usize {
    let length = |column: &Column<'_>| {
        let names = (rows + 1).saturating_mul(FRAME + 6 * column.spec.name.len());
        names.saturating_add(match &column.values {
            Values::Floats(values) => values.len() * FLOAT,
            Values::Texts(texts) => texts.iter().map(|text| quoted_length(text)).sum(),
        })
    };
    let frame = (rows + 2).saturating_mul(FRAME);
    columns.iter().map(length).fold(frame, usize::saturating_add)
}

/// Largest size of the answer to `:classify`, in bytes.
pub(super) fn length_of_classes(labels: &[String], rows: usize) -> usize {
    let row: usize = labels.iter().map(|label| quoted_length(label) + FLOAT + 4).sum();
    (row + FRAME).saturating_mul(rows).saturating_add(2 * FRAME)
}

/// Largest size of the answer to `:regress`, in bytes.
pub(super) fn length_of_values(rows: usize) -> usize {
    2 * FRAME + rows * FLOAT
}

/// Largest size of a quoted text with its comma; a control character takes six bytes.
fn quoted_length(text: &str) -> usize {
    6 * text.len() + 4
}

/// The answer to `:predict`, in the form of the request. One output gives bare values, several give
/// objects.
pub(super) fn predict(columns: &[Column<'_>], rows: usize, form: Form, size: usize) -> String {
    let mut json = Pretty::with_capacity(size);
    json.open_object();
    match form {
        Form::Row => {
            json.key("predictions");
            json.open_list();
            for row in 0..rows {
                write_row(&mut json, columns, row);
            }
            json.close_list();
        }
        Form::Column => {
            json.key("outputs");
            write_columns(&mut json, columns, rows);
        }
    }
    json.close_object();
    json.finish()
}

fn write_row(json: &mut Pretty, columns: &[Column<'_>], row: usize) {
    let several = columns.len() > 1;
    if several {
        json.open_object();
    }
    json.single_line = true;
    for column in columns {
        if several {
            json.key(&column.spec.name);
        }
        write_part(json, column, row);
    }
    json.single_line = false;
    if several {
        json.close_object();
    }
}

fn write_columns(json: &mut Pretty, columns: &[Column<'_>], rows: usize) {
    let several = columns.len() > 1;
    if several {
        json.open_object();
    }
    for column in columns {
        if several {
            json.key(&column.spec.name);
        }
        json.open_list();
        for row in 0..rows {
            write_part(json, column, row);
        }
        json.close_list();
    }
    if several {
        json.close_object();
    }
}

/// One row's part of an output; outputs have at most one dimension besides the batch.
fn write_part(json: &mut Pretty, column: &Column<'_>, row: usize) {
    let len = column.spec.len();
    let range = row * len..(row + 1) * len;
    let is_scalar = column.spec.shape.is_empty();
    if !is_scalar {
        json.open_list();
    }
    match &column.values {
        Values::Floats(values) => values[range].iter().for_each(|value| json.float(*value)),
        Values::Texts(values) => values[range].iter().for_each(|value| json.string(value)),
    }
    if !is_scalar {
        json.close_list();
    }
}

/// The answer to `:classify`: every class of every example with its score.
pub(super) fn classify(labels: &[String], scores: &[f32], size: usize) -> String {
    let mut json = open_results(size);
    for row in scores.chunks(labels.len()) {
        json.single_line = true;
        json.open_list();
        for (label, score) in labels.iter().zip(row) {
            json.open_list();
            json.string(label);
            json.float(*score);
            json.close_list();
        }
        json.close_list();
        json.single_line = false;
    }
    close_results(json)
}

/// The answer to `:regress`: one value per example.
pub(super) fn regress(values: &[f32], size: usize) -> String {
    let mut json = open_results(size);
    json.single_line = true;
    for value in values {
        json.float(*value);
    }
    close_results(json)
}

fn open_results(size: usize) -> Pretty {
    let mut json = Pretty::with_capacity(size);
    json.open_object();
    json.key("results");
    json.open_list();
    json
}

fn close_results(mut json: Pretty) -> String {
    json.close_list();
    json.close_object();
    json.finish()
}

#[cfg(test)]
mod tests {
    use super::{classify, length, length_of_classes};
    use crate::api::signature::{Column, Kind, TensorSpec, Values};
    use crate::api::tf_serving::request::Form;

    fn predict(columns: &[Column<'_>], rows: usize, form: Form) -> String {
        let size = length(columns, rows);
        let text = super::predict(columns, rows, form, size);
        assert!(text.len() <= size && text.capacity() == size, "{} {size}", text.len());
        text
    }

    fn column<'a>(name: &str, values: Values<'a>, width: usize) -> Column<'a> {
        let kind = match values {
            Values::Floats(_) => Kind::Float,
            Values::Texts(_) => Kind::Text,
        };
        Column { spec: TensorSpec { name: name.to_owned(), kind, shape: vec![width] }, values }
    }

    #[test]
    fn one_value_a_row_is_a_bare_number() {
        let values = Values::Floats(vec![2.5, 3.0]);
        let spec = TensorSpec { name: "y".to_owned(), kind: Kind::Float, shape: Vec::new() };
        let text = "{\n    \"predictions\": [2.5, 3.0\n    ]\n}";
        assert_eq!(predict(&[Column { spec, values }], 2, Form::Row), text);
    }

    #[test]
    fn one_output_gives_bare_rows() {
        let one = [column("p", Values::Floats(vec![0.5, 0.25, 1.0, 0.0]), 2)];
        let text = "{\n    \"predictions\": [[0.5, 0.25], [1.0, 0.0]\n    ]\n}";
        assert_eq!(predict(&one, 2, Form::Row), text);
    }

    #[test]
    fn several_outputs_give_objects_in_both_forms() {
        let texts = Values::Texts(vec!["a"]);
        let two = [column("p", Values::Floats(vec![0.5]), 1), column("q", texts, 1)];
        let row = "{\n    \"predictions\": [\n        {\n            \"p\": [0.5],\n            \"q\": [\"a\"]\n        }\n    ]\n}";
        assert_eq!(predict(&two, 1, Form::Row), row);
        let json: serde_json::Value =
            serde_json::from_str(&predict(&two, 1, Form::Column)).unwrap();
        assert_eq!(json, serde_json::json!({"outputs": {"p": [[0.5]], "q": [["a"]]}}));
    }

    #[test]
    fn classes_come_with_their_scores() {
        let labels = ["a".to_owned(), "b".to_owned()];
        let size = length_of_classes(&labels, 1);
        let text = classify(&labels, &[0.75, 0.25], size);
        assert!(text.len() <= size);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json, serde_json::json!({"results": [[["a", 0.75], ["b", 0.25]]]}));
    }
}
