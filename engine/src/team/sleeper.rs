//! The thread that sleeps while others finish, and how they wake it.

use super::sync::{Mutex, Thread, current};
use std::sync::PoisonError;

/// Whom to wake. Somebody who is not asleep takes a wake-up for a reason to look again.
#[derive(Debug)]
pub(super) struct Sleeper(Mutex<Option<Thread>>);

impl Sleeper {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// From now on the calling thread is the one to wake.
    pub(super) fn is_me(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(current());
    }

    pub(super) fn wake(&self) {
        if let Some(thread) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }
}
