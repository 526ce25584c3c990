//! Outputs as JSON or binary tensors; the length of the answer is computed before it is written.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

use super::JSON_LENGTH;
use crate::api::Problem;
use crate::api::memory::Charge;
use crate::api::signature::{Column, Values};
use crate::model::top_k;
use crate::serving::Served;

/// An output that the client wants, and its form.
pub(super) struct Choice {
    pub(super) name: String,
    pub(super) form: Form,
}

/// How an output is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Binary,
    /// The best classes of each row as texts `probability:index:label`.
    Classes {
        count: usize,
        binary: bool,
    },
}

#[derive(Debug, Serialize)]
struct InferenceResponse<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    model_name: &'a str,
    model_version: String,
    outputs: Vec<Described<'a>>,
}

/// One output; its values are in the JSON, or after it.
#[derive(Debug, Serialize)]
struct Described<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

#[derive(Debug, Serialize)]
struct Size {
    binary_data_size: usize,
}

#[derive(Debug)]
enum Data<'a> {
    Floats(&'a [f32]),
    Texts(&'a [&'a str]),
    Classes(Vec<String>),
}

/// Longest text of a number, with its comma.
const NUMBER: usize = 25;
/// Bytes of an output besides its name and values.
const FRAME: usize = 256;

/// The answer to a request.
pub(super) fn respond(
    id: Option<String>,
    served: &Served,
    (columns, choices): (&[Column<'_>], &[Choice]),
    mut charge: Charge,
) -> Result<Response, Problem> {
    let asked: Vec<(&Column<'_>, Form)> = choices
        .iter()
        .filter_map(|choice| {
            let column = columns.iter().find(|column| column.spec.name == choice.name)?;
            Some((column, choice.form))
        })
        .collect();
    let sizes = asked.iter().map(|(column, form)| length(column, *form, &served.version.labels));
    let id_len = id.as_ref().map_or(0, |id| 6 * id.len());
    let size = sizes.fold(FRAME + id_len, usize::saturating_add);
    charge.grow(size)?;
    let mut binary = Vec::new();
    let labels = &served.version.labels;
    let answer = InferenceResponse {
        id,
        model_name: &served.model,
        model_version: served.number.to_string(),
        outputs: asked.iter().map(|(c, form)| describe(c, *form, labels, &mut binary)).collect(),
    };
    let mut body = Vec::with_capacity(if binary.is_empty() { size } else { FRAME });
    serde_json::to_writer(&mut body, &answer)
        .map_err(|error| Problem::Internal(format!("the answer is not JSON: {error}")))?;
    drop(answer);
    let is_binary =
        |(_, form): &(_, Form)| matches!(form, Form::Binary | Form::Classes { binary: true, .. });
    if !asked.iter().any(is_binary) {
        let kind = HeaderValue::from_static("application/json");
        return Ok(([(header::CONTENT_TYPE, kind)], charge.answer(body)?).into_response());
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (HeaderName::from_static(JSON_LENGTH), HeaderValue::from(body.len())),
    ];
    body.append(&mut binary);
    Ok((headers, charge.answer(body)?).into_response())
}

/// Upper bound of the bytes that an output takes while the answer is made.
fn length(column: &Column<'_>, form: Form, labels: &[String]) -> usize {
    let frame = FRAME + column.spec.name.len() * 6;
    let values = match (form, &column.values) {
        // Once on their own, once after the JSON.
        (Form::Binary, Values::Floats(values)) => values.len() * 8,
        (Form::Binary, Values::Texts(texts)) => texts.iter().map(|text| 2 * (text.len() + 4)).sum(),
        (Form::Json, Values::Floats(values)) => values.len() * NUMBER,
        (Form::Json, Values::Texts(texts)) => texts.iter().map(|text| 6 * text.len() + 3).sum(),
        (Form::Classes { count, .. }, _) => {
            let longest = labels.iter().map(String::len).max().unwrap_or(0);
            let rows = column.rows();
            // Each text and its written form.
            rows.saturating_mul(count).saturating_mul(size_of::<String>() + 8 * (longest + NUMBER))
        }
    };
    frame.saturating_add(values)
}

fn describe<'a>(
    column: &'a Column<'a>,
    form: Form,
    labels: &[String],
    behind: &mut Vec<u8>,
) -> Described<'a> {
    let mut shape = vec![column.rows()];
    let (data, binary) = match (form, &column.values) {
        (Form::Classes { count, binary }, Values::Floats(values)) => {
            shape.push(count);
            (Data::Classes(classes(values, column.spec.len(), labels, count)), binary)
        }
        (form, values) => {
            shape.extend(&column.spec.shape);
            let data = match values {
                Values::Floats(values) => Data::Floats(values),
                Values::Texts(texts) => Data::Texts(texts),
            };
            (data, form == Form::Binary)
        }
    };
    let datatype = match data {
        Data::Floats(_) => "FP32",
        Data::Texts(_) | Data::Classes(_) => "BYTES",
    };
    let mut described =
        Described { name: &column.spec.name, datatype, shape, parameters: None, data: None };
    if binary {
        let before = behind.len();
        data.write(behind);
        described.parameters = Some(Size { binary_data_size: behind.len() - before });
    } else {
        described.data = Some(data);
    }
    described
}

/// The best `count` classes of each row, in the format of Triton's classification extension.
fn classes(values: &[f32], width: usize, labels: &[String], count: usize) -> Vec<String> {
    let rows = values.chunks_exact(width.max(1));
    rows.flat_map(|row| {
        let best = top_k(row, count).into_iter();
        best.map(|index| {
            let label = labels.get(index).map_or("", String::as_str);
            format!("{:.6}:{index}:{label}", row[index])
        })
    })
    .collect()
}

impl Data<'_> {
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Floats(values) => {
                bytes.reserve_exact(values.len() * 4);
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::Texts(texts) => texts.iter().for_each(|text| write_text(text, bytes)),
            Self::Classes(texts) => texts.iter().for_each(|text| write_text(text, bytes)),
        }
    }
}

fn write_text(text: &str, bytes: &mut Vec<u8>) {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // As the equal double, which is how Triton writes them.
            Self::Floats(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in *values {
                    list.serialize_element(&f64::from(*value))?;
                }
                list.end()
            }
            Self::Texts(texts) => texts.serialize(serializer),
            Self::Classes(texts) => texts.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::classes;

    #[test]
    fn classes_are_told_best_first() {
        let labels = ["cat".to_owned(), "dog".to_owned(), "cow".to_owned()];
        let told = classes(&[0.25, 0.5, 0.25, 0.0, 0.0, 1.0], 3, &labels, 2);
        assert_eq!(told, ["0.500000:1:dog", "0.250000:0:cat", "1.000000:2:cow", "0.000000:0:cat"]);
    }
}
