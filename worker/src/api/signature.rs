//! Names and shapes of a model's inputs and outputs, the same for every protocol.
//!
//! An image model has one input `image` (floats from 0 to 1 in the order height, width, channels,
//! or encoded files) and one output `probabilities`. A tabular model has one input per column and
//! the outputs that BigQuery ML's exported models have.

use crate::batcher::Output;
use crate::model::softmax;
use crate::repository::{Encoding, Features, Version};

/// Cost of writing a number, in bytes of other text.
const BYTES_OF_A_NUMBER: usize = 16;

/// Name of the input of image models.
pub(super) const IMAGE: &str = "image";

/// Type of the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Float,
    Text,
}

/// One input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorSpec {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Shape of one row's part, without the batch dimension.
    pub(super) shape: Vec<usize>,
}

/// Values of one output for all rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Values<'a> {
    Floats(Vec<f32>),
    Texts(Vec<&'a str>),
}

/// One output with its values, row after row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column<'a> {
    pub(super) spec: TensorSpec,
    pub(super) values: Values<'a>,
}

impl Column<'_> {
    /// Number of rows that it has values for.
    pub(super) fn rows(&self) -> usize {
        let values = match &self.values {
            Values::Floats(values) => values.len(),
            Values::Texts(values) => values.len(),
        };
        values / self.spec.len().max(1)
    }
}

/// Memory that the values of all outputs take for this many rows.
pub(super) fn size_in_memory(version: &Version, rows: usize) -> usize {
    let size = |spec: &TensorSpec| {
        spec.len() * if spec.kind == Kind::Text { size_of::<&str>() } else { size_of::<f32>() }
    };
    outputs(version).iter().map(size).sum::<usize>().saturating_mul(rows)
}

/// Upper bound of the cost of writing an answer for this many rows, in numbers; a text counts by
/// its length.
pub(super) fn values_to_write(version: &Version, rows: usize) -> usize {
    let classes = version.output_width();
    let texts = || version.labels.iter().map(|label| 1 + label.len() / BYTES_OF_A_NUMBER);
    let row = classes.saturating_add(texts().sum::<usize>());
    row.saturating_add(texts().max().unwrap_or(0)).saturating_mul(rows)
}

impl TensorSpec {
    fn new(name: impl Into<String>, kind: Kind, shape: &[usize]) -> Self {
        Self { name: name.into(), kind, shape: shape.to_vec() }
    }

    /// Elements of one row.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The inputs of a version, in the order of its columns.
pub(super) fn inputs(version: &Version) -> Vec<TensorSpec> {
    match version.manifest.features() {
        Features::Image(input) => {
            let shape = [input.height, input.width, input.channels()];
            let rank = if input.channels() == 1 { 2 } else { 3 };
            vec![TensorSpec::new(IMAGE, Kind::Float, &shape[..rank])]
        }
        Features::Table(table) => table
            .columns
            .iter()
            .map(|column| {
                let kind = match column.encoding {
                    Encoding::Number { .. } => Kind::Float,
                    Encoding::Text { .. } => Kind::Text,
                };
                TensorSpec::new(&column.name, kind, &[])
            })
            .collect(),
    }
}

/// The outputs of a version, by name.
pub(super) fn outputs(version: &Version) -> Vec<TensorSpec> {
    let classes = version.labels.len();
    match version.manifest.features() {
        Features::Image(_) => vec![TensorSpec::new("probabilities", Kind::Float, &[classes])],
        Features::Table(table) if version.is_regression() => {
            vec![TensorSpec::new(format!("predicted_{}", table.label), Kind::Float, &[])]
        }
        Features::Table(table) => vec![
            TensorSpec::new(format!("{}_probs", table.label), Kind::Float, &[classes]),
            TensorSpec::new(format!("{}_values", table.label), Kind::Text, &[classes]),
            TensorSpec::new(format!("predicted_{}", table.label), Kind::Text, &[1]),
        ],
    }
}

/// The values of every output of [`outputs`].
pub(super) fn columns(version: &Version, output: Output) -> Vec<Column<'_>> {
    let rows = output.values.len() / output.width;
    let values = if version.is_regression() { output.values } else { probabilities(output) };
    let specs = outputs(version);
    let labels = &version.labels;
    let best = |row: &[f32]| {
        let largest = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        labels[largest.map_or(0, |(index, _)| index)].as_str()
    };
    let three = specs.len() == 3;
    let predicted = three.then(|| values.chunks(labels.len()).map(best).collect());
    let mut all = vec![Values::Floats(values)];
    if let Some(predicted) = predicted {
        all.push(Values::Texts(
            labels.iter().map(String::as_str).cycle().take(rows * labels.len()).collect(),
        ));
        all.push(Values::Texts(predicted));
    }
    specs.into_iter().zip(all).map(|(spec, values)| Column { spec, values }).collect()
}

/// Softmax of every row.
pub(super) fn probabilities(output: Output) -> Vec<f32> {
    let mut values = output.values;
    values.chunks_mut(output.width).for_each(softmax);
    values
}
