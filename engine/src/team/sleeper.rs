//! The thread that sleeps while others finish, and how they wake it.

use std::sync::PoisonError;

use super::sync::{Mutex, Thread, current};

/// The thread to wake. A wake-up that arrives while it is awake only makes it check again.
#[derive(Debug)]
pub(super) struct Sleeper(Mutex<Option<Thread>>);

impl Sleeper {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Makes the calling thread the one to wake.
    pub(super) fn is_me(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(current());
    }

    pub(super) fn wake(&self) {
        if let Some(thread) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }
}
