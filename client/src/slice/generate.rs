//! `slice rspec`: the request of a slice of any size, to keep or to hand to CloudLab.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use rspec::{REPOSITORY, Star};

/// Arguments of `slice rspec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many workers the slice has.
    #[arg(long, env = "CLIENT_SLICE_WORKERS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub workers: u32,
    /// Capacity of every link, such as 100mbps or 1gbps; default: unlimited.
    #[arg(long, env = "CLIENT_SLICE_CAPACITY", value_parser = capacity, value_name = "RATE")]
    pub capacity: Option<u64>,
    /// One-way delay of every link, such as 1ms.
    #[arg(long, env = "CLIENT_SLICE_LATENCY", value_parser = humantime::parse_duration)]
    pub latency: Option<Duration>,
    /// Share of packets that every link loses, such as 0.001.
    #[arg(long, env = "CLIENT_SLICE_LOSS", value_parser = loss, value_name = "SHARE")]
    pub loss: Option<f64>,
    /// Where the nodes fetch the code from.
    #[arg(long, env = "CLIENT_SLICE_REPOSITORY", default_value = REPOSITORY, value_name = "URL")]
    pub repository: String,
}

pub(crate) fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    let star = Star {
        workers: args.workers,
        capacity: args.capacity,
        latency: args.latency,
        packet_loss: args.loss,
        repository: args.repository.clone(),
    };
    out.write_all(star.request()?.to_xml().as_bytes())?;
    Ok(())
}

/// Kilobits per second from `100mbps`, `1gbps`, `500kbps`.
pub(crate) fn capacity(text: &str) -> Result<u64, String> {
    let refuse = || "a rate such as 500kbps, 100mbps or 1gbps".to_owned();
    let lower = text.trim().to_ascii_lowercase();
    let units = [("kbps", 1.0), ("mbps", 1e3), ("gbps", 1e6)];
    let split = |&(unit, factor): &(&str, f64)| lower.strip_suffix(unit).map(|n| (n, factor));
    let (number, factor) = units.iter().find_map(split).ok_or_else(refuse)?;
    let kbps = number.trim().parse::<f64>().map_err(|_| refuse())? * factor;
    if !(1.0..=1e9).contains(&kbps) {
        return Err(refuse());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok(kbps.round() as u64)
}

fn loss(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share from 0 to 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use rspec::Rspec;

    use super::*;

    #[test]
    fn rates_have_units() {
        assert_eq!(capacity("100mbps"), Ok(100_000));
        assert_eq!(capacity("2.5 Gbps"), Ok(2_500_000));
        for wrong in ["100", "fast", "-1mbps", "0kbps", "NaNmbps", ""] {
            assert!(capacity(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_written_request_has_what_was_asked_for() {
        let args = Args {
            workers: 8,
            capacity: Some(100_000),
            latency: Some(Duration::from_millis(1)),
            loss: None,
            repository: REPOSITORY.to_owned(),
        };
        let mut text = Vec::new();
        run(&args, &mut text).expect("written");
        let rspec = Rspec::parse(&String::from_utf8(text).expect("text")).expect("valid");
        assert_eq!(rspec.nodes.len(), 10);
        assert!(rspec.links.iter().all(|link| {
            link.properties.iter().all(|property| property.capacity == Some(100_000))
        }));
    }
}
