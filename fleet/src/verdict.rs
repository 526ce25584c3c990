//! What the status of an answer says about the endpoint that sent it.

use http::StatusCode;

/// What a status says about the endpoint that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// An answer for the client.
    Good,
    /// Not broken, but another endpoint may have capacity.
    Busy,
    /// The endpoint is at fault.
    Fault,
}

impl Verdict {
    /// The verdict on a status.
    #[inline]
    pub fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            429 | 503 => Self::Busy,
            // What the endpoint does not implement (501, 505) is not its fault, lateness (504) is
            // not its alone, and a request that loops (508) has no right answer.
            501 | 504 | 505 | 508 => Self::Good,
            500.. => Self::Fault,
            _ => Self::Good,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_and_late_are_not_broken() {
        let verdict = |code| Verdict::of(StatusCode::from_u16(code).expect("a status"));
        for (code, expected) in [
            (200, Verdict::Good),
            (404, Verdict::Good),
            (429, Verdict::Busy),
            (500, Verdict::Fault),
            (501, Verdict::Good),
            (502, Verdict::Fault),
            (503, Verdict::Busy),
            (504, Verdict::Good),
            (508, Verdict::Good),
        ] {
            assert_eq!(verdict(code), expected, "{code}");
        }
    }
}
