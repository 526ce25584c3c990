//! The effective configuration as it is logged at startup: flag names, and values as a user would
//! write them.

use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

use clap::ValueEnum;

use super::{Bounds, Config, Probing, Source, Spawn, Timeouts};
use crate::permission::Permission;

impl Display for Config {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        // Destructured without `..`, so that no setting is forgotten here.
        let Self {
            listen,
            admin,
            sources,
            joins,
            spawn,
            default_model,
            policy,
            hash_header,
            threads,
            timeouts,
            bounds,
            probing,
            pool,
            retry_percent,
            hedge,
            access_log,
            trusted_proxies,
            model_control_from,
            permission,
            proxy_protocol,
            tls,
            dns_server,
            h2c,
            has_lessons,
            is_fleet_public,
            log,
            log_format,
            deprecated: _,
        } = self;
        write!(out, "listen={listen} admin={admin}")?;
        sources.iter().try_for_each(|source| write!(out, " {source}"))?;
        let tokens = joins.as_ref().map(|joins| joins.token().path().display());
        optional(out, "accept-joins=true join-token-file=", tokens)?;
        optional(out, "", spawn.as_ref())?;
        optional(out, "dns-server=", dns_server.as_ref())?;
        optional(out, "default-model=", default_model.as_ref())?;
        write!(out, " policy={} threads={threads}", policy.as_str())?;
        optional(out, "hash-header=", hash_header.as_ref())?;
        times(out, timeouts, probing, pool)?;
        numbers(out, bounds, pool)?;
        write!(out, " max-in-flight={} retry-percent={retry_percent}", bounds.in_flight)?;
        write!(out, " probe-path={} hedge={hedge} h2c={h2c}", probing.path)?;
        write!(out, " proxy-protocol={proxy_protocol} tls={}", tls.is_some())?;
        write!(out, " lessons={has_lessons} no-public-fleet={}", !is_fleet_public)?;
        trusted_proxies.iter().try_for_each(|network| write!(out, " trusted-proxy={network}"))?;
        model_control_from
            .iter()
            .try_for_each(|network| write!(out, " model-control-from={network}"))?;
        let Permission { hosts, token } = permission;
        hosts.iter().try_for_each(|host| write!(out, " admin-host={host}"))?;
        optional(out, "admin-token-file=", token.as_ref().map(|token| token.path().display()))?;
        if let Some((path, format)) = access_log {
            write!(out, " access-log={} access-log-format={}", path.display(), word(format))?;
        }
        write!(out, " log={log} log-format={}", word(log_format))
    }
}

fn times(
    out: &mut Formatter<'_>,
    timeouts: &Timeouts,
    probing: &Probing,
    pool: &fleet::Settings,
) -> Result {
    for (name, time) in [
        ("request-timeout", timeouts.request),
        ("queue-timeout", timeouts.queue),
        ("connect-timeout", timeouts.connect),
        ("header-timeout", timeouts.header),
        ("body-timeout", timeouts.body),
        ("keep-alive", timeouts.keep_alive),
        ("drain-timeout", timeouts.drain),
        ("probe-interval", probing.interval),
        ("probe-timeout", probing.timeout),
        ("slow-start", pool.slow_start),
    ] {
        write!(out, " {name}={}", time_text(time))?;
    }
    Ok(())
}

fn numbers(out: &mut Formatter<'_>, bounds: &Bounds, pool: &fleet::Settings) -> Result {
    for (name, number) in [
        ("max-body-bytes", bounds.body),
        ("max-bodies-bytes", bounds.bodies),
        ("min-body-rate", bounds.body_rate),
        ("max-connections", bounds.connections),
        ("max-connections-per-ip", bounds.connections_per_ip),
        ("max-queue", bounds.queue),
        ("panic-percent", pool.panic_percent),
    ] {
        write!(out, " {name}={number}")?;
    }
    Ok(())
}

fn optional(out: &mut Formatter<'_>, name: &str, value: Option<impl Display>) -> Result {
    value.map_or(Ok(()), |value| write!(out, " {name}{value}"))
}

fn time_text(time: Duration) -> String {
    humantime::format_duration(time).to_string().replace(' ', "")
}

/// The name of an enumerated value.
fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

impl Display for Source {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        match self {
            Self::Fixed { name, address } => write!(out, "worker={name}={address}"),
            Self::Host { name, host, port } => write!(out, "worker={name}={host}:{port}"),
            Self::Dns { host, port } => write!(out, "worker=dns:{host}:{port}"),
            Self::Services(name) => write!(out, "worker=dns+srv:{name}"),
            Self::Rspec(path) => write!(out, "rspec={}", path.display()),
            Self::File(path) => write!(out, "workers-file={}", path.display()),
        }
    }
}

impl Display for Spawn {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let Self { range, shrink_after, latency, drain: _, program, models, threads, launcher: _ } =
            self;
        let (program, models) = (program.display(), models.display());
        write!(out, "spawn={range} worker-bin={program} models={models} worker-threads={threads}")?;
        if !range.is_fixed() {
            write!(out, " spawn-shrink-after={}", humantime::format_duration(*shrink_after))?;
        }
        optional(out, "spawn-latency=", latency.map(humantime::format_duration).as_ref())
    }
}
