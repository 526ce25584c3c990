//! A host name of a single worker, as in `--worker worker1.example:8501`.
//!
//! The system resolves it, as for `ping`, on a thread that may wait for a name server. Of several
//! addresses (`localhost` often has two), the first that accepts a connection is used for as long
//! as the name has it.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fleet::Pool;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinError;
use tokio::time::timeout;

use super::complaint::Complaint;
use super::{News, PERIOD};

/// A name whose worker is available is resolved again after this time.
const SETTLED_PERIOD: Duration = Duration::from_secs(30);
/// A name server that takes longer is reported as not answering.
const LIMIT: Duration = Duration::from_secs(5);
/// Maximum number of concurrent lookups: each may block a thread for as long as its name server
/// does not respond, and reading files needs threads too.
pub(super) const MAX_LOOKUPS: usize = 64;
/// Time limit for an address to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// A name and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
}

/// Reports the address of `host` each time that it changes.
pub(super) async fn follow(
    host: Host,
    pool: Arc<Pool>,
    lookups: Arc<Semaphore>,
    tell: mpsc::Sender<News>,
) {
    let mut current = None;
    let mut complaint = Complaint::default();
    loop {
        let found = resolve(&host, &lookups, &mut complaint).await;
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

/// All addresses; empty if the lookup fails or finds none.
async fn resolve(
    host: &Host,
    lookups: &Arc<Semaphore>,
    complaint: &mut Complaint,
) -> Vec<SocketAddr> {
    let mut asking = pin!(ask(host, lookups));
    let reason = loop {
        match timeout(LIMIT, &mut asking).await {
            // One query at a time: keep waiting for this one.
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

type Found = io::Result<Vec<SocketAddr>>;

/// Queries the system, as soon as a thread is available.
async fn ask(host: &Host, lookups: &Arc<Semaphore>) -> Result<Found, JoinError> {
    let name = (host.name.clone(), host.port);
    let permit = Arc::clone(lookups).acquire_owned().await;
    tokio::task::spawn_blocking(move || {
        // Held until the answer arrives, whether it is still wanted or not.
        let _permit = permit;
        name.to_socket_addrs().map(Iterator::collect)
    })
    .await
}

fn say(host: &Host, reason: &str, complaint: &mut Complaint) {
    complaint.say(reason, || {
        tracing::warn!(host = host.name, reason, "host name not resolved, retrying");
    });
}

/// The current address, if the name still has it and it is the only one or accepts connections;
/// otherwise the first that does. If none does, the current or the first one.
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
    async fn no_more_names_are_asked_for_at_a_time_than_there_are_threads_for_it() {
        let host = Host { name: "localhost".to_owned(), port: 1 };
        let lookups = Arc::new(Semaphore::new(1));
        let taken = Arc::clone(&lookups).acquire_owned().await.expect("open");
        let mut asking = pin!(ask(&host, &lookups));
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(asking.as_mut().poll(context).is_pending())
        });
        assert!(polled.await && lookups.available_permits() == 0, "it waits for its turn");
        drop(taken);
        let found = asking.await.expect("no panic").expect("localhost");
        assert!(found.iter().all(|address| address.ip().is_loopback()) && !found.is_empty());
    }

    #[tokio::test]
    async fn of_several_addresses_the_one_that_takes_connections_is_used() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let open = listener.local_addr().expect("bound");
        // Bound, so that no other program gets it, but not listening.
        let silent = tokio::net::TcpSocket::new_v4().expect("a socket");
        silent.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
        let closed = silent.local_addr().expect("bound");
        assert_eq!(choose(&[closed, open], None).await, Some(open));
        assert_eq!(choose(&[closed, open], Some(closed)).await, Some(open));
        assert_eq!(choose(&[closed], None).await, Some(closed), "there is no other");
        assert_eq!(choose(&[closed, closed], Some(open)).await, Some(closed), "the name has moved");
    }
}
