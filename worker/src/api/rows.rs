//! The one path of rows to a model, whichever protocol they came by.

use std::sync::Arc;

use axum::body::Bytes;
use tokio::time::Instant;

use super::images::Viewer;
use super::memory::Charge;
use super::stages::Stages;
use super::{App, Arrival, Problem};
use crate::batcher::Output;
use crate::repository::{Cell, Features, Input};
use crate::serving::Served;

/// One row of a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Row {
    /// An image as floats from 0 to 1, in the order height, width, channels.
    Pixels(Vec<f32>),
    /// An image file.
    Encoded(Bytes),
    /// One value per column.
    Cells(Vec<Cell>),
}

/// Rows, and the charge for their memory.
pub(super) type Charged = (Vec<Row>, Charge);

/// Most rows of one request.
const MOST_ROWS: usize = 65_536;
/// Pixels that all images of one request may have, however small it is ...
const ANY_PIXELS: u64 = 64_000_000;
/// ... and more for each of its bytes: as many as in a photo of a single colour. A request may have
/// thousands of images of a few bytes, each with as many pixels as an image may have.
const PIXELS_OF_A_BYTE: u64 = 64;
/// Largest value of an image after normalisation. Pixels are 0 to 1, at most 0 to 255; larger
/// values overflow somewhere inside a network, whose clipping then hides it.
const LARGEST_PIXEL: f32 = 10_000.0;

/// Refuses more rows than one request may have.
pub(super) fn check_count(rows: usize) -> Result<(), Problem> {
    if rows <= MOST_ROWS {
        return Ok(());
    }
    Err(Problem::TooLarge(format!("{rows} rows, more than the {MOST_ROWS} of one request")))
}

impl App {
    /// Prepares all rows and runs the model once; also returns how long each stage took.
    pub(super) async fn ask(
        &self,
        served: &Arc<Served>,
        (rows, mut charge): Charged,
        arrival: &Arrival,
    ) -> Result<(Output, Stages), Problem> {
        let row_len: usize = served.version.row_shape().iter().product();
        let count = rows.len();
        check_count(count)?;
        // Features may be copied to a larger buffer, at most half of them.
        let values = row_len + row_len / 2 + 2 * served.version.output_width();
        charge.grow(count.saturating_mul(values).saturating_mul(size_of::<f32>()))?;
        let mut features = Vec::new();
        let mut stages = Stages::default();
        for row in rows {
            // Rows of a large request may take a while: yield to other requests, check
            // the deadline.
            tokio::task::consume_budget().await;
            if Instant::now() >= arrival.deadline {
                return Err(Problem::Deadline);
            }
            let row = self.features(served, row, (arrival, &mut stages)).await?;
            check_pixels(stages.pixels, arrival.memory.received())?;
            make_room(&mut features, row_len, count);
            features.extend(row);
        }
        check_values(&features, served)?;
        let output = self.infer(served, features, count, arrival.deadline).await?;
        stages.add_output(&output);
        Ok((output, stages))
    }

    async fn features(
        &self,
        served: &Arc<Served>,
        row: Row,
        (arrival, stages): (&Arrival, &mut Stages),
    ) -> Result<Vec<f32>, Problem> {
        let wrong =
            || Problem::Malformed("the row does not fit the inputs of the model".to_owned());
        match (row, served.version.manifest.features()) {
            (Row::Pixels(pixels), Features::Image(input)) => {
                normalised(&pixels, input).ok_or_else(wrong)
            }
            (Row::Encoded(bytes), Features::Image(_)) => {
                let prepared =
                    self.images.prepare(bytes, &Viewer::One(Arc::clone(served)), arrival).await?;
                stages.add_image(&prepared);
                Ok(prepared.features)
            }
            (Row::Cells(cells), Features::Table(table)) => table.encode(&cells).ok_or_else(wrong),
            (Row::Pixels(_) | Row::Encoded(_), Features::Table(_))
            | (Row::Cells(_), Features::Image(_)) => Err(wrong()),
        }
    }
}

/// Refuses images that together have far more pixels than bytes.
fn check_pixels(pixels: u64, received: usize) -> Result<(), Problem> {
    let received = u64::try_from(received).unwrap_or(u64::MAX);
    let most = ANY_PIXELS.saturating_add(received.saturating_mul(PIXELS_OF_A_BYTE));
    if pixels <= most {
        return Ok(());
    }
    Err(Problem::TooLarge(format!(
        "the images of this request have more than {most} pixels together, which is the most for its size"
    )))
}

/// Refuses values that a network cannot compute with: it would still give a confident answer.
fn check_values(features: &[f32], served: &Served) -> Result<(), Problem> {
    let is_image = matches!(served.version.manifest.features(), Features::Image(_));
    let largest = if is_image { LARGEST_PIXEL } else { f32::MAX };
    // False for NaN.
    if features.iter().all(|value| value.abs() <= largest) {
        return Ok(());
    }
    Err(Problem::Malformed(if is_image {
        "the image has values that are not finite or far from 0 to 1".to_owned()
    } else {
        "the rows have values that are not finite or too large to compute with".to_owned()
    }))
}

/// Makes room for another of at most `count` rows: a first row that is not an image must not cost
/// the memory for all of them.
fn make_room(features: &mut Vec<f32>, row_len: usize, count: usize) {
    if features.len() + row_len > features.capacity() {
        let left = row_len * count - features.len();
        features.reserve_exact(features.len().max(16 * row_len).min(left));
    }
}

/// Turns interleaved pixels, 0 to 1, into the normalised planes that the network takes.
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
