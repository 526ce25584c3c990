//! From uploaded bytes to an input row, on threads that may block, a bounded number at a time.
//!
//! A picture of a few thousand pixels takes less time than waking another thread, and is decoded where
//! it arrives.
//!
//! Decoding is tried with a small allowance first, as many at once as there are cores; a picture
//! whose header asks for more waits for the one large place, so that memory stays bounded however
//! many large pictures arrive together.

use super::{Arrival, Problem};
use crate::metrics::{Metrics, Rejection};
use crate::preprocess::{ImageError, Limits, Picture, contain, decode_for, prepare};
use crate::repository::{Features, Input};
use crate::serving::Served;
use axum::body::Bytes;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// The allowance of the first try: 12 megapixels of a JPEG that is decoded reduced, 7 of others.
const SMALL: Limits = Limits { max_pixels: 12_600_000, max_bytes: 20 << 20 };

/// What is decoded by the thread that reads requests: some 100 microseconds of work.
const TINY: Limits = Limits { max_pixels: 16_384, max_bytes: 1 << 20 };
/// ... from files up to this size.
const TINY_FILE: usize = 32 << 10;

/// The places where pictures are decoded.
#[derive(Debug)]
pub(super) struct Images {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    limits: Limits,
    metrics: Arc<Metrics>,
}

/// A picture, ready for its model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prepared {
    pub(super) features: Vec<f32>,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) decode: Duration,
    pub(super) preprocess: Duration,
}

/// A picture, or what is wrong with it; or why nobody looked at it.
type Tried = Result<Result<Prepared, ImageError>, Problem>;

impl Images {
    pub(super) fn new(threads: NonZeroUsize, limits: Limits, metrics: Arc<Metrics>) -> Self {
        let (small, large) = (Arc::new(Semaphore::new(threads.get())), Arc::new(Semaphore::new(1)));
        Self { small, large, limits, metrics }
    }

    /// Decodes a picture and brings it to the input of `served`.
    pub(super) async fn prepare(
        &self,
        bytes: Bytes,
        served: &Arc<Served>,
        arrival: &Arrival,
    ) -> Result<Prepared, Problem> {
        if !matches!(served.version.manifest.features(), Features::Image(_)) {
            return Err(Problem::Malformed(format!(
                "model {0:?} takes rows of columns, not images: POST /v1/models/{0}:predict",
                served.model
            )));
        }
        let limits = self.limits.at_most(allowed(arrival));
        let deadline = arrival.deadline;
        let first = SMALL.at_most(limits);
        let tried = match at_once(&bytes, served, limits, deadline) {
            Some(tried) => tried?,
            None => self.attempt(&self.small, bytes.clone(), served, (first, deadline)).await?,
        };
        let prepared = match tried {
            Err(ImageError::TooManyPixels { .. } | ImageError::TooMuchMemory { .. })
                if first != limits =>
            {
                self.attempt(&self.large, bytes, served, (limits, deadline)).await??
            }
            other => other?,
        };
        let seconds = |duration: Duration| duration.as_secs_f64();
        self.metrics.prepared(seconds(prepared.decode), seconds(prepared.preprocess));
        Ok(prepared)
    }

    async fn attempt(
        &self,
        places: &Arc<Semaphore>,
        bytes: Bytes,
        served: &Arc<Served>,
        (limits, deadline): (Limits, Instant),
    ) -> Tried {
        let Ok(Ok(place)) = timeout_at(deadline, Arc::clone(places).acquire_owned()).await else {
            self.metrics.rejected(Rejection::Decode);
            return Err(Problem::Deadline);
        };
        let served = Arc::clone(served);
        let work = move || {
            // Held by the work and not by the caller, who may hang up while it runs.
            let _place = place;
            let Features::Image(input) = served.version.manifest.features() else {
                return Err(ImageError::UnknownFormat);
            };
            prepare_one(&bytes, input, &limits, deadline)
        };
        match timeout_at(deadline, tokio::task::spawn_blocking(work)).await {
            Ok(Ok(tried)) => Ok(tried),
            // What a decoder panics on is a damaged file, whatever the panic says.
            Ok(Err(_)) => Err(Problem::undecodable()),
            Err(_) => {
                self.metrics.rejected(Rejection::Decode);
                Err(Problem::Deadline)
            }
        }
    }
}

/// What decoding may take of the memory that is left to a request.
fn allowed(arrival: &Arrival) -> Limits {
    let bytes = u64::try_from(arrival.memory.left()).unwrap_or(u64::MAX);
    Limits { max_pixels: u64::MAX, max_bytes: bytes }
}

/// Decodes a tiny picture here and now; `None` when it is not one.
fn at_once(bytes: &[u8], served: &Served, limits: Limits, deadline: Instant) -> Option<Tried> {
    let Features::Image(input) = served.version.manifest.features() else { return None };
    if bytes.len() > TINY_FILE {
        return None;
    }
    let tiny = TINY.at_most(limits);
    match prepare_one(bytes, input, &tiny, deadline) {
        Err(ImageError::TooManyPixels { .. } | ImageError::TooMuchMemory { .. }) => None,
        tried => Some(Ok(tried)),
    }
}

/// Decodes and prepares on the current thread.
pub(super) fn prepare_one(
    bytes: &[u8],
    input: &Input,
    limits: &Limits,
    deadline: Instant,
) -> Result<Prepared, ImageError> {
    let begun = Instant::now();
    let picture: Picture = decode_for(bytes, limits, &|| Instant::now() >= deadline, input)?;
    let decoded = Instant::now();
    let features = contain(|| prepare(&picture, input))?;
    Ok(Prepared {
        features,
        width: picture.width(),
        height: picture.height(),
        decode: decoded - begun,
        preprocess: decoded.elapsed(),
    })
}

impl Limits {
    fn at_most(self, other: Self) -> Self {
        Self {
            max_pixels: self.max_pixels.min(other.max_pixels),
            max_bytes: self.max_bytes.min(other.max_bytes),
        }
    }
}
