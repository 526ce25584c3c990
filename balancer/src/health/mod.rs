//! Active probes: does every endpoint answer, and which models does it serve?
//!
//! The evidence from requests is recorded where they are forwarded; both kinds of evidence meet in
//! [`fleet::state`].

mod probe;
mod reason;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fleet::EndpointId;
pub(crate) use probe::learn_models;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::log::changes::tell;
use crate::shared::Shared;

/// The end of an ejection is noticed within this time.
const TICK: Duration = Duration::from_millis(250);

/// Probes every endpoint for as long as it is in the pool. `hurry` triggers a probe of all of them.
pub async fn run(shared: Arc<Shared>, hurry: Arc<Notify>) {
    let mut changes = shared.fleet.pool.subscribe();
    let mut tasks: HashMap<EndpointId, Task> = HashMap::new();
    let mut tick = tokio::time::interval(TICK);
    loop {
        if !shared.config.probing.path.is_empty() {
            follow(&shared, &hurry, &mut tasks);
        }
        tokio::select! {
            alive = changes.changed() => if alive.is_err() { return },
            _ = tick.tick() => tell(&shared.fleet.pool.tick(Instant::now())),
        }
    }
}

/// A prober that is stopped when this is dropped.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keeps one prober for each endpoint.
fn follow(shared: &Arc<Shared>, hurry: &Arc<Notify>, tasks: &mut HashMap<EndpointId, Task>) {
    let snapshot = shared.fleet.pool.snapshot();
    let known: HashSet<EndpointId> = snapshot.all().iter().map(|endpoint| endpoint.id()).collect();
    // Restarts a prober that has panicked: its endpoint would otherwise keep its state forever.
    tasks.retain(|id, task| known.contains(id) && !task.0.is_finished());
    for endpoint in snapshot.all() {
        tasks.entry(endpoint.id()).or_insert_with(|| {
            let prober = probe::run(Arc::clone(shared), Arc::clone(endpoint), Arc::clone(hurry));
            Task(tokio::spawn(prober))
        });
    }
}

#[cfg(test)]
mod tests {
    use fleet::Pool;

    use super::*;
    use crate::config::{Config, Settings};

    #[tokio::test]
    async fn a_prober_that_has_ended_is_replaced() {
        let worker = vec!["127.0.0.1:1".to_owned()];
        let config = Config::try_new(&Settings { worker, ..Settings::default() }).expect("valid");
        let pool = Arc::new(Pool::new(config.pool, Instant::now()));
        tell(&pool.replace(&[("a".to_owned(), ([127, 0, 0, 1], 1).into())], Instant::now()));
        let (shared, hurry) = (Arc::new(Shared::new(config, pool)), Arc::default());
        let mut tasks = HashMap::new();
        follow(&shared, &hurry, &mut tasks);
        let running = |tasks: &HashMap<EndpointId, Task>| {
            tasks.values().filter(|task| !task.0.is_finished()).count()
        };
        assert_eq!(running(&tasks), 1);
        for task in tasks.values() {
            task.0.abort();
        }
        while running(&tasks) > 0 {
            tokio::task::yield_now().await;
        }
        follow(&shared, &hurry, &mut tasks);
        assert_eq!((running(&tasks), tasks.len()), (1, 1));
    }
}
