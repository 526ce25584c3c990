//! The one path of rows to a model, whatever protocol they came by.

use super::stages::Stages;
use super::{App, Arrival, Problem};
use crate::batcher::Output;
use crate::repository::{Cell, Features, Input};
use crate::serving::Served;
use axum::body::Bytes;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

/// One row of a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Row {
    /// An image as floats from 0 to 1: rows of pixels of channels.
    Pixels(Vec<f32>),
    /// An image file.
    Encoded(Bytes),
    /// One value a column.
    Cells(Vec<Cell>),
}

/// Largest input tensor of one request.
const MOST_BYTES: usize = 32 << 20;

/// From this size on, JSON bodies are read one at a time: they take many times their size.
const LARGE_JSON: usize = 256 << 10;

impl App {
    /// Waits for the turn to read a large JSON body; to be kept until the JSON is dropped.
    pub(super) async fn turn_to_parse(
        &self,
        bytes: usize,
        deadline: Instant,
    ) -> Result<Option<OwnedSemaphorePermit>, Problem> {
        if bytes < LARGE_JSON {
            return Ok(None);
        }
        let turn = timeout_at(deadline, Arc::clone(&self.parsing).acquire_owned()).await;
        turn.ok().and_then(Result::ok).map(Some).ok_or(Problem::Deadline)
    }

    /// Prepares all rows and asks the model once; says how long each stage took.
    pub(super) async fn ask(
        &self,
        served: &Arc<Served>,
        rows: Vec<Row>,
        arrival: Arrival,
    ) -> Result<(Output, Stages), Problem> {
        let row_len: usize = served.version.row_shape().iter().product();
        let count = rows.len();
        let bytes = row_len.saturating_mul(size_of::<f32>()).saturating_mul(count);
        if bytes > MOST_BYTES {
            return Err(Problem::TooLarge(format!(
                "{count} rows are too many for one request to this model"
            )));
        }
        let mut features = Vec::with_capacity(row_len * count);
        let mut stages = Stages::default();
        for row in rows {
            features.extend(self.features(served, row, (arrival, &mut stages)).await?);
        }
        let output = self.infer(served, features, count, arrival.deadline).await?;
        stages.add_output(&output);
        Ok((output, stages))
    }

    async fn features(
        &self,
        served: &Arc<Served>,
        row: Row,
        (arrival, stages): (Arrival, &mut Stages),
    ) -> Result<Vec<f32>, Problem> {
        let wrong =
            || Problem::Malformed("the row does not fit the inputs of the model".to_owned());
        match (row, served.version.manifest.features()) {
            (Row::Pixels(pixels), Features::Image(input)) => {
                normalised(&pixels, input).ok_or_else(wrong)
            }
            (Row::Encoded(bytes), Features::Image(_)) => {
                let prepared = self.images.prepare(bytes, served, arrival.deadline).await?;
                stages.add_image(&prepared);
                Ok(prepared.features)
            }
            (Row::Cells(cells), Features::Table(table)) => table.encode(&cells).ok_or_else(wrong),
            (Row::Pixels(_) | Row::Encoded(_), Features::Table(_))
            | (Row::Cells(_), Features::Image(_)) => Err(wrong()),
        }
    }
}

/// From pixels of channels, 0 to 1, to the planes that the network takes.
fn normalised(pixels: &[f32], input: &Input) -> Option<Vec<f32>> {
    let channels = input.channels();
    let area = input.width * input.height;
    if pixels.len() != area * channels {
        return None;
    }
    let mut planes = Vec::with_capacity(pixels.len());
    for channel in 0..channels {
        let (mean, std) = (input.mean[channel], input.std[channel]);
        let values = pixels.iter().skip(channel).step_by(channels);
        planes.extend(values.map(|value| (value - mean) / std));
    }
    Some(planes)
}

#[cfg(test)]
mod tests {
    use super::normalised;
    use crate::repository::{Filter, Input, Resize};

    #[test]
    fn interleaved_pixels_become_normalised_planes() {
        let input = Input {
            width: 2,
            height: 1,
            resize: Resize::Squash { filter: Filter::Bilinear },
            mean: vec![0.5, 0.0, 0.0],
            std: vec![0.5, 1.0, 2.0],
        };
        let planes = normalised(&[0.5, 0.1, 0.2, 1.0, 0.3, 0.4], &input).unwrap();
        assert_eq!(planes, [0.0, 1.0, 0.1, 0.3, 0.1, 0.2]);
        assert_eq!(normalised(&[0.5; 5], &input), None);
    }
}
