//! Endpoints behind a DNS name: a headless Service of Kubernetes, `tasks.NAME` of Swarm, SRV records.
//!
//! Answers are kept for their time to live, but no longer than five seconds. The system's
//! `resolv.conf` and `hosts` apply, and are read again when they change. A name without addresses
//! is a fleet of size zero, after a moment; a name server that does not respond changes nothing.
//! The targets of SRV records are resolved independently: one without an answer keeps the addresses
//! that it had, while the others change.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::time::Instant;

use super::belief::HeldAddresses;
use super::complaint::Complaint;
use super::{Follower, Location, Named};
use crate::config::Source;

/// Maximum time for which an answer is kept.
const MAX_AGE: Duration = Duration::from_secs(5);
/// Maximum time for which a negative answer is kept.
const MAX_ABSENCE: Duration = Duration::from_secs(1);
/// A name server that takes longer is treated as not responding.
const LIMIT: Duration = Duration::from_secs(3);
/// Maximum number of targets of SRV records, and of addresses of a name.
const MAX_TARGETS: usize = 1000;
/// Maximum number of concurrent lookups of targets.
const TARGETS_AT_ONCE: usize = 32;
const NO_ANSWER: &str = "the name server does not answer";
/// Files that configure the system's name resolution.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Resolves a name again and again.
pub(super) async fn follow(source: Source, server: Option<SocketAddr>, mut follower: Follower) {
    let (mut names, mut held) = (Names::new(server), HeldAddresses::default());
    let (mut known, mut complaint) = (Vec::new(), Complaint::default());
    loop {
        match names.ask(&source).await {
            Ok(Resolved { addresses, fault }) => {
                if let Some(fault) = fault {
                    complaint.say(&fault, || {
                        tracing::warn!(%source, fault, "a target of the name keeps its addresses");
                    });
                } else if addresses.is_empty() {
                    complaint.say("empty", || tracing::warn!(%source, "name has no address"));
                } else if complaint.is_over() {
                    tracing::info!(%source, addresses = addresses.len(), "name resolved");
                }
                let list = held.hear(&addresses, Instant::now());
                if list != known {
                    known.clone_from(&list);
                    follower.publish(list.into_iter().map(named).collect()).await;
                }
            }
            Err(reason) => complaint.say(&reason, || {
                let kept = known.len();
                tracing::warn!(%source, reason, kept, "name not resolved, retrying");
            }),
        }
        follower.next().await;
    }
}

fn named(address: SocketAddr) -> Named {
    Named { name: address.to_string(), place: Location::Address(address) }
}

/// The result of resolving a name.
#[derive(Debug, Default)]
struct Resolved {
    addresses: Vec<SocketAddr>,
    /// Why one of its targets could not be resolved, if so.
    fault: Option<String>,
}

/// The name and the port of an SRV record.
type Target = (String, u16);
/// The addresses of each target.
type Targets = HashMap<Target, Vec<SocketAddr>>;

type Stamps = [Option<SystemTime>; FILES.len()];

/// Queries name servers and remembers their answers.
#[derive(Default)]
struct Names {
    server: Option<SocketAddr>,
    /// Created on first use: most fleets have no names.
    resolver: Option<(Stamps, TokioResolver)>,
    /// Addresses of the targets of SRV records, as of their last answer.
    targets: Targets,
    /// The round in which each target without an answer was last queried.
    silent_since: HashMap<Target, u64>,
    round: u64,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Names {
    /// Uses `server`, or the system's name servers.
    fn new(server: Option<SocketAddr>) -> Self {
        Self { server, ..Self::default() }
    }

    /// All current addresses of `source`.
    async fn ask(&mut self, source: &Source) -> Result<Resolved, String> {
        match source {
            Source::Dns { host, port } => {
                let found = limited(resolve(self.resolver()?, host, *port)).await?;
                Ok(Resolved { addresses: bounded(found), fault: None })
            }
            Source::Services(name) => self.follow_services(name).await,
            Source::Fixed { .. } | Source::Host { .. } | Source::Rspec(_) | Source::File(_) => {
                Ok(Resolved::default())
            }
        }
    }

    /// All addresses of the targets of SRV records. A target without addresses is gone, which says
    /// nothing about the others; one without an answer in time keeps the addresses that it had.
    async fn follow_services(&mut self, name: &str) -> Result<Resolved, String> {
        let resolver = self.resolver()?.clone();
        let mut wanted = limited(targets(&resolver, name)).await?;
        // Those without an answer come last, and take turns if there is no time for all of them.
        wanted.sort_by_key(|target| self.silent_since.get(target).copied());
        let asking = wanted.clone().into_iter().map(|target| look_up(resolver.clone(), target));
        let mut answers = pin!(stream::iter(asking).buffer_unordered(TARGETS_AT_ONCE));
        let (mut heard, mut silent) = (Targets::new(), BTreeMap::new());
        let hear = async {
            while let Some((target, answer)) = answers.next().await {
                match answer {
                    Ok(found) => drop(heard.insert(target, found)),
                    Err(reason) => drop(silent.insert(target, reason)),
                }
            }
        };
        // The remaining ones were not queried, or have not responded.
        drop(tokio::time::timeout(LIMIT, hear).await);
        self.round += 1;
        let before = std::mem::take(&mut self.silent_since);
        let missing = wanted.into_iter().filter(|target| !heard.contains_key(target));
        for target in missing.collect::<Vec<_>>() {
            let asked = silent.contains_key(&target).then_some(self.round);
            let since = asked.or_else(|| before.get(&target).copied()).unwrap_or_default();
            if let Some(known) = self.targets.remove(&target) {
                heard.insert(target.clone(), known);
            }
            silent.entry(target.clone()).or_insert_with(|| NO_ANSWER.to_owned());
            self.silent_since.insert(target, since);
        }
        self.targets = heard;
        let fault = fault_of(&silent);
        match fault {
            Some(fault) if self.targets.is_empty() => Err(fault),
            fault => {
                let all = self.targets.values().flatten().copied();
                Ok(Resolved { addresses: bounded(all.collect()), fault })
            }
        }
    }

    fn resolver(&mut self) -> Result<&TokioResolver, String> {
        let stamps =
            FILES.map(|file| std::fs::metadata(file).and_then(|data| data.modified()).ok());
        if self.resolver.as_ref().is_none_or(|(known, _)| *known != stamps) {
            let resolver =
                build(self.server).map_err(|error| format!("no name server: {error}"))?;
            self.resolver = Some((stamps, resolver));
        }
        Ok(&self.resolver.as_ref().expect("just made").1)
    }
}

fn build(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => Resolver::builder_tokio()?,
        Some(server) => {
            let mut one = NameServerConfig::udp_and_tcp(server.ip());
            one.connections.iter_mut().for_each(|connection| connection.port = server.port());
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![one]);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.positive_max_ttl = Some(MAX_AGE);
    options.negative_max_ttl = Some(MAX_ABSENCE);
    options.timeout = LIMIT / 3;
    options.attempts = 2;
    builder.build()
}

/// The result of `work` within the time limit; empty if there is no record.
async fn limited<T>(
    work: impl Future<Output = Result<Vec<T>, NetError>>,
) -> Result<Vec<T>, String> {
    match tokio::time::timeout(LIMIT, work).await {
        Err(_) => Err(NO_ANSWER.to_owned()),
        Ok(Err(error)) if error.is_no_records_found() => Ok(Vec::new()),
        Ok(found) => found.map_err(|error| error.to_string()),
    }
}

/// At most as many addresses as a fleet may have; the same ones in whatever order they come.
fn bounded(mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_TARGETS);
    found
}

async fn resolve(
    resolver: &TokioResolver,
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, NetError> {
    let found = resolver.lookup_ip(host).await?;
    Ok(found.iter().map(|address| SocketAddr::new(address, port)).collect())
}

/// Names and ports of the targets of the best priority.
async fn targets(resolver: &TokioResolver, name: &str) -> Result<Vec<Target>, NetError> {
    let found = resolver.srv_lookup(name).await?;
    let targets = || {
        found.answers().iter().filter_map(|record| {
            let RData::SRV(target) = &record.data else { return None };
            Some(target)
        })
    };
    let best = targets().map(|target| target.priority).min();
    let first = targets().filter(|target| Some(target.priority) == best);
    Ok(first.map(|target| (target.target.to_string(), target.port)).take(MAX_TARGETS).collect())
}

/// Why targets keep their addresses, worded the same whatever the order of their answers.
fn fault_of(silent: &BTreeMap<Target, String>) -> Option<String> {
    let ((name, _), reason) = silent.first_key_value()?;
    let others = match silent.len() - 1 {
        0 => String::new(),
        count => format!(" (and {count} more)"),
    };
    Some(format!("{name}: {reason}{others}"))
}

/// Resolves the addresses of a target.
async fn look_up(
    resolver: TokioResolver,
    target: Target,
) -> (Target, Result<Vec<SocketAddr>, String>) {
    let found = limited(resolve(&resolver, &target.0, target.1)).await;
    (target, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_cannot_make_a_fleet_of_any_size() {
        let all = |ports: std::ops::Range<u16>| -> Vec<SocketAddr> {
            ports.rev().map(|port| ([10, 0, 0, 1], port).into()).collect()
        };
        let kept = bounded(all(1..60_000));
        assert_eq!(kept.len(), MAX_TARGETS);
        assert_eq!(kept, bounded([all(30_000..60_000), all(1..30_000)].concat()));
        assert_eq!(bounded([all(1..3), all(2..4)].concat()).len(), 3);
    }

    #[test]
    fn what_is_wrong_is_told_in_the_same_words_whatever_came_first() {
        let target = |name: &str| ((name.to_owned(), 1), NO_ANSWER.to_owned());
        assert_eq!(fault_of(&BTreeMap::new()), None);
        let one = fault_of(&BTreeMap::from([target("a")]));
        assert_eq!(one.as_deref(), Some("a: the name server does not answer"));
        let both = [[target("a"), target("b")], [target("b"), target("a")]];
        let both = both.map(|two| fault_of(&two.into_iter().collect()).expect("two"));
        assert_eq!(both, ["a: the name server does not answer (and 1 more)"; 2]);
    }

    #[tokio::test]
    async fn names_of_the_hosts_file_count() {
        let source = Source::Dns { host: "localhost".to_owned(), port: 8501 };
        let found = Names::new(None).ask(&source).await.expect("localhost");
        assert!(!found.addresses.is_empty());
        assert!(
            found
                .addresses
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 8501)
        );
    }
}
