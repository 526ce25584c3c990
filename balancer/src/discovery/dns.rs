//! Endpoints behind a DNS name: a headless Service of Kubernetes, `tasks.NAME` of Swarm, SRV records.
//!
//! Answers are kept for their time to live, but no longer than five seconds. The system's
//! `resolv.conf` and `hosts` count, and are read again when they change. A name without addresses is
//! a fleet of size zero, after a moment; a name server that does not answer changes nothing.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::time::Instant;

use super::belief::Held;
use super::complaint::Complaint;
use super::{Follower, Location, Named};
use crate::config::Source;

/// No answer is believed for longer.
const MAX_AGE: Duration = Duration::from_secs(5);
/// That there is nothing is asked again after this time.
const MAX_ABSENCE: Duration = Duration::from_secs(1);
/// A name server that takes longer has no answer.
const LIMIT: Duration = Duration::from_secs(3);
/// Most targets that are taken from SRV records, and most addresses that a name may have.
const MAX_TARGETS: usize = 1000;
/// Where the system's name servers are listed.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Asks for a name again and again.
pub(super) async fn follow(source: Source, server: Option<SocketAddr>, mut follower: Follower) {
    let (mut names, mut held) = (Names::new(server), Held::default());
    let (mut known, mut complaint) = (Vec::new(), Complaint::default());
    loop {
        match names.ask(&source).await {
            Ok(answer) => {
                if answer.is_empty() {
                    complaint.say("empty", || tracing::warn!(%source, "name has no address"));
                } else if complaint.is_over() {
                    tracing::info!(%source, addresses = answer.len(), "name resolved");
                }
                let list = held.hear(&answer, Instant::now());
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

type Stamps = [Option<SystemTime>; FILES.len()];

/// Asks name servers, and remembers what they said.
#[derive(Default)]
struct Names {
    server: Option<SocketAddr>,
    /// Made when it is first needed: most fleets have no names.
    resolver: Option<(Stamps, TokioResolver)>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Names {
    /// Asks `server`, or the system's name servers.
    fn new(server: Option<SocketAddr>) -> Self {
        Self { server, resolver: None }
    }

    /// Every address that `source` has now.
    async fn ask(&mut self, source: &Source) -> Result<Vec<SocketAddr>, String> {
        match source {
            Source::Dns { host, port } => limited(resolve(self.resolver()?, host, *port)).await,
            Source::Services(name) => limited(follow_services(self.resolver()?, name)).await,
            Source::Fixed { .. } | Source::Host { .. } | Source::Rspec(_) | Source::File(_) => {
                Ok(Vec::new())
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

async fn limited(
    work: impl Future<Output = Result<Vec<SocketAddr>, NetError>>,
) -> Result<Vec<SocketAddr>, String> {
    match tokio::time::timeout(LIMIT, work).await {
        Err(_) => Err("the name server does not answer".to_owned()),
        Ok(Err(error)) if error.is_no_records_found() => Ok(Vec::new()),
        Ok(found) => found.map(bounded).map_err(|error| error.to_string()),
    }
}

/// As many addresses as a fleet may have; the same ones in whatever order they come.
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

async fn follow_services(
    resolver: &TokioResolver,
    name: &str,
) -> Result<Vec<SocketAddr>, NetError> {
    let found = resolver.srv_lookup(name).await?;
    let targets = || {
        found.answers().iter().filter_map(|record| {
            let RData::SRV(target) = &record.data else { return None };
            Some(target)
        })
    };
    let best = targets().map(|target| target.priority).min();
    let mut addresses = Vec::new();
    for target in targets().filter(|target| Some(target.priority) == best).take(MAX_TARGETS) {
        // A target without addresses is gone already; that says nothing about the others.
        match resolve(resolver, &target.target.to_string(), target.port).await {
            Ok(found) => addresses.extend(found),
            Err(error) if error.is_no_records_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(addresses)
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

    #[tokio::test]
    async fn names_of_the_hosts_file_count() {
        let source = Source::Dns { host: "localhost".to_owned(), port: 8501 };
        let found = Names::new(None).ask(&source).await.expect("localhost");
        assert!(!found.is_empty());
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 8501));
    }
}
