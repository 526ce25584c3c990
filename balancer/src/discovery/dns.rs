//! Endpoints behind a DNS name: a headless Service of Kubernetes, `tasks.NAME` of Swarm.
//!
//! The system's resolver is asked, so search domains and `/etc/hosts` count as everywhere else, and
//! asked often, so that no time to live has to be known. Addresses are sorted: the place of an
//! endpoint in the list must not depend on the order in which a name server happens to answer. A
//! name without addresses is a fleet of size zero, not an error of the configuration.

use std::net::SocketAddr;
use std::time::Duration;

use super::List;
use crate::config::ConfigError;

/// A name server that takes longer has no answer.
const LIMIT: Duration = Duration::from_secs(3);

/// Every address of `host`.
pub(super) async fn resolve(host: &str, port: u16) -> Result<List, ConfigError> {
    let wrong =
        |problem: String| ConfigError::Worker { text: format!("dns:{host}:{port}"), problem };
    let looked_up = tokio::time::timeout(LIMIT, tokio::net::lookup_host((host, port))).await;
    let addresses = looked_up
        .map_err(|_| wrong("the name server does not answer".to_owned()))?
        .map_err(|error| wrong(error.to_string()))?;
    Ok(list(addresses))
}

fn list(addresses: impl Iterator<Item = SocketAddr>) -> List {
    let mut addresses: Vec<SocketAddr> = addresses.collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into_iter().map(|address| (address.to_string(), address)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_answers_does_not_matter() {
        let one = SocketAddr::from(([10, 0, 0, 1], 80));
        let two = SocketAddr::from(([10, 0, 0, 2], 80));
        assert_eq!(list([two, one, two].into_iter()), list([one, two].into_iter()));
        assert_eq!(list([two, one].into_iter())[0], ("10.0.0.1:80".to_owned(), one));
    }

    #[tokio::test]
    async fn a_name_is_every_address_it_has() {
        let list = resolve("localhost", 8501).await.expect("localhost has an address");
        assert!(
            list.iter().all(|(_, address)| address.ip().is_loopback() && address.port() == 8501)
        );
        assert!(resolve("no such name", 1).await.is_err());
    }
}
