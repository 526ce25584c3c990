//! How long each stage of a request took, for its JSON and for the header that browsers understand.

use std::time::Duration;

use axum::http::HeaderName;
use wire::Timings;

use super::Arrival;
use super::images::Prepared;
use crate::batcher::Output;

/// How long each stage took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stages {
    decode: Duration,
    preprocess: Duration,
    queue: Duration,
    compute: Duration,
    /// Pixels of all images.
    pub(super) pixels: u64,
}

impl Stages {
    /// Adds the preparation of one image.
    pub(super) fn add_image(&mut self, prepared: &Prepared) {
        self.queue += prepared.waited;
        self.decode += prepared.decode;
        self.preprocess += prepared.preprocess;
        self.pixels += u64::from(prepared.width) * u64::from(prepared.height);
    }

    /// Adds the times of a model's output.
    pub(super) fn add_output(&mut self, output: &Output) {
        self.queue += output.queue;
        self.compute += output.compute;
    }

    /// The times in milliseconds, with the total since the upload was complete.
    pub(super) fn timings(&self, arrival: &Arrival) -> Timings {
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        Timings {
            decode: ms(self.decode),
            preprocess: ms(self.preprocess),
            queue: ms(self.queue),
            compute: ms(self.compute),
            total: ms(arrival.received_at.elapsed()),
        }
    }
}

/// The `Server-Timing` header of an answer.
pub(super) fn server_timing(timings: &Timings) -> [(HeaderName, String); 1] {
    let Timings { decode, preprocess, queue, compute, total } = timings;
    let value = format!(
        "decode;dur={decode}, preprocess;dur={preprocess}, queue;dur={queue}, \
         compute;dur={compute}, total;dur={total}"
    );
    [(HeaderName::from_static(wire::header::SERVER_TIMING), value)]
}
