//! Checks values against what the program can work with.
//!
//! A clock cannot add every duration and a counter cannot represent every number. Values out of
//! range are rejected at startup, by name and with the limit, rather than failing in a request.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::ConfigError;

/// The longest time that can be set: a year is no limit in practice.
pub(super) const FOREVER: Duration = Duration::from_hours(24 * 365);

/// A duration above zero; `default` is in seconds.
pub(super) fn positive(
    name: &str,
    value: Option<Duration>,
    default: u64,
) -> Result<Duration, ConfigError> {
    if value == Some(Duration::ZERO) {
        return Err(ConfigError::Invalid(format!("{name} must be longer than 0")));
    }
    at_most(name, value, default)
}

/// A duration that a clock can represent; `default` is in seconds.
pub(super) fn at_most(
    name: &str,
    value: Option<Duration>,
    default: u64,
) -> Result<Duration, ConfigError> {
    let value = value.unwrap_or(Duration::from_secs(default));
    if value > FOREVER { Err(too_long(name)) } else { Ok(value) }
}

pub(super) fn too_long(name: &str) -> ConfigError {
    ConfigError::Invalid(format!("{name} must be at most 365days"))
}

/// A number within a range.
pub(super) fn count<T: PartialOrd + Display>(
    name: &str,
    value: Option<T>,
    default: T,
    range: RangeInclusive<T>,
) -> Result<T, ConfigError> {
    let value = value.unwrap_or(default);
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = range.into_inner();
    Err(ConfigError::Invalid(format!("{name} must be from {least} to {most}")))
}
