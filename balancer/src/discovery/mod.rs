//! Where the list of endpoints comes from, and how it follows its sources.
//!
//! Every source gives its part of the list, in the order in which the sources were named; spawned
//! workers come last. Files are looked at every second, names as often as their time to live says.
//! A source that cannot be read later keeps the part it gave before: losing the name server must
//! not empty the pool. Endpoints that stay keep all that is known about them.

mod dns;
mod file;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::{Config, ConfigError, Source};
use crate::supervisor::Supervisor;
use crate::upstream::Pool;
use dns::Names;

/// Names and addresses, in order.
pub type List = Vec<(String, SocketAddr)>;

/// Files are looked at, and names are resolved, at least this often.
const PERIOD: Duration = Duration::from_secs(1);

/// The sources and what each gave last.
#[derive(Debug)]
pub struct Discovery {
    pool: Arc<Pool>,
    parts: Vec<(Source, List)>,
    names: Names,
    supervisor: Option<Arc<Supervisor>>,
}

impl Discovery {
    /// Reads every source once; here an error is final, because it is one of configuration.
    pub async fn new(
        pool: Arc<Pool>,
        config: &Config,
        supervisor: Option<Arc<Supervisor>>,
    ) -> Result<Self, ConfigError> {
        let mut names = Names::new(config.dns_server);
        let mut parts = Vec::with_capacity(config.sources.len());
        for source in &config.sources {
            parts.push((source.clone(), read(source, &mut names).await?));
        }
        let discovery = Self { pool, parts, names, supervisor };
        discovery.publish();
        Ok(discovery)
    }

    /// Follows the sources. `reload` has all of them read now.
    pub async fn run(mut self, reload: Arc<Notify>) {
        let mut tick = tokio::time::interval(PERIOD);
        loop {
            let supervisor = self.supervisor.clone();
            let spawned = async {
                match &supervisor {
                    Some(supervisor) => supervisor.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = spawned => self.publish(),
                () = reload.notified() => self.refresh().await,
                _ = tick.tick() => self.refresh().await,
            }
        }
    }

    async fn refresh(&mut self) {
        let mut is_changed = false;
        for (source, list) in &mut self.parts {
            if matches!(source, Source::Fixed { .. }) {
                continue;
            }
            match read(source, &mut self.names).await {
                Ok(new) if new != *list => {
                    *list = new;
                    is_changed = true;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the list of workers stays as it was"),
            }
        }
        if is_changed {
            self.publish();
        }
    }

    fn publish(&self) {
        let mut list: List = self.parts.iter().flat_map(|(_, list)| list.clone()).collect();
        list.extend(self.supervisor.iter().flat_map(|supervisor| supervisor.endpoints()));
        self.pool.replace(&list);
    }
}

async fn read(source: &Source, names: &mut Names) -> Result<List, ConfigError> {
    match source {
        Source::Fixed { name, address } => Ok(vec![(name.clone(), *address)]),
        Source::Rspec(path) => file::rspec(path),
        Source::File(path) => file::list(path),
        Source::Dns { host, port } => names.addresses(host, *port).await,
        Source::Services(name) => names.services(name).await,
    }
}
