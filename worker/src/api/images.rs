//! Turns uploaded bytes into an input row, on a bounded number of blocking threads.
//!
//! A picture of a few thousand pixels decodes faster than another thread wakes up, so it is decoded
//! where it arrives, unless its contents make that slow: other requests wait for that thread.
//!
//! Decoding is first tried with a small allowance, for as many pictures at once as there are cores.
//! A picture whose header asks for more waits for the single large slot, so that memory stays
//! bounded however many large pictures arrive together. A picture too large even for that is
//! decoded at half the detail, if there is memory for it then.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::{Arrival, Problem};
use crate::metrics::{Metrics, Rejection};
use crate::preprocess::{
    ImageError, Kind, Limits, Picture, contain, decode_for, decode_to_fit, prepare_until, suffices,
    tell_apart,
};
use crate::repository::{Features, Input};
use crate::serving::Served;

/// The first attempt's allowance: 12 megapixels for a JPEG decoded at reduced size, 7 for others.
const SMALL: Limits = Limits { max_pixels: 12_600_000, max_bytes: 20 << 20 };

/// Pictures small enough for the thread that reads requests: about 100 microseconds of work.
const TINY: Limits = Limits { max_pixels: 16_384, max_bytes: 1 << 20 };
/// Largest file of such a picture.
const TINY_FILE: usize = 32 << 10;
/// Longest time for such a picture; a slower one is started over on a blocking thread.
const AT_ONCE: Duration = Duration::from_millis(5);
/// After this much work on a picture, the thread yields to its other requests.
const TURN: Duration = Duration::from_micros(500);

/// Decodes a limited number of pictures at a time.
#[derive(Debug)]
pub(super) struct Images {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    limits: Limits,
    metrics: Arc<Metrics>,
}

/// The version that a picture is for, or the two that its contents decide between.
#[derive(Debug, Clone)]
pub(super) enum Viewer {
    /// This version, whatever the picture shows.
    One(Arc<Served>),
    /// The version for pictures of its kind.
    ByKind {
        /// The version for photos.
        photo: Arc<Served>,
        /// The version for handwritten digits.
        digit: Arc<Served>,
    },
}

impl Viewer {
    /// The version for a picture, once it is prepared.
    pub(super) fn of(&self, prepared: &Prepared) -> &Arc<Served> {
        match self {
            Self::One(served) => served,
            Self::ByKind { digit, .. } if prepared.is_digit => digit,
            Self::ByKind { photo, .. } => photo,
        }
    }

    fn inputs(&self) -> Result<Inputs<'_>, Problem> {
        Ok(match self {
            Self::One(served) => Inputs::One(image_input(served)?),
            Self::ByKind { photo, digit } => {
                Inputs::ByKind { photo: image_input(photo)?, digit: image_input(digit)? }
            }
        })
    }
}

/// The input that a picture is prepared for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Inputs<'a> {
    /// This input, whatever the picture shows.
    One(&'a Input),
    /// The input of the model for pictures of its kind.
    ByKind {
        /// The input of the photo model.
        photo: &'a Input,
        /// The input of the digit model.
        digit: &'a Input,
    },
}

fn image_input(served: &Served) -> Result<&Input, Problem> {
    match served.version.manifest.features() {
        Features::Image(input) => Ok(input),
        Features::Table(_) => Err(Problem::Malformed(format!(
            "model {0:?} takes rows of columns, not images: POST /v1/models/{0}:predict",
            served.model
        ))),
    }
}

/// A picture, ready for its model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prepared {
    pub(super) features: Vec<f32>,
    /// Whether it was recognised as a digit rather than a photo.
    pub(super) is_digit: bool,
    pub(super) width: u32,
    pub(super) height: u32,
    /// Time spent before its decoding began, including abandoned attempts.
    pub(super) waited: Duration,
    pub(super) decode: Duration,
    pub(super) preprocess: Duration,
}

/// Limits of decoding a picture.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    limits: Limits,
    deadline: Instant,
    /// Whether a picture that needs more is not tried again.
    is_last: bool,
}

/// A picture, or what is wrong with it; or why the attempt did not finish.
type Tried = Result<Result<Prepared, ImageError>, Problem>;

impl Images {
    pub(super) fn new(threads: NonZeroUsize, limits: Limits, metrics: Arc<Metrics>) -> Self {
        let (small, large) = (Arc::new(Semaphore::new(threads.get())), Arc::new(Semaphore::new(1)));
        Self { small, large, limits, metrics }
    }

    /// Decodes a picture and prepares it for the version that it is for.
    pub(super) async fn prepare(
        &self,
        bytes: Bytes,
        viewer: &Viewer,
        arrival: &Arrival,
    ) -> Result<Prepared, Problem> {
        let inputs = viewer.inputs()?;
        let limits = self.limits.at_most(allowed(arrival));
        let deadline = arrival.deadline;
        let all = Allowance { limits, deadline, is_last: true };
        let first = all.at_most(SMALL);
        let begun = Instant::now();
        let tried = at_once(&bytes, inputs, all, begun + AT_ONCE);
        if begun.elapsed() >= TURN {
            tokio::task::yield_now().await;
        }
        let tried = match tried {
            Some(tried) => tried,
            None => self.attempt(&self.small, bytes.clone(), viewer, first).await?,
        };
        let mut prepared = match tried {
            Err(ImageError::TooManyPixels { .. } | ImageError::TooMuchMemory { .. })
                if !first.is_last =>
            {
                self.attempt(&self.large, bytes, viewer, all).await??
            }
            other => other?,
        };
        prepared.waited = begun.elapsed().saturating_sub(prepared.decode + prepared.preprocess);
        let seconds = |duration: Duration| duration.as_secs_f64();
        self.metrics.prepared(seconds(prepared.decode), seconds(prepared.preprocess));
        Ok(prepared)
    }

    async fn attempt(
        &self,
        places: &Arc<Semaphore>,
        bytes: Bytes,
        viewer: &Viewer,
        allowance: Allowance,
    ) -> Tried {
        let deadline = allowance.deadline;
        let Ok(Ok(place)) = timeout_at(deadline, Arc::clone(places).acquire_owned()).await else {
            self.metrics.rejected(Rejection::Decode);
            return Err(Problem::Deadline);
        };
        let viewer = viewer.clone();
        let work = move || {
            // Held by the work and not by the caller, which may hang up while it runs.
            let _place = place;
            let inputs = viewer.inputs().map_err(|_| ImageError::UnknownFormat)?;
            prepare_one(&bytes, inputs, allowance)
        };
        match timeout_at(deadline, tokio::task::spawn_blocking(work)).await {
            Ok(Ok(tried)) => Ok(tried),
            // A file that makes a decoder panic counts as damaged, whatever the panic says.
            Ok(Err(_)) => Err(Problem::undecodable()),
            Err(_) => {
                self.metrics.rejected(Rejection::Decode);
                Err(Problem::Deadline)
            }
        }
    }
}

/// The limits of decoding, given the memory that a request has left.
fn allowed(arrival: &Arrival) -> Limits {
    let bytes = u64::try_from(arrival.memory.left()).unwrap_or(u64::MAX);
    Limits { max_pixels: u64::MAX, max_bytes: bytes }
}

/// Decodes a tiny picture on this thread; `None` if it is not tiny, or not done by `until`.
fn at_once(
    bytes: &[u8],
    inputs: Inputs<'_>,
    allowance: Allowance,
    until: Instant,
) -> Option<Result<Prepared, ImageError>> {
    if bytes.len() > TINY_FILE {
        return None;
    }
    let tiny = allowance.at_most(TINY);
    let is_early = until < tiny.deadline;
    match prepare_one(bytes, inputs, Allowance { deadline: tiny.deadline.min(until), ..tiny }) {
        Err(ImageError::TooManyPixels { .. } | ImageError::TooMuchMemory { .. })
            if !tiny.is_last =>
        {
            None
        }
        Err(ImageError::Stopped) if is_early => None,
        tried => Some(tried),
    }
}

/// Decodes and prepares on the current thread.
fn prepare_one(
    bytes: &[u8],
    inputs: Inputs<'_>,
    allowance: Allowance,
) -> Result<Prepared, ImageError> {
    let Allowance { limits, deadline, is_last } = allowance;
    let is_over = || Instant::now() >= deadline;
    let decode = |input: &Input| {
        let decode = if is_last { decode_to_fit } else { decode_for };
        decode(bytes, &limits, &is_over, input)
    };
    let begun = Instant::now();
    let (Inputs::One(first) | Inputs::ByKind { photo: first, .. }) = inputs;
    let mut picture: Picture = decode(first)?;
    let mut decoded = Instant::now();
    let (features, is_digit) = match inputs {
        Inputs::One(input) => (contain(|| prepare_until(&picture, input, &is_over))?, false),
        Inputs::ByKind { photo, digit } => match contain(|| Ok(tell_apart(&picture, photo)))? {
            Kind::Photo(features) => (features, false),
            Kind::Digit => {
                if !suffices(&picture, digit) {
                    picture = decode(digit)?;
                    decoded = Instant::now();
                }
                (contain(|| prepare_until(&picture, digit, &is_over))?, true)
            }
        },
    };
    Ok(Prepared {
        features,
        is_digit,
        width: picture.width(),
        height: picture.height(),
        waited: Duration::ZERO,
        decode: decoded - begun,
        preprocess: decoded.elapsed(),
    })
}

impl Allowance {
    /// This allowance, reduced to `most` for a first attempt.
    fn at_most(self, most: Limits) -> Self {
        let limits = most.at_most(self.limits);
        Self { limits, is_last: self.is_last && limits == self.limits, ..self }
    }
}

impl Limits {
    fn at_most(self, other: Self) -> Self {
        Self {
            max_pixels: self.max_pixels.min(other.max_pixels),
            max_bytes: self.max_bytes.min(other.max_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::time::Duration;

    use super::{Allowance, Inputs, Instant, at_once};
    use crate::preprocess::{ImageError, Limits};
    use crate::repository::{Input, Resize};

    #[test]
    fn a_small_picture_that_takes_long_is_left_to_a_thread_that_may_block() {
        let mut bytes = Cursor::new(Vec::new());
        let bar = |x, y| if (58..66).contains(&x) && (30..90).contains(&y) { 20 } else { 250 };
        let sheet = image::GrayImage::from_fn(120, 120, |x, y| image::Luma([bar(x, y)]));
        sheet.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let input =
            Input { width: 28, height: 28, resize: Resize::Digit, mean: vec![0.0], std: vec![1.0] };
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_hours(1));
        let prepared = |deadline, until| {
            let allowance = Allowance { limits: Limits::default(), deadline, is_last: true };
            at_once(bytes.get_ref(), Inputs::One(&input), allowance, until)
        };
        assert!(prepared(later, later).unwrap().is_ok());
        assert!(prepared(later, now).is_none());
        // Its own deadline has passed: it is not started over.
        assert!(matches!(prepared(now, later), Some(Err(ImageError::Stopped))));
    }
}
