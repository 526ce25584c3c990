//! `slice delay`: delays packets between two devices, on kernels without netem.
//!
//! It runs in the namespace that `up --emulate-latency` puts between the ends of a link. Frames
//! that arrive at one device leave from the other after the link's delay, in the same order. It
//! holds as many frames as the kernel's own delay does, and drops any beyond that.

#[cfg(target_os = "linux")]
mod checksum;
#[cfg(target_os = "linux")]
mod relay;

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;

/// Printed once frames are delayed.
const READY: &str = "ready";

/// Arguments of `slice delay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Two devices of this namespace, and how long frames from the first and from the second one
    /// are held: `NEAR:FAR:5ms:5ms`.
    #[arg(required = true)]
    pub holds: Vec<Hold>,
}

/// Two devices, and how long frames take from one to the other and back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// One device.
    pub near: String,
    /// The other device.
    pub far: String,
    /// How long frames from `near` are held.
    pub forth: Duration,
    /// How long frames from `far` are held.
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

/// Delays frames until a device is gone or this program is ended.
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
