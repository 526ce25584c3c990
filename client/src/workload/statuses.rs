//! Statuses that count as success: `200`, `2xx`, `400-404`, and lists of these.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A set of statuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statuses {
    ranges: Vec<RangeInclusive<u16>>,
    /// As the user wrote it.
    text: String,
}

impl Statuses {
    /// Whether `status` is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.ranges.iter().any(|range| range.contains(&status))
    }
}

impl FromStr for Statuses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ranges = text.split(',').map(|part| {
            range(part.trim())
                .ok_or_else(|| format!("{part:?} is no status: such as 200, 2xx or 400-404"))
        });
        Ok(Self { ranges: ranges.collect::<Result<_, _>>()?, text: text.to_owned() })
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Statuses {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    if let Some(class) = text.strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class))?;
        return Some(class * 100..=class * 100 + 99);
    }
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.parse().ok().filter(|status| (100..=599).contains(status));
    let (low, high): (u16, u16) = (status(low)?, status(high)?);
    (low <= high).then_some(low..=high)
}

#[cfg(test)]
mod tests {
    use super::Statuses;

    #[test]
    fn numbers_classes_and_ranges_are_statuses() {
        let statuses: Statuses = "200, 3xx,404-406".parse().unwrap();
        let expected = [200, 300, 399, 404, 406];
        assert!(expected.iter().all(|status| statuses.contains(*status)));
        assert!([201, 400, 403, 407, 500].iter().all(|status| !statuses.contains(*status)));
        for text in ["", "2", "xx", "6xx", "404-400", "200;201", "abc", "99", "200,"] {
            assert!(text.parse::<Statuses>().is_err(), "{text}");
        }
    }
}
