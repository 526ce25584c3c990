//! A panic in library code while it handles an upload counts as a fault of that upload.
//!
//! Decoders are large and get files that no test has seen. A file that makes one of them panic is
//! answered like any other damaged file. Neither the log nor the answer contains the panic message,
//! which names places in a library and means nothing to the sender of the file.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use super::ImageError;

thread_local! {
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, turning a panic into [`ImageError::Malformed`] with a fixed message.
///
/// State that `work` modifies must not be used after a panic.
pub fn contain<T>(work: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    silence_contained();
    let outer = IS_CONTAINED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    IS_CONTAINED.set(outer);
    outcome.unwrap_or_else(|_| {
        tracing::debug!("a decoder panicked on an upload");
        Err(ImageError::Malformed("its decoder gave up on it".to_owned()))
    })
}

/// Installs a panic hook that stays silent about contained panics and passes on all others.
fn silence_contained() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            if !IS_CONTAINED.get() {
                usual(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_malformed_file_without_the_text_of_the_panic() {
        let outcome = contain::<()>(|| panic!("at /home/builder/lib.rs"));
        let error = outcome.unwrap_err();
        assert!(matches!(error, ImageError::Malformed(_)));
        assert!(!error.to_string().contains("builder"), "{error}");
        assert!(!IS_CONTAINED.get());
    }

    #[test]
    fn an_inner_end_leaves_the_outer_containment() {
        let outcome = contain(|| {
            contain(|| Ok(())).unwrap();
            assert!(IS_CONTAINED.get());
            Ok(1)
        });
        assert_eq!(outcome.unwrap(), 1);
    }
}
