//! Where the list of endpoints comes from, and how it follows its sources.
//!
//! Every source gives its part of the list, in the order in which the sources were named; workers that
//! have joined by themselves come then, and spawned ones last. Files are looked at every second, names as often as their time to live says,
//! each by a task of its own: a name server or a disk that stands still delays nothing else. A
//! source that cannot be read later keeps the part it gave before, and one that says something new
//! is believed only when it is plain that it means it (see [`belief`]). Endpoints that stay keep all
//! that is known about them.

mod belief;
mod complaint;
mod dns;
mod file;
mod host;
mod joined;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fleet::Pool;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::{Config, ConfigError, Source};
use crate::log::changes::tell;
use crate::supervisor::Supervisor;
use host::Host;
pub use joined::{JoinError, Joins};

/// Names and addresses, in order.
pub type List = Vec<(String, SocketAddr)>;

/// Files are looked at, and names are resolved, at least this often.
const PERIOD: Duration = Duration::from_secs(1);

/// An endpoint as a source tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    name: String,
    place: Place,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Address(SocketAddr),
    /// A name that stands for one endpoint.
    Host(Host),
}

/// Something that a task has found out.
#[derive(Debug)]
enum News {
    /// The endpoints of a source, by its place among the sources.
    Part(usize, Vec<Named>),
    /// Where a host is now.
    Found(Host, SocketAddr),
}

/// The sources and what each gave last.
#[derive(Debug)]
pub struct Discovery {
    pool: Arc<Pool>,
    supervisor: Option<Arc<Supervisor>>,
    joins: Option<Arc<Joins>>,
    dns_server: Option<SocketAddr>,
    sources: Vec<Source>,
    parts: Vec<Vec<Named>>,
    hosts: HashMap<Host, Option<SocketAddr>>,
    duplicates: complaint::Complaint,
}

impl Discovery {
    /// Reads every file once; here an error is final, because it is one of configuration. Names are
    /// not waited for: a silent name server must not keep other workers from their work.
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
                    vec![Named { name: name.clone(), place: Place::Address(*address) }]
                }
                Source::Host { name, host, port } => {
                    let host = Host { name: host.clone(), port: *port };
                    vec![Named { name: name.clone(), place: Place::Host(host) }]
                }
                Source::Rspec(_) | Source::File(_) => file::first(source).await?,
                Source::Dns { .. } | Source::Services(_) => Vec::new(),
            });
        }
        let (dns_server, joins) = (config.dns_server, config.joins.clone());
        let (hosts, duplicates) = (HashMap::new(), complaint::Complaint::default());
        let mut discovery =
            Self { pool, supervisor, joins, dns_server, sources, parts, hosts, duplicates };
        discovery.publish();
        Ok(discovery)
    }

    /// Follows the sources. `reload` has all of them read now.
    pub async fn run(mut self, reload: Arc<Notify>) {
        let (tell, mut news) = mpsc::channel(16);
        let orders = watch::Sender::new(());
        let mut tasks = JoinSet::new();
        for (number, source) in self.sources.iter().cloned().enumerate() {
            let (tell, reload) = (tell.clone(), orders.subscribe());
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
                () = reload.notified() => drop(orders.send(())),
                Some(news) = news.recv() => match news {
                    News::Part(number, part) => self.parts[number] = part,
                    News::Found(host, address) => drop(self.hosts.insert(host, Some(address))),
                },
            }
            self.publish();
        }
    }

    /// Has one task for each host that is in the list.
    fn follow_hosts(&mut self, tasks: &mut JoinSet<()>, tell: &mpsc::Sender<News>) {
        for named in self.parts.iter().flatten() {
            if let Place::Host(host) = &named.place
                && !self.hosts.contains_key(host)
            {
                self.hosts.insert(host.clone(), None);
                let pool = Arc::clone(&self.pool);
                tasks.spawn(host::follow(host.clone(), pool, tell.clone()));
            }
        }
    }

    fn publish(&mut self) {
        let place = |named: &Named| match &named.place {
            Place::Address(address) => Some(*address),
            Place::Host(host) => self.hosts.get(host).copied().flatten(),
        };
        let known = self.parts.iter().flatten();
        let mut list: List =
            known.filter_map(|named| Some((named.name.clone(), place(named)?))).collect();
        list.extend(self.joins.iter().flat_map(|joins| joins.endpoints()));
        list.extend(self.supervisor.iter().flat_map(|supervisor| supervisor.endpoints()));
        self.say_duplicates(&list);
        tell(&self.pool.replace(&list, Instant::now()));
    }

    /// Two endpoints of one name cannot be told apart by an operator.
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

/// What a task that follows a source works with.
#[derive(Debug)]
struct Follower {
    /// The place of its source.
    number: usize,
    tell: mpsc::Sender<News>,
    /// Changes when all sources are to be read now.
    reload: watch::Receiver<()>,
}

impl Follower {
    /// Waits for the next look; true if it was ordered.
    async fn next(&mut self) -> bool {
        let order = tokio::time::timeout(PERIOD, self.reload.changed()).await;
        // Without a sender the balancer is ending.
        order.is_ok_and(|order| order.is_ok())
    }

    async fn publish(&self, part: Vec<Named>) {
        // Without a receiver the balancer is ending.
        let _told = self.tell.send(News::Part(self.number, part)).await.is_ok();
    }
}
