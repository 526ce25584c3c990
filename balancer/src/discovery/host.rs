//! A host name that stands for one worker, as in `--worker worker1.example:8501`.
//!
//! The system resolves it, as `ping` would, on a thread that may wait for a name server. Of several
//! addresses (`localhost` often has two) the first that takes a connection is used, for as long as
//! the name has it.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use fleet::Pool;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::complaint::Complaint;
use super::{News, PERIOD};

/// A name whose worker is available is asked for again after this time.
const SETTLED_PERIOD: Duration = Duration::from_secs(30);
/// A name server that takes longer is said to be silent.
const LIMIT: Duration = Duration::from_secs(5);
/// Time for an address to take a connection.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// A name and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
}

/// Tells where `host` is, each time that it is somewhere else.
pub(super) async fn follow(host: Host, pool: Arc<Pool>, tell: mpsc::Sender<News>) {
    let mut current = None;
    let mut complaint = Complaint::default();
    loop {
        let found = resolve(&host, &mut complaint).await;
        if !found.is_empty() {
            if complaint.is_over() {
                tracing::info!(host = host.name, "host name resolved");
            }
            let chosen = choose(&found, current).await;
            if chosen != current
                && let Some(address) = chosen
            {
                current = chosen;
                if tell.send(News::Found(host.clone(), address)).await.is_err() {
                    return;
                }
            }
        }
        let is_settled = current.is_some_and(|address| is_available(&pool, address));
        tokio::time::sleep(if is_settled { SETTLED_PERIOD } else { PERIOD }).await;
    }
}

fn is_available(pool: &Pool, address: SocketAddr) -> bool {
    pool.snapshot().available().iter().any(|endpoint| endpoint.address() == address)
}

/// Every address; nothing if the name server does not answer or knows none.
async fn resolve(host: &Host, complaint: &mut Complaint) -> Vec<SocketAddr> {
    let name = (host.name.clone(), host.port);
    let mut asking = tokio::task::spawn_blocking(move || {
        name.to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>)
    });
    let reason = loop {
        match timeout(LIMIT, &mut asking).await {
            // One question at a time: this one is still waited for.
            Err(_) => say(host, "the name server does not answer", complaint),
            Ok(Ok(Ok(found))) if found.is_empty() => break "it has no address".to_owned(),
            Ok(Ok(Ok(found))) => return found,
            Ok(Ok(Err(error))) => break error.to_string(),
            Ok(Err(error)) => break error.to_string(),
        }
    };
    say(host, &reason, complaint);
    Vec::new()
}

fn say(host: &Host, reason: &str, complaint: &mut Complaint) {
    complaint.say(reason, || {
        tracing::warn!(host = host.name, reason, "host name not resolved, retrying");
    });
}

/// The current address while the name has it and it is the only one or takes connections; else the
/// first that does. With none that does there is nothing to choose by.
async fn choose(found: &[SocketAddr], current: Option<SocketAddr>) -> Option<SocketAddr> {
    let current = current.filter(|address| found.contains(address));
    if found.len() > 1 {
        for address in current.iter().chain(found) {
            if timeout(CONNECT_LIMIT, TcpStream::connect(address))
                .await
                .is_ok_and(|open| open.is_ok())
            {
                return Some(*address);
            }
        }
    }
    current.or_else(|| found.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_several_addresses_the_one_that_takes_connections_is_used() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let open = listener.local_addr().expect("bound");
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
            listener.local_addr().expect("bound")
        };
        assert_eq!(choose(&[closed, open], None).await, Some(open));
        assert_eq!(choose(&[closed, open], Some(closed)).await, Some(open));
        assert_eq!(choose(&[closed], None).await, Some(closed), "there is no other");
        assert_eq!(choose(&[closed, closed], Some(open)).await, Some(closed), "the name has moved");
    }
}
