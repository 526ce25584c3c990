//! `slice delay`: delays packets between two devices, on kernels without netem.
//!
//! It runs in the namespace that `up --emulate-latency` puts between the ends of a link. Whatever
//! arrives at one device leaves at the other one when the link's delay is over, in the same order. As
//! many frames are held as the kernel's own delay holds, and what comes beyond that is lost.

#[cfg(target_os = "linux")]
mod checksum;
#[cfg(target_os = "linux")]
mod relay;

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;

/// What it says once it holds frames back.
const READY: &str = "ready";

/// Arguments of `slice delay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Two devices of this namespace, and how long what comes from the first and from the second one is
    /// held: `NEAR:FAR:5ms:5ms`.
    #[arg(required = true)]
    pub holds: Vec<Hold>,
}

/// Two devices, and how long frames take from one to the other and back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// A device.
    pub near: String,
    /// The other one.
    pub far: String,
    /// How long what comes from the first one is held.
    pub forth: Duration,
    /// How long what comes from the other one is held.
    pub back: Duration,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [forth, back] = [self.forth, self.back].map(|delay| delay.as_micros());
        write!(f, "{}:{}:{forth}us:{back}us", self.near, self.far)
    }
}

impl FromStr for Hold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let [near, far, forth, back] = parts.as_slice() else {
            return Err("four parts, as in NEAR:FAR:5ms:5ms".to_owned());
        };
        let delay = |text: &str| {
            humantime::parse_duration(text).map_err(|error| format!("{text}: {error}"))
        };
        Ok(Self {
            near: (*near).to_owned(),
            far: (*far).to_owned(),
            forth: delay(forth)?,
            back: delay(back)?,
        })
    }
}

/// Holds frames back until a device is gone or this program is ended.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    #[cfg(target_os = "linux")]
    let result = relay::run(&args.holds, out);
    #[cfg(not(target_os = "linux"))]
    let result = Err(anyhow::anyhow!("client slice delay needs Linux: {args:?}, {READY}"));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let hold = Hold {
            near: "port0".to_owned(),
            far: "port1".to_owned(),
            forth: Duration::from_micros(1500),
            back: Duration::ZERO,
        };
        assert_eq!(hold.to_string(), "port0:port1:1500us:0us");
        assert_eq!(hold.to_string().parse(), Ok(hold));
        for wrong in ["port0:port1", "a:b:1ms:-1ms", "a:b:1:2", "a:b:1ms:1ms:1ms"] {
            assert!(wrong.parse::<Hold>().is_err(), "{wrong}");
        }
    }
}
