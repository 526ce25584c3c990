//! Where the list of endpoints comes from, and how it follows its sources.
//!
//! Every source contributes its part of the list, in the order in which the sources were given;
//! workers that joined by themselves follow, and spawned ones come last. Files are checked every
//! second, names as often as their time to live requires, each by its own task: a name server or a
//! disk that hangs delays nothing else. A source that cannot be read later keeps its previous part,
//! and new contents are accepted only when they are clearly intended (see [`belief`]). Endpoints
//! that stay keep all their state.
//! that is known about them.

mod belief;
mod complaint;
mod dns;
mod file;
mod host;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fleet::Pool;
use host::Host;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::config::{Config, ConfigError, Source};
use crate::joins::Joins;
use crate::log::changes::tell;
use crate::supervisor::Supervisor;

/// Names and addresses, in order.
pub type List = Vec<(String, SocketAddr)>;

/// How often files are checked, and whether a name is due to be resolved again.
const PERIOD: Duration = Duration::from_secs(1);

/// An endpoint as reported by a source.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    name: String,
    place: Location,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Location {
    Address(SocketAddr),
    /// The host name of one endpoint.
    Host(Host),
}

/// A message from a task.
#[derive(Debug)]
enum News {
    /// The endpoints of a source, by the index of the source.
    Part(usize, Vec<Named>),
    /// The current address of a host.
    Found(Host, SocketAddr),
}

/// A host that is resolved again and again.
#[derive(Debug)]
struct Followed {
    address: Option<SocketAddr>,
    task: AbortHandle,
}

/// The sources and the latest part of each.
#[derive(Debug)]
pub struct Discovery {
    pool: Arc<Pool>,
    supervisor: Option<Arc<Supervisor>>,
    joins: Option<Arc<Joins>>,
    dns_server: Option<SocketAddr>,
    sources: Vec<Source>,
    parts: Vec<Vec<Named>>,
    hosts: HashMap<Host, Followed>,
    lookups: Arc<Semaphore>,
    duplicates: complaint::Complaint,
}

impl Discovery {
    /// Reads every file once; an error here is final, because it is one of configuration. Names are
    /// not waited for: a silent name server must not hold up other workers.
    pub async fn new(
        pool: Arc<Pool>,
        config: &Config,
        supervisor: Option<Arc<Supervisor>>,
    ) -> Result<Self, ConfigError> {
        let sources = config.sources.clone();
        let mut parts = Vec::with_capacity(sources.len());
        for source in &sources {
            parts.push(match source {
                Source::Fixed { name, address } => {
                    vec![Named { name: name.clone(), place: Location::Address(*address) }]
                }
                Source::Host { name, host, port } => {
                    let host = Host { name: host.clone(), port: *port };
                    vec![Named { name: name.clone(), place: Location::Host(host) }]
                }
                Source::Rspec(_) | Source::File(_) => file::first(source).await?,
                Source::Dns { .. } | Source::Services(_) => Vec::new(),
            });
        }
        let (dns_server, joins) = (config.dns_server, config.joins.clone());
        let (hosts, duplicates) = (HashMap::new(), complaint::Complaint::default());
        let lookups = Arc::new(Semaphore::new(host::MAX_LOOKUPS));
        let mut discovery = Self {
            pool,
            supervisor,
            joins,
            dns_server,
            sources,
            parts,
            hosts,
            lookups,
            duplicates,
        };
        discovery.publish();
        Ok(discovery)
    }

    /// Follows the sources. `reload` triggers an immediate read of all of them.
    pub async fn run(mut self, reload: Arc<Notify>) {
        let (tell, mut news) = mpsc::channel(16);
        let reloads = watch::Sender::new(());
        let mut tasks = JoinSet::new();
        for (number, source) in self.sources.iter().cloned().enumerate() {
            let (tell, reload) = (tell.clone(), reloads.subscribe());
            match source {
                Source::Fixed { .. } | Source::Host { .. } => {}
                Source::Rspec(_) | Source::File(_) => {
                    let known = self.parts[number].clone();
                    tasks.spawn(file::follow(source, known, Follower { number, tell, reload }));
                }
                Source::Dns { .. } | Source::Services(_) => {
                    let follower = Follower { number, tell, reload };
                    tasks.spawn(dns::follow(source, self.dns_server, follower));
                }
            }
        }
        if let Some(joins) = &self.joins {
            tasks.spawn(Arc::clone(joins).watch());
        }
        loop {
            self.follow_hosts(&mut tasks, &tell);
            let supervisor = self.supervisor.clone();
            let spawned = async {
                match &supervisor {
                    Some(supervisor) => supervisor.changed().await,
                    None => std::future::pending().await,
                }
            };
            let joins = self.joins.clone();
            let joined = async {
                match &joins {
                    Some(joins) => joins.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = spawned => {}
                () = joined => {}
                () = reload.notified() => drop(reloads.send(())),
                Some(news) = news.recv() => match news {
                    News::Part(number, part) => self.parts[number] = part,
                    News::Found(host, address) => {
                        if let Some(followed) = self.hosts.get_mut(&host) {
                            followed.address = Some(address);
                        }
                    }
                },
            }
            self.publish();
        }
    }

    /// Keeps one task for each host in the list, and stops the others.
    fn follow_hosts(&mut self, tasks: &mut JoinSet<()>, tell: &mpsc::Sender<News>) {
        let host = |named: &Named| match &named.place {
            Location::Host(host) => Some(host.clone()),
            Location::Address(_) => None,
        };
        let wanted: HashSet<Host> = self.parts.iter().flatten().filter_map(host).collect();
        self.hosts.retain(|host, followed| {
            let stays = wanted.contains(host);
            if !stays {
                followed.task.abort();
            }
            stays
        });
        while tasks.try_join_next().is_some() {}
        for host in wanted {
            self.hosts.entry(host).or_insert_with_key(|host| {
                let (pool, lookups) = (Arc::clone(&self.pool), Arc::clone(&self.lookups));
                let follow = host::follow(host.clone(), pool, lookups, tell.clone());
                Followed { address: None, task: tasks.spawn(follow) }
            });
        }
    }

    fn publish(&mut self) {
        let place = |named: &Named| match &named.place {
            Location::Address(address) => Some(*address),
            Location::Host(host) => self.hosts.get(host).and_then(|followed| followed.address),
        };
        let known = self.parts.iter().flatten();
        let mut list: List =
            known.filter_map(|named| Some((named.name.clone(), place(named)?))).collect();
        list.extend(self.joins.iter().flat_map(|joins| joins.endpoints()));
        list.extend(self.supervisor.iter().flat_map(|supervisor| supervisor.endpoints()));
        self.say_duplicates(&list);
        tell(&self.pool.replace(&list, Instant::now()));
    }

    /// Warns about endpoints that the pool leaves out because another one has the same name.
    fn say_duplicates(&mut self, list: &List) {
        let mut known: HashMap<&str, SocketAddr> = HashMap::new();
        let twice = list.iter().find_map(|(name, address)| {
            let first = *known.entry(name).or_insert(*address);
            (first != *address).then(|| format!("{name} is at {first} and at {address}"))
        });
        match twice {
            Some(text) => self.duplicates.say(&text, || {
                tracing::warn!(reason = text, "two workers have the same name");
            }),
            None => drop(self.duplicates.is_over()),
        }
    }
}

/// The context of a task that follows a source.
#[derive(Debug)]
struct Follower {
    /// The index of its source.
    number: usize,
    tell: mpsc::Sender<News>,
    /// Changes when all sources are to be read immediately.
    reload: watch::Receiver<()>,
}

impl Follower {
    /// Waits for the next look; true if it was requested by an operator.
    async fn next(&mut self) -> bool {
        let reload = tokio::time::timeout(PERIOD, self.reload.changed()).await;
        // Without a sender, the balancer is shutting down.
        reload.is_ok_and(|reload| reload.is_ok())
    }

    async fn publish(&self, part: Vec<Named>) {
        // Without a receiver, the balancer is shutting down.
        let _told = self.tell.send(News::Part(self.number, part)).await.is_ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[tokio::test]
    async fn a_host_that_has_left_the_list_is_not_asked_for_any_more() {
        let worker = vec!["localhost:1".to_owned()];
        let config = Config::try_new(&Settings { worker, ..Settings::default() }).expect("valid");
        let pool = Arc::new(Pool::new(config.pool, Instant::now()));
        let mut discovery = Discovery::new(pool, &config, None).await.expect("read");
        let (tell, _news) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        discovery.follow_hosts(&mut tasks, &tell);
        assert_eq!((discovery.hosts.len(), tasks.len()), (1, 1));
        let part = discovery.parts[0].clone();
        discovery.follow_hosts(&mut tasks, &tell);
        assert_eq!((discovery.hosts.len(), tasks.len()), (1, 1), "it is followed already");
        discovery.parts[0].clear();
        discovery.follow_hosts(&mut tasks, &tell);
        assert!(discovery.hosts.is_empty());
        while let Some(ended) = tasks.join_next().await {
            assert!(ended.is_err_and(|error| error.is_cancelled()));
        }
        discovery.parts[0] = part;
        discovery.follow_hosts(&mut tasks, &tell);
        assert_eq!((discovery.hosts.len(), tasks.len()), (1, 1), "it has come back");
    }
}
