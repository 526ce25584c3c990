//! Reports a fault once, and again only after a while: a source is read every second, and a log
//! that repeats itself hides its other lines.

use std::time::Duration;

use tokio::time::Instant;

/// A persisting fault is reported again after this time.
const AGAIN: Duration = Duration::from_mins(5);

/// The last fault reported, while it persists.
#[derive(Debug, Default)]
pub(super) struct Complaint {
    said: Option<(String, Instant)>,
}

impl Complaint {
    /// Calls `say` to report `text`, unless that was reported recently.
    pub(super) fn say(&mut self, text: &str, say: impl FnOnce()) {
        let is_known =
            self.said.as_ref().is_some_and(|(said, at)| said == text && at.elapsed() < AGAIN);
        if !is_known {
            say();
            self.said = Some((text.to_owned(), Instant::now()));
        }
    }

    /// Notes that all is well; true if it was not before.
    pub(super) fn is_over(&mut self) -> bool {
        self.said.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_wrong_is_said_once_and_after_a_while() {
        let mut complaint = Complaint::default();
        let mut said = 0;
        complaint.say("a", || said += 1);
        complaint.say("a", || said += 1);
        assert_eq!(said, 1);
        complaint.say("b", || said += 1);
        assert_eq!(said, 2, "something else");
        tokio::time::advance(AGAIN).await;
        complaint.say("b", || said += 1);
        assert_eq!(said, 3, "after a while");
        assert!(complaint.is_over() && !complaint.is_over());
    }
}
