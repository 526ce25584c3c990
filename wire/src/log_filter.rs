//! What a log filter may say.
//!
//! A filter is a list of levels, `target=level` pairs and targets. The library that applies it
//! treats every word that is not a level as the name of a target, so `--log inof` would silently
//! log nothing; here a word that is neither is refused.

/// Levels, from nothing to everything; their numbers are accepted too.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Why a filter is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It contains nothing.
    #[error("the filter is empty; write info, for example")]
    Empty,
    /// A word that is neither a level nor a target.
    #[error("{0:?} is neither a level (off, error, warn, info, debug, trace) nor one of {1}")]
    Unknown(String, String),
    /// The text after `=` is not a level.
    #[error("{0:?} is not a level; use off, error, warn, info, debug or trace")]
    Level(String),
}

/// Checks a filter in the syntax of `tracing_subscriber::EnvFilter`, but without spans. `targets`
/// are the crates that log; their modules are targets too.
pub fn check(filter: &str, targets: &[&str]) -> Result<(), FilterError> {
    let mut directives = filter.split(',').map(str::trim).filter(|one| !one.is_empty()).peekable();
    if directives.peek().is_none() {
        return Err(FilterError::Empty);
    }
    directives.try_for_each(|directive| {
        let unknown = || FilterError::Unknown(directive.to_owned(), targets.join(", "));
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (target, Some(level)),
            None => (directive, None),
        };
        let first = target.split("::").next().unwrap_or_default();
        match level {
            Some(level) if !is_level(level) => Err(FilterError::Level(level.to_owned())),
            None if is_level(target) => Ok(()),
            _ if targets.contains(&first) && is_path(target) => Ok(()),
            _ => Err(unknown()),
        }
    })
}

fn is_level(word: &str) -> bool {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word))
        || matches!(word.as_bytes(), [b'0'..=b'5'])
}

fn is_path(target: &str) -> bool {
    target.split("::").all(|part| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: [&str; 2] = ["balancer", "hyper"];

    #[test]
    fn levels_and_known_targets_are_taken() {
        for filter in [
            "info",
            "DEBUG",
            "off",
            "3",
            "warn,balancer=debug",
            "info, balancer::health=trace,hyper=off",
            "balancer",
            "info,",
        ] {
            assert_eq!(check(filter, &TARGETS), Ok(()), "{filter}");
        }
    }

    #[test]
    fn misspelt_levels_and_targets_are_refused_with_what_is_right() {
        for (filter, text) in [
            ("inof", "neither a level (off, error"),
            ("balancr=debug", "one of balancer, hyper"),
            ("info,balanser::health=debug", "one of balancer, hyper"),
            ("balancer=verbose", "\"verbose\" is not a level"),
            ("balancer=", "not a level"),
            ("=debug", "neither"),
            ("balancer:health=debug", "neither"),
            ("balancer::=debug", "neither"),
            ("balancer[span]=debug", "neither"),
            ("info balancer=debug", "neither"),
            ("6", "neither"),
            ("", "empty"),
            (" , ", "empty"),
        ] {
            let error = check(filter, &TARGETS).expect_err(filter).to_string();
            assert!(error.contains(text), "{filter}: {error}");
        }
    }
}
