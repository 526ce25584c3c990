//! What the user demands of a run: what makes it valid, and what makes it fail.

use serde::Serialize;

use super::threshold::Threshold;

/// What makes a run valid.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(next_help_heading = "Bounds")]
pub struct Rules {
    /// The quantile of latency that has to be sound. Default: 0.99; with --fail, what its conditions
    /// name.
    #[arg(long, env = "CLIENT_QUANTILE", value_name = "Q", value_parser = quantile)]
    pub quantile: Option<f64>,
    /// Share of requests that may fail.
    #[arg(long, env = "CLIENT_MAX_ERRORS", default_value_t = 0.01, value_name = "SHARE", value_parser = share)]
    pub max_errors: f64,
    /// Exit with status 1 if this comes true, such as `p99>50ms`, `errors>1%` or `achieved<100`; may be
    /// given several times, or as a list. Figures: pNN, mean, max (latency of all requests), errors,
    /// achieved, offered, accuracy.
    #[arg(long, env = "CLIENT_FAIL", value_name = "CONDITION", value_delimiter = ',')]
    pub fail: Vec<Threshold>,
}

/// The quantile that is claimed by default.
const USUAL: f64 = 0.99;

impl Rules {
    /// The quantile that has to be sound, besides those of conditions.
    pub(super) fn claimed(&self) -> Option<f64> {
        self.quantile.or(self.fail.is_empty().then_some(USUAL))
    }

    /// The quantiles that the user names.
    pub(super) fn quantiles(&self) -> impl Iterator<Item = f64> {
        self.quantile.into_iter().chain(self.fail.iter().filter_map(Threshold::quantile))
    }
}

fn quantile(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|q| *q > 0.0 && *q < 1.0);
    value.ok_or_else(|| "a quantile lies between 0 and 1, such as 0.99".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    value.ok_or_else(|| "a share from 0 to 1, such as 0.01".to_owned())
}
