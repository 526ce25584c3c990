//! Serialises histograms as the counts of their buckets, so that the measurements of another
//! process are added without loss: each count goes into the bucket that it came from.

use hdrhistogram::Histogram;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// More requests than any run has, and few enough for all of them to be added up.
const MOST: u64 = 1 << 48;

/// The largest value of a bucket, and how many values are in it.
type Bucket = (u64, u64);

fn buckets(histogram: &Histogram<u64>) -> Vec<Bucket> {
    let counts = histogram.iter_recorded();
    counts.map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value())).collect()
}

/// Puts the counts back into `empty`.
fn refill<E: Error>(mut empty: Histogram<u64>, buckets: &[Bucket]) -> Result<Histogram<u64>, E> {
    let mut sum = 0_u64;
    for &(value, count) in buckets {
        sum = sum.saturating_add(count);
        if sum > MOST {
            return Err(E::custom("a histogram of more requests than there can be"));
        }
        empty.saturating_record_n(value, count);
    }
    Ok(empty)
}

/// Histograms of times, in the resolution of [`super::times`].
pub(super) mod times {
    use super::{Deserialize, Deserializer, Histogram, Serialize, Serializer, buckets, refill};
    use crate::driver::times::histogram;

    pub(in crate::driver) fn serialize<S: Serializer>(
        histogram: &Histogram<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        buckets(histogram).serialize(serializer)
    }

    pub(in crate::driver) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Histogram<u64>, D::Error> {
        refill(histogram(), &Vec::deserialize(deserializer)?)
    }
}

/// Histograms of a part of a run, in the resolution of [`super::timeline`].
pub(super) mod part {
    use super::{Deserialize, Deserializer, Histogram, Serialize, Serializer, buckets, refill};
    use crate::driver::timeline::histogram;

    /// `None` for a part without requests.
    type Maybe = Option<Box<Histogram<u64>>>;

    pub(in crate::driver) fn serialize<S: Serializer>(
        histogram: &Maybe,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        histogram.as_deref().map(buckets).serialize(serializer)
    }

    pub(in crate::driver) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Maybe, D::Error> {
        let buckets: Option<Vec<super::Bucket>> = Option::deserialize(deserializer)?;
        buckets.map(|buckets| refill(histogram(), &buckets).map(Box::new)).transpose()
    }
}

/// Histograms of a worker's stages, by name; unknown names are ignored.
pub(super) mod stages {
    use std::collections::BTreeMap;

    use super::{Deserialize, Deserializer, Histogram, Serializer, buckets, refill};
    use crate::driver::tally::STAGES;
    use crate::driver::times::histogram;

    type Stages = BTreeMap<&'static str, Histogram<u64>>;

    pub(in crate::driver) fn serialize<S: Serializer>(
        stages: &Stages,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(stages.iter().map(|(name, times)| (name, buckets(times))))
    }

    pub(in crate::driver) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Stages, D::Error> {
        let found: BTreeMap<String, Vec<super::Bucket>> = BTreeMap::deserialize(deserializer)?;
        let mut stages = Stages::new();
        for name in STAGES {
            if let Some(buckets) = found.get(name) {
                stages.insert(name, refill(histogram(), buckets)?);
            }
        }
        Ok(stages)
    }
}

/// How a set of endpoint names is written and read.
pub(super) mod name_set {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::{Deserialize, Deserializer, Serializer};

    type Names = BTreeSet<Arc<str>>;

    pub(in crate::driver) fn serialize<S: Serializer>(
        names: &Names,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(names.iter().map(|name| &**name))
    }

    pub(in crate::driver) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Names, D::Error> {
        let names: Vec<String> = Vec::deserialize(deserializer)?;
        Ok(names.into_iter().map(Arc::from).collect())
    }
}

/// Names of endpoints, with counts.
pub(crate) mod names {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::{Deserialize, Deserializer, Serialize, Serializer};

    /// Counts by endpoint name.
    type Counts = BTreeMap<Arc<str>, u64>;

    pub(in crate::driver) fn serialize<S: Serializer>(
        counts: &Counts,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(counts.iter().map(|(name, count)| (&**name, count)))
    }

    pub(in crate::driver) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Counts, D::Error> {
        let counts: BTreeMap<String, u64> = BTreeMap::deserialize(deserializer)?;
        Ok(counts.into_iter().map(|(name, count)| (Arc::from(name), count)).collect())
    }

    /// One name, or none.
    pub(crate) mod one {
        use super::{Arc, Deserialize, Deserializer, Serialize, Serializer};

        type Name = Option<Arc<str>>;

        pub(crate) fn serialize<S: Serializer>(
            name: &Name,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            name.as_deref().serialize(serializer)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Name, D::Error> {
            let name: Option<String> = Option::deserialize(deserializer)?;
            Ok(name.map(Arc::from))
        }
    }
}
